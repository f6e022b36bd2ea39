//! The scheduler: which task to resolve, start or give up next.
//!
//! A state machine without clock, processes or disk: events in, commands out. Tasks are resolved by content once
//! their dependencies are done, so that early cutoff needs no rule of its own.

mod resources;
#[cfg(test)]
mod simulation;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Unbounded};

pub use resources::{Grant, Resources};

use crate::graph::{Graph, TaskId};
use crate::runner::FailureClass;
use resources::{Pool, Request};

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
    /// To be run as soon as resources are free; `attempts` were made already.
    Ready {
        attempts: u32,
    },
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
    /// Needs more of this resource than the machine has.
    Unservable(String),
    /// Depends on this task, which failed, is held or blocked.
    Skipped(TaskId),
    /// Not started, or stopped, because the build was asked to stop or something else failed.
    Cancelled,
}

impl State {
    /// True once nothing more happens to the task.
    pub fn is_final(&self) -> bool {
        !matches!(
            self,
            Self::Waiting | Self::Resolving | Self::Ready { .. } | Self::Running { .. }
        )
    }

    /// True when its outputs exist.
    pub fn is_done(&self) -> bool {
        matches!(self, Self::Hit | Self::Built)
    }
}

/// One task, as the scheduler sees it.
#[derive(Debug)]
struct Job {
    state: State,
    /// Dependencies within the build that are not done.
    open: usize,
    dependents: Vec<TaskId>,
    request: Request,
    attempts: u32,
    /// Seconds from the start of this task to the end of the longest chain behind it.
    path: f64,
}

/// The state machine.
#[derive(Debug)]
pub struct Scheduler {
    jobs: BTreeMap<TaskId, Job>,
    pool: Pool,
    /// Ready tasks, longest chain first, then in the order of the graph.
    ready: BTreeSet<(Reverse<Seconds>, TaskId)>,
    keep_going: bool,
    /// No attempt starts any more.
    stopping: bool,
    /// Tasks whose key is being looked up.
    resolving: usize,
    /// Tasks whose state is not final.
    unfinished: usize,
}

/// Seconds, totally ordered.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Seconds(f64);

impl Eq for Seconds {}

impl PartialOrd for Seconds {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Seconds {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl Scheduler {
    /// A scheduler for everything in `tasks` (closed under dependencies, as [`Graph::reach`] gives it).
    pub fn new(graph: &Graph, tasks: &[TaskId], resources: Resources, options: Options) -> Self {
        let pool = Pool::new(resources);
        let wanted: BTreeSet<TaskId> = tasks.iter().copied().collect();
        let mut jobs: BTreeMap<TaskId, Job> = BTreeMap::new();
        for id in wanted.iter().rev() {
            let dependents = graph.dependents(*id).iter().copied();
            let dependents: Vec<TaskId> = dependents.filter(|id| wanted.contains(id)).collect();
            let behind = dependents.iter().map(|id| jobs[id].path);
            let run = &graph.task(*id).run;
            let job = Job {
                state: State::Waiting,
                open: graph.dependencies(*id).len(),
                path: expected_seconds(graph, *id, &options) + behind.fold(0.0, f64::max),
                attempts: run.attempts.max(1),
                dependents,
                request: pool.request(run),
            };
            jobs.insert(*id, job);
        }
        Self {
            resolving: 0,
            unfinished: jobs.len(),
            jobs,
            pool,
            ready: BTreeSet::new(),
            keep_going: options.keep_going,
            stopping: false,
        }
    }

    /// The first commands.
    pub fn start(&mut self) -> Vec<Command> {
        let open = |job: &Job| job.open == 0 && job.state == State::Waiting;
        let first = self.jobs.iter().filter(|(_, job)| open(job));
        let first: Vec<TaskId> = first.map(|(id, _)| *id).collect();
        let mut commands = Vec::new();
        for task in first {
            self.resolve(task, &mut commands);
        }
        commands
    }

    /// Takes note of an event and says what to do next. Events about tasks that do not expect them are ignored.
    pub fn on(&mut self, event: Event) -> Vec<Command> {
        let mut commands = Vec::new();
        match event {
            Event::Resolved { task, resolution } => self.resolved(task, resolution, &mut commands),
            Event::Finished { task } => {
                if matches!(self.state(task), State::Running { .. }) {
                    self.enter(task, State::Built);
                    self.release(task, &mut commands);
                }
            }
            Event::Failed { task, class } => self.failed(task, class),
            Event::Cancel => self.stop(&mut commands),
        }
        self.dispatch(&mut commands);
        commands
    }

    /// True once nothing is running, resolving or startable.
    pub fn is_done(&self) -> bool {
        self.unfinished == 0
    }

    pub fn state(&self, task: TaskId) -> &State {
        &self.jobs[&task].state
    }

    /// Every task and where it stands, in topological order.
    pub fn states(&self) -> impl Iterator<Item = (TaskId, &State)> {
        self.jobs.iter().map(|(task, job)| (*task, &job.state))
    }

    /// Moves a task to another state: the only place where a state changes.
    fn enter(&mut self, task: TaskId, next: State) {
        let Some(job) = self.jobs.get_mut(&task) else {
            return;
        };
        debug_assert!(!job.state.is_final(), "a final state is final");
        let place = (Reverse(Seconds(job.path)), task);
        if let State::Running { grant, .. } = &job.state {
            self.pool.give_back(grant);
        }
        if matches!(next, State::Ready { .. }) {
            self.ready.insert(place);
        } else {
            self.ready.remove(&place);
        }
        match (&job.state, &next) {
            (_, State::Resolving) => self.resolving += 1,
            (State::Resolving, _) => self.resolving -= 1,
            _ => {}
        }
        if next.is_final() {
            self.unfinished -= 1;
        }
        job.state = next;
    }

