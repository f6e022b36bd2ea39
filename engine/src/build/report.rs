//! What the driver says of plans, receipts and states: values in, events out.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::event::{BuildEvent, PartCount, Produced, Totals};
use crate::graph::TaskId;
use crate::plan::{Blocker, Plan, Status, Work};
use crate::receipt::Receipt;
use crate::schedule::State;
use crate::store::Dropped;

/// Numbers of tasks by how they ended; `elsewhere` of those that are built were done by another process.
pub fn totals(states: &BTreeMap<TaskId, State>, elsewhere: usize, elapsed: Duration) -> Totals {
    let count = |wanted: fn(&State) -> bool| states.values().filter(|state| wanted(state)).count();
    Totals {
        hits: count(|state| *state == State::Hit) + elsewhere,
        built: count(|state| *state == State::Built) - elsewhere,
        failed: count(|state| matches!(state, State::Failed(_))),
        held: count(|state| *state == State::Held),
        blocked: count(|state| matches!(state, State::Blocked | State::Unservable(_))),
        skipped: count(|state| matches!(state, State::Skipped(_))),
        cancelled: count(|state| *state == State::Cancelled),
        elapsed_ms: u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
    }
}

/// `beside`: tasks that are up to date and not in the plan.
pub fn started(build: &str, plan: &Plan, beside: usize) -> BuildEvent {
    let count = |wanted: fn(&Status) -> bool| {
        plan.tasks
            .iter()
            .filter(|(_, status)| wanted(status))
            .count()
    };
    BuildEvent::Started {
        build: build.to_owned(),
        tasks: plan.tasks.len() + beside,
        hits: count(Status::is_hit) + beside,
        beside,
        misses: count(|status| matches!(status, Status::Miss(_))),
        unknown: count(|status| matches!(status, Status::Unknown(_))),
    }
}

pub fn missed(task: String, work: &Work) -> BuildEvent {
    BuildEvent::Miss {
        task,
        key: work.key,
        reasons: work.reasons.clone(),
        parts: work.parts.as_ref().map(|parts| PartCount {
            missing: parts.missing().len(),
            total: parts.total(),
        }),
    }
}

pub fn finished(task: String, receipt: &Receipt) -> BuildEvent {
    let outputs = receipt.outputs.iter().map(|(port, content)| {
        let produced = Produced {
            digest: content.digest(),
            bytes: content.size(),
        };
        (port.clone(), produced)
    });
    BuildEvent::Finished {
        task,
        key: receipt.key,
        elapsed_ms: receipt.elapsed_ms,
        outputs: outputs.collect(),
        facts: receipt.facts.clone(),
    }
}

pub fn dropped(dropped: Dropped) -> BuildEvent {
    BuildEvent::Dropped {
        tasks: dropped.tasks,
        bytes: dropped.bytes,
    }
}

pub fn in_words(blocker: &Blocker) -> String {
    match blocker {
        Blocker::Source { detail, .. } | Blocker::ProgramFile { detail, .. } => detail.clone(),
        Blocker::Misaligned { ports } => {
            let counts: Vec<String> = ports
                .iter()
                .map(|(port, parts)| format!("`{port}` has {parts}"))
                .collect();
            format!(
                "ports that go together have different numbers of parts: {}",
                counts.join(", ")
            )
        }
    }
}
