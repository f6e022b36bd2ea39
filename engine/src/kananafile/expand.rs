//! Expansion of profiles, vars and matrices: from declarations to one entry per task.
//!
//! Knows nothing of kinds: composites are expanded later, when their ports are known.

use std::borrow::Cow;
use std::collections::BTreeSet;

use rustc_hash::FxHashMap;

use super::node::{Key, Node, Span, Val};
use super::problem::{Report, did_you_mean};
use super::schema::{Declarations, Profile, TaskDecl, fields, table};
use super::vars::Vars;

/// A task with nothing left to fill in: one variant of a matrix, or the task itself.
#[derive(Debug, Clone)]
pub struct Entry {
    /// `anneal@lr=0.001`
    pub name: String,
    /// `anneal`
    pub base: String,
    /// Where the task is named.
    pub span: Span,
    pub kind: Node,
    pub inputs: Option<Node>,
    pub params: Option<Node>,
    pub run: Option<Node>,
    pub protect: Option<Node>,
    pub temporary: Option<Node>,
    pub outputs: Option<Node>,
}

type Axes = Vec<(String, Vec<(String, Node)>)>;
/// One variant: the end of its name (`@lr=0.001`), and its value on every axis.
type Variant = (String, Vec<(String, Node)>);

/// The profiles that were asked for, in order.
pub fn profiles<'a>(
    declarations: &'a Declarations,
    names: &[String],
    report: &Report,
) -> Vec<&'a Profile> {
    let find = |name: &String| {
        let declared = &declarations.profiles;
        let found = declared.iter().find(|(key, _)| key.name == *name);
        if found.is_none() {
            let all = declared.iter().map(|(key, _)| key.name.as_str());
            let message = format!("no profile is called `{name}`");
            report.error_nowhere(message, did_you_mean(name, all));
        }
        found.map(|(_, profile)| profile)
    };
    names.iter().filter_map(find).collect()
}

/// Every task, variant by variant, in written order.
pub fn entries(
    declarations: &Declarations,
    profiles: &[&Profile],
    vars: &Vars,
    reserved: &[&str],
    report: &Report,
) -> Vec<Entry> {
    let mut tasks = Cow::from(&declarations.tasks);
    for (name, change) in profiles.iter().flat_map(|profile| &profile.tasks) {
        apply(tasks.to_mut(), name, change, report);
    }
    let mut entries = Vec::with_capacity(tasks.len());
    for task in tasks.iter() {
        if is_allowed(&task.name, "task", reserved, report) {
            let mut axes = axes(task, vars, report);
            refuse_many(task, &mut axes, report);
            let variants = product(&axes).into_iter();
            entries.extend(variants.map(|variant| entry(task, &variant, vars, report)));
        }
    }
    entries
}

/// Refuses names that the file system, a reference or the command line would take for something else.
pub fn is_allowed(key: &Key, what: &str, reserved: &[&str], report: &Report) -> bool {
    let name = key.name.as_str();
    let (message, help) = if reserved.contains(&name) {
        (
            format!("`{name}` is a command of kbuild and cannot name a {what}"),
            "choose another name".to_owned(),
        )
    } else if !is_name(name) {
        (
            format!("`{name}` cannot name a {what}"),
            "names are made of letters, digits, `-` and `_`, and start with a letter or digit"
                .to_owned(),
        )
    } else {
        return true;
    };
    report.error(key.span, message, help);
    false
}

fn is_name(name: &str) -> bool {
    let inside = |c: char| c.is_alphanumeric() || c == '-' || c == '_';
    name.starts_with(char::is_alphanumeric) && name.chars().all(inside)
}

/// Changes a task as a profile says: params and run settings one by one, everything else as a whole.
fn apply(tasks: &mut [TaskDecl], name: &Key, change: &Node, report: &Report) {
    let names: Vec<String> = tasks.iter().map(|task| task.name.name.clone()).collect();
    let Some(task) = tasks.iter_mut().find(|task| task.name.name == name.name) else {
        let message = format!("no task is called `{}`", name.name);
        let help = did_you_mean(&name.name, names.iter().map(String::as_str));
        return report.error(name.span, message, help);
    };
    let known = ["params", "run", "matrix", "protect", "temporary"];
    let what = "a profile's task";
    if table(change, what, report).is_none() {
        return;
    }
    let mut fields = fields(change, &known, what, report);
    let mut take = |key: &str| {
        let node = fields.remove(key)?;
        let is_flag = ["protect", "temporary"].contains(&key);
        (is_flag || table(node, format_args!("`{key}`"), report).is_some()).then(|| node.clone())
    };
    merge(&mut task.params, take("params"));
    merge(&mut task.run, take("run"));
    task.matrix = take("matrix").or(task.matrix.take());
    task.protect = take("protect").or(task.protect.take());
    task.temporary = take("temporary").or(task.temporary.take());
}

fn merge(old: &mut Option<Node>, new: Option<Node>) {
    let Some(new) = new else { return };
    let Some(Node {
        value: Val::Table(entries),
        ..
    }) = old
    else {
        *old = Some(new);
        return;
    };
    let is_new = |(key, _): &&(Key, Node)| new.get(&key.name).is_none();
    let kept = entries.iter().filter(is_new);
    *entries = kept.chain(new.entries()).cloned().collect();
}

