//! What must be true of the data in `data/`: sets do not overlap, planted truth is where it says, and the program
//! that judges responses agrees with the preferences.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use kbuild_tasks::formats::documents::Records;
use kbuild_tasks::measure::gold::{self, Gold};
use serde_json::Value;

fn data(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../data")
        .join(path)
}

/// Every record of a file, or of all files of a folder.
fn records(path: &str) -> Vec<Value> {
    let path = data(path);
    let mut files = vec![path.clone()];
    if path.is_dir() {
        files = std::fs::read_dir(&path)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        files.sort();
    }
    files
        .iter()
        .flat_map(|file| Records::open(file).unwrap())
        .map(|record| record.unwrap())
        .collect()
}

fn text<'a>(record: &'a Value, field: &str) -> &'a str {
    record[field]
        .as_str()
        .unwrap_or_else(|| panic!("`{field}` is no text in {record}"))
}

fn prompt_of(record: &Value) -> String {
    let messages = record.get("prompt").unwrap_or(&record["messages"]);
    text(&messages[0], "content").to_owned()
}

fn prompts(path: &str) -> BTreeSet<String> {
    records(path).iter().map(prompt_of).collect()
}

const TRAINING: [&str; 3] = ["chat", "preferences/train", "preferences/public.jsonl.zst"];
const RAW: [&str; 5] = [
    "libreoffice-help-ko",
    "libreoffice-help-en",
    "gnome-help-ko",
    "gnome-help-en",
    "rust-code",
];

#[test]
fn no_prompt_is_in_two_sets() {
    let training: BTreeSet<String> = TRAINING.iter().flat_map(|path| prompts(path)).collect();
    let mut seen = training;
    for path in [
        "prompts/eval",
        "prompts/online.jsonl.zst",
        "preferences/held-out.jsonl.zst",
    ] {
        for prompt in prompts(path) {
            assert!(
                seen.insert(prompt.clone()),
                "`{prompt}` of {path} is in another set"
            );
        }
    }
}

#[test]
fn instruction_documents_hold_no_prompt_of_evaluation() {
    let documents: Vec<String> = records("instruction")
        .iter()
        .map(|record| format!("{}\n", text(record, "text")))
        .collect();
    assert!(documents.len() >= 500);
    for path in ["prompts/eval", "preferences/held-out.jsonl.zst"] {
        for prompt in prompts(path) {
            let line = format!(": {prompt}\n");
            assert!(
                !documents.iter().any(|document| document.contains(&line)),
                "`{prompt}`"
            );
        }
    }
}

#[test]
fn plain_answers_get_the_full_gold_reward_and_one_in_three_is_wordy() {
    let conversations = records("chat");
    let mut plain = 0;
    for record in &conversations {
        assert!(Gold::of(record).unwrap().is_some(), "{record}");
        let said = text(&record["messages"][1], "content");
        if gold::reward(record, said, true).unwrap() > 0.999 {
            plain += 1;
        } else if let Some(answer) = record["gold"]["answer"].as_str() {
            assert!(said != answer && said.contains(answer), "{record}");
        }
    }
    let share = f64::from(plain) / conversations.len() as f64;
    assert!((0.6..0.73).contains(&share), "{share}");
    for path in ["prompts/eval", "prompts/online.jsonl.zst"] {
        assert!(
            records(path)
                .iter()
                .all(|record| Gold::of(record).unwrap().is_some())
        );
    }
}

/// Pairs of which the gold reward prefers the chosen response, and all pairs.
fn agreement(path: &str) -> (usize, usize) {
    let pairs = records(path);
    let agrees = |pair: &&Value| {
        let side = |name: &str| gold::reward(pair, text(&pair[name][0], "content"), true).unwrap();
        side("chosen") > side("rejected")
    };
    (pairs.iter().filter(agrees).count(), pairs.len())
}

#[test]
fn the_gold_reward_agrees_with_the_preferences() {
    for path in ["preferences/train", "preferences/held-out.jsonl.zst"] {
        let (right, all) = agreement(path);
        assert!(all >= 300, "{path} holds {all}");
        assert_eq!(right, all, "{path}");
    }
    let (right, all) = agreement("preferences/public.jsonl.zst");
    let flipped = 1.0 - right as f64 / all as f64;
    assert!((0.1..0.25).contains(&flipped), "{flipped} are flipped");
}

#[test]
fn planted_personal_data_is_where_the_list_says() {
    let raw: BTreeMap<String, Value> = RAW
        .iter()
        .flat_map(|name| records(&format!("raw/{name}")))
        .map(|record| (text(&record, "id").to_owned(), record))
        .collect();
    let truth = records("raw/planted-pii.jsonl");
    assert!(truth.len() >= 90);
    for item in truth {
        let field = text(&raw[text(&item, "id")], text(&item, "field")).chars();
        let (start, end) = (
            item["start"].as_u64().unwrap(),
            item["end"].as_u64().unwrap(),
        );
        let found: String = field
            .skip(start as usize)
            .take((end - start) as usize)
            .collect();
        assert_eq!(found, text(&item, "value"), "{item}");
    }
}

#[test]
fn held_out_text_is_not_in_the_corpus() {
    let ids = |paths: &[String]| -> BTreeSet<String> {
        paths
            .iter()
            .flat_map(|path| records(path))
            .map(|record| {
                // The page's name without its language, so that a translation counts as the same page.
                let id = text(&record, "id").split('#').next().unwrap().to_owned();
                match id.split_once(':') {
                    Some(("crate", _)) | None => id,
                    Some((source, rest)) => format!("{source}:{}", rest.split_once(':').unwrap().1),
                }
            })
            .collect()
    };
    let raw = ids(&RAW.map(|name| format!("raw/{name}")));
    for name in ["help-ko", "help-en", "gnome-ko", "gnome-en", "code"] {
        let held = ids(&[format!("heldout/{name}.jsonl.zst")]);
        let development = ids(&[format!("development/{name}.jsonl.zst")]);
        assert!(!held.is_empty() && !development.is_empty(), "{name}");
        assert_eq!(held.intersection(&raw).next(), None, "{name}");
        assert_eq!(development.intersection(&raw).next(), None, "{name}");
        assert_eq!(held.intersection(&development).next(), None, "{name}");
    }
}

#[test]
fn every_rated_page_is_labelled_with_its_score() {
    for language in ["ko", "en"] {
        let ratings = records(&format!("ratings/{language}/ratings.jsonl"));
        let labels: BTreeMap<String, Value> = records(&format!("labels/{language}.jsonl.zst"))
            .into_iter()
            .map(|label| (text(&label, "id").to_owned(), label))
            .collect();
        let without_text = ratings.len() - labels.len();
        assert!(labels.len() >= 300 && without_text <= 2, "{without_text}");
        for rating in &ratings {
            let Some(label) = labels.get(text(rating, "page")) else {
                continue;
            };
            assert_eq!(label["score"], rating["score"]);
            assert_eq!(label["split"], rating["split"]);
            assert!(!text(label, "text").is_empty());
        }
        let held_out: BTreeSet<&str> = ratings
            .iter()
            .filter(|rating| rating["split"] == "held-out")
            .map(|rating| text(rating, "source"))
            .collect();
        assert_eq!(held_out.len(), 2, "held-out pages of every source");
    }
}
