//! The graph: every task that a Kananafile stands for, in an order in which they could run.
//!
//! Vectors with typed indices; an edge is an index. It is acyclic and its edges agree in format by construction
//! (`kananafile` alone makes one). It knows no digest, no path on disk and no state of a build.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::artifact::Shape;
use crate::facts::Prediction;

/// Index of a task: tasks are numbered in a topological order that depends on the Kananafile alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TaskId(pub u32);

impl TaskId {
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Index of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SourceId(pub u32);

impl SourceId {
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A file, directory or glob that no task makes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// Path or glob with `/`, relative to the folder of the root Kananafile.
    pub pattern: String,
    /// The layout that its readers expect. `None`: nobody minds, and the path decides (a glob is shards, a directory
    /// is a directory, anything else a file). A plain path that is read as shards is a list of one part, or the files
    /// of that directory.
    pub shape: Option<Shape>,
}

/// Where an input comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Origin {
    Source(SourceId),
    /// Output port number `port` (an index into [`Task::outputs`]) of a task.
    Task {
        task: TaskId,
        port: u32,
    },
}

impl Origin {
    /// The task that makes it.
    pub fn task(self) -> Option<TaskId> {
        match self {
            Self::Task { task, .. } => Some(task),
            Self::Source(_) => None,
        }
    }
}

/// One artifact on an input port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// The label that the Kananafile gives it, or else the reference without its colon, or the pattern of the source.
    pub label: String,
    pub from: Origin,
}

/// An input port in use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputPort {
    pub name: String,
    /// Worked on part by part; the parts of all bindings form one list.
    pub mapped: bool,
    /// Labels are part of the result.
    pub labelled: bool,
    pub bindings: Vec<Binding>,
}

/// An output port of a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputPort {
    pub name: String,
    pub format: String,
    pub shape: Shape,
    /// File name extension of the file or of each shard, without the dot; empty for directories.
    pub extension: String,
    pub mapped: bool,
}

/// The device that an attempt is asked to use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Device {
    /// A GPU if the task was given one, else the CPU.
    #[default]
    Auto,
    Cpu,
    Gpu,
}

/// How a result is obtained; never part of what it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunSettings {
    pub device: Device,
    /// Slots of named resources (`gpu`, `cpu`, pools) that an attempt holds.
    pub slots: BTreeMap<String, u32>,
    /// Threads of an attempt; `None`: as many as the machine has to give.
    pub threads: Option<u32>,
    /// What an attempt can compute again it does not keep: less memory for more time. A kind that has nothing of the
    /// sort takes no notice.
    pub recompute: bool,
    pub timeout: Option<Duration>,
    /// How often a failure that may pass is tried in all; at least 1.
    pub attempts: u32,
}

impl Default for RunSettings {
    fn default() -> Self {
        Self {
            device: Device::Auto,
            slots: BTreeMap::new(),
            threads: None,
            recompute: false,
            timeout: None,
            attempts: 1,
        }
    }
}

/// The program of a command or plugin. Relative paths start at the folder of the root Kananafile, which is also the
/// working directory of the process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// Program and arguments. Of a command it holds placeholders (`{inputs.NAME}`, `{outputs.NAME}`, `{partial}`); a
    /// plugin is given the request file as one more argument.
    pub argv: Vec<String>,
    /// The same arguments as the key sees them: of a plugin without the folder it lies in.
    pub declared: Vec<String>,
    /// Files whose content is part of the key, in declared order.
    pub files: Vec<String>,
    /// Environment variables that are passed on, and whose values are part of the key.
    pub env: Vec<String>,
}

/// Who executes a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Executor {
    /// This program, re-executed.
    BuiltIn,
    /// The argv of the task, with its placeholders filled in; it knows nothing of the protocol.
    Command(Program),
    /// A program that speaks the protocol.
    Plugin(Program),
}

impl Executor {
    pub fn program(&self) -> Option<&Program> {
        match self {
            Self::BuiltIn => None,
            Self::Command(program) | Self::Plugin(program) => Some(program),
        }
    }
}

