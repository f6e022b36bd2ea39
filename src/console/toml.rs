//! Expanded tasks as TOML, in the form of a Kananafile.

use kbuild_engine::graph::{Binding, Executor, Graph, InputPort, Origin, Task, TaskId};
use kbuild_engine::kananafile::Kananafile;
use serde_json::Value;
use toml::Table;

use super::clean;

/// Variables, goals and every task.
pub fn kananafile(file: &Kananafile) -> String {
    let mut root = Table::new();
    root.insert("kananafile".to_owned(), 1.into());
    let vars: Table = file
        .vars
        .iter()
        .filter_map(|(name, value)| Some((name.clone(), from_json(value)?)))
        .collect();
    root.insert("vars".to_owned(), vars.into());
    let goals: Table = file
        .graph
        .goals()
        .iter()
        .map(|(goal, tasks)| (goal.clone(), references(&file.graph, tasks)))
        .collect();
    root.insert("goal".to_owned(), goals.into());
    let all: Vec<TaskId> = file.graph.tasks().map(|(id, _)| id).collect();
    format!("{}\n{}", print(&root), tasks(&file.graph, &all))
}

/// The given tasks, one section each.
pub fn tasks(graph: &Graph, ids: &[TaskId]) -> String {
    let sections = ids.iter().map(|id| {
        let task = graph.task(*id);
        let section: Table = [(task.name.clone(), section(graph, task).into())]
            .into_iter()
            .collect();
        let root: Table = [("task".to_owned(), section.into())].into_iter().collect();
        print(&root)
    });
    sections.collect::<Vec<_>>().join("\n")
}

fn section(graph: &Graph, task: &Task) -> Table {
    let mut table = Table::new();
    table.insert("kind".to_owned(), task.kind.clone().into());
    let inputs: Table = task
        .inputs
        .iter()
        .map(|port| (port.name.clone(), input(graph, port)))
        .collect();
    table.insert("inputs".to_owned(), inputs.into());
    if let Some(params) = from_json(&task.params) {
        table.insert("params".to_owned(), params);
    }
    let outputs: Table = task
        .outputs
        .iter()
        .map(|port| (port.name.clone(), port.format.clone().into()))
        .collect();
    table.insert("outputs".to_owned(), outputs.into());
    if let Executor::Command(program) | Executor::Plugin(program) = &task.executor {
        let mut entry = Table::new();
        entry.insert("argv".to_owned(), program.argv.clone().into());
        entry.insert("files".to_owned(), program.files.clone().into());
        entry.insert("env".to_owned(), program.env.clone().into());
        table.insert("program".to_owned(), entry.into());
    }
    if task.protect {
        table.insert("protect".to_owned(), true.into());
    }
    if task.temporary {
        table.insert("temporary".to_owned(), true.into());
    }
    table
}

fn input(graph: &Graph, port: &InputPort) -> toml::Value {
    if port.labelled {
        let labels: Table = port
            .bindings
            .iter()
            .map(|each| (each.label.clone(), reference(graph, each).into()))
            .collect();
        return labels.into();
    }
    match port.bindings.as_slice() {
        [only] => reference(graph, only).into(),
        several => several
            .iter()
            .map(|each| reference(graph, each))
            .collect::<Vec<_>>()
            .into(),
    }
}

fn reference(graph: &Graph, binding: &Binding) -> String {
    match binding.from {
        Origin::Source(id) => graph.source(id).pattern.clone(),
        Origin::Task { task, port } => {
            let task = graph.task(task);
            format!(":{}.{}", task.name, task.outputs[port as usize].name)
        }
    }
}

fn references(graph: &Graph, tasks: &[TaskId]) -> toml::Value {
    tasks
        .iter()
        .map(|id| format!(":{}", graph.task(*id).name))
        .collect::<Vec<_>>()
        .into()
}

/// JSON as TOML, which has no null: such fields are left out.
fn from_json(value: &Value) -> Option<toml::Value> {
    Some(match value {
        Value::Null => return None,
        Value::Bool(flag) => (*flag).into(),
        Value::Number(number) => match number.as_i64() {
            Some(integer) => integer.into(),
            None => number.as_f64()?.into(),
        },
        Value::String(text) => text.clone().into(),
        Value::Array(items) => items
            .iter()
            .filter_map(from_json)
            .collect::<Vec<_>>()
            .into(),
        Value::Object(fields) => {
            let fields = fields
                .iter()
                .filter_map(|(name, field)| Some((name.clone(), from_json(field)?)));
            fields.collect::<Table>().into()
        }
    })
}

fn print(table: &Table) -> String {
    let mut odd = Vec::new();
    let table = set_aside(&toml::Value::Table(table.clone()), &mut odd);
    let text = toml::to_string(&table).expect("a table of strings, numbers and tables is TOML");
    odd.iter().enumerate().fold(text, |text, (at, string)| {
        text.replace(&format!("\"{}\"", stand_in(at)), string)
    })
}

/// What stands for a string while TOML is written: of a private plane, so that nobody writes it.
fn stand_in(at: usize) -> String {
    format!("\u{f0001}{at}\u{f0001}")
}

/// The value with a stand-in for each string that would control a terminal or a CI run; `odd` gets them, every such
/// character escaped. An escape of JSON is one of TOML.
fn set_aside(value: &toml::Value, odd: &mut Vec<String>) -> toml::Value {
    match value {
        toml::Value::String(text) if clean::is_odd(text) => {
            let string = serde_json::Value::from(text.as_str()).to_string();
            odd.push(clean::json(&string).into_owned());
            stand_in(odd.len() - 1).into()
        }
        toml::Value::Array(items) => {
            let items = items.iter().map(|item| set_aside(item, odd));
            items.collect::<Vec<_>>().into()
        }
        toml::Value::Table(fields) => {
            let fields = fields.iter();
            let fields = fields.map(|(name, field)| (name.clone(), set_aside(field, odd)));
            fields.collect::<Table>().into()
        }
        value => value.clone(),
    }
}
