//! Plans over receipts in memory.

mod dropped;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::*;
use crate::artifact::{Blob, Shape};
use crate::graph::OutputPort;
use crate::kananafile::Kananafile;
use crate::receipt::{self, Text};
use crate::testing::loaded;

/// A store in memory, and the disk as a scan would find it.
#[derive(Default)]
struct World {
    snapshot: Snapshot,
    receipts: HashMap<Digest, Arc<Receipt>>,
    unusable: BTreeMap<Digest, String>,
    /// Keys whose content was dropped.
    absent: BTreeSet<Digest>,
    last: BTreeMap<String, Manifest>,
}

impl Receipts for World {
    fn get(&self, key: &Digest) -> Lookup {
        if let Some(detail) = self.unusable.get(key) {
            return Lookup::Unusable(detail.clone());
        }
        let found = self.receipts.get(key).map(Arc::clone);
        found.map_or(Lookup::Missing, |receipt| match self.absent.contains(key) {
            true => Lookup::Dropped(receipt),
            false => Lookup::Found(receipt),
        })
    }

    fn last(&self, task: &str) -> Option<Manifest> {
        self.last.get(task).cloned()
    }
}

fn file(text: &str) -> Content {
    Content::File(Blob {
        digest: Digest::of(text.as_bytes()),
        size: text.len() as u64,
    })
}

fn shards(parts: &[&str]) -> Content {
    Content::Shards(parts.iter().map(|part| file(part)).collect())
}

impl World {
    /// A world where every source of `kananafile` has these parts.
    fn new(kananafile: &Kananafile, parts: &[&str]) -> Self {
        let mut world = Self::default();
        let sources = kananafile.graph.sources();
        world.snapshot.sources = sources
            .map(|(id, _)| (id, Ok(Arc::new(shards(parts)))))
            .collect();
        world
    }

    fn plan(&self, kananafile: &Kananafile) -> Plan {
        let graph = &kananafile.graph;
        let all: Vec<TaskId> = graph.tasks().map(|(id, _)| id).collect();
        plan(graph, &self.snapshot, self, &all)
    }

    /// Runs everything that is a miss, in order; what a task makes is decided by `make` from its manifest.
    fn build(
        &mut self,
        kananafile: &Kananafile,
        make: impl Fn(&Manifest) -> String,
    ) -> Vec<String> {
        let graph = &kananafile.graph;
        let mut known = Known::new(&self.snapshot);
        let mut ran = Vec::new();
        for (id, task) in graph.tasks() {
            let receipt = match decide(graph, id, &self.snapshot, &known, self) {
                Status::Hit(receipt) => receipt,
                Status::Miss(work) => {
                    ran.push(task.name.clone());
                    Arc::new(self.run(task, &work, &make))
                }
                other => panic!("{}: {other:?}", task.name),
            };
            known.insert(graph, id, receipt);
        }
        ran
    }

    fn run(&mut self, task: &Task, work: &Work, make: &impl Fn(&Manifest) -> String) -> Receipt {
        let mut parts: BTreeMap<String, Vec<Content>> = BTreeMap::new();
        for part in work.parts.iter().flat_map(|parts| &parts.all) {
            let manifest = work.manifest.part(&part.inputs);
            assert_eq!(manifest.key(), part.key);
            let made = file(&make(&manifest));
            let outputs = task
                .outputs
                .iter()
                .map(|port| (port.name.clone(), made.clone()));
            let receipt = receipt_of(task, part.key, &manifest, outputs.collect());
            for (port, content) in &receipt.outputs {
                parts.entry(port.clone()).or_default().push(content.clone());
            }
            self.receipts.insert(part.key, Arc::new(receipt));
        }
        let content = |port: &OutputPort| {
            let text = format!("{}: {}", port.name, make(&work.manifest));
            match (parts.get(&port.name), port.shape) {
                (Some(parts), _) => Content::Shards(parts.clone()),
                (None, Shape::File) => file(&text),
                (None, Shape::Shards) => Content::Shards(vec![file(&text)]),
                (None, Shape::Directory) => {
                    let blob = file(&text).blobs()[0];
                    Content::Directory(BTreeMap::from([("a".to_owned(), blob)]))
                }
            }
        };
        let outputs = task
            .outputs
            .iter()
            .map(|port| (port.name.clone(), content(port)));
        let receipt = receipt_of(task, work.key, &work.manifest, outputs.collect());
        self.receipts.insert(work.key, Arc::new(receipt.clone()));
        self.last.insert(task.name.clone(), work.manifest.clone());
        receipt
    }
}

