//! The whole answer to "why": what differs from the last build and from the nearest result, and where it began.
//!
//! A pure function of a plan and of what is remembered of earlier builds. The plan says *that* a task must run and its
//! own reasons; this says what became of its inputs, part by part and up to the sources.

mod chain;
mod parts;

use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;

use crate::digest::Digest;
use crate::graph::{Binding, Graph, Task, TaskId};
use crate::key::Manifest;
use crate::plan::{self, Blocker, Known, Plan, Reason, Snapshot, Status};

pub use chain::Link;
pub use parts::{NamedPart, PartsDifference};

/// A result of an earlier build.
#[derive(Debug, Clone, PartialEq)]
pub struct Earlier {
    pub key: Digest,
    /// Name that the task had then.
    pub task: String,
    pub manifest: Manifest,
    /// Digest of each output.
    pub outputs: Vec<Digest>,
    pub age_ms: Option<u64>,
}

/// What is remembered of earlier builds.
pub trait Past {
    /// What a task of this name gave last.
    fn last(&self, task: &str) -> Option<Earlier>;

    /// Every result of a whole task, in the order of keys.
    fn results(&self) -> &[Earlier];

    /// The parts of an artifact, as far as anybody remembers them.
    fn parts(&self, artifact: &Digest) -> Option<Vec<NamedPart>>;
}

/// Why a task must run, may have to, cannot, or need not.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Explanation {
    pub task: String,
    /// `hit`, `miss`, `unknown` or `blocked`.
    pub status: &'static str,
    /// Unless it depends on tasks that must run first.
    pub key: Option<Digest>,
    /// The text that is hashed.
    pub manifest: Option<Value>,
    /// Its content was dropped.
    pub dropped: bool,
    /// What the plan says.
    pub reasons: Vec<Reason>,
    pub blockers: Vec<Blocker>,
    /// Of mapping tasks: which parts must run.
    pub parts: Option<MissingParts>,
    /// Against what a task of this name gave last. Absent when there is nothing, or nothing differs for a hit.
    pub last: Option<Comparison>,
    /// Against the result in the store that differs least, where it is another one.
    pub nearest: Option<Comparison>,
    /// The tasks above it that brought this about, nearest first.
    pub chain: Vec<Link>,
}

/// The parts of a mapping task that must run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MissingParts {
    pub total: usize,
    pub missing: Vec<String>,
}

/// How today's manifest differs from an earlier one.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// The earlier key.
    pub key: Digest,
    /// Name that the task had then.
    pub task: String,
    pub age_ms: Option<u64>,
    pub differences: Vec<Difference>,
}

/// One difference; of an input whose parts are known, which of them.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Difference {
    #[serde(flatten)]
    pub reason: Reason,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parts: Option<PartsDifference>,
}

/// Stands for the digest of an input that nobody knows yet.
const UNKNOWN: Digest = Digest::from_bytes([0; 32]);

/// Explains the status of `task`, whose plan holds everything that it needs.
pub fn explain(
    graph: &Graph,
    plan: &Plan,
    snapshot: &Snapshot,
    past: &dyn Past,
    task: TaskId,
) -> Explanation {
    let now = Now::new(graph, plan, snapshot, past);
    let status = plan.status(task);
    let (manifest, last) = now.last(task);
    let differs = |comparison: &Comparison| !comparison.differences.is_empty();
    let key = match status {
        Some(Status::Hit(receipt) | Status::Dropped(receipt)) => Some(receipt.key),
        Some(Status::Miss(work)) => Some(work.key),
        _ => None,
    };
    let nearest = match status {
        Some(Status::Miss(work)) => now.nearest(task, &work.manifest, last.as_ref()),
        _ => None,
    };
    Explanation {
        task: graph.task(task).name.clone(),
        status: status.map_or("unknown", word),
        key,
        manifest: key.and(manifest.as_ref()).map(Manifest::to_value),
        dropped: match status {
            Some(Status::Dropped(_)) => true,
            Some(Status::Miss(work)) => work.dropped.is_some(),
            _ => false,
        },
        reasons: reasons(status).to_vec(),
        blockers: blockers(status),
        parts: missing_parts(status, graph.task(task), past),
        last: last.filter(|last| key != Some(last.key) || differs(last)),
        nearest,
        chain: chain::chain(&now, task),
    }
}

