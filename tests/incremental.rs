//! What one change of a corpus costs, as a table: the parts that each mapping kind runs again, the whole tasks that do,
//! and that the result is the one of a clean build, byte for byte.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use common::Project;
use serde_json::Value;

/// Every kind that works part by part, one after the other. Tokenizer, classifier and the share that is kept are
/// decided by frozen samples.
const KANANAFILE: &str = r#"
kananafile = 1
[goal]
default = [":tokens"]

[task.extracted]
kind = "extract"
inputs.raw = "raw/*.jsonl"
[task.clean]
kind = "filter"
inputs.documents = ":extracted"
params = { rules = "gopher", thresholds = { gopher_short_doc = 20 } }
[task.anonymous]
kind = "anonymize"
inputs.documents = ":clean"
[task.untested]
kind = "decontaminate"
inputs = { documents = ":anonymous", evaluation = "evaluation*.jsonl" }
[task.signatures]
kind = "signatures"
inputs.documents = ":untested"
[task.clusters]
kind = "cluster"
inputs.signatures = ":signatures"
[task.distinct]
kind = "drop"
inputs = { documents = ":untested", drop-list = ":clusters" }
[task.classifier]
kind = "train-classifier"
inputs.labels = "labels.jsonl"
[task.good]
kind = "classify"
inputs = { documents = ":distinct", classifier = ":classifier" }
params.min_score = 0.0
[task.tokenizer]
kind = "train-tokenizer"
inputs.documents = "sample.jsonl"
params.vocab_size = 300
[task.tokens]
kind = "tokenize"
inputs = { documents = ":good", tokenizer = ":tokenizer" }
"#;

/// The tasks that map, in the order of the columns below.
const MAPPED: [&str; 8] = [
    "extracted",
    "clean",
    "anonymous",
    "untested",
    "signatures",
    "distinct",
    "good",
    "tokens",
];
const SHARDS: usize = 3;

/// A line with a text that is like no other's: words made of syllables, with some that every English text has.
fn document(number: usize, word: &str) -> String {
    const COMMON: [&str; 6] = ["the", "and", "of", "with", "that", "to"];
    let mut state = number as u64 * 7919 + 13;
    let mut words = Vec::new();
    for position in 0..60 {
        state = (state * 1_103_515_245 + 12_345) % (1 << 31);
        if position % 4 == 0 {
            words.push(COMMON[(state >> 16) as usize % COMMON.len()].to_owned());
        } else {
            words.push(invented(state >> 8));
        }
    }
    let text = format!("{} of {word}.", words.join(" "));
    format!("{}\n", serde_json::json!({ "text": text }))
}

fn invented(mut state: u64) -> String {
    let mut word = String::new();
    for _ in 0..2 + state % 2 {
        word.push(char::from(b"bdfgklmnprst"[(state % 12) as usize]));
        word.push(char::from(b"aeiou"[(state / 12 % 5) as usize]));
        state /= 60;
    }
    word
}

fn shard(number: usize) -> String {
    let short = "{\"text\": \"Too short to stay.\"}\n";
    format!(
        "{}{short}{}",
        document(number * 2, "old"),
        document(number * 2 + 1, "old")
    )
}

fn corpus() -> Project {
    let project = Project::with(&[("Kananafile", KANANAFILE)]);
    for number in 1..=SHARDS {
        project.write(&format!("raw/{number}0.jsonl"), &shard(number));
    }
    project.write(
        "sample.jsonl",
        &(document(90, "sample") + &document(91, "sample")),
    );
    project.write("evaluation.jsonl", &document(95, "test"));
    let label = |number: usize| {
        let score = if number.is_multiple_of(2) { 5.0 } else { 1.0 };
        let text = if number.is_multiple_of(2) {
            "good and careful words"
        } else {
            "bad cheap offer now"
        };
        let split = if number < 16 { "train" } else { "held-out" };
        let label = serde_json::json!({
            "id": number.to_string(), "text": format!("{text} {number}"), "source": "x", "score": score, "split": split,
        });
        format!("{label}\n")
    };
    project.write("labels.jsonl", &(0..20).map(label).collect::<String>());
    project
}

/// What a build runs: parts of each mapping task, and the other tasks by name.
fn executions(project: &Project) -> ([usize; 8], Vec<String>) {
    let events = project.ok(&["--json"]).stdout();
    let mut parts: BTreeMap<String, usize> = BTreeMap::new();
    let mut whole = Vec::new();
    for line in events.lines() {
        let event: Value = serde_json::from_str(line).expect("events are JSON");
        let task = event["task"].as_str().unwrap_or_default().to_owned();
        match event["event"].as_str() {
            Some("part") => *parts.entry(task).or_default() += 1,
            Some("finished") if !MAPPED.contains(&task.as_str()) => whole.push(task),
            _ => {}
        }
    }
    whole.sort();
    (
        MAPPED.map(|task| parts.get(task).copied().unwrap_or_default()),
        whole,
    )
}

