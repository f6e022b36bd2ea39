//! The scheduler: which task to resolve, start or give up next.
//!
//! A state machine without clock, processes or disk: events in, commands out. Tasks are resolved by content once
//! their dependencies are done, so that early cutoff needs no rule of its own.

use std::collections::BTreeMap;

use crate::graph::{Graph, TaskId};
use crate::runner::FailureClass;

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The answer to [`Command::Resolve`].
    Resolved {
        task: TaskId,
        resolution: Resolution,
    },
    /// The attempt that [`Command::Run`] asked for has left a receipt.
    Finished { task: TaskId },
    /// The attempt ended without a result.
    Failed { task: TaskId, class: FailureClass },
    /// The user asks to stop: nothing new starts; running attempts are told to save and leave.
    Cancel,
}

/// What the content of its inputs says of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolution {
    /// Done before.
    Hit,
    /// To be run.
    Miss,
    /// To be run, and the user has not given the word.
    Held,
    /// Cannot be run as things are (a source is missing, parts do not align).
    Blocked,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Find the key of the task and say whether it is a hit. Its dependencies are done.
    Resolve(TaskId),
    /// Start an attempt (numbered from 1) with these resources.
    Run {
        task: TaskId,
        attempt: u32,
        grant: Grant,
    },
    /// Ask a running attempt to save and leave.
    Stop(TaskId),
}

/// Resources that an attempt holds until it ends.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Grant {
    /// CPU slots.
    pub cpu: u32,
    /// Identities of the GPUs (`CUDA_VISIBLE_DEVICES`).
    pub gpus: Vec<u32>,
    /// Slots of named pools.
    pub pools: BTreeMap<String, u32>,
}

/// The resources of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resources {
    pub cpu: u32,
    /// Device ids.
    pub gpus: Vec<u32>,
    pub pools: BTreeMap<String, u32>,
}

/// How to go about it.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// After a failure, go on with everything that does not depend on it.
    pub keep_going: bool,
    /// Seconds that a task is expected to take, where history knows.
    pub durations: BTreeMap<TaskId, f64>,
}

/// Where a task stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Dependencies are not done.
    Waiting,
    /// Its key is being looked up.
    Resolving,
    /// To be run as soon as resources are free.
    Ready,
    Running {
        attempt: u32,
        grant: Grant,
    },
    /// Done before.
    Hit,
    /// Done now.
    Built,
    Failed(FailureClass),
    /// Needs a rebuild that the user has not agreed to.
    Held,
    /// Cannot be run as things are.
    Blocked,
    /// Depends on this task, which failed, is held or blocked.
    Skipped(TaskId),
    /// Not started, or stopped, because the build was asked to stop.
    Cancelled,
}

/// The state machine.
#[derive(Debug)]
pub struct Scheduler {
    states: BTreeMap<TaskId, State>,
}

impl Scheduler {
    /// A scheduler for everything in `tasks` (closed under dependencies, as [`Graph::reach`] gives it).
    pub fn new(graph: &Graph, tasks: &[TaskId], resources: Resources, options: Options) -> Self {
        let _ = (graph, resources, options);
        Self {
            states: tasks.iter().map(|task| (*task, State::Waiting)).collect(),
        }
    }

    /// The first commands.
    pub fn start(&mut self) -> Vec<Command> {
        Vec::new()
    }

    /// Takes note of an event and says what to do next.
    pub fn on(&mut self, event: Event) -> Vec<Command> {
        let _ = event;
        Vec::new()
    }

    /// True once nothing is running, resolving or startable.
    pub fn is_done(&self) -> bool {
        true
    }

    pub fn state(&self, task: TaskId) -> &State {
        &self.states[&task]
    }

    pub fn states(&self) -> impl Iterator<Item = (TaskId, &State)> {
        self.states.iter().map(|(task, state)| (*task, state))
    }
}
