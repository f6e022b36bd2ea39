//! Declarations: what the sections of a Kananafile say, with unknown keys refused.
//!
//! Knows the form of the file and nothing of kinds.

use std::collections::BTreeMap;
use std::fmt::Display;

use super::node::{Key, Node, Span, Val, parse};
use super::paths;
use super::problem::{Report, did_you_mean};
use super::{Files, Text};

/// Everything that the root file and its includes declare, in written order.
#[derive(Debug, Default)]
pub struct Declarations {
    pub vars: Vec<(Key, Node)>,
    pub goals: Vec<(Key, Node)>,
    pub tasks: Vec<TaskDecl>,
    pub profiles: Vec<(Key, Profile)>,
    pub plugins: Vec<(Key, Node)>,
    pub sources: Vec<(Key, Node)>,
    pub budgets: Vec<(Key, Node)>,
    pub resources: Vec<(Key, Node)>,
    /// A file is missing or is not TOML: what the rest refers to may be in it.
    pub is_torn: bool,
}

/// `[task.NAME]`
#[derive(Debug, Clone)]
pub struct TaskDecl {
    pub name: Key,
    pub kind: Node,
    pub inputs: Option<Node>,
    pub params: Option<Node>,
    pub run: Option<Node>,
    pub matrix: Option<Node>,
    pub protect: Option<Node>,
    pub temporary: Option<Node>,
    pub outputs: Option<Node>,
}

/// `[profile.NAME]`
#[derive(Debug, Clone, Default)]
pub struct Profile {
    pub vars: Vec<(Key, Node)>,
    /// Task name → the keys of the task that it changes.
    pub tasks: Vec<(Key, Node)>,
    pub resources: Vec<(Key, Node)>,
}

const ROOT: [&str; 10] = [
    "kananafile",
    "include",
    "vars",
    "goal",
    "source",
    "task",
    "budget",
    "resources",
    "profile",
    "plugin",
];
const TASK: [&str; 8] = [
    "kind",
    "inputs",
    "params",
    "run",
    "matrix",
    "protect",
    "temporary",
    "outputs",
];

/// Reads the root file and everything that it includes.
pub fn read(files: &dyn Files, root: &str, report: &Report) -> Declarations {
    let mut declarations = Declarations::default();
    match files.read(root) {
        Ok(text) => read_file(files, root, &text, true, &mut declarations, report),
        Err(unread) => {
            declarations.is_torn = true;
            report.error_nowhere(unreadable(root, &unread.cause), unread.help);
        }
    }
    refuse_duplicates(&declarations, report);
    declarations
}

fn read_file(
    files: &dyn Files,
    path: &str,
    text: &Text,
    is_root: bool,
    declarations: &mut Declarations,
    report: &Report,
) {
    let file = report.add_file(path, text);
    let root = parse(file, &text.text, report);
    if root.is_broken() {
        declarations.is_torn = true;
        return;
    }
    let fields = fields(&root, &ROOT, "a Kananafile", report);
    version(fields.get("kananafile").copied(), &root, is_root, report);
    let sections = Sections { fields, report };
    declarations.vars.extend(sections.entries("vars"));
    declarations.goals.extend(sections.entries("goal"));
    declarations.plugins.extend(sections.entries("plugin"));
    declarations.sources.extend(sections.entries("source"));
    declarations.budgets.extend(sections.entries("budget"));
    declarations.resources.extend(sections.entries("resources"));
    let tasks = sections.entries("task").into_iter();
    declarations
        .tasks
        .extend(tasks.filter_map(|(name, node)| task(name, &node, report)));
    let profiles = sections.entries("profile").into_iter();
    declarations
        .profiles
        .extend(profiles.map(|(name, node)| (name, profile(&node, report))));
    if let Some(include) = sections.fields.get("include") {
        for (name, span) in texts(include, "`include`", report) {
            let included = paths::join(&paths::folder(path), &name);
            read_include(files, &included, span, declarations, report);
        }
    }
}

fn read_include(
    files: &dyn Files,
    path: &str,
    span: Span,
    declarations: &mut Declarations,
    report: &Report,
) {
    // A file that is included twice, or in a circle, counts once.
    if report.file_of(path).is_some() {
        return;
    }
    match files.read(path) {
        Ok(text) => read_file(files, path, &text, false, declarations, report),
        Err(unread) => {
            declarations.is_torn = true;
            report.error(span, unreadable(path, &unread.cause), unread.help);
        }
    }
}

/// A cause may name the file itself.
fn unreadable(path: &str, cause: &str) -> String {
    let named = format!("`{path}`: ");
    let cause = cause.strip_prefix(&named).unwrap_or(cause);
    format!("cannot read `{path}`: {cause}")
}

fn version(node: Option<&Node>, root: &Node, is_root: bool, report: &Report) {
    let help = "this program reads version 1: write `kananafile = 1`";
    match node.map(|node| (&node.value, node.span)) {
        Some((Val::Int(1) | Val::Broken, _)) => {}
        Some((_, span)) => report.error(span, "unknown version of the Kananafile", help),
        None if !is_root => {}
        None => {
            let top = Span {
                end: root.span.start,
                ..root.span
            };
            report.error(top, "the version of the Kananafile is missing", help);
        }
    }
}

struct Sections<'a> {
    fields: BTreeMap<&'a str, &'a Node>,
    report: &'a Report,
}

