//! The Kananafile: from text to tasks.
//!
//! Pure: whoever calls says how a file is read. All problems of a file are found at once, each with its place.
//!
//! ```text
//! schema  declarations, as written          expand  profiles, vars, matrices → one entry per task
//! draft   kinds and ports are known         inputs, params, command, plugin, settings: the rest of a task
//! composite  steps in place of composites   order, check: circles, facts → Graph
//! ```

mod budget;
mod check;
mod command;
mod composite;
mod draft;
mod expand;
mod inputs;
mod node;
mod order;
mod params;
mod paths;
mod plugin;
mod problem;
mod read;
mod resources;
mod schema;
mod settings;
mod source;
#[cfg(test)]
mod tests;
mod vars;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rustc_hash::FxHashMap;
use serde_json::Value;

pub use budget::Budget;
pub use plugin::Plugin;
pub use problem::{Problem, Severity, suggest};
pub use resources::Resources;
pub use settings::{duration, size};

use crate::graph::{Graph, Place, RunSettings, TaskId};
use crate::kind::{Kind, Kinds};
use check::{Assembly, Checked};
use draft::{Draft, Table, Target};
use expand::Entry;
use inputs::References;
use node::{Key, Node};
use problem::Report;
use schema::Declarations;
use vars::Vars;

/// How the text of a file is had. Paths use `/` and start at the folder of the root Kananafile.
pub trait Files {
    /// The text of a file, or why it cannot be read.
    fn read(&self, path: &str) -> Result<Text, Unread>;
}

impl<F: Fn(&str) -> Result<String, String>> Files for F {
    fn read(&self, path: &str) -> Result<Text, Unread> {
        let text = self(path).map_err(Unread::because)?;
        Ok(Text {
            text,
            is_outside: false,
        })
    }
}

/// What a file holds.
#[derive(Debug, Clone, Default)]
pub struct Text {
    pub text: String,
    /// The file lies outside the project: whoever wrote the Kananafile may have no right to see it, so that no problem
    /// quotes it.
    pub is_outside: bool,
}

/// Why a file cannot be read, and a way out, which may be empty.
#[derive(Debug, Clone)]
pub struct Unread {
    pub cause: String,
    pub help: &'static str,
}

impl Unread {
    pub fn because(cause: impl Into<String>) -> Self {
        Self {
            cause: cause.into(),
            help: "",
        }
    }
}

/// What the command line adds to a Kananafile.
#[derive(Debug, Clone, Default)]
pub struct Options<'a> {
    /// Name of the root file: `Kananafile`.
    pub file: &'a str,
    /// Profiles to apply, in order.
    pub profiles: &'a [String],
    /// `--set NAME=VALUE`, in order; values are TOML, or else plain strings.
    pub set: &'a [(String, String)],
    /// Words that no task or goal may be called: the verbs of the program.
    pub reserved: &'a [&'a str],
}

/// A Kananafile that can be built.
#[derive(Default)]
pub struct Kananafile {
    pub graph: Arc<Graph>,
    /// Vars after profiles and `--set`, by name.
    pub vars: BTreeMap<String, Value>,
    /// Kinds that plugins add, by name.
    pub plugins: BTreeMap<String, Kind>,
    /// Composites as they were written, by name; for `show`.
    pub composites: BTreeMap<String, Composite>,
    /// Sums of costs that the file asks for, by name.
    pub budgets: BTreeMap<String, Budget>,
    /// What the largest machine has.
    pub resources: Resources,
    /// Where sources that have a name are declared, by pattern.
    pub sources: BTreeMap<String, Place>,
    pub warnings: Vec<Problem>,
}

impl std::fmt::Debug for Kananafile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kananafile")
            .field("tasks", &self.graph.len())
            .finish_non_exhaustive()
    }
}