fn receipt_of(
    task: &Task,
    key: Digest,
    manifest: &Manifest,
    outputs: BTreeMap<String, Content>,
) -> Receipt {
    Receipt {
        schema: receipt::SCHEMA,
        key,
        manifest: Text::of(manifest),
        outputs,
        facts: BTreeMap::new(),
        task: task.name.clone(),
        elapsed_ms: 1,
        attempts: 1,
        environment: BTreeMap::new(),
        accepted: None,
        dropped: false,
    }
}

fn by_key(manifest: &Manifest) -> String {
    manifest.key().to_hex()
}

const PIPELINE: &str = r#"
    [task.clean]
    kind = "clean"
    inputs.documents = "data/*.jsonl"
    [task.train]
    kind = "train"
    inputs.documents = ":clean"
    params.hidden = 8
    [task.report]
    kind = "report"
    inputs.curves = { train = ":train.metrics" }
"#;

fn status<'a>(plan: &'a Plan, kananafile: &Kananafile, task: &str) -> &'a Status {
    plan.status(kananafile.graph.find(task).unwrap()[0])
        .unwrap()
}

fn reasons_of(plan: &Plan, kananafile: &Kananafile, task: &str) -> Vec<Reason> {
    match status(plan, kananafile, task) {
        Status::Miss(work) => work.reasons.clone(),
        other => panic!("{task}: {other:?}"),
    }
}

#[test]
fn nothing_was_built() {
    let kananafile = loaded(PIPELINE);
    let plan = World::new(&kananafile, &["a", "b"]).plan(&kananafile);
    assert_eq!(
        reasons_of(&plan, &kananafile, "clean"),
        [Reason::NeverBuilt]
    );
    let clean = kananafile.graph.find("clean").unwrap().to_vec();
    assert_eq!(*status(&plan, &kananafile, "train"), Status::Unknown(clean));
    assert!(!plan.is_done());
}

#[test]
fn everything_was_built() {
    let kananafile = loaded(PIPELINE);
    let mut world = World::new(&kananafile, &["a", "b"]);
    assert_eq!(
        world.build(&kananafile, by_key),
        ["clean", "train", "report"]
    );
    assert!(world.plan(&kananafile).is_done());
    assert!(world.build(&kananafile, by_key).is_empty());
}

#[test]
fn one_changed_part_runs_one_part() {
    let kananafile = loaded(PIPELINE);
    let mut world = World::new(&kananafile, &["a", "b", "b", "c"]);
    world.build(&kananafile, by_key);
    let old = shards(&["a", "b", "b", "c"]).digest();
    let new = shards(&["a", "b", "x", "c", "x"]);
    world
        .snapshot
        .sources
        .insert(SourceId(0), Ok(Arc::new(new.clone())));
    let plan = world.plan(&kananafile);
    let Status::Miss(work) = status(&plan, &kananafile, "clean") else {
        panic!("{plan:?}")
    };
    let parts = work.parts.as_ref().unwrap();
    let missing: Vec<usize> = parts.missing().iter().map(|part| part.index).collect();
    assert_eq!((parts.total(), missing), (5, vec![2]));
    assert_eq!(
        work.reasons,
        [Reason::InputChanged {
            port: "documents".to_owned(),
            index: 0,
            label: "data/*.jsonl".to_owned(),
            old: Some(old),
            new: Some(new.digest()),
        }]
    );
}

