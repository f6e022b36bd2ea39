//! The plan: each task's status before anything runs, and the reason for it.
//!
//! A pure function of a graph, a snapshot of the disk, and receipts. It reads nothing itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;

use crate::artifact::Content;
use crate::digest::Digest;
use crate::graph::{Graph, SourceId, Task, TaskId};
use crate::key::Manifest;
use crate::receipt::Receipt;

/// What `scan` found on disk.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Content of each source, or why it has none. A source that nobody asked for may be absent.
    pub sources: BTreeMap<SourceId, Result<Arc<Content>, String>>,
    /// Digest of each program file of commands and plugins, by the path in [`crate::graph::Program::files`].
    pub files: BTreeMap<String, Result<Digest, String>>,
    /// Value of each environment variable that a program declares, where it is set.
    pub env: BTreeMap<String, String>,
}

/// What the store answers for a key.
#[derive(Debug, Clone)]
pub enum Lookup {
    /// The receipt, and its content exists.
    Found(Arc<Receipt>),
    Missing,
    /// There is a receipt that cannot be used, and why: it does not parse, or its content is gone or damaged.
    Unusable(String),
}

/// The receipts of a store, as the planner sees them.
pub trait Receipts {
    fn get(&self, key: &Digest) -> Lookup;

    /// The manifest with which a task of this name was last resolved; only used for reasons.
    fn last(&self, task: &str) -> Option<Manifest>;
}

/// Why work must be done, with old and new.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "reason", rename_all = "kebab-case")]
pub enum Reason {
    /// No task of this name was ever built.
    NeverBuilt,
    /// A task of this name is known and nothing in its manifest changed, but nobody has its receipt.
    NoReceipt,
    /// Another kind of work had this name.
    KindChanged {
        old: String,
        new: String,
    },
    VersionChanged {
        old: u32,
        new: u32,
    },
    /// `path` as in `mixture[1]` or `optimizer.lr`; `None` = absent.
    ParamChanged {
        path: String,
        old: Option<Value>,
        new: Option<Value>,
    },
    /// `index` counts from 0; `label` and `from` are those of today.
    InputChanged {
        port: String,
        index: usize,
        label: String,
        old: Option<Digest>,
        new: Option<Digest>,
    },
    /// The same inputs in another order, or under other labels.
    InputsRearranged {
        port: String,
    },
    /// `file` as declared; its content changed, or it was added or dropped (`None`).
    ProgramChanged {
        file: String,
        old: Option<Digest>,
        new: Option<Digest>,
    },
    ArgumentsChanged {
        old: Vec<String>,
        new: Vec<String>,
    },
    EnvironmentChanged {
        name: String,
        old: Option<String>,
        new: Option<String>,
    },
    /// The receipt is there, and cannot be used.
    Unusable {
        detail: String,
    },
}

/// One part of a mapping task.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    pub index: usize,
    pub key: Digest,
    pub manifest: Manifest,
    /// What it gave, if it was done before.
    pub receipt: Option<Arc<Receipt>>,
}

/// The parts of a mapping task, in order. Equal parts have equal keys: one execution serves all of them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Parts {
    pub all: Vec<Part>,
}

impl Parts {
    pub fn total(&self) -> usize {
        self.all.len()
    }

    /// The parts that must run: one for each key that has no receipt.
    pub fn missing(&self) -> Vec<&Part> {
        let mut seen = BTreeSet::new();
        self.all
            .iter()
            .filter(|part| part.receipt.is_none() && seen.insert(part.key))
            .collect()
    }
}

/// A piece of work whose key is known, and that must be done.
#[derive(Debug, Clone, PartialEq)]
pub struct Work {
    pub key: Digest,
    pub manifest: Manifest,
    /// At least one.
    pub reasons: Vec<Reason>,
    /// Of mapping tasks.
    pub parts: Option<Parts>,
}

/// Why a task cannot even be asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "blocker", rename_all = "kebab-case")]
pub enum Blocker {
    /// A source that is missing or cannot be read.
    Source { pattern: String, detail: String },
    /// A program file that is missing or cannot be read.
    ProgramFile { path: String, detail: String },
    /// Mapped ports whose numbers of parts differ: `(port, parts)`.
    Misaligned { ports: Vec<(String, usize)> },
}

/// What is known of a task before it runs.
#[derive(Debug, Clone, PartialEq)]
pub enum Status {
    /// Done before; the receipt holds the outputs.
    Hit(Arc<Receipt>),
    /// To be done.
    Miss(Box<Work>),
    /// The key depends on these tasks (direct dependencies that are not hits), which must run first.
    Unknown(Vec<TaskId>),
    /// Cannot be done as things are.
    Blocked(Vec<Blocker>),
}

/// Status of every task that the goals need.
#[derive(Debug, Clone)]
pub struct Plan {
    /// In topological order.
    pub tasks: Vec<(TaskId, Status)>,
}

/// Content of what a task reads, as far as it is known.
#[derive(Debug, Clone, Default)]
pub struct Known {
    outputs: BTreeMap<TaskId, Arc<Receipt>>,
}

impl Known {
    /// States what a task gave.
    pub fn insert(&mut self, task: TaskId, receipt: Arc<Receipt>) {
        self.outputs.insert(task, receipt);
    }
}

/// The status of every task that `goals` need.
pub fn plan(graph: &Graph, snapshot: &Snapshot, receipts: &dyn Receipts, goals: &[TaskId]) -> Plan {
    let _ = (graph, snapshot, receipts, goals);
    Plan { tasks: Vec::new() }
}

/// The status of one task, given what the tasks before it gave.
pub fn decide(
    graph: &Graph,
    id: TaskId,
    snapshot: &Snapshot,
    known: &Known,
    receipts: &dyn Receipts,
) -> Status {
    let _ = (graph, id, snapshot, known, receipts);
    Status::Unknown(Vec::new())
}

/// Why the manifest of a task is not the one it had before.
pub fn reasons(task: &Task, old: Option<&Manifest>, new: &Manifest) -> Vec<Reason> {
    let _ = (task, old, new);
    Vec::new()
}
