//! The classifier kinds together: rated pages, rounds with mined positives, a percentile of a frozen sample.

mod common;

use std::path::{Path, PathBuf};

use common::{Done, Job, artifact, predict, shards};
use kbuild_engine::artifact::Shape;
use kbuild_engine::kind::Kinds;
use kbuild_engine::runner::RequestInput;
use kbuild_tasks::data::ledger::Ledger;
use kbuild_tasks::formats::documents::{Document, read_all, write_all};
use serde_json::{Value, json};

const GOOD: [&str; 6] = [
    "photosynthesis lets plants turn light into sugar",
    "a triangle has three angles whose sum is constant",
    "the heart pumps blood through arteries and veins",
    "a fraction is a part of a whole number",
    "gravity pulls every mass towards every other mass",
    "vowels and consonants make up the alphabet",
];
const BAD: [&str; 6] = [
    "buy now and save with this coupon today only",
    "click here to win a free phone right away",
    "our shop has the best deals on shoes",
    "follow us and share this post with friends",
    "hot singles want to chat tonight in town",
    "limited offer order before midnight for a discount",
];

fn text(good: bool, n: usize) -> String {
    let stock = if good { GOOD } else { BAD };
    format!("{} {} item {}", stock[n % 6], stock[(n * 5 + 1) % 6], n % 4)
}

fn labels(root: &Path, n: usize) -> RequestInput {
    let path = root.join("labels.jsonl");
    let lines: Vec<String> = (0..n)
        .map(|n| {
            // One page in four is good.
            let good = n % 4 == 0;
            let record = json!({
                "id": n.to_string(),
                "text": text(good, n),
                "source": if n % 3 == 0 { "a" } else { "b" },
                "score": if good { 4 } else { 1 },
                "split": if n % 5 < 2 { "held-out" } else { "train" },
            });
            record.to_string()
        })
        .collect();
    std::fs::write(&path, lines.join("\n")).unwrap();
    artifact(Shape::File, &path)
}

fn pool(root: &Path) -> PathBuf {
    let path = root.join("pool");
    let documents: Vec<Document> = (0..100)
        .map(|n| {
            // Numbers are all the same in a simplified text: the documents differ by a word.
            let word: String = [n / 10, n % 10]
                .map(|digit| (b'a' + digit as u8) as char)
                .iter()
                .collect();
            Document::new(format!("{} seen {word}", text(n % 2 == 0, n)))
        })
        .collect();
    write_all(&path, &documents).unwrap();
    path
}

fn train(kinds: &Kinds, labels: &RequestInput, more: Option<(&Done, &Done)>) -> Done {
    let model = json!({"learning_rate": 0.5, "buckets": 2000, "dim": 16});
    let params = json!({"repeat_positives": 3, "model": model});
    let mut job = Job::new(kinds, "train-classifier", params).input("labels", labels.clone());
    if let Some((mined, before)) = more {
        job = job
            .input("positives", mined.output("documents"))
            .input("previous", before.output("report"));
    }
    job.run().unwrap()
}

fn report(done: &Done) -> Value {
    serde_json::from_slice(&std::fs::read(done.path("report")).unwrap()).unwrap()
}

#[test]
fn rounds_report_and_the_best_share_stays() {
    let kinds = kbuild_tasks::kinds();
    let root = tempfile::tempdir().unwrap();
    let (labels, pool) = (labels(root.path(), 120), pool(root.path()));
    let first = train(&kinds, &labels, None);
    let mine = || {
        Job::new(&kinds, "mine", json!({"top": 0.3}))
            .input("pool", shards(std::slice::from_ref(&pool)))
            .input("classifier", first.output("classifier"))
            .input("labels", labels.clone())
            .run()
            .unwrap()
    };
    let mined = mine();
    let documents = read_all(&mined.output("documents").parts[0]).unwrap();
    assert_eq!(documents.len(), 30);
    let is_good = |document: &Document| GOOD.iter().any(|good| document.text.starts_with(good));
    assert!(documents.iter().all(is_good));
    assert_eq!(mine().digest("documents"), mined.digest("documents"));

    let second = train(&kinds, &labels, Some((&mined, &first)));
    let report = report(&second);
    let rounds = report["rounds"].as_array().unwrap();
    assert_eq!(rounds.len(), 2);
    assert_eq!(rounds[1]["mined_positives"], 30);
    assert_eq!(rounds[0]["train_pages"], 72);
    assert!(
        rounds[1]["held_out"]["f1"].as_f64().unwrap() > 0.9,
        "{report}"
    );
    assert!(rounds[1]["per_source"]["a"]["pages"].as_u64().unwrap() > 0);
    assert!(rounds[1]["length_baseline"]["held_out"]["f1"].is_number());
    let again = train(&kinds, &labels, Some((&mined, &first)));
    assert_eq!(again.digest("classifier"), second.digest("classifier"));

    let classify = |params: Value, sample: bool| {
        let mut job = Job::new(&kinds, "classify", params)
            .input("documents", shards(std::slice::from_ref(&pool)))
            .input("classifier", second.output("classifier"));
        if sample {
            job = job.input("sample", shards(std::slice::from_ref(&pool)));
        }
        job.run().unwrap()
    };
    let done = classify(json!({"top": 0.5, "name": "edu"}), true);
    let kept = read_all(&done.output("documents").parts[0]).unwrap();
    assert!(
        kept.iter().all(is_good) && kept.len() == 50,
        "{}",
        kept.len()
    );
    assert!(kept[0].meta["edu"].as_f64().unwrap() > 0.5);
    let ledger = Ledger::read(&done.output("ledger").parts[0]).unwrap();
    assert_eq!(ledger.dropped["edu_below_threshold"].documents, 50);
    let all = classify(json!({}), false);
    assert_eq!(
        read_all(&all.output("documents").parts[0]).unwrap().len(),
        100
    );
}

#[test]
fn a_percentile_needs_a_sample() {
    let kinds = kbuild_tasks::kinds();
    let complaints = predict(&kinds, "classify", json!({"top": 1.5}), &[]).unwrap_err();
    let at: Vec<&str> = complaints
        .iter()
        .map(|complaint| complaint.at.as_str())
        .collect();
    assert_eq!(at, ["params.top", "inputs.sample"]);
    let both = json!({"top": 0.5, "min_score": 0.5});
    assert_eq!(predict(&kinds, "classify", both, &[]).unwrap_err().len(), 2);
}

#[test]
fn labels_on_one_side_alone_are_refused() {
    let kinds = kbuild_tasks::kinds();
    let root = tempfile::tempdir().unwrap();
    let job = Job::new(&kinds, "train-classifier", json!({"positive_score": 5.0}));
    let failure = job
        .input("labels", labels(root.path(), 20))
        .run()
        .err()
        .unwrap();
    assert!(failure.message.contains("no positive example"), "{failure}");
}