#[test]
fn equal_output_cuts_off_what_follows() {
    let kananafile = loaded(PIPELINE);
    let mut world = World::new(&kananafile, &["a", "b"]);
    world.build(&kananafile, |_| "same".to_owned());
    let new = shards(&["a", "x"]);
    world
        .snapshot
        .sources
        .insert(SourceId(0), Ok(Arc::new(new)));
    assert_eq!(world.build(&kananafile, |_| "same".to_owned()), ["clean"]);
}

#[test]
fn a_changed_param_is_named_with_old_and_new() {
    let old = loaded(PIPELINE);
    let mut world = World::new(&old, &["a"]);
    world.build(&old, by_key);
    let changed = PIPELINE.replace(
        "params.hidden = 8",
        "params = { hidden = 16, optimizer = { beta1 = 0.5 } }",
    );
    let new = loaded(&changed);
    let plan = world.plan(&new);
    assert!(matches!(status(&plan, &new, "clean"), Status::Hit(_)));
    let changes = [
        ("hidden", 8.into(), 16.into()),
        ("optimizer.beta1", 0.0.into(), 0.5.into()),
    ];
    let expected = changes.map(
        |(path, old, new): (&str, Value, Value)| Reason::ParamChanged {
            path: path.to_owned(),
            old: Some(old),
            new: Some(new),
        },
    );
    assert_eq!(reasons_of(&plan, &new, "train"), expected);
    let train = new.graph.find("train").unwrap().to_vec();
    assert_eq!(*status(&plan, &new, "report"), Status::Unknown(train));
}

#[test]
fn a_receipt_that_cannot_be_used_is_a_miss_that_says_so() {
    let kananafile = loaded(PIPELINE);
    let mut world = World::new(&kananafile, &["a"]);
    world.build(&kananafile, by_key);
    let key = world.last["train"].key();
    world.unusable.insert(key, "blob 1234 is gone".to_owned());
    let expected = |detail: &str| {
        [Reason::Unusable {
            detail: detail.to_owned(),
        }]
    };
    let plan = world.plan(&kananafile);
    assert_eq!(
        reasons_of(&plan, &kananafile, "train"),
        expected("blob 1234 is gone")
    );
    world.unusable.clear();
    let receipt = world.receipts.get_mut(&key).unwrap();
    Arc::make_mut(receipt).outputs.remove("model");
    let plan = world.plan(&kananafile);
    let detail = "its receipt lacks the output `model`";
    assert_eq!(reasons_of(&plan, &kananafile, "train"), expected(detail));
    world.receipts.remove(&key);
    let plan = world.plan(&kananafile);
    assert_eq!(reasons_of(&plan, &kananafile, "train"), [Reason::NoReceipt]);
}

#[test]
fn inputs_that_come_go_and_move_are_told_apart() {
    let text = |inputs: &str| {
        format!("[task.t]\nkind = \"train\"\nparams.hidden = 8\ninputs.documents = [{inputs}]\n")
    };
    let manifest_of = |inputs: &str| {
        let kananafile = loaded(&text(inputs));
        let (_, task) = kananafile.graph.tasks().next().unwrap();
        let digest = |binding: &Binding| Digest::of(binding.label.as_bytes());
        (Manifest::of(task, digest, None), task.clone())
    };
    let diff = |old: &str, new: &str| {
        let (new, task) = manifest_of(new);
        reasons(&task, Some(&manifest_of(old).0), &new)
    };
    let changed = |index, label: &str, old: Option<&str>, new: Option<&str>| Reason::InputChanged {
        port: "documents".to_owned(),
        index,
        label: label.to_owned(),
        old: old.map(|text| Digest::of(text.as_bytes())),
        new: new.map(|text| Digest::of(text.as_bytes())),
    };
    let moved = Reason::InputsRearranged {
        port: "documents".to_owned(),
    };
    assert_eq!(diff("'a', 'b'", "'b', 'a'"), std::slice::from_ref(&moved));
    assert_eq!(diff("'a'", "'a', 'a'"), [moved]);
    assert_eq!(
        diff("'a', 'b'", "'a', 'c'"),
        [changed(1, "c", Some("b"), Some("c"))]
    );
    assert_eq!(diff("'a'", "'b', 'a'"), [changed(0, "b", None, Some("b"))]);
    assert_eq!(diff("'a', 'b'", "'a'"), [changed(1, "", Some("b"), None)]);
}