/// `hit`, `miss`, `unknown` or `blocked`.
pub fn word(status: &Status) -> &'static str {
    match status {
        Status::Hit(_) | Status::Dropped(_) => "hit",
        Status::Miss(_) => "miss",
        Status::Unknown(_) => "unknown",
        Status::Blocked(_) => "blocked",
    }
}

fn blockers(status: Option<&Status>) -> Vec<Blocker> {
    match status {
        Some(Status::Blocked(blockers)) => blockers.clone(),
        _ => Vec::new(),
    }
}

fn reasons(status: Option<&Status>) -> &[Reason] {
    match status {
        Some(Status::Miss(work)) => &work.reasons,
        _ => &[],
    }
}

/// The parts that must run, by the names that the first mapped port gives them.
fn missing_parts(status: Option<&Status>, task: &Task, past: &dyn Past) -> Option<MissingParts> {
    let Some(Status::Miss(work)) = status else {
        return None;
    };
    let parts = work.parts.as_ref()?;
    let port = task.inputs.iter().find(|port| port.mapped)?;
    let artifacts = work.manifest.inputs.get(&port.name)?;
    let names: Vec<String> = artifacts
        .iter()
        .flat_map(|entry| past.parts(&entry.digest).unwrap_or_default())
        .map(|part| part.name)
        .collect();
    let name = |index: usize| {
        let known = names.get(index).filter(|_| names.len() == parts.total());
        known.cloned().unwrap_or_else(|| parts::position(index))
    };
    let missing = parts.missing();
    Some(MissingParts {
        total: parts.total(),
        missing: missing.iter().map(|part| name(part.index)).collect(),
    })
}

/// Today, beside what is remembered.
struct Now<'a> {
    graph: &'a Graph,
    plan: &'a Plan,
    snapshot: &'a Snapshot,
    known: Known,
    past: &'a dyn Past,
}

impl<'a> Now<'a> {
    fn new(graph: &'a Graph, plan: &'a Plan, snapshot: &'a Snapshot, past: &'a dyn Past) -> Self {
        let mut known = Known::new(snapshot);
        for (id, status) in &plan.tasks {
            if let Some(receipt) = status.done() {
                known.insert(graph, *id, Arc::clone(receipt));
            }
        }
        Self {
            graph,
            plan,
            snapshot,
            known,
            past,
        }
    }

    /// Today's manifest of a task, and how it differs from that of its last build. Inputs that are not known yet are
    /// taken to be what they were.
    fn last(&self, id: TaskId) -> (Option<Manifest>, Option<Comparison>) {
        let task = self.graph.task(id);
        if matches!(self.plan.status(id), None | Some(Status::Blocked(_))) {
            return (None, None);
        }
        let last = self.past.last(&task.name);
        let manifest = self.manifest(task, last.as_ref().map(|last| &last.manifest));
        let comparison = last.map(|last| Comparison {
            differences: self.since(id, &last.manifest, &manifest),
            key: last.key,
            task: last.task,
            age_ms: last.age_ms,
        });
        (Some(manifest), comparison)
    }

    fn manifest(&self, task: &Task, old: Option<&Manifest>) -> Manifest {
        let digest = |binding: &Binding| {
            let content = self.known.content(self.graph, binding.from);
            content.map_or(UNKNOWN, |(_, digest)| digest)
        };
        let mut manifest = plan::manifest_of(task, self.snapshot, digest);
        for (port, entries) in &mut manifest.inputs {
            let before = old.and_then(|old| old.inputs.get(port));
            for (index, entry) in entries.iter_mut().enumerate() {
                let was = before.and_then(|before| before.get(index));
                if let (true, Some(was)) = (entry.digest == UNKNOWN, was) {
                    entry.digest = was.digest;
                }
            }
        }
        manifest
    }