/// A composite as it was written; its steps are in the graph, named `<composite>/<step>`.
#[derive(Debug, Clone)]
pub struct Composite {
    pub kind: String,
    /// Params with every default filled in.
    pub params: Value,
    pub run: RunSettings,
    /// Output port → the task, and index of its port, that provide it.
    pub outputs: BTreeMap<String, (TaskId, u32)>,
    pub place: Place,
}

/// Reads, expands and checks a Kananafile.
///
/// # Errors
/// Every problem of the file, warnings among them; at least one is an error.
pub fn load(
    files: &dyn Files,
    kinds: &Kinds,
    options: &Options<'_>,
) -> Result<Kananafile, Vec<Problem>> {
    let report = Report::default();
    let declarations = schema::read(files, options.file, &report);
    if declarations.is_torn {
        return Err(report.finish());
    }
    let plugins = plugins(files, kinds, &declarations, &report);
    let profiles = expand::profiles(&declarations, options.profiles, &report);
    let vars = Vars::new(&declarations.vars, &profiles, options.set, &report);
    let entries = expand::entries(&declarations, &profiles, &vars, options.reserved, &report);
    let table = Table {
        kinds,
        plugins: &plugins,
        declared: &declarations.plugins,
    };
    let sources = source::read(&declarations.sources, kinds, &vars, &report);
    let declared = (declarations.resources.iter())
        .chain(profiles.iter().flat_map(|profile| &profile.resources));
    let resources = resources::read(declared, &vars, &report);
    let loader = Loader {
        declarations: &declarations,
        vars: &vars,
        entries: &entries,
        names: expand::names(&entries),
        sources: &sources,
        reserved: options.reserved,
        kinds,
        report: &report,
    };
    let drafts = loader.drafts(table);
    let facts = sources
        .values()
        .map(|source| (source.pattern.as_str(), &source.facts));
    let checked = check::predict(&drafts, &facts.collect(), &report);
    resources::check(&resources, &drafts, &checked.predictions, &report);
    loader.warn_unused_sources(&drafts);
    let whole = loader.assemble(drafts, checked, kinds);
    match whole.filter(|_| !report.has_errors()) {
        Some(Whole {
            graph,
            composites,
            budgets,
        }) => Ok(Kananafile {
            graph: Arc::new(graph),
            vars: vars.to_json(),
            plugins,
            composites,
            budgets,
            resources,
            sources: (sources.into_values())
                .map(|source| (source.pattern, report.place(source.span)))
                .collect(),
            warnings: report.finish(),
        }),
        None => Err(report.finish()),
    }
}

/// Errors that show only with a profile of the file, each applied by itself, that are not among `known`. What is said
/// begins with the profile.
pub fn problems_of_profiles(
    files: &dyn Files,
    kinds: &Kinds,
    options: &Options<'_>,
    known: &[Problem],
) -> Vec<Problem> {
    let declarations = schema::read(files, options.file, &Report::default());
    let mut known = known.to_vec();
    let mut found = Vec::new();
    for (key, _) in &declarations.profiles {
        let profiles = [key.name.clone()];
        let options = Options {
            profiles: &profiles,
            ..options.clone()
        };
        let mut problems = load(files, kinds, &options).err().unwrap_or_default();
        problems.retain(|problem| problem.severity == Severity::Error && !known.contains(problem));
        known.extend(problems.iter().cloned());
        found.extend(problems.into_iter().map(|problem| Problem {
            message: format!("with `--profile {}`: {}", key.name, problem.message),
            ..problem
        }));
    }
    found
}

/// What the drafts of a right file become.
struct Whole {
    graph: Graph,
    composites: BTreeMap<String, Composite>,
    budgets: BTreeMap<String, Budget>,
}

fn plugins(
    files: &dyn Files,
    kinds: &Kinds,
    declarations: &Declarations,
    report: &Report,
) -> BTreeMap<String, Kind> {
    let read = |(name, node): &(Key, Node)| {
        let kind = plugin::read(files, kinds, name, node, report)?;
        Some((name.name.clone(), kind))
    };
    declarations.plugins.iter().filter_map(read).collect()
}

