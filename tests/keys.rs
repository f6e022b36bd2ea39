//! Golden keys: the identity of a few tasks, as literals. A key that changes re-runs people's work, so it changes only
//! together with a line `Rebuilds:` in the changelog.

mod common;

use common::Project;
use serde_json::Value;

const KANANAFILE: &str = r#"
kananafile = 1

[vars]
threshold = 2.5

[task.sorted]
kind = "command"
inputs.lines = ["b.txt", "a.txt"]
outputs = { result = "file" }
params = { argv = ["sort", "-o", "{outputs.result}", "{inputs.lines}"] }

[task.clean]
kind = "filter"
inputs.documents = "*.jsonl"
params = { language = "ko", thresholds = { korean_below_avg_threshold = "${threshold}", korean_short_doc = 5 } }

[task.tokenizer]
kind = "train-tokenizer"
inputs.documents = "*.jsonl"
params = { vocab_size = 300 }
"#;

fn project(prefix: &str) -> Project {
    Project::with(&[
        ("Kananafile", KANANAFILE),
        ("a.txt", "one\n"),
        ("b.txt", "two\n"),
        (&format!("{prefix}1.jsonl"), "{\"text\":\"하나\"}\n"),
        (&format!("{prefix}2.jsonl"), "{\"text\":\"둘\"}\n"),
    ])
}

fn keys(project: &Project) -> Vec<(String, String)> {
    let plan: Value = project.plan(&[]);
    let tasks = plan["tasks"].as_array().expect("the plan has tasks");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    tasks
        .iter()
        .map(|task| (text(&task["task"]), text(&task["key"])[..16].to_owned()))
        .collect()
}

#[test]
fn keys_are_what_they_were() {
    let keys = keys(&project("x"));
    let expected: Vec<(String, String)> = [
        ("sorted", "125f8a9bcbf21f27"),
        ("clean", "0916c0ed5e85826b"),
        ("tokenizer", "db9489285c87b6ac"),
    ]
    .map(|(task, key)| (task.to_owned(), key.to_owned()))
    .to_vec();
    assert_eq!(keys, expected);
}

#[test]
fn names_of_files_are_not_in_a_key_and_their_order_is() {
    let keys_of = |prefix| keys(&project(prefix));
    assert_eq!(keys_of("x"), keys_of("renamed-"));
    let swapped = project("x");
    let (first, second) = (swapped.read("x1.jsonl"), swapped.read("x2.jsonl"));
    swapped.write("x1.jsonl", &second);
    swapped.write("x2.jsonl", &first);
    let changed = keys(&swapped);
    let before = keys_of("x");
    assert_eq!(changed[0], before[0], "`sorted` does not read them");
    assert_ne!(changed[1], before[1]);
    assert_ne!(changed[2], before[2]);
}