    /// Differences from the last build; that its result is lost is one as well.
    fn since(&self, id: TaskId, old: &Manifest, new: &Manifest) -> Vec<Difference> {
        let lost = |reason: &&Reason| {
            matches!(
                reason,
                Reason::NoReceipt | Reason::Unusable { .. } | Reason::Dropped { .. }
            )
        };
        let lost = reasons(self.plan.status(id)).iter().filter(lost);
        let lost = lost.map(|reason| Difference {
            reason: reason.clone(),
            parts: None,
        });
        lost.chain(self.differences(self.graph.task(id), old, new))
            .collect()
    }

    /// Typed differences of two manifests; none when they are equal.
    fn differences(&self, task: &Task, old: &Manifest, new: &Manifest) -> Vec<Difference> {
        let reasons = plan::reasons(task, Some(old), new).into_iter();
        let real = reasons.filter(|reason| !matches!(reason, Reason::NoReceipt));
        real.map(|reason| self.difference(reason, old, new))
            .collect()
    }

    fn difference(&self, reason: Reason, old: &Manifest, new: &Manifest) -> Difference {
        let parts = match &reason {
            Reason::InputChanged {
                old: Some(old),
                new: Some(new),
                ..
            } => self.parts(old, new),
            Reason::InputChanged { port, .. } | Reason::InputsRearranged { port } => {
                match (only(old, port), only(new, port)) {
                    (Some(old), Some(new)) => self.parts(&old, &new),
                    _ => None,
                }
            }
            _ => None,
        };
        Difference { reason, parts }
    }

    fn parts(&self, old: &Digest, new: &Digest) -> Option<PartsDifference> {
        let (old, new) = (self.past.parts(old)?, self.past.parts(new)?);
        Some(PartsDifference::of(&old, &new))
    }

    /// The result of the same kind that differs least, unless it is the last one.
    fn nearest(
        &self,
        id: TaskId,
        manifest: &Manifest,
        last: Option<&Comparison>,
    ) -> Option<Comparison> {
        let task = self.graph.task(id);
        let others = self.past.results().iter().filter(|result| {
            result.manifest.kind == manifest.kind && last.is_none_or(|last| last.key != result.key)
        });
        let compared = others.map(|result| Comparison {
            key: result.key,
            task: result.task.clone(),
            age_ms: result.age_ms,
            differences: self.differences(task, &result.manifest, manifest),
        });
        let best = compared.min_by(|a, b| order(&task.name, a).total_cmp(&order(&task.name, b)))?;
        let is_nearer = |last: &Comparison| distance(&best) < distance(last);
        last.is_none_or(is_nearer).then_some(best)
    }
}

/// The digest of a port with a single artifact.
fn only(manifest: &Manifest, port: &str) -> Option<Digest> {
    match manifest.inputs.get(port)?.as_slice() {
        [entry] => Some(entry.digest),
        _ => None,
    }
}

/// How much two manifests differ: the number of differences, where an input counts by the share of its parts.
fn distance(comparison: &Comparison) -> f64 {
    let weight = |difference: &Difference| match (&difference.reason, &difference.parts) {
        (Reason::VersionChanged { .. }, _) => 10.0,
        (_, Some(parts)) => 0.5 + 0.5 * parts.share(),
        _ => 1.0,
    };
    comparison.differences.iter().map(weight).sum()
}

/// Among equally near results one of the same name comes first, then the youngest.
fn order(name: &str, comparison: &Comparison) -> f64 {
    let stranger = if comparison.task == name { 0.0 } else { 1e-3 };
    let age = comparison
        .age_ms
        .map_or(1.0, |ms| 1.0 - 1.0 / (1.0 + ms as f64));
    distance(comparison) + stranger + 1e-6 * age
}
