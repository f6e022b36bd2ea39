//! The plan: each task's status before anything runs, and the reason for it.
//!
//! A pure function of a graph, a snapshot of the disk, and receipts. It reads nothing itself.

mod known;
#[cfg(test)]
mod tests;
mod why;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::artifact::Content;
use crate::digest::Digest;
use crate::graph::{Binding, Graph, InputPort, Origin, SourceId, Task, TaskId};
use crate::key::{InputEntry, Manifest, ProgramEntry};
use crate::receipt::Receipt;

pub use known::Known;
pub use why::reasons;

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
    /// The receipt says that its content was dropped, and some of it is gone.
    Dropped(Arc<Receipt>),
    Missing,
    /// There is a receipt that cannot be used, and why: it does not parse, or its content is gone or damaged.
    Unusable(String),
}

/// The receipts of a store, as the planner sees them.
pub trait Receipts: Sync {
    fn get(&self, key: &Digest) -> Lookup;

    /// The manifest with which a task of this name was last resolved; only used for reasons.
    fn last(&self, task: &str) -> Option<Manifest>;
}

/// Why work must be done, with old and new.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
    /// Its content was dropped, and these tasks need it; none: it is asked for itself.
    Dropped {
        needed_by: Vec<String>,
    },
}

/// One part of a mapping task.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    pub index: usize,
    pub key: Digest,
    /// What it is made of, by mapped port.
    pub inputs: Vec<(String, InputEntry)>,
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
    /// What it gave before its content was dropped: what it will most likely give again.
    pub dropped: Option<Arc<Receipt>>,
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
    /// Done before; the receipt holds the outputs, their content was dropped, and nobody needs it. Counts as a hit.
    Dropped(Arc<Receipt>),
    /// To be done.
    Miss(Box<Work>),
    /// The key depends on these tasks (direct dependencies that are not hits), which must run first.
    Unknown(Vec<TaskId>),
    /// Cannot be done as things are.
    Blocked(Vec<Blocker>),
}

impl Status {
    /// True when there is nothing to do.
    pub fn is_hit(&self) -> bool {
        matches!(self, Self::Hit(_) | Self::Dropped(_))
    }

    /// What it gave when it was done before, whether or not the content is there.
    pub fn done(&self) -> Option<&Arc<Receipt>> {
        match self {
            Self::Hit(receipt) | Self::Dropped(receipt) => Some(receipt),
            Self::Miss(work) => work.dropped.as_ref(),
            Self::Unknown(_) | Self::Blocked(_) => None,
        }
    }

    /// True when it must run, or may have to.
    pub fn may_run(&self) -> bool {
        matches!(self, Self::Miss(_) | Self::Unknown(_))
    }
}

/// Status of every task that the goals need.
#[derive(Debug, Clone)]
pub struct Plan {
    /// In topological order.
    pub tasks: Vec<(TaskId, Status)>,
}

impl Plan {
    pub fn status(&self, id: TaskId) -> Option<&Status> {
        let index = self.tasks.binary_search_by_key(&id, |(id, _)| *id).ok()?;
        Some(&self.tasks[index].1)
    }

    /// Protected tasks that are not hits: they wait for the user's word.
    pub fn protected(&self, graph: &Graph) -> Vec<TaskId> {
        self.tasks
            .iter()
            .filter(|(id, status)| graph.task(*id).protect && !status.is_hit())
            .map(|(id, _)| *id)
            .collect()
    }

    /// True when every task is a hit.
    pub fn is_done(&self) -> bool {
        self.tasks.iter().all(|(_, status)| status.is_hit())
    }
}

/// The status of every task that `goals` need.
pub fn plan(graph: &Graph, snapshot: &Snapshot, receipts: &dyn Receipts, goals: &[TaskId]) -> Plan {
    let wanted = goals.iter().copied().collect();
    let known = Known::new(snapshot);
    outlook(
        graph,
        snapshot,
        receipts,
        &wanted,
        known,
        graph.reach(goals),
    )
}

/// The status of some tasks on the way to `goals`, given in topological order and with everything behind them; `known` is
/// what those before them gave or will give. A plan, or what is left of one when a build knows more.
pub fn outlook(
    graph: &Graph,
    snapshot: &Snapshot,
    receipts: &dyn Receipts,
    goals: &BTreeSet<TaskId>,
    mut known: Known,
    tasks: Vec<TaskId>,
) -> Plan {
    let mut plan = Plan {
        tasks: Vec::with_capacity(tasks.len()),
    };
    for id in tasks {
        let status = decide(graph, id, snapshot, &known, receipts);
        if let Some(receipt) = status.done() {
            known.insert(graph, id, Arc::clone(receipt));
        }
        plan.tasks.push((id, status));
    }
    want_back(graph, goals, snapshot, &known, receipts, &mut plan);
    plan
}

