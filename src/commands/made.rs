//! What goals have come to: the receipts of everything on the way to them that is done.

use std::collections::BTreeMap;
use std::sync::Arc;

use kbuild_engine::build::{Outcome, Prepared};
use kbuild_engine::graph::{Graph, TaskId};
use kbuild_engine::receipt::Receipt;

pub struct Made<'a> {
    pub graph: &'a Graph,
    pub goals: &'a [TaskId],
    receipts: BTreeMap<TaskId, Arc<Receipt>>,
}

impl<'a> Made<'a> {
    /// What was made before, as a plan has it.
    pub fn before(prepared: &'a Prepared) -> Self {
        let tasks = prepared.plan.tasks.iter();
        let done = tasks.filter(|(_, status)| status.is_hit());
        Self {
            graph: &prepared.graph,
            goals: &prepared.goals,
            receipts: done
                .filter_map(|(id, status)| Some((*id, Arc::clone(status.done()?))))
                .collect(),
        }
    }

    /// What a build has made or found.
    pub fn by(outcome: &Outcome, graph: &'a Graph, goals: &'a [TaskId]) -> Self {
        Self {
            graph,
            goals,
            receipts: outcome.receipts.clone(),
        }
    }

    pub fn receipt(&self, task: TaskId) -> Option<&Receipt> {
        self.receipts.get(&task).map(|receipt| &**receipt)
    }
}
