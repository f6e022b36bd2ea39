//! A folder with a Kananafile, opened: what the program works with. Thin: it only carries values from one part of the
//! engine to the next.

mod accept;
mod again;
mod settled;
mod slice;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::watch;

use crate::build::{self, Beside, Options, Outcome, Prepared};
use crate::digest::Digest;
use crate::error::Error;
use crate::event::Events;
use crate::explain::{self, Explanation};
use crate::graph::{Graph, Origin, SourceId, Task, TaskId};
use crate::kananafile::{self, Files, Kananafile, Problem, Severity, Text, Unread};
use crate::kind::Kinds;
use crate::plan::{self, Plan, Snapshot, Status};
use crate::runner::Stop;
use crate::store::{Found, Remembered, Store};
use crate::workspace::Workspace;

pub use accept::NotAccepted;
pub use again::{Again, FileDifference, Verdict};
pub use settled::{Answer, Question};
pub use slice::Slice;

/// Why a project cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum Closed {
    /// The Kananafile is wrong; every problem, warnings among them.
    #[error("the Kananafile has {} problem(s)", .0.len())]
    Problems(Vec<Problem>),
    #[error(transparent)]
    Environment(#[from] Error),
}

/// A checked Kananafile, its folder and its store.
pub struct Project {
    pub workspace: Workspace,
    pub store: Store,
    pub kananafile: Kananafile,
    /// Every file that was read for it, by its path from the root.
    read: Vec<PathBuf>,
    graph: Arc<Graph>,
}

/// Files of a workspace, and which of them were read.
struct Noted<'a> {
    workspace: &'a Workspace,
    read: RefCell<Vec<PathBuf>>,
}

impl Files for Noted<'_> {
    fn read(&self, path: &str) -> Result<Text, Unread> {
        self.read.borrow_mut().push(PathBuf::from(path));
        self.workspace.read(path)
    }
}

impl Project {
    /// Finds the Kananafile from `start` upwards, reads and checks it. Reads no source, writes nothing.
    pub fn open(
        start: &Path,
        kinds: &Kinds,
        options: &kananafile::Options<'_>,
    ) -> Result<Self, Closed> {
        Self::at(Workspace::discover(start)?, kinds, options)
    }

    /// The project of a folder that is known.
    pub fn at(
        workspace: Workspace,
        kinds: &Kinds,
        options: &kananafile::Options<'_>,
    ) -> Result<Self, Closed> {
        let files = Noted {
            workspace: &workspace,
            read: RefCell::default(),
        };
        let kananafile = kananafile::load(&files, kinds, options).map_err(Closed::Problems)?;
        Ok(Self {
            read: files.read.into_inner(),
            store: Store::of(&workspace),
            graph: Arc::clone(&kananafile.graph),
            workspace,
            kananafile,
        })
    }

    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// A problem for every source and program file that is not there, at the first task that reads it, and a warning for
    /// every argument that is a file here and decides nothing. Reads no content.
    pub fn missing_sources(&self) -> Vec<Problem> {
        let missing = self.workspace.missing(&self.graph).into_iter();
        let missing = missing.map(|(id, cause)| self.missing_source(id, &cause));
        missing.chain(self.program_problems()).collect()
    }

    /// Each file once, at the first task.
    fn program_problems(&self) -> Vec<Problem> {
        let is_file = |name: &str| self.workspace.root().join(name).is_file();
        let mut seen = BTreeSet::new();
        let mut problems = Vec::new();
        for (_, task) in self.graph.tasks() {
            let Some(program) = task.executor.program() else {
                continue;
            };
            for file in program.files.iter().filter(|file| !is_file(file)) {
                if seen.insert(file) {
                    let message = format!("program file `{file}` does not exist");
                    let help = "put it there, or correct `files`";
                    problems.push(self.at_mention(task, file, message, help));
                }
            }
            let arguments = program.argv.iter().skip(1);
            let undeclared = |name: &&String| is_file(name) && !program.files.contains(*name);
            for argument in arguments.filter(undeclared) {
                if seen.insert(argument) {
                    let message =
                        format!("`{argument}` is a file, and a change of it is not noticed");
                    let help = "a program belongs into `files`, data into `inputs`";
                    let problem = self.at_mention(task, argument, message, help);
                    problems.push(Problem {
                        severity: Severity::Warning,
                        ..problem
                    });
                }
            }
        }
        problems
    }

    /// A problem where a task first writes a word; at the task where it does not.
    fn at_mention(&self, task: &Task, word: &str, message: String, help: &str) -> Problem {
        let file = &task.place.file;
        let text = self.workspace.read(file).unwrap_or_default();
        let span = task.place.span.clone();
        let written = text.text.get(span.start..).and_then(|rest| rest.find(word));
        let written = written.map(|at| span.start + at..span.start + at + word.len());
        problem_in(file, &text, written.unwrap_or(span), message, help)
    }

    fn missing_source(&self, id: SourceId, cause: &str) -> Problem {
        let pattern = &self.graph.source(id).pattern;
        let help = "put it there, correct the path, or check with `--sources optional`";
        if let Some(place) = self.kananafile.sources.get(pattern) {
            let text = self.workspace.read(&place.file).unwrap_or_default();
            let span = place.span.clone();
            return problem_in(&place.file, &text, span, format!("source {cause}"), help);
        }
        let reads = |task: &&Task| {
            task.bindings()
                .any(|binding| binding.from == Origin::Source(id))
        };
        let message = format!("source {cause}");
        match self.graph.tasks().map(|(_, task)| task).find(reads) {
            Some(task) => self.at_mention(task, pattern, message, help),
            None => Problem::at("", "", 0..0, message, help),
        }
    }

