//! `kbuild export TASK[.port] DIR`: a copy of an artifact outside the store.

use std::path::Path;
use std::sync::Arc;

use kbuild_engine::artifact::Content;
use kbuild_engine::graph::{Graph, OutputPort, TaskId};
use kbuild_engine::plan::Status;
use kbuild_engine::project::Project;
use kbuild_engine::receipt::Receipt;
use kbuild_engine::store::{Export, Materialise};

use super::{Exit, Stop, one, open};
use crate::args::{ExportArgs, ProjectArgs};
use crate::console;

pub fn run(project_args: &ProjectArgs, args: &ExportArgs) -> Result<Exit, Stop> {
    let kinds = kbuild_tasks::kinds();
    let project = open(project_args, &kinds)?;
    let (task, port) = find(project.graph(), &args.artifact)?;
    let _visit = project.store.visit();
    let receipt = receipt(&project, task)?;
    refuse_occupied(&args.target)?;
    let outputs = &project.graph().task(task).outputs;
    let chosen: Vec<&OutputPort> = outputs
        .iter()
        .filter(|output| port.is_none_or(|port| output.name == port))
        .collect();
    for output in &chosen {
        let content = &receipt.outputs[&output.name];
        let export = Export {
            port: &output.name,
            extension: &output.extension,
            content,
        };
        // A tree that comes alone is the directory; everything else goes into it.
        let target = match content {
            Content::File(_) => args.target.join(export.file_name()),
            _ if chosen.len() == 1 => args.target.clone(),
            _ => args.target.join(export.file_name()),
        };
        project
            .store
            .materialise(content, &output.extension, &target, Materialise::Writable)?;
        console::data(&format!("{}\n", target.display()));
    }
    Ok(Exit::Done)
}

/// What a task gave, if it is up to date.
pub fn receipt(project: &Project, task: TaskId) -> Result<Arc<Receipt>, Stop> {
    let prepared = project.prepare(&[task]);
    match prepared.plan.status(task) {
        Some(Status::Hit(receipt)) => Ok(Arc::clone(receipt)),
        Some(Status::Miss(work)) if work.dropped.is_some() => {
            Err(dropped(&[&project.graph().task(task).name]))
        }
        _ => {
            let name = &project.graph().task(task).name;
            let help =
                format!("build it first: `kbuild {name}`; `kbuild why {name}` says what changed");
            Err(Stop::missing(format!("`{name}` is not up to date"), help))
        }
    }
}

/// What is asked for was dropped when nobody needed it any more.
pub fn dropped(names: &[&str]) -> Stop {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    let message = format!(
        "the content of {} was dropped: everything that reads it is done",
        quoted.join(", ")
    );
    let help = format!(
        "build it as a goal, then it is made again and kept: `kbuild {}`",
        names.join(" ")
    );
    Stop::missing(message, help)
}

/// `task` or `task.port`; a port may also be meant where a task has a dot in its name.
fn find<'a>(graph: &Graph, word: &'a str) -> Result<(TaskId, Option<&'a str>), Stop> {
    if graph.find(word).is_some() {
        return Ok((one(graph, word)?, None));
    }
    let Some((task, port)) = word
        .rsplit_once('.')
        .filter(|(task, _)| graph.find(task).is_some())
    else {
        return Err(one(graph, word)
            .err()
            .unwrap_or_else(|| Stop::words("nothing is called that", "")));
    };
    let id = one(graph, task)?;
    let outputs = &graph.task(id).outputs;
    if outputs.iter().any(|output| output.name == port) {
        return Ok((id, Some(port)));
    }
    let names: Vec<String> = outputs
        .iter()
        .map(|output| format!("`{}`", output.name))
        .collect();
    Err(Stop::words(
        format!("task `{task}` has no output `{port}`"),
        format!("it has {}", names.join(", ")),
    ))
}

fn refuse_occupied(directory: &Path) -> Result<(), Stop> {
    let is_occupied = match std::fs::read_dir(directory) {
        Ok(mut entries) => entries.next().is_some(),
        Err(_) => directory.exists(),
    };
    if is_occupied {
        let message = format!(
            "`{}` is there already and is not empty",
            directory.display()
        );
        return Err(Stop::words(
            message,
            "name a directory that does not exist yet",
        ));
    }
    Ok(())
}
