//! Budgets: `[budget.NAME]` adds up what some tasks take, may set a limit, and may hold it against another budget.

use std::collections::BTreeMap;

use super::inputs::References;
use super::node::{Key, Node, Val};
use super::problem::{Report, did_you_mean};
use super::schema::{fields, table, text, texts};
use crate::graph::{Graph, TaskId};

/// Tasks whose costs are added up.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Budget {
    /// What it is for, in the user's words.
    pub about: String,
    /// Each once, in topological order.
    pub tasks: Vec<TaskId>,
    /// The budget that it is compared with.
    pub against: Option<String>,
    /// Training FLOPs that its tasks may take together.
    pub flops: Option<f64>,
}

/// Every `[budget.NAME]`, by name. `tasks` says which tasks a draft stands for.
pub fn read(
    declared: &[(Key, Node)],
    references: &References<'_, '_>,
    tasks: &dyn Fn(usize) -> Vec<TaskId>,
) -> BTreeMap<String, Budget> {
    let report = references.report;
    let names: Vec<&str> = declared.iter().map(|(key, _)| key.name.as_str()).collect();
    let budget = |(key, node): &(Key, Node)| {
        let budget = budget(key, node, references, tasks)?;
        let known = |other: &String| names.contains(&other.as_str());
        if let Some(other) = budget.against.as_ref().filter(|other| !known(other)) {
            let span = node.get("against").map_or(key.span, |node| node.span);
            let help = did_you_mean(other, names.iter().copied());
            report.error(span, format!("no budget is called `{other}`"), help);
        }
        Some((key.name.clone(), budget))
    };
    declared.iter().filter_map(budget).collect()
}

fn budget(
    key: &Key,
    node: &Node,
    references: &References<'_, '_>,
    tasks: &dyn Fn(usize) -> Vec<TaskId>,
) -> Option<Budget> {
    let report = references.report;
    let what = format!("budget `{}`", key.name);
    table(node, &what, report)?;
    let fields = fields(node, &["about", "tasks", "against", "flops"], &what, report);
    let string = |name: &str| {
        let node = fields.get(name)?;
        text(node, format_args!("`{name}`"), report).map(str::to_owned)
    };
    let words = fields
        .get("tasks")
        .map_or_else(Vec::new, |node| texts(node, "a task", report));
    if words.is_empty() {
        let help = "add `tasks = [\":task\"]`: what it adds up";
        report.error(key.span, format!("{what} names no task"), help);
    }
    let mut found: Vec<TaskId> = words
        .iter()
        .flat_map(|(word, span)| references.tasks(word, *span))
        .flat_map(tasks)
        .collect();
    found.sort_unstable();
    found.dedup();
    Some(Budget {
        about: string("about").unwrap_or_default(),
        tasks: found,
        against: string("against"),
        flops: fields.get("flops").and_then(|node| limit(node, report)),
    })
}

fn limit(node: &Node, report: &Report) -> Option<f64> {
    let most = match node.value {
        Val::Int(number) => Some(number as f64),
        Val::Float(number) => Some(number),
        Val::Broken => return None,
        _ => None,
    };
    let most = most.filter(|most| *most >= 0.0);
    if most.is_none() {
        report.error(
            node.span,
            "`flops` is not a number of operations",
            "write it as `1.5e21`",
        );
    }
    most
}

/// Reports every budget that is too small for what is known of its tasks.
pub fn check(
    declared: &[(Key, Node)],
    budgets: &BTreeMap<String, Budget>,
    graph: &Graph,
    report: &Report,
) {
    let flops = |task: &TaskId| graph.task(*task).prediction.cost.flops.unwrap_or(0.0);
    for (key, node) in declared {
        let Some(budget) = budgets.get(&key.name) else {
            continue;
        };
        let sum: f64 = budget.tasks.iter().map(flops).sum();
        let Some(most) = budget.flops.filter(|most| sum > *most) else {
            continue;
        };
        let largest = budget
            .tasks
            .iter()
            .max_by(|a, b| flops(a).total_cmp(&flops(b)));
        let help = largest.map_or_else(String::new, |task| {
            let name = &graph.task(*task).name;
            format!("the most expensive is `{name}` with {:.3e}", flops(task))
        });
        let message = format!(
            "the tasks of budget `{}` take {sum:.3e} FLOPs, more than {most:.3e}",
            key.name
        );
        let span = node.get("flops").map_or(key.span, |node| node.span);
        report.error(span, message, help);
    }
}
