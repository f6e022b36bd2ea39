//! Building: drives the schedule with real processes, and turns what they leave into content and receipts.
//!
//! The only place where plan, store, workspace and runner meet. Which task runs next is the scheduler's to say, what
//! must run is the planner's; this file only carries messages between them.

mod arguments;
mod attempt;
mod blame;
mod claim;
mod driver;
mod journal;
mod machine;
mod mapped;
mod outputs;
mod report;
mod spare;
mod stage;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

pub use machine::{instruction_set, resources};
pub(crate) use spare::spares;

use crate::error::Error;
use crate::event::{Events, Totals};
use crate::graph::{Graph, Task, TaskId};
use crate::plan::Plan;
use crate::receipt::Receipt;
use crate::runner::Stop;
use crate::schedule::{Resources, State};
use crate::store::{Export, Memo, Presence, Store};
use crate::workspace::{Scan, Workspace};

/// How to go about a build; nothing here changes a result.
#[derive(Debug, Clone)]
pub struct Options {
    /// The program that serves built-in kinds as `PROGRAM __task REQUEST.json`: the running image.
    pub program: PathBuf,
    /// Identity of that program, checked when it serves.
    pub build_id: String,
    /// After a failure, go on with what does not depend on it.
    pub keep_going: bool,
    pub resources: Resources,
    /// Protected tasks that may be rebuilt.
    pub allowed: BTreeSet<String>,
    /// Results get their human names under `latest/`.
    pub publish: bool,
    /// Time that a task has to save and leave before it is killed.
    pub grace: Duration,
    /// The build of this process that this one goes on from: they have one log.
    pub continues: Option<String>,
}

impl Options {
    /// The running image on the whole machine, stopping at the first failure.
    pub fn new(build_id: &str) -> Self {
        Self {
            program: PathBuf::from("/proc/self/exe"),
            build_id: build_id.to_owned(),
            keep_going: false,
            resources: resources(),
            allowed: BTreeSet::new(),
            publish: true,
            grace: Duration::from_secs(30),
            continues: None,
        }
    }
}

/// Everything that was decided before anything runs.
#[derive(Debug)]
pub struct Prepared {
    pub workspace: Workspace,
    pub store: Store,
    pub graph: Arc<Graph>,
    pub goals: Vec<TaskId>,
    pub beside: Beside,
    pub scan: Scan,
    pub plan: Plan,
    /// What the scan learnt of sources: saved by a build.
    pub sources: Memo,
    /// How blobs looked when they were last known to be sound.
    pub blobs: Memo,
    /// How the newest results looked when they were last known to be sound.
    pub latest: Memo,
    /// How often anything had been removed from the store when planning began.
    pub removals: u64,
    /// What was found to be damaged on the way.
    pub warnings: Vec<String>,
}

/// Tasks that the goals need and that are not in the graph of a build: up to date, unless what they depend on is not.
#[derive(Default)]
pub struct Beside {
    pub tasks: usize,
    /// The names of those that depend on a task of the graph.
    pub behind: Option<Box<dyn Fn(TaskId) -> Vec<String> + Send + Sync>>,
}

impl Beside {
    fn behind(&self, id: TaskId) -> Vec<String> {
        self.behind
            .as_ref()
            .map_or_else(Vec::new, |names| names(id))
    }
}

impl std::fmt::Debug for Beside {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} tasks beside", self.tasks)
    }
}

/// How a build ended.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Name of the build: its logs are in `logs/<build>/`.
    pub build: String,
    /// Final state of every task that the goals need.
    pub states: BTreeMap<TaskId, State>,
    /// What every task that is done gave.
    pub receipts: BTreeMap<TaskId, Arc<Receipt>>,
    pub totals: Totals,
    /// The user asked it to end early.
    pub was_asked: bool,
    /// A task must run that was planned to be up to date, and what it reads was dropped: planned again, the build goes on.
    pub is_short: bool,
}

impl Outcome {
    /// Its name, if it began.
    pub fn name(&self) -> Option<String> {
        Some(self.build.clone()).filter(|name| !name.is_empty())
    }

    /// True when every goal is there.
    pub fn is_complete(&self) -> bool {
        !self.states.is_empty()
            && self
                .states
                .values()
                .all(|state| matches!(state, State::Hit | State::Built))
    }

    /// True when another plan of the same goals gets further.
    pub fn is_to_be_planned_again(&self) -> bool {
        let has_failed = |state: &State| matches!(state, State::Failed(_));
        self.is_short && !self.was_asked && !self.states.values().any(has_failed)
    }

    /// Of a build that the user ended before it began.
    pub fn unbegun() -> Self {
        Self {
            build: String::new(),
            states: BTreeMap::new(),
            receipts: BTreeMap::new(),
            totals: Totals::default(),
            was_asked: true,
            is_short: false,
        }
    }

    /// True when the user asked to stop before everything was done.
    pub fn is_interrupted(&self) -> bool {
        self.was_asked && !self.is_complete()
    }
}

/// Makes a store ready for a build, and waits while results are removed from it, until the user has enough (`None`). From
/// then on nothing goes; what was looked up before still holds if [`Store::removals`] is what it was.
pub async fn enter(
    store: &Store,
    events: &Events,
    mut stop: watch::Receiver<Stop>,
) -> Result<Option<Presence>, Error> {
    store.create()?;
    let mut has_said = false;
    loop {
        if let Some(presence) = store.enter()? {
            return Ok(Some(presence));
        }
        if !std::mem::replace(&mut has_said, true) {
            events.warn("waiting: another kbuild is removing results from the cache");
        }
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(50)) => {}
            Ok(_) = stop.wait_for(|wanted| *wanted != Stop::No) => return Ok(None),
        }
    }
}

/// Builds what is prepared, in a store that was entered before. `stop` is how the user says that it should end early.
///
/// # Errors
/// Only what keeps a build from running at all (a store that cannot be written). What goes wrong in a task is in the
/// outcome.
pub async fn build(
    prepared: Prepared,
    presence: &Presence,
    options: Options,
    events: Events,
    stop: watch::Receiver<Stop>,
) -> Result<Outcome, Error> {
    driver::drive(prepared, presence, options, events, stop).await
}

/// What a task gave, as people see it.
pub(crate) fn exports<'a>(task: &'a Task, receipt: &'a Receipt) -> Vec<Export<'a>> {
    let export = |port: &'a crate::graph::OutputPort| {
        Some(Export {
            port: &port.name,
            extension: &port.extension,
            content: receipt.outputs.get(&port.name)?,
        })
    };
    task.outputs.iter().filter_map(export).collect()
}
