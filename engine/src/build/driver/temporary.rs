//! Temporary content during a build: when it may go, and what follows when it is needed after all.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use super::super::{report, spares};
use super::{Driver, expected};
use crate::digest::Digest;
use crate::graph::TaskId;
use crate::plan::{Status, outlook};
use crate::receipt::Receipt;
use crate::schedule::State;
use crate::store::Found;

impl Driver<'_> {
    /// Whether dropped content is needed depends on what becomes of everything behind it, and of what that reads beside
    /// it: all of it is planned anew, now that more is known than when the build began.
    pub(super) fn look_ahead(&mut self, id: TaskId, found: &Found<'_>) -> Option<Status> {
        let shared = Arc::clone(&self.shared);
        let (graph, snapshot) = (&shared.graph, &shared.scan.snapshot);
        let open = self.open(id);
        let mut known = self.known.clone();
        for (task, status) in &self.planned {
            if let (Some(receipt), Err(_)) = (status.done(), open.binary_search(task)) {
                known.insert(graph, *task, Arc::clone(receipt));
            }
        }
        let outlook = outlook(graph, snapshot, found, &self.goals, known, open);
        self.expected.extend(expected(&outlook));
        self.planned.extend(outlook.tasks);
        self.planned.remove(&id)
    }

    /// A task, everything else of which nothing is known yet, and what comes after them.
    fn open(&self, id: TaskId) -> Vec<TaskId> {
        let is_open = |id: &TaskId| {
            let state = self.scheduler.state(*id);
            matches!(state, State::Waiting | State::Resolving)
        };
        let is_unknown = |id: &TaskId| match self.planned.get(id) {
            Some(status) => matches!(status, Status::Unknown(_)),
            None => true,
        };
        let reach = self.reach.iter().copied();
        let mut open: Vec<TaskId> = reach.filter(|id| is_open(id) && is_unknown(id)).collect();
        open.push(id);
        let mut behind = self.shared.graph.reached_from(&open);
        behind.retain(|task| self.reach.contains(task) && is_open(task));
        behind
    }

    /// Whether something that a task reads was dropped. It happens where a task gave something else than before when its
    /// content was made again: then its other readers are not what they were planned to be.
    pub(super) fn lacks_content(&self, id: TaskId) -> bool {
        let mut upstream = self.shared.graph.dependencies(id).iter();
        upstream.any(|above| self.absent.contains(above))
    }

    /// Whether nobody in this build needs the content of a task any more.
    pub(super) fn is_idle(&self, id: TaskId) -> bool {
        let graph = &self.shared.graph;
        let is_done = |id: &TaskId| self.scheduler.state(*id).is_done();
        let mut readers = graph
            .dependents(id)
            .iter()
            .filter(|id| self.reach.contains(*id));
        self.is_passing(id) && is_done(&id) && readers.all(is_done)
    }

    /// Whether a task only makes what others read.
    pub(super) fn is_passing(&self, id: TaskId) -> bool {
        self.shared.graph.task(id).temporary && !self.goals.contains(&id)
    }

    /// Removes content that nobody needs any more, if this is the only process in the store; if not, it is left to a
    /// later build.
    pub(super) fn drop_spares(&mut self) {
        /// No more than a twentieth of the time of a build goes into looking for it: every receipt is read.
        const PATIENCE: u32 = 20;
        let begun = Instant::now();
        let reach = self.reach.iter().copied();
        let idle: Vec<TaskId> = reach
            .filter(|id| !self.absent.contains(id) && self.is_idle(*id))
            .collect();
        let shared = Arc::clone(&self.shared);
        let kept = self.kept(&idle);
        let spares = spares(&shared.graph, &shared.store, &self.known, &idle, &kept);
        // Whoever has kept content and not written its receipt would lose it; there will be another occasion.
        let Ok(_everything_is_written) = shared.unwritten.try_write() else {
            return;
        };
        let drop = || shared.store.drop_content(&spares, &kept);
        if let Some(dropped) = (!spares.is_empty())
            .then(|| self.presence.alone(drop))
            .flatten()
        {
            self.absent.extend(idle);
            match dropped {
                Ok(dropped) if dropped.bytes > 0 => shared.events.send(report::dropped(dropped)),
                Ok(_) => {}
                Err(error) => shared.events.warn(error.to_string()),
            }
        }
        self.next_drop = Instant::now() + begun.elapsed() * PATIENCE;
    }

    /// Keys of everything that is to stay when the content of some tasks goes: what the other tasks gave or are taken to
    /// give, and what the work that is still to be done rests on.
    fn kept(&self, idle: &[TaskId]) -> BTreeSet<Digest> {
        let given = self.receipts.iter().chain(&self.expected);
        let given = given.filter(|(id, _)| idle.binary_search(id).is_err());
        let planned = self.planned.values().filter_map(|status| match status {
            Status::Miss(work) => Some(&**work),
            _ => None,
        });
        let mut kept = self.shared.store.pins();
        kept.extend(given.map(|(_, receipt)| receipt.key));
        for work in self.works.values().chain(planned) {
            let parts = work.parts.iter().flat_map(|parts| &parts.all);
            kept.extend(parts.map(|part| part.key).chain([work.key]));
        }
        kept
    }

    /// Content that was dropped and is there all the same is to stay when it is asked for.
    pub(super) fn taken_back(&self, id: TaskId, receipt: Arc<Receipt>) -> Arc<Receipt> {
        if !receipt.dropped || self.is_passing(id) {
            return receipt;
        }
        match self.shared.store.take_back(&receipt) {
            Ok(kept) => Arc::new(kept),
            Err(error) => {
                self.shared.events.warn(error.to_string());
                receipt
            }
        }
    }
}
