//! `kbuild metrics [TASK…]`: the numbers that tasks measured, the last of each.

use std::collections::BTreeMap;

use kbuild_engine::artifact::Content;
use kbuild_engine::graph::TaskId;
use kbuild_engine::plan::Status;
use kbuild_engine::project::Project;
use kbuild_engine::receipt::Receipt;
use kbuild_engine::store::Store;
use serde_json::Value;

use super::{Exit, Stop, open, select};
use crate::args::{MetricsArgs, ProjectArgs};
use crate::console::{self, flat, metrics};

/// Largest file that is looked at for numbers.
const LARGEST: u64 = 4 << 20;

pub fn run(project_args: &ProjectArgs, args: &MetricsArgs) -> Result<Exit, Stop> {
    let kinds = kbuild_tasks::kinds();
    let project = open(project_args, &kinds)?;
    let tasks = select(project.graph(), &args.tasks)?;
    let tasks = match args.needed {
        true => project.graph().reach(&tasks),
        false => tasks,
    };
    let found = measured(&project, &tasks, &args.only);
    if args.json {
        console::json(&format!("{:#}\n", metrics::to_json(&found)));
    } else if found.is_empty() {
        console::talk("no result of these tasks holds numbers");
    } else {
        console::data(&metrics::table(
            &found,
            !args.only.is_empty(),
            console::data_width(),
        ));
    }
    Ok(Exit::Done)
}

/// The numbers of every task that has some; of those that are not up to date from their last result.
fn measured(project: &Project, tasks: &[TaskId], only: &[String]) -> Vec<metrics::Row> {
    let plan = project.prepare(tasks).plan;
    let row = |id: &TaskId| {
        let name = &project.graph().task(*id).name;
        let (receipt, is_current) = match plan.status(*id) {
            Some(Status::Hit(receipt)) => ((**receipt).clone(), true),
            _ => {
                let last = project.store.last(name)?;
                (project.store.receipt(&last.key).ok()??, false)
            }
        };
        let mut numbers = of_receipt(&project.store, &receipt);
        numbers.retain(|path, _| only.is_empty() || only.iter().any(|word| is_meant(path, word)));
        (!numbers.is_empty()).then(|| metrics::Row {
            task: name.clone(),
            is_current,
            numbers,
        })
    };
    tasks.iter().filter_map(row).collect()
}

/// A word means a metric by its whole path or by the end of it: `loss` is meant by `metrics.loss`.
fn is_meant(path: &str, word: &str) -> bool {
    path == word || path.ends_with(&format!(".{word}"))
}

fn of_receipt(store: &Store, receipt: &Receipt) -> BTreeMap<String, f64> {
    let outputs = receipt.outputs.iter();
    outputs
        .flat_map(|(port, content)| numbers(store, port, content))
        .collect()
}

/// The numbers of an output that is a JSON object, or of the last line of one that is a log of steps; by path, beginning
/// with the port.
pub fn numbers(store: &Store, port: &str, content: &Content) -> BTreeMap<String, f64> {
    let value = match content {
        Content::File(blob) if blob.size <= LARGEST => {
            store.read(blob).ok().and_then(|bytes| last(&bytes))
        }
        _ => None,
    };
    let scalars = value.as_ref().map(flat::scalars).unwrap_or_default();
    scalars
        .into_iter()
        .filter_map(|(path, value)| Some((flat::join(port, &path), value.as_f64()?)))
        .collect()
}

fn last(bytes: &[u8]) -> Option<Value> {
    let text = std::str::from_utf8(bytes).ok()?;
    if let Ok(value @ Value::Object(_)) = serde_json::from_str(text) {
        return Some(value);
    }
    let value: Value = serde_json::from_str(text.trim_end().lines().last()?).ok()?;
    value.get("step").is_some().then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_or_the_last_step_holds_numbers_and_other_files_do_not() {
        let last = |text: &str| last(text.as_bytes());
        assert_eq!(last("{\"loss\": 2.0}").unwrap()["loss"], 2.0);
        let steps = "{\"step\": 1, \"loss\": 3.0}\n{\"step\": 2, \"loss\": 2.5}\n";
        assert_eq!(last(steps).unwrap()["loss"], 2.5);
        assert_eq!(last("{\"id\": \"a\"}\n{\"id\": \"b\"}\n"), None);
        assert_eq!(last("plain text\n"), None);
        assert_eq!(last(""), None);
        assert!(is_meant("metrics.loss", "loss") && !is_meant("metrics.floss", "loss"));
    }
}
