//! From a task upwards to what began it: the tasks and sources whose change reached it.

use std::collections::{BTreeSet, VecDeque};

use serde::Serialize;

use super::{Comparison, Difference, Earlier, Now, word};
use crate::digest::Digest;
use crate::graph::{Origin, Task, TaskId};
use crate::key::Manifest;
use crate::plan::{Blocker, Reason, Status};

/// A task above the one that is explained.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Link {
    pub task: String,
    /// Its status today: a `hit` whose result is not the one that was read then is a link as well.
    pub status: &'static str,
    /// The task below it, towards the one that is explained.
    pub leads_to: String,
    /// What differs for this task itself: from its last build, or from the build whose result was read then.
    pub differences: Vec<Difference>,
    /// Neither its last build nor its receipt is known.
    pub never_built: bool,
    pub blockers: Vec<Blocker>,
    /// The chain begins here: nothing above this task differs.
    pub is_root: bool,
}

/// A task that is still to be looked at: how it differs, and from what.
struct Step {
    id: TaskId,
    differences: Vec<Difference>,
}

/// The links above `task`, nearest first.
pub fn chain(now: &Now<'_>, task: TaskId) -> Vec<Link> {
    let mut seen = BTreeSet::from([task]);
    let (mut ids, mut links) = (Vec::new(), Vec::new());
    let (_, last) = now.last(task);
    let mut steps = VecDeque::from([Step {
        id: task,
        differences: last.map_or_else(Vec::new, |last| last.differences),
    }]);
    while let Some(step) = steps.pop_front() {
        for above in now.graph.dependencies(step.id) {
            if seen.contains(above) {
                continue;
            }
            let Some((link, next)) = link(now, &step, *above) else {
                continue;
            };
            seen.insert(*above);
            ids.push(*above);
            links.push(link);
            steps.push_back(next);
        }
    }
    // A task may lead to several others: a link begins the chain when none of those that it reads from is one.
    for (id, link) in ids.iter().zip(&mut links) {
        let above = now.graph.dependencies(*id);
        link.is_root = !above.iter().any(|above| ids.contains(above));
    }
    links
}

/// The task `above` as a link to the task of `step`, if it has to do with it.
fn link(now: &Now<'_>, step: &Step, above: TaskId) -> Option<(Link, Step)> {
    let status = now.plan.status(above)?;
    // Content that is made again because it was dropped is no cause of anything: it is expected to be what it was.
    let comparison = match status.done() {
        Some(receipt) => {
            let manifest = receipt.manifest.read()?;
            Some(since_read(now, step, above, &manifest)?)
        }
        None => now.last(above).1,
    };
    let never_built = comparison.is_none() && !matches!(status, Status::Blocked(_));
    let differences = comparison.map_or_else(Vec::new, |comparison| comparison.differences);
    let link = Link {
        task: now.graph.task(above).name.clone(),
        status: word(status),
        leads_to: now.graph.task(step.id).name.clone(),
        differences: differences.clone(),
        never_built,
        blockers: super::blockers(Some(status)),
        is_root: false,
    };
    let next = Step {
        id: above,
        differences,
    };
    Some((link, next))
}

/// How the manifest of a task differs from that of the result which the task below read when it was built.
fn since_read(
    now: &Now<'_>,
    step: &Step,
    above: TaskId,
    manifest: &Manifest,
) -> Option<Comparison> {
    let below = now.graph.task(step.id);
    let old = replaced(below, &step.differences, above)?;
    let made_it = |result: &&Earlier| result.outputs.contains(&old);
    let name = &now.graph.task(above).name;
    let mut makers: Vec<&Earlier> = now.past.results().iter().filter(made_it).collect();
    makers.sort_by_key(|result| (&result.task != name, result.age_ms));
    let maker = makers.first()?;
    Some(Comparison {
        key: maker.key,
        task: maker.task.clone(),
        age_ms: maker.age_ms,
        differences: now.differences(now.graph.task(above), &maker.manifest, manifest),
    })
}

/// The digest that stood where an output of `above` now differs.
fn replaced(below: &Task, differences: &[Difference], above: TaskId) -> Option<Digest> {
    let is_from_above = |port: &str, index: usize| {
        let binding = below.input(port).and_then(|port| port.bindings.get(index));
        binding.is_some_and(
            |binding| matches!(binding.from, Origin::Task { task, .. } if task == above),
        )
    };
    differences
        .iter()
        .find_map(|difference| match &difference.reason {
            Reason::InputChanged {
                port, index, old, ..
            } if is_from_above(port, *index) => *old,
            _ => None,
        })
}