/// Dropped content that somebody needs must be made again; and for that, what it was made of. From the last task to the
/// first: whether a task runs is decided before what it reads is looked at.
fn want_back(
    graph: &Graph,
    goals: &BTreeSet<TaskId>,
    snapshot: &Snapshot,
    known: &Known,
    receipts: &dyn Receipts,
    plan: &mut Plan,
) {
    let mut running = BTreeSet::new();
    for (id, status) in plan.tasks.iter_mut().rev() {
        if let Status::Dropped(receipt) = status
            && let Some(needed_by) = needed_by(graph, *id, goals, &running)
        {
            let task = graph.task(*id);
            let manifest = manifest(graph, task, snapshot, known);
            let reasons = vec![Reason::Dropped { needed_by }];
            *status = Status::Miss(Box::new(Work {
                parts: parts(graph, task, known, &manifest, receipts),
                key: receipt.key,
                manifest,
                reasons,
                dropped: Some(Arc::clone(receipt)),
            }));
        }
        if status.may_run() {
            running.insert(*id);
        }
    }
}

/// Who needs the content of a task: the readers that run or may have to. Empty if it is asked for itself, `None` if its
/// digests are enough.
fn needed_by(
    graph: &Graph,
    id: TaskId,
    goals: &BTreeSet<TaskId>,
    running: &BTreeSet<TaskId>,
) -> Option<Vec<String>> {
    let readers = graph.dependents(id).iter();
    let readers: Vec<String> = readers
        .filter(|reader| running.contains(*reader))
        .map(|reader| graph.task(*reader).name.clone())
        .collect();
    let is_asked_for = goals.contains(&id) || !graph.task(id).temporary;
    (is_asked_for || !readers.is_empty()).then_some(readers)
}

/// The status of one task, given what the tasks before it gave. Used for the plan, and again for each task as a build
/// goes on.
pub fn decide(
    graph: &Graph,
    id: TaskId,
    snapshot: &Snapshot,
    known: &Known,
    receipts: &dyn Receipts,
) -> Status {
    let task = graph.task(id);
    let blockers = blockers(graph, task, snapshot);
    if !blockers.is_empty() {
        return Status::Blocked(blockers);
    }
    let waits_for = waits_for(graph, id, known);
    if !waits_for.is_empty() {
        return Status::Unknown(waits_for);
    }
    if let Some(misaligned) = misaligned(graph, task, known) {
        return Status::Blocked(vec![misaligned]);
    }
    let manifest = manifest(graph, task, snapshot, known);
    let key = manifest.key();
    let reasons = match usable(task, receipts.get(&key)) {
        Lookup::Found(receipt) => return Status::Hit(receipt),
        Lookup::Dropped(receipt) => return Status::Dropped(receipt),
        Lookup::Missing => why::reasons(task, receipts.last(&task.name).as_ref(), &manifest),
        Lookup::Unusable(detail) => vec![Reason::Unusable { detail }],
    };
    Status::Miss(Box::new(Work {
        parts: parts(graph, task, known, &manifest, receipts),
        key,
        manifest,
        reasons,
        dropped: None,
    }))
}

/// The keys of the parts of a task that maps, in order; none of another.
pub fn part_keys(graph: &Graph, task: &Task, known: &Known, whole: &Manifest) -> Vec<Digest> {
    match task.is_mapped() {
        true => rows(graph, task, known)
            .map(|part| whole.part_key(&part))
            .collect(),
        false => Vec::new(),
    }
}

fn blockers(graph: &Graph, task: &Task, snapshot: &Snapshot) -> Vec<Blocker> {
    let sources = task.bindings().filter_map(|binding| {
        let Origin::Source(id) = binding.from else {
            return None;
        };
        let detail = match snapshot.sources.get(&id) {
            Some(Ok(_)) => return None,
            Some(Err(detail)) => detail.clone(),
            None => "it was not looked at".to_owned(),
        };
        let pattern = graph.source(id).pattern.clone();
        Some(Blocker::Source { pattern, detail })
    });
    let files = task.executor.program().into_iter().flat_map(|program| {
        program.files.iter().filter_map(|path| {
            let detail = match snapshot.files.get(path) {
                Some(Ok(_)) => return None,
                Some(Err(detail)) => detail.clone(),
                None => "it was not looked at".to_owned(),
            };
            let path = path.clone();
            Some(Blocker::ProgramFile { path, detail })
        })
    });
    sources.chain(files).collect()
}