/// Where in the Kananafile something was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Path of the file, relative to the folder of the root Kananafile.
    pub file: String,
    pub span: Range<usize>,
}

/// One unit of work.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Task {
    /// `clean-ko`, `anneal@lr=0.001` (a variant), `align/round-1` (a step of a composite).
    pub name: String,
    pub kind: String,
    pub version: u32,
    /// Params with every default filled in: exactly what is hashed.
    pub params: Value,
    /// Ports in use, in the order of the kind.
    pub inputs: Vec<InputPort>,
    pub outputs: Vec<OutputPort>,
    pub executor: Executor,
    pub run: RunSettings,
    /// Never rebuilt without the user's word.
    pub protect: bool,
    /// Its content may go once nothing that is asked for needs it any more.
    pub temporary: bool,
    /// What is known of its outputs and cost before it runs.
    pub prediction: Prediction,
    pub place: Place,
}

impl Task {
    pub fn input(&self, name: &str) -> Option<&InputPort> {
        self.inputs.iter().find(|port| port.name == name)
    }

    pub fn output(&self, name: &str) -> Option<&OutputPort> {
        self.outputs.iter().find(|port| port.name == name)
    }

    /// Every input, port by port, in order.
    pub fn bindings(&self) -> impl Iterator<Item = &Binding> {
        self.inputs.iter().flat_map(|port| &port.bindings)
    }

    /// True when the work is done part by part, each with its own key.
    pub fn is_mapped(&self) -> bool {
        self.inputs.iter().any(|port| port.mapped)
    }
}

/// Tasks, sources and goals.
#[derive(Debug, Clone, Default)]
pub struct Graph {
    tasks: Vec<Task>,
    sources: Vec<Source>,
    /// Every name that stands for tasks: goals, tasks, variants together, composites.
    names: BTreeMap<String, Vec<TaskId>>,
    goals: BTreeMap<String, Vec<TaskId>>,
    dependencies: Vec<Vec<TaskId>>,
    dependents: Vec<Vec<TaskId>>,
}

/// A word that names no goal and no task.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no goal or task is called `{word}`")]
pub struct UnknownName {
    pub word: String,
    pub suggestion: Option<String>,
}

impl Graph {
    /// A graph over tasks that are already in topological order.
    ///
    /// # Panics
    /// If a task reads from a later one: the caller orders them.
    pub fn new(
        tasks: Vec<Task>,
        sources: Vec<Source>,
        goals: BTreeMap<String, Vec<TaskId>>,
        groups: BTreeMap<String, Vec<TaskId>>,
    ) -> Self {
        let dependencies: Vec<Vec<TaskId>> = tasks.iter().map(dependencies_of).collect();
        let mut dependents = vec![Vec::new(); tasks.len()];
        for (id, upstream) in ids(&tasks).zip(&dependencies) {
            for before in upstream {
                assert!(before < &id, "tasks are in topological order");
                dependents[before.index()].push(id);
            }
        }
        let mut names: BTreeMap<String, Vec<TaskId>> = ids(&tasks)
            .zip(&tasks)
            .map(|(id, task)| (task.name.clone(), vec![id]))
            .collect();
        for (name, tasks) in goals.clone().into_iter().chain(groups) {
            names.entry(name).or_insert(tasks);
        }
        Self {
            tasks,
            sources,
            names,
            goals,
            dependencies,
            dependents,
        }
    }

    pub fn len(&self) -> usize {
        self.tasks.len()
    }

    pub fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    /// Every task with its index, in topological order.
    pub fn tasks(&self) -> impl Iterator<Item = (TaskId, &Task)> {
        ids(&self.tasks).zip(&self.tasks)
    }

    pub fn task(&self, id: TaskId) -> &Task {
        &self.tasks[id.index()]
    }

    pub fn sources(&self) -> impl Iterator<Item = (SourceId, &Source)> {
        (0..).map(SourceId).zip(&self.sources)
    }

    pub fn source(&self, id: SourceId) -> &Source {
        &self.sources[id.index()]
    }