/// What the steps from entries to the graph have in common.
struct Loader<'a> {
    declarations: &'a Declarations,
    vars: &'a Vars,
    entries: &'a [Entry],
    names: FxHashMap<&'a str, Vec<usize>>,
    sources: &'a BTreeMap<String, source::Named>,
    reserved: &'a [&'a str],
    kinds: &'a Kinds,
    report: &'a Report,
}

impl Loader<'_> {
    /// Every task with its inputs and params, and the steps of all composites behind them.
    fn drafts<'k>(&self, table: Table<'k>) -> Vec<Draft<'k>> {
        let entries = self.entries.iter().enumerate();
        let mut drafts: Vec<Draft<'k>> = entries
            .map(|(position, entry)| draft::from_entry(position, entry, table, self.report))
            .collect();
        for source in self.sources.values() {
            self.refuse_shared(&source.name, "source");
        }
        let references = self.references(&drafts);
        let inputs: Vec<_> = drafts
            .iter()
            .zip(self.entries)
            .map(|(draft, entry)| references.inputs(draft, entry))
            .collect();
        for (draft, inputs) in drafts.iter_mut().zip(inputs) {
            draft.inputs = inputs;
            params::resolve(draft, None, self.report);
        }
        if !order::has_circles(&drafts, self.report) {
            composite::expand_all(&mut drafts, table, self.report);
        }
        drafts
    }

    fn references<'a, 'k>(&'a self, drafts: &'a [Draft<'k>]) -> References<'a, 'k> {
        References {
            drafts,
            names: &self.names,
            sources: self.sources,
            goals: &self.declarations.goals,
            kinds: self.kinds,
            report: self.report,
        }
    }

    fn assemble(&self, drafts: Vec<Draft<'_>>, checked: Checked, kinds: &Kinds) -> Option<Whole> {
        let assembly = Assembly::new(drafts, &checked, kinds, self.report);
        let goals = self.goals(&assembly);
        let groups = self.groups(&assembly);
        let composites = composites(&assembly, self.report);
        let declared = self.substituted(&self.declarations.budgets);
        let references = self.references(&assembly.drafts[..self.entries.len()]);
        let budgets = budget::read(&declared, &references, &|draft| assembly.tasks(draft));
        let graph = assembly.graph(checked, goals, groups)?;
        budget::check(&declared, &budgets, &graph, self.report);
        self.vars.warn_unused(self.report);
        self.warn_unreachable(&graph);
        self.warn_unread(&graph);
        Some(Whole {
            graph,
            composites,
            budgets,
        })
    }

    fn substituted(&self, entries: &[(Key, Node)]) -> Vec<(Key, Node)> {
        let fill =
            |(key, node): &(Key, Node)| (key.clone(), self.vars.substitute(node, &[], self.report));
        entries.iter().map(fill).collect()
    }

    fn warn_unused_sources(&self, drafts: &[Draft<'_>]) {
        let bindings = drafts
            .iter()
            .flat_map(|draft| &draft.inputs)
            .flat_map(|port| &port.bindings);
        let read: BTreeSet<&str> = bindings
            .filter_map(|binding| match &binding.target {
                Target::Source(pattern) => Some(pattern.as_str()),
                Target::Output(_) | Target::Broken => None,
            })
            .collect();
        for (name, source) in self.sources {
            if !read.contains(source.pattern.as_str()) {
                let message = format!("no task reads source `{name}`");
                self.report.warning(source.name.span, message, "");
            }
        }
    }

    fn goals(&self, assembly: &Assembly<'_, '_>) -> BTreeMap<String, Vec<TaskId>> {
        let references = self.references(&assembly.drafts[..self.entries.len()]);
        let mut goals = BTreeMap::new();
        for (key, node) in &self.declarations.goals {
            expand::is_allowed(key, "goal", self.reserved, self.report);
            self.refuse_shared(key, "goal");
            let node = self.vars.substitute(node, &[], self.report);
            let words = schema::texts(&node, "a goal", self.report);
            if words.is_empty() && !node.is_broken() {
                let message = format!("goal `{}` names no task", key.name);
                self.report
                    .error(node.span, message, "write an array of `:task`");
            }
            let mut tasks: Vec<TaskId> = words
                .iter()
                .flat_map(|(word, span)| references.tasks(word, *span))
                .flat_map(|draft| assembly.tasks(draft))
                .collect();
            tasks.sort_unstable();
            tasks.dedup();
            goals.insert(key.name.clone(), tasks);
        }
        goals
    }

    /// Reports a name that a task has too.
    fn refuse_shared(&self, key: &Key, what: &str) {
        if self.names.contains_key(key.name.as_str()) {
            let message = format!("`{}` is a task and a {what}", key.name);
            self.report.error(key.span, message, "rename one of them");
        }
    }

    /// Names that stand for several tasks: matrices and composites.
    fn groups(&self, assembly: &Assembly<'_, '_>) -> BTreeMap<String, Vec<TaskId>> {
        let drafts = assembly.drafts.iter().enumerate();
        let composites = drafts
            .filter(|(_, draft)| draft.is_composite())
            .map(|(index, draft)| (draft.name.clone(), assembly.tasks(index)));
        let is_group = |name: &str, drafts: &[usize]| match drafts {
            [only] => assembly.drafts[*only].name != name,
            _ => true,
        };
        let written = self.names.iter();
        let written = written.filter(|(name, drafts)| is_group(name, drafts));
        let written = written.map(|(name, drafts)| {
            let tasks = drafts.iter().flat_map(|draft| assembly.tasks(*draft));
            ((*name).to_owned(), tasks.collect())
        });
        composites.chain(written).collect()
    }

    fn warn_unreachable(&self, graph: &Graph) {
        let goals: Vec<TaskId> = graph.goals().values().flatten().copied().collect();
        if goals.is_empty() {
            return;
        }
        let reached = graph.reach(&goals);
        let mut warned = "";
        for entry in self.entries {
            let tasks = graph.find(&entry.base).unwrap_or_default();
            let is_used = tasks.iter().any(|task| reached.binary_search(task).is_ok());
            if !is_used && warned != entry.base {
                warned = &entry.base;
                let message = format!("no goal needs task `{}`", entry.base);
                self.report.warning(entry.span, message, "");
            }
        }
    }

    /// A temporary task that nothing reads is kept, which is not what its word says. Where there are goals, it is one, or
    /// no goal needs it, which is said already.
    fn warn_unread(&self, graph: &Graph) {
        if !graph.goals().is_empty() {
            return;
        }
        for entry in self.entries {
            let tasks = graph.find(&entry.name).unwrap_or_default();
            let is_kept =
                |id: &TaskId| graph.task(*id).temporary && graph.dependents(*id).is_empty();
            if !tasks.is_empty() && tasks.iter().all(is_kept) {
                let message = format!("nothing reads the temporary task `{}`", entry.name);
                let help = "it is kept: only what others read is dropped";
                self.report.warning(entry.span, message, help);
            }
        }
    }
}

fn composites(assembly: &Assembly<'_, '_>, report: &Report) -> BTreeMap<String, Composite> {
    let drafts = &assembly.drafts;
    let outputs = |index: usize| {
        let ports = drafts[index].ports.outputs.iter().enumerate();
        ports
            .filter_map(|(port, output)| {
                Some((output.name.clone(), assembly.provider((index, port))?))
            })
            .collect()
    };
    let composite = |index: usize| {
        let draft = &drafts[index];
        Some((
            draft.name.clone(),
            Composite {
                kind: draft.kind?.name.clone(),
                params: draft.params.clone()?,
                run: draft.run.clone(),
                outputs: outputs(index),
                place: report.place(draft.span),
            },
        ))
    };
    (0..drafts.len())
        .filter(|index| drafts[*index].is_composite())
        .filter_map(composite)
        .collect()
}