fn waits_for(graph: &Graph, id: TaskId, known: &Known) -> Vec<TaskId> {
    let is_open = |id: &&TaskId| known.receipt(**id).is_none();
    graph
        .dependencies(id)
        .iter()
        .filter(is_open)
        .copied()
        .collect()
}

fn misaligned(graph: &Graph, task: &Task, known: &Known) -> Option<Blocker> {
    let ports: Vec<(String, usize)> = mapped(task)
        .map(|port| (port.name.clone(), parts_of(graph, port, known).count()))
        .collect();
    let aligned = ports.windows(2).all(|pair| pair[0].1 == pair[1].1);
    (!aligned).then_some(Blocker::Misaligned { ports })
}

fn manifest(graph: &Graph, task: &Task, snapshot: &Snapshot, known: &Known) -> Manifest {
    manifest_of(task, snapshot, |binding| {
        let (_, digest) = known
            .content(graph, binding.from)
            .expect("inputs are known before a key is made");
        digest
    })
}

/// The manifest of a task, given the digest of what each binding holds.
pub(crate) fn manifest_of(
    task: &Task,
    snapshot: &Snapshot,
    digest: impl Fn(&Binding) -> Digest,
) -> Manifest {
    let program = task.executor.program().map(|program| ProgramEntry {
        argv: program.declared.clone(),
        files: program
            .files
            .iter()
            .filter_map(|path| snapshot.files.get(path)?.as_ref().ok().copied())
            .collect(),
        env: program
            .env
            .iter()
            .map(|name| (name.clone(), snapshot.env.get(name).cloned()))
            .collect(),
    });
    Manifest::of(task, digest, program)
}

/// A receipt that lacks an output of the task, or belongs to another form, is none.
fn usable(task: &Task, lookup: Lookup) -> Lookup {
    let (Lookup::Found(receipt) | Lookup::Dropped(receipt)) = &lookup else {
        return lookup;
    };
    for port in &task.outputs {
        let name = &port.name;
        match receipt.outputs.get(name) {
            None => return Lookup::Unusable(format!("its receipt lacks the output `{name}`")),
            // The format of a plugin's output is no part of its key.
            Some(content) if !port.mapped && content.shape() != port.shape => {
                let detail = format!("its output `{name}` is laid out as another format's");
                return Lookup::Unusable(detail);
            }
            Some(_) => {}
        }
    }
    lookup
}

/// The parts of a task that maps.
fn parts(
    graph: &Graph,
    task: &Task,
    known: &Known,
    whole: &Manifest,
    receipts: &dyn Receipts,
) -> Option<Parts> {
    if !task.is_mapped() {
        return None;
    }
    let part = |(index, inputs): (usize, Row)| {
        let key = whole.part_key(&inputs);
        let receipt = match receipts.get(&key) {
            Lookup::Found(receipt) => Some(receipt).filter(|receipt| gives_part(task, receipt)),
            Lookup::Missing | Lookup::Unusable(_) | Lookup::Dropped(_) => None,
        };
        Part {
            index,
            key,
            inputs,
            receipt,
        }
    };
    let rows: Vec<Row> = rows(graph, task, known).collect();
    Some(Parts {
        all: rows.into_par_iter().enumerate().map(part).collect(),
    })
}

/// One part of each mapped port.
type Row = Vec<(String, InputEntry)>;

/// What the parts of a task that maps are made of.
fn rows<'a>(graph: &'a Graph, task: &'a Task, known: &'a Known) -> impl Iterator<Item = Row> + 'a {
    let mut columns: Vec<_> = mapped(task)
        .map(|port| (port.name.clone(), parts_of(graph, port, known)))
        .collect();
    std::iter::from_fn(move || {
        let row = columns.iter_mut();
        row.map(|(port, entries)| Some((port.clone(), entries.next()?)))
            .collect()
    })
}

fn gives_part(task: &Task, receipt: &Receipt) -> bool {
    task.outputs
        .iter()
        .filter(|port| port.mapped)
        .all(|port| receipt.outputs.contains_key(&port.name))
}

fn mapped(task: &Task) -> impl Iterator<Item = &InputPort> {
    task.inputs.iter().filter(|port| port.mapped)
}

/// The parts of a mapped port: those of all its bindings, one after the other.
fn parts_of<'a>(
    graph: &'a Graph,
    port: &'a InputPort,
    known: &'a Known,
) -> impl Iterator<Item = InputEntry> + 'a {
    port.bindings.iter().flat_map(move |binding| {
        let parts = known
            .content(graph, binding.from)
            .map_or(&[][..], |(content, _)| content.parts());
        parts.iter().map(|part| InputEntry {
            digest: part.digest(),
            label: port.labelled.then(|| binding.label.clone()),
        })
    })
}