#[test]
fn a_missing_source_blocks_and_is_named() {
    let kananafile = loaded(PIPELINE);
    let mut world = World::default();
    let detail = "nothing matches".to_owned();
    world
        .snapshot
        .sources
        .insert(SourceId(0), Err(detail.clone()));
    let plan = world.plan(&kananafile);
    let pattern = "data/*.jsonl".to_owned();
    let blocked = Status::Blocked(vec![Blocker::Source { pattern, detail }]);
    assert_eq!(*status(&plan, &kananafile, "clean"), blocked);
    assert!(matches!(
        status(&plan, &kananafile, "train"),
        Status::Unknown(_)
    ));
}

const COMMAND: &str = r#"
    [task.sort]
    kind = "command"
    inputs.words = "words.txt"
    outputs.sorted = "file"
    protect = true
    [task.sort.params]
    argv = ["bin/sort.sh", "{inputs.words}", "{outputs.sorted}"]
    files = ["lib.sh"]
    env = ["LANG"]
"#;

#[test]
fn program_files_and_environment_are_reasons() {
    let kananafile = loaded(COMMAND);
    let mut world = World::new(&kananafile, &["a"]);
    let old = Digest::of(b"old");
    for path in ["bin/sort.sh", "lib.sh"] {
        let plan = world.plan(&kananafile);
        assert!(matches!(
            status(&plan, &kananafile, "sort"),
            Status::Blocked(_)
        ));
        world.snapshot.files.insert(path.to_owned(), Ok(old));
    }
    world.build(&kananafile, by_key);
    assert!(
        world
            .plan(&kananafile)
            .protected(&kananafile.graph)
            .is_empty()
    );

    let new = Digest::of(b"new");
    world.snapshot.files.insert("lib.sh".to_owned(), Ok(new));
    world
        .snapshot
        .env
        .insert("LANG".to_owned(), "ko".to_owned());
    let plan = world.plan(&kananafile);
    let expected = [
        Reason::ProgramChanged {
            file: "lib.sh".to_owned(),
            old: Some(old),
            new: Some(new),
        },
        Reason::EnvironmentChanged {
            name: "LANG".to_owned(),
            old: None,
            new: Some("ko".to_owned()),
        },
    ];
    assert_eq!(reasons_of(&plan, &kananafile, "sort"), expected);
    assert_eq!(plan.protected(&kananafile.graph), [TaskId(0)]);
}

#[test]
fn reasons_are_data_for_other_programs() {
    let reason = Reason::VersionChanged { old: 1, new: 2 };
    let text = serde_json::to_string(&reason).unwrap();
    assert_eq!(text, r#"{"reason":"version-changed","old":1,"new":2}"#);
}

#[test]
fn ten_thousand_tasks_are_planned_at_once() {
    let chain = |n: usize| {
        let input = match n % 100 {
            0 => "x.jsonl".to_owned(),
            _ => format!(":t{}.model", n - 1),
        };
        let inputs = match n % 100 {
            0 => format!("documents = \"{input}\""),
            _ => format!("init = \"{input}\", documents = \"x.jsonl\""),
        };
        format!(
            "[task.t{n}]\nkind = \"train\"\ninputs = {{ {inputs} }}\nparams = {{ hidden = 8, lr = {n}.5 }}\n"
        )
    };
    let text: String = (0..10_000).map(chain).collect();
    let start = std::time::Instant::now();
    let kananafile = loaded(&text);
    let loading = start.elapsed();
    let mut world = World::new(&kananafile, &["a"]);
    assert_eq!(world.build(&kananafile, by_key).len(), 10_000);
    let start = std::time::Instant::now();
    let plan = world.plan(&kananafile);
    let elapsed = start.elapsed();
    assert!(plan.is_done());
    // Far from what it takes (tens of milliseconds): a bound that only quadratic work can miss.
    eprintln!("loaded in {loading:?}, planned in {elapsed:?}");
    assert!(elapsed.as_secs() < 5, "{elapsed:?}");
}