    fn resolve(&mut self, task: TaskId, commands: &mut Vec<Command>) {
        if self.stopping {
            return self.enter(task, State::Cancelled);
        }
        self.enter(task, State::Resolving);
        commands.push(Command::Resolve(task));
    }

    fn resolved(&mut self, task: TaskId, resolution: Resolution, commands: &mut Vec<Command>) {
        if *self.state(task) != State::Resolving {
            return;
        }
        match resolution {
            Resolution::Hit => {
                self.enter(task, State::Hit);
                self.release(task, commands);
            }
            Resolution::Miss if self.stopping => self.enter(task, State::Cancelled),
            Resolution::Miss => match self.pool.lacks(&self.jobs[&task].request) {
                None => self.enter(task, State::Ready { attempts: 0 }),
                Some(resource) => self.give_up(task, State::Unservable(resource)),
            },
            // The user was told of it beforehand: everything else is still built.
            Resolution::Held => {
                self.enter(task, State::Held);
                self.skip_dependents(task);
            }
            Resolution::Blocked => self.give_up(task, State::Blocked),
        }
    }

    fn failed(&mut self, task: TaskId, class: FailureClass) {
        let State::Running { attempt, .. } = *self.state(task) else {
            return;
        };
        if self.stopping && class == FailureClass::Interrupted {
            return self.enter(task, State::Cancelled);
        }
        let again = !self.stopping && may_pass(class) && attempt < self.jobs[&task].attempts;
        if again {
            self.enter(task, State::Ready { attempts: attempt });
        } else {
            self.give_up(task, State::Failed(class));
        }
    }

    /// Ends a task without a result, and what depends on it; without `keep_going`, everything.
    fn give_up(&mut self, task: TaskId, state: State) {
        self.enter(task, state);
        self.skip_dependents(task);
        if !self.keep_going {
            self.drain();
        }
    }

    fn skip_dependents(&mut self, failed: TaskId) {
        let mut stack = self.jobs[&failed].dependents.clone();
        while let Some(task) = stack.pop() {
            if *self.state(task) == State::Waiting {
                self.enter(task, State::Skipped(failed));
                stack.extend(&self.jobs[&task].dependents);
            }
        }
    }

    /// Starts nothing more; what runs may finish.
    fn drain(&mut self) {
        self.stopping = true;
        let idle = |state: &State| matches!(state, State::Waiting | State::Ready { .. });
        let idle: Vec<TaskId> = self
            .states()
            .filter(|(_, state)| idle(state))
            .map(|(task, _)| task)
            .collect();
        for task in idle {
            self.enter(task, State::Cancelled);
        }
    }

    fn stop(&mut self, commands: &mut Vec<Command>) {
        self.drain();
        let running = |state: &State| matches!(state, State::Running { .. });
        let running = self.states().filter(|(_, state)| running(state));
        commands.extend(running.map(|(task, _)| Command::Stop(task)));
    }

    /// The dependents of a task that is done have one dependency less.
    fn release(&mut self, task: TaskId, commands: &mut Vec<Command>) {
        for next in self.jobs[&task].dependents.clone() {
            let Some(job) = self.jobs.get_mut(&next) else {
                continue;
            };
            job.open -= 1;
            if job.open == 0 && job.state == State::Waiting {
                self.resolve(next, commands);
            }
        }
    }

    /// Starts ready tasks, most urgent first; a smaller one may pass one that waits for resources. Waits until every
    /// lookup is answered: they are quick, and then the most urgent task is known.
    fn dispatch(&mut self, commands: &mut Vec<Command>) {
        if self.resolving > 0 {
            return;
        }
        let mut claimants = self.ready.len();
        let mut next = self.ready.first().copied();
        while let Some(place) = next.filter(|_| !self.pool.is_exhausted()) {
            commands.extend(self.run(place.1, claimants));
            claimants -= 1;
            next = self
                .ready
                .range((Excluded(place), Unbounded))
                .next()
                .copied();
        }
    }

    /// Starts an attempt of a ready task, if what it needs is free.
    fn run(&mut self, task: TaskId, claimants: usize) -> Option<Command> {
        let job = &self.jobs[&task];
        let State::Ready { attempts } = job.state else {
            return None;
        };
        let grant = self.pool.take(&job.request, claimants)?;
        let attempt = attempts + 1;
        let given = grant.clone();
        self.enter(task, State::Running { attempt, grant });
        Some(Command::Run {
            task,
            attempt,
            grant: given,
        })
    }
}

/// Whether another attempt may fare better.
fn may_pass(class: FailureClass) -> bool {
    match class {
        FailureClass::Resources
        | FailureClass::Environment
        | FailureClass::Interrupted
        | FailureClass::Timeout => true,
        FailureClass::Input | FailureClass::Bug => false,
    }
}

/// Seconds that a task may take: what history says, else what its operations suggest, else one second, so that the
/// longest chain of tasks goes first.
fn expected_seconds(graph: &Graph, id: TaskId, options: &Options) -> f64 {
    /// Operations per second of a small machine; only the order of tasks depends on it.
    const FLOPS: f64 = 1e11;
    let known = options.durations.get(&id).copied();
    let predicted = graph.task(id).prediction.cost.flops.map(|f| f / FLOPS);
    let seconds = known.or(predicted).unwrap_or(1.0);
    if seconds.is_finite() {
        seconds.max(0.001)
    } else {
        1.0
    }
}