impl Sections<'_> {
    fn entries(&self, name: &str) -> Vec<(Key, Node)> {
        let Some(node) = self.fields.get(name) else {
            return Vec::new();
        };
        table(node, format_args!("`{name}`"), self.report)
            .map(<[_]>::to_vec)
            .unwrap_or_default()
    }
}

fn task(name: Key, node: &Node, report: &Report) -> Option<TaskDecl> {
    table(node, format_args!("task `{}`", name.name), report)?;
    refuse_unknown(node, &TASK, format_args!("task `{}`", name.name), report);
    let take = |key: &str| node.get(key).cloned();
    let section = |key: &str| Some(section(take(key)?, key, report));
    let kind = take("kind").unwrap_or_else(|| {
        report.error(
            name.span,
            format!("task `{}` has no kind", name.name),
            "add `kind = \"…\"`; `kbuild kinds` lists them",
        );
        Node::broken(name.span)
    });
    Some(TaskDecl {
        kind,
        inputs: section("inputs"),
        params: section("params"),
        run: section("run"),
        matrix: section("matrix"),
        protect: take("protect"),
        temporary: take("temporary"),
        outputs: section("outputs"),
        name,
    })
}

/// The node if it is a table; else it is reported and broken.
fn section(node: Node, name: &str, report: &Report) -> Node {
    match table(&node, format_args!("`{name}`"), report) {
        Some(_) => node,
        None => Node::broken(node.span),
    }
}

fn profile(node: &Node, report: &Report) -> Profile {
    let fields = fields(node, &["vars", "task", "resources"], "a profile", report);
    let entries = |name: &str| {
        let node = fields.get(name)?;
        table(node, format_args!("`{name}`"), report).map(<[_]>::to_vec)
    };
    Profile {
        vars: entries("vars").unwrap_or_default(),
        tasks: entries("task").unwrap_or_default(),
        resources: entries("resources").unwrap_or_default(),
    }
}

/// Across files: within one, TOML refuses them.
fn refuse_duplicates(declarations: &Declarations, report: &Report) {
    if report.n_files() < 2 {
        return;
    }
    fn keys<T>(entries: &[(Key, T)]) -> Vec<&Key> {
        entries.iter().map(|(key, _)| key).collect()
    }
    let tasks = declarations.tasks.iter().map(|task| &task.name);
    let sections: [(&str, Vec<&Key>); 8] = [
        ("var", keys(&declarations.vars)),
        ("goal", keys(&declarations.goals)),
        ("plugin", keys(&declarations.plugins)),
        ("source", keys(&declarations.sources)),
        ("budget", keys(&declarations.budgets)),
        ("resource", keys(&declarations.resources)),
        ("profile", keys(&declarations.profiles)),
        ("task", tasks.collect()),
    ];
    for (what, keys) in sections {
        let mut seen: BTreeMap<&str, Span> = BTreeMap::new();
        for key in keys {
            let Some(first) = seen.insert(&key.name, key.span) else {
                continue;
            };
            let other = report.path_of(first.file);
            let message = format!("{what} `{}` is declared twice", key.name);
            report.error(key.span, message, format!("the other one is in `{other}`"));
        }
    }
}

/// The fields of a table by name; unknown ones are reported.
pub fn fields<'a>(
    node: &'a Node,
    known: &[&'static str],
    what: impl Display,
    report: &Report,
) -> BTreeMap<&'a str, &'a Node> {
    refuse_unknown(node, known, what, report);
    let fields = node.entries().iter();
    let fields = fields.map(|(key, value)| (key.name.as_str(), value));
    fields.filter(|(name, _)| known.contains(name)).collect()
}

/// Reports the keys of a table that are none of `known`.
pub fn refuse_unknown(node: &Node, known: &[&'static str], what: impl Display, report: &Report) {
    for (key, _) in node.entries() {
        if !known.contains(&key.name.as_str()) {
            report.error(
                key.span,
                format!("{what} has no key `{}`", key.name),
                did_you_mean(&key.name, known.iter().copied()),
            );
        }
    }
}

/// The entries of a table; anything else is reported.
pub fn table<'a>(node: &'a Node, what: impl Display, report: &Report) -> Option<&'a [(Key, Node)]> {
    match &node.value {
        Val::Table(entries) => Some(entries),
        Val::Broken => None,
        _ => {
            let found = node.type_name();
            report.error(
                node.span,
                format!("{what} must be a table, found {found}"),
                "",
            );
            None
        }
    }
}

/// A string; anything else is reported.
pub fn text<'a>(node: &'a Node, what: impl Display, report: &Report) -> Option<&'a str> {
    match &node.value {
        Val::Text(text) => Some(text),
        Val::Broken => None,
        _ => {
            let found = node.type_name();
            report.error(
                node.span,
                format!("{what} must be a string, found {found}"),
                "",
            );
            None
        }
    }
}

/// A string or an array of strings, each with its place; anything else is reported.
pub fn texts(node: &Node, what: impl Display, report: &Report) -> Vec<(String, Span)> {
    let items = match &node.value {
        Val::List(items) => items,
        _ => std::slice::from_ref(node),
    };
    let item = |item: &Node| Some((text(item, &what, report)?.to_owned(), item.span));
    items.iter().filter_map(item).collect()
}

/// `true` or `false`; anything else is reported.
pub fn flag(node: &Node, what: &str, report: &Report) -> bool {
    match node.value {
        Val::Bool(flag) => flag,
        Val::Broken => false,
        _ => {
            let found = node.type_name();
            let message = format!("{what} must be true or false, found {found}");
            report.error(node.span, message, "");
            false
        }
    }
}
