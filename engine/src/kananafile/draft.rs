//! Drafts: tasks whose kind and ports are known, on their way into the graph.
//!
//! A draft is made from an entry of the file or from a step of a composite. Its inputs point to other drafts, so that
//! composites can be replaced by their steps before anything is numbered.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::Value;

use super::command;
use super::expand::Entry;
use super::node::{Key, Node, Span};
use super::problem::{Report, did_you_mean};
use super::schema::{flag, text};
use super::settings;
use crate::graph::{Executor, RunSettings};
use crate::kind::{Body, Kind, Kinds, Ports};

/// A task that is being put together.
#[derive(Clone)]
pub struct Draft<'k> {
    pub name: String,
    /// Where the task is named; of a step, where its composite is.
    pub span: Span,
    /// Position among the entries of the file: the order in which people wrote them.
    pub position: usize,
    /// The composite that it is a step of.
    pub parent: Option<usize>,
    /// `None` for an unknown kind, which was reported: whoever meets it stays silent.
    pub kind: Option<&'k Kind>,
    pub ports: Cow<'k, Ports>,
    /// With every default filled in; `None` if they were reported.
    pub params: Option<Value>,
    /// The params as written.
    pub written: Option<Node>,
    pub inputs: Vec<DraftPort>,
    pub run: RunSettings,
    /// The run settings as written.
    pub written_run: Option<Node>,
    pub protect: bool,
    pub temporary: bool,
    pub executor: Executor,
    /// Of an expanded composite: what provides each of its output ports.
    pub provides: Option<BTreeMap<String, Output>>,
}

/// An output port: `(draft, index of the port)`.
pub type Output = (usize, usize);

/// An input port in use.
#[derive(Debug, Clone)]
pub struct DraftPort {
    pub name: String,
    pub span: Span,
    pub bindings: Vec<DraftBinding>,
}

/// One artifact on an input port.
#[derive(Debug, Clone)]
pub struct DraftBinding {
    pub label: String,
    pub span: Span,
    pub target: Target,
}

/// Where an input comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A pattern, relative to the root folder.
    Source(String),
    Output(Output),
    /// Something that was reported already.
    Broken,
}

/// The kinds that a file can name: those of the program and its own plugins.
#[derive(Clone, Copy)]
pub struct Table<'k> {
    pub kinds: &'k Kinds,
    pub plugins: &'k BTreeMap<String, Kind>,
    /// Plugins as declared; one that is not among the kinds was reported.
    pub declared: &'k [(Key, Node)],
}

impl<'k> Table<'k> {
    pub fn get(&self, name: &str) -> Option<&'k Kind> {
        self.kinds.get(name).or_else(|| self.plugins.get(name))
    }

    fn find(&self, node: &Node, report: &Report) -> Option<&'k Kind> {
        let name = text(node, "`kind`", report)?;
        let found = self.get(name);
        if found.is_none() && !self.declared.iter().any(|(key, _)| key.name == name) {
            let kinds = self.kinds.iter().map(|kind| kind.name.as_str());
            let names = kinds.chain(self.plugins.keys().map(String::as_str));
            let help = did_you_mean(name, names);
            report.error(node.span, format!("unknown kind `{name}`"), help);
        }
        found
    }
}

impl Draft<'_> {
    pub fn is_composite(&self) -> bool {
        self.kind
            .is_some_and(|kind| matches!(kind.body, Body::Composite { .. }))
    }

    pub fn port(&self, name: &str) -> Option<&DraftPort> {
        self.inputs.iter().find(|port| port.name == name)
    }

    /// The place of a param, as exactly as it is known.
    pub fn param_span(&self, name: &str) -> Span {
        let Some(written) = &self.written else {
            return self.span;
        };
        let value = written.get(name);
        value.map_or_else(|| self.params_span(), |node| node.span)
    }

    /// The place of the params as a whole. A table that is written key by key has no place of its own.
    pub fn params_span(&self) -> Span {
        self.written.as_ref().map_or(self.span, |node| node.span)
    }

    /// How a message begins that is about a step.
    pub fn prefix(&self) -> String {
        match self.parent {
            Some(_) => format!("in step `{}`: ", self.name),
            None => String::new(),
        }
    }
}

/// The draft of an entry, with everything but its inputs and params.
pub fn from_entry<'k>(
    position: usize,
    entry: &Entry,
    table: Table<'k>,
    report: &Report,
) -> Draft<'k> {
    let kind = table.find(&entry.kind, report);
    let is_command = kind.is_some_and(|kind| matches!(kind.body, Body::Command));
    let ports = match kind {
        Some(_) if is_command => Cow::Owned(command::ports(entry, table.kinds, report)),
        Some(kind) => Cow::Borrowed(&kind.ports),
        None => Cow::Owned(Ports::default()),
    };
    if let Some(outputs) = entry
        .outputs
        .as_ref()
        .filter(|_| kind.is_some() && !is_command)
    {
        let help = "only `command` declares outputs; other kinds have their own";
        report.error(outputs.span, "this kind does not declare outputs", help);
    }
    let run = entry.run.as_ref();
    let is_set =
        |node: Option<&Node>, what: &str| node.is_some_and(|node| flag(node, what, report));
    Draft {
        name: entry.name.clone(),
        span: entry.span,
        position,
        parent: None,
        kind,
        ports,
        params: None,
        written: entry.params.clone(),
        inputs: Vec::new(),
        run: run.map_or_else(RunSettings::default, |run| settings::read(run, report)),
        written_run: run.cloned(),
        protect: is_set(entry.protect.as_ref(), "`protect`"),
        temporary: is_set(entry.temporary.as_ref(), "`temporary`"),
        executor: executor(kind),
        provides: None,
    }
}

/// Who executes a kind; a command's argv is filled in with its params.
pub fn executor(kind: Option<&Kind>) -> Executor {
    match kind.map(|kind| &kind.body) {
        Some(Body::Plugin(plugin)) => Executor::Plugin(plugin.program.clone()),
        _ => Executor::BuiltIn,
    }
}