    /// Goals by name.
    pub fn goals(&self) -> &BTreeMap<String, Vec<TaskId>> {
        &self.goals
    }

    /// Every name that [`Graph::select`] understands.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.keys().map(String::as_str)
    }

    /// The tasks that a word stands for: a goal, a task, all variants of a matrix, or what a composite delivers. A
    /// leading colon is allowed.
    pub fn find(&self, word: &str) -> Option<&[TaskId]> {
        let name = word.strip_prefix(':').unwrap_or(word);
        self.names.get(name).map(Vec::as_slice)
    }

    /// The tasks that some words stand for, without duplicates, in topological order.
    pub fn select<S: AsRef<str>>(&self, words: &[S]) -> Result<Vec<TaskId>, UnknownName> {
        let mut selected = BTreeSet::new();
        for word in words {
            let word = word.as_ref();
            let found = self.find(word).ok_or_else(|| UnknownName {
                word: word.to_owned(),
                suggestion: crate::kananafile::suggest(word, self.names()),
            })?;
            selected.extend(found);
        }
        Ok(selected.into_iter().collect())
    }

    /// The tasks that a task reads from, each once, in ascending order.
    pub fn dependencies(&self, id: TaskId) -> &[TaskId] {
        &self.dependencies[id.index()]
    }

    /// Goals that need every task without asking for the content of temporary ones that others read.
    pub fn everything(&self) -> Vec<TaskId> {
        let all = ids(&self.tasks);
        all.filter(|id| !self.is_passing(*id)).collect()
    }

    /// Goals by which it shows whether a task has to run: itself, or of a temporary one those that others make of it.
    pub fn ends_of(&self, id: TaskId) -> Vec<TaskId> {
        if !self.is_passing(id) {
            return vec![id];
        }
        let mut ends = self.reached_from(&[id]);
        ends.retain(|end| !self.is_passing(*end));
        ends
    }

    /// Whether a task only makes what others read, for as long as they need it.
    fn is_passing(&self, id: TaskId) -> bool {
        self.task(id).temporary && !self.dependents(id).is_empty()
    }

    /// The tasks that read from a task, each once, in ascending order.
    pub fn dependents(&self, id: TaskId) -> &[TaskId] {
        &self.dependents[id.index()]
    }

    /// Everything that `goals` need, themselves included, in topological order.
    pub fn reach(&self, goals: &[TaskId]) -> Vec<TaskId> {
        self.closure(goals, &self.dependencies)
    }

    /// Everything that depends on `tasks`, themselves included, in topological order.
    pub fn reached_from(&self, tasks: &[TaskId]) -> Vec<TaskId> {
        self.closure(tasks, &self.dependents)
    }

    /// The sources that some tasks read, each once, in ascending order.
    pub fn sources_of(&self, tasks: &[TaskId]) -> Vec<SourceId> {
        let read: BTreeSet<SourceId> = tasks
            .iter()
            .flat_map(|id| self.task(*id).bindings())
            .filter_map(|binding| match binding.from {
                Origin::Source(source) => Some(source),
                Origin::Task { .. } => None,
            })
            .collect();
        read.into_iter().collect()
    }

    fn closure(&self, from: &[TaskId], edges: &[Vec<TaskId>]) -> Vec<TaskId> {
        let mut seen = vec![false; self.tasks.len()];
        let mut stack = from.to_vec();
        while let Some(id) = stack.pop() {
            if !std::mem::replace(&mut seen[id.index()], true) {
                stack.extend(&edges[id.index()]);
            }
        }
        ids(&self.tasks).filter(|id| seen[id.index()]).collect()
    }
}

fn ids(tasks: &[Task]) -> impl Iterator<Item = TaskId> + use<> {
    (0..u32::try_from(tasks.len()).expect("fewer than 2^32 tasks")).map(TaskId)
}

fn dependencies_of(task: &Task) -> Vec<TaskId> {
    let origins = task.bindings().map(|binding| binding.from);
    let upstream: BTreeSet<TaskId> = origins.filter_map(Origin::task).collect();
    upstream.into_iter().collect()
}