/// Every byte of every newest result, by path.
fn results(project: &Project) -> BTreeMap<String, Vec<u8>> {
    let latest = project.path("cache/latest");
    let mut found = BTreeMap::new();
    let mut folders = vec![latest.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder").flatten() {
            let path = entry.path();
            // What a task gave is content; the record beside it tells when and from what.
            match path.is_dir() {
                true => folders.push(path),
                false if entry.file_name() == ".receipt" => {}
                false => {
                    let name = path
                        .strip_prefix(&latest)
                        .expect("below")
                        .display()
                        .to_string();
                    found.insert(name, fs::read(&path).expect("a file"));
                }
            }
        }
    }
    found
}

struct Case {
    what: &'static str,
    change: fn(&Project),
    /// In the order of [`MAPPED`].
    parts: [usize; 8],
    whole: &'static [&'static str],
}

const CASES: [Case; 9] = [
    Case {
        what: "a document outside the sample",
        change: |project| project.write("raw/20.jsonl", &shard(2).replacen("of old", "of new", 1)),
        parts: [1, 1, 1, 1, 1, 1, 1, 1],
        whole: &["clusters"],
    },
    Case {
        what: "a document of the tokenizer's sample",
        change: |project| project.write("sample.jsonl", &document(92, "other")),
        parts: [0, 0, 0, 0, 0, 0, 0, SHARDS],
        whole: &["tokenizer"],
    },
    Case {
        what: "a document that the filter drops",
        change: |project| {
            project.write(
                "raw/20.jsonl",
                &shard(2).replace("Too short", "Still too short"),
            )
        },
        parts: [1, 1, 0, 0, 0, 0, 0, 0],
        whole: &[],
    },
    Case {
        what: "one shard more",
        change: |project| project.write("raw/25.jsonl", &shard(9)),
        parts: [1, 1, 1, 1, 1, 1, 1, 1],
        whole: &["clusters"],
    },
    Case {
        what: "one shard less",
        change: |project| fs::remove_file(project.path("raw/20.jsonl")).expect("the shard"),
        parts: [0; 8],
        whole: &["clusters"],
    },
    Case {
        what: "an emptied shard",
        change: |project| project.write("raw/20.jsonl", ""),
        parts: [1, 1, 1, 1, 1, 1, 1, 1],
        whole: &["clusters"],
    },
    Case {
        what: "another name in the same place",
        change: |project| rename(project, "raw/20.jsonl", "raw/21.jsonl"),
        parts: [0; 8],
        whole: &[],
    },
    Case {
        what: "another order",
        change: |project| rename(project, "raw/20.jsonl", "raw/99.jsonl"),
        parts: [0; 8],
        whole: &["clusters"],
    },
    Case {
        what: "a shard twice",
        change: |project| project.write("raw/99.jsonl", &shard(2)),
        // Nothing is left of the copy, and an empty part was worked on when a shard was emptied.
        parts: [0, 0, 0, 0, 0, 1, 0, 0],
        whole: &["clusters"],
    },
];

fn rename(project: &Project, from: &str, to: &str) {
    fs::rename(project.path(from), project.path(to)).expect("the shard is there");
}

fn restore(project: &Project, files: &[(String, String)]) {
    fs::remove_dir_all(project.path("raw")).expect("the corpus is there");
    files
        .iter()
        .for_each(|(name, text)| project.write(name, text));
}

fn files(project: &Project) -> Vec<(String, String)> {
    let raw = fs::read_dir(project.path("raw")).expect("the corpus is there");
    let raw = raw.flatten().map(|entry| {
        Path::new("raw")
            .join(entry.file_name())
            .display()
            .to_string()
    });
    let names = raw.chain(["sample.jsonl".to_owned()]);
    names
        .map(|name| (name.clone(), project.read(&name)))
        .collect()
}

#[test]
fn a_change_runs_what_it_must_and_no_more() {
    let project = corpus();
    let (parts, _) = executions(&project);
    assert_eq!(parts, [SHARDS; 8], "a clean build runs everything");
    let before = files(&project);
    for case in &CASES {
        (case.change)(&project);
        let (parts, whole) = executions(&project);
        assert_eq!(parts, case.parts, "{}: parts of {MAPPED:?}", case.what);
        assert_eq!(whole, case.whole, "{}", case.what);

        let clean = corpus();
        restore(&clean, &files(&project));
        clean.ok(&[]);
        assert_eq!(results(&project), results(&clean), "{}", case.what);

        restore(&project, &before);
        let (parts, whole) = executions(&project);
        assert_eq!(
            (parts, whole),
            ([0; 8], Vec::new()),
            "{}: and back",
            case.what
        );
    }
}
