//! The vectors as a directory of named cases. A part's file adds its own to its `CASES`.

pub mod data;
pub mod measure;
pub mod model;
pub mod surgery;
pub mod train;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use kbuild_tasks::model::{Core, Device, Model};
use serde_json::Value;

/// Code that checks a case, or all the cases that a pattern names.
#[derive(Clone, Copy)]
pub struct Case {
    /// A case, or several: `rope/rope.json#cases/*`.
    pub id: &'static str,
    /// Panics where the numbers do not agree. Runs once, if the directory holds any case of this name.
    pub run: fn(&Vectors),
}

impl Case {
    pub fn covers(&self, id: &str) -> bool {
        matches(self.id, id)
    }
}

/// A directory of vectors.
pub struct Vectors {
    root: PathBuf,
}

impl Vectors {
    /// The directory that `KBUILD_VECTORS` names, else the one of this repository.
    pub fn open() -> Self {
        let own = || Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors");
        let root = std::env::var_os("KBUILD_VECTORS").map_or_else(own, PathBuf::from);
        Self { root }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    pub fn json(&self, name: &str) -> Value {
        let path = self.path(name);
        let text = std::fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    pub fn json_lines(&self, name: &str) -> Vec<Value> {
        let path = self.path(name);
        let text = std::fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        text.lines()
            .map(|line| serde_json::from_str(line).expect("a line of JSON"))
            .collect()
    }

    /// The list of this repository: it speaks for every directory of the layout.
    pub fn coverage(&self) -> Coverage {
        Coverage::parse(include_str!("../vectors/COVERAGE.toml"))
    }

    /// Every case: `folder/file.json#key`, and below `cases` one level more. `what`, `note` and the like are prose,
    /// models and safetensors the material of cases.
    pub fn ids(&self) -> Vec<String> {
        let mut ids = vec!["tokenizer/tokenizer.json".to_owned()];
        for name in self.files() {
            if name.starts_with("models/") || name.starts_with("tokenizer/") {
                continue;
            }
            if name.ends_with(".json") {
                ids.extend(ids_of_object(&name, &self.json(&name)));
            } else if name.ends_with(".jsonl") {
                ids.extend(ids_of_lines(&name, &self.json_lines(&name)));
            }
        }
        ids.sort();
        ids.dedup();
        ids
    }

    /// Every file, as `folder/name`.
    pub fn files(&self) -> Vec<String> {
        let mut names = Vec::new();
        let folders = std::fs::read_dir(&self.root)
            .unwrap_or_else(|error| panic!("{}: {error}", self.root.display()));
        for folder in folders.flatten().filter(|entry| entry.path().is_dir()) {
            let files = std::fs::read_dir(folder.path()).expect("a readable folder");
            names.extend(files.flatten().map(|file| {
                let (folder, file) = (folder.file_name(), file.file_name());
                format!("{}/{}", folder.to_string_lossy(), file.to_string_lossy())
            }));
        }
        names.sort();
        names
    }
}

const PROSE: &[&str] = &["what", "note", "packing_note", "model", "tokenizer"];

fn ids_of_object(name: &str, value: &Value) -> Vec<String> {
    let fields = value.as_object().expect("a case file is an object");
    fields
        .iter()
        .filter(|(key, _)| !PROSE.contains(&key.as_str()))
        .flat_map(|(key, value)| {
            let below = if key == "cases" {
                names_of_cases(value)
            } else {
                Vec::new()
            };
            if below.is_empty() {
                vec![format!("{name}#{key}")]
            } else {
                below
                    .into_iter()
                    .map(|case| format!("{name}#{key}/{case}"))
                    .collect()
            }
        })
        .collect()
}

/// `cases` is a map by name, a list of objects with a `kind`, or a list of objects with a map of `losses`.
fn names_of_cases(value: &Value) -> Vec<String> {
    let keys = |value: &Value| -> Vec<String> {
        value
            .as_object()
            .map(|map| map.keys().cloned().collect())
            .unwrap_or_default()
    };
    match value {
        Value::Array(cases) => cases
            .iter()
            .flat_map(|case| match case["kind"].as_str() {
                Some(kind) => vec![kind.to_owned()],
                None => keys(&case["losses"]),
            })
            .collect(),
        _ => keys(value),
    }
}

/// In a file of lines the cases are the answers that its lines hold: `ws/<rule>`, `simplified_sha256`, …
fn ids_of_lines(name: &str, lines: &[Value]) -> Vec<String> {
    let mut ids = Vec::new();
    for line in lines {
        for (key, value) in line.as_object().expect("a line is an object") {
            match (key.as_str(), value.as_object()) {
                ("set" | "id" | "lang" | "text" | "text_sha256", _) => {}
                (key, Some(rules)) => {
                    ids.extend(rules.keys().map(|rule| format!("{name}#{key}/{rule}")));
                }
                (key, None) => ids.push(format!("{name}#{key}")),
            }
        }
    }
    ids
}

/// The word for every case.
pub struct Coverage(BTreeMap<String, String>);

impl Coverage {
    fn parse(text: &str) -> Self {
        let folders: BTreeMap<String, BTreeMap<String, String>> =
            toml::from_str(text).expect("COVERAGE.toml: [folder] of \"file#case\" = \"word\"");
        let words = folders.into_iter().flat_map(|(folder, cases)| {
            cases.into_iter().map(move |(case, word)| {
                assert!(
                    ["run", "later", "negative"].contains(&word.as_str()),
                    "`{folder}/{case}`: `{word}` is not run, later or negative"
                );
                (format!("{folder}/{case}"), word)
            })
        });
        Self(words.collect())
    }

    /// An exact line wins over a pattern.
    pub fn word(&self, id: &str) -> Option<&str> {
        let pattern = || self.0.iter().find(|(pattern, _)| matches(pattern, id));
        let word = self.0.get(id).or_else(|| pattern().map(|(_, word)| word));
        word.map(String::as_str)
    }

    pub fn unused(&self, ids: &[String]) -> Vec<&str> {
        self.0
            .keys()
            .filter(|pattern| !ids.iter().any(|id| matches(pattern, id)))
            .map(String::as_str)
            .collect()
    }
}

fn matches(pattern: &str, id: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == id,
        Some((start, end)) => {
            id.len() >= start.len() + end.len() && id.starts_with(start) && id.ends_with(end)
        }
    }
}

thread_local! {
    /// Whether this test computes on a card.
    static ON_GPU: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Runs cases on the first card.
pub fn on_gpu(work: impl FnOnce()) {
    ON_GPU.set(true);
    work();
    ON_GPU.set(false);
}

/// Where this test computes.
pub fn device() -> Device {
    let name = if ON_GPU.get() { "gpu" } else { "cpu" };
    Device::open(name, 2).expect("a device")
}

/// A core there.
pub fn core_of(model: &Model) -> Core {
    Core::new(model.clone(), &device()).expect("a core")
}

pub fn global_norm(values: &[f32]) -> f64 {
    let squares = values.iter().map(|value| f64::from(*value).powi(2));
    squares.sum::<f64>().sqrt()
}