    /// Scans what `goals` need and plans them. Reads and writes nothing.
    pub fn prepare(&self, goals: &[TaskId]) -> Prepared {
        self.prepare_by(goals, &self.graph.reach(goals), |snapshot, found| {
            plan::plan(&self.graph, snapshot, found, goals)
        })
    }

    /// The same by a plan of some tasks, which read nothing of the workspace that others do not read.
    fn prepare_by(
        &self,
        goals: &[TaskId],
        tasks: &[TaskId],
        plan: impl FnOnce(&Snapshot, &Found<'_>) -> Plan,
    ) -> Prepared {
        let removals = self.store.removals();
        let (mut sources, sources_warning) = self.store.memo("sources");
        let (mut blobs, blobs_warning) = self.store.memo("blobs");
        let (latest, latest_warning) = self.store.memo("latest");
        let scan = self.workspace.scan(&self.graph, tasks, &mut sources);
        // A mapping task's parts are looked for side by side by the planner.
        let wholes = tasks.iter().map(|id| self.graph.task(*id));
        let wholes = wholes.filter(|task| !task.is_mapped());
        let keys = (self.store).last_keys(&latest, wholes.map(|task| task.name.as_str()));
        let found = Found::new(&self.store, &blobs).foreseeing(keys);
        let plan = plan(&scan.snapshot, &found);
        let mut warnings = found.take_warnings();
        for (digest, stamp, seen_ns) in found.into_read() {
            blobs.note(digest.to_hex().into(), stamp, digest, seen_ns);
        }
        let of_memos = [sources_warning, blobs_warning, latest_warning];
        warnings.extend(of_memos.into_iter().flatten());
        Prepared {
            workspace: self.workspace.clone(),
            store: self.store.clone(),
            graph: Arc::clone(&self.graph),
            goals: goals.to_vec(),
            beside: Beside::default(),
            scan,
            plan,
            sources,
            blobs,
            latest,
            removals,
            warnings,
        }
    }

    /// Why a task must run, or need not. `prepared` is of a plan that holds it.
    pub fn explain(&self, prepared: &Prepared, task: TaskId) -> Explanation {
        let past = Remembered::new(&self.store, prepared.scan.named_parts(&self.workspace));
        let snapshot = &prepared.scan.snapshot;
        explain::explain(&self.graph, &prepared.plan, snapshot, &past, task)
    }

    /// Builds what is prepared. Plans again where something was removed from the store meanwhile; and where a task gave
    /// something else than before when its content was made again, for then more of what was dropped is needed.
    pub async fn build(
        &self,
        mut prepared: Prepared,
        options: Options,
        events: Events,
        stop: watch::Receiver<Stop>,
    ) -> Result<Outcome, Error> {
        /// Whoever never gives the same twice is not followed for ever.
        const MOST_PLANS: usize = 8;
        let Some(presence) = build::enter(&self.store, &events, stop.clone()).await? else {
            return Ok(Outcome::unbegun());
        };
        let goals = prepared.goals.clone();
        if self.store.removals() != prepared.removals {
            prepared = self.prepare(&goals);
        }
        let mut plans = 1;
        loop {
            let (options, events) = (options.clone(), events.clone());
            let outcome = build::build(prepared, &presence, options, events, stop.clone()).await?;
            if plans == MOST_PLANS || !outcome.is_to_be_planned_again() {
                return Ok(outcome);
            }
            prepared = self.prepare(&goals);
            plans += 1;
        }
    }

    /// The task itself or tasks that it reads from, where their content was dropped: it cannot be looked at.
    pub fn dropped(&self, id: TaskId) -> Vec<&str> {
        let plan = self.prepare(&[id]).plan;
        let above = self.graph.dependencies(id).iter();
        let is_dropped = |task: &TaskId| match plan.status(*task) {
            Some(Status::Dropped(_)) => true,
            Some(Status::Miss(work)) => work.dropped.is_some(),
            _ => false,
        };
        let dropped = above.copied().chain([id]).filter(is_dropped);
        dropped
            .map(|task| self.graph.task(task).name.as_str())
            .collect()
    }

    /// Keys that every goal of the Kananafile needs now, parts included: what `gc` keeps.
    pub fn reached(&self) -> BTreeSet<Digest> {
        let goals = self.graph.everything();
        let mut keys = BTreeSet::new();
        for (_, status) in self.prepare(&goals).plan.tasks {
            match status {
                Status::Hit(receipt) | Status::Dropped(receipt) => {
                    keys.insert(receipt.key);
                }
                Status::Miss(work) => {
                    let parts = work.parts.iter().flat_map(|parts| &parts.all);
                    keys.extend(parts.map(|part| part.key));
                    keys.insert(work.key);
                }
                Status::Unknown(_) | Status::Blocked(_) => {}
            }
        }
        keys
    }
}

/// A problem that quotes its file if that lies in the project.
fn problem_in(file: &str, text: &Text, span: Range<usize>, message: String, help: &str) -> Problem {
    let problem = Problem::at(file, &text.text, span, message, help);
    match text.is_outside {
        true => problem.unquoted(),
        false => problem,
    }
}