fn entry(task: &TaskDecl, (suffix, values): &Variant, vars: &Vars, report: &Report) -> Entry {
    let fill = |node: &Node| vars.substitute(node, values, report);
    let section = |node: &Option<Node>| node.as_ref().map(fill);
    Entry {
        name: [task.name.name.as_str(), suffix].concat(),
        base: task.name.name.clone(),
        span: task.name.span,
        kind: fill(&task.kind),
        inputs: section(&task.inputs),
        params: section(&task.params),
        run: section(&task.run),
        protect: section(&task.protect),
        temporary: section(&task.temporary),
        outputs: section(&task.outputs),
    }
}

fn axes(task: &TaskDecl, vars: &Vars, report: &Report) -> Axes {
    let Some(matrix) = &task.matrix else {
        return Vec::new();
    };
    let matrix = vars.substitute(matrix, &[], report);
    matrix
        .entries()
        .iter()
        .map(|(key, node)| (key.name.clone(), axis(key, node, report)))
        .collect()
}

/// A mistake in a matrix makes millions of tasks more easily than anybody wants them.
fn refuse_many(task: &TaskDecl, axes: &mut Axes, report: &Report) {
    const MOST: usize = 10_000;
    let mut sizes = axes.iter().map(|(_, values)| values.len());
    let count = sizes.try_fold(1, usize::checked_mul);
    if count.is_some_and(|count| count <= MOST) {
        return;
    }
    let sizes: Vec<String> = axes
        .iter()
        .map(|(_, values)| values.len().to_string())
        .collect();
    let message = format!(
        "the matrix of `{}` has {} variants, more than {MOST}",
        task.name.name,
        sizes.join(" × ")
    );
    report.error(task.name.span, message, "every axis multiplies the others");
    axes.iter_mut().for_each(|(_, values)| values.truncate(1));
}

/// The values of an axis, each with the name that it gives to its variant.
fn axis(key: &Key, node: &Node, report: &Report) -> Vec<(String, Node)> {
    let named: Vec<(Option<String>, &Node)> = match &node.value {
        Val::List(items) => items.iter().map(|item| (item.to_text(), item)).collect(),
        Val::Table(entries) => entries
            .iter()
            .map(|(key, node)| (Some(key.name.clone()), node))
            .collect(),
        Val::Broken => return Vec::new(),
        _ => Vec::new(),
    };
    if named.is_empty() {
        let message = format!("matrix axis `{}` has no values", key.name);
        report.error(node.span, message, "write an array: `[1e-3, 3e-3]`");
    }
    let mut seen = BTreeSet::new();
    let usable = |(name, value): (Option<String>, &Node)| {
        let name = name.filter(|name| is_variant(name));
        let fresh = name.as_ref().is_none_or(|name| seen.insert(name.clone()));
        if value.is_broken() {
            return None;
        }
        if name.is_none() {
            let help = "give it a name: `{ small = …, large = … }` instead of an array";
            report.error(value.span, "this value cannot name a variant", help);
        } else if !fresh {
            let message = format!("matrix axis `{}` has a value twice", key.name);
            report.error(value.span, message, "");
        }
        Some((name?, value.clone()))
    };
    named.into_iter().filter_map(usable).collect()
}

fn is_variant(name: &str) -> bool {
    let inside = |c: char| c.is_alphanumeric() || ['-', '_', '.', '+'].contains(&c);
    !name.is_empty() && name.chars().all(inside)
}

fn product(axes: &Axes) -> Vec<Variant> {
    let mut variants: Vec<Variant> = vec![(String::new(), Vec::new())];
    for (axis, values) in axes {
        let mut longer = Vec::with_capacity(variants.len() * values.len());
        for (suffix, chosen) in &variants {
            for (name, value) in values {
                let joint = if suffix.is_empty() { "@" } else { "," };
                let mut chosen = chosen.clone();
                chosen.push((axis.clone(), value.clone()));
                longer.push((format!("{suffix}{joint}{axis}={name}"), chosen));
            }
        }
        variants = longer;
    }
    variants
}

/// Names of tasks → the entries that they stand for: every variant by itself, and all of a matrix together.
pub fn names(entries: &[Entry]) -> FxHashMap<&str, Vec<usize>> {
    let mut names: FxHashMap<&str, Vec<usize>> = FxHashMap::default();
    names.reserve(entries.len());
    for (index, entry) in entries.iter().enumerate() {
        names.entry(&entry.base).or_default().push(index);
        if entry.name != entry.base {
            names.insert(&entry.name, vec![index]);
        }
    }
    names
}

/// A variant as this program writes it: `anneal@lr=1e-3` is `anneal@lr=0.001`.
pub fn canonical_variant(name: &str) -> String {
    let Some((base, variant)) = name.split_once('@') else {
        return name.to_owned();
    };
    let axis = |axis: &str| {
        let Some((name, value)) = axis.split_once('=') else {
            return axis.to_owned();
        };
        let is_float = value.contains(['.', 'e', 'E'])
            && value.starts_with(|c: char| "+-.0123456789".contains(c));
        let number = value.parse::<f64>().ok().filter(|_| is_float);
        match number.and_then(serde_json::Number::from_f64) {
            Some(number) => format!("{name}={number}"),
            None => axis.to_owned(),
        }
    };
    let axes: Vec<String> = variant.split(',').map(axis).collect();
    format!("{base}@{}", axes.join(","))
}
