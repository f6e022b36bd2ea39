//! `kbuild graph`: the tasks and what they need, for other programs to draw, as a picture, or as a page to walk through.

use std::time::Duration;

use kbuild_engine::explain::word;
use kbuild_engine::graph::TaskId;
use kbuild_engine::plan::Status;
use kbuild_engine::project::Project;

use super::{Exit, Stop, open};
use crate::args::{GraphArgs, GraphFormat, ProjectArgs};
use crate::console::plan::detail;
use crate::console::{self, clean, text};
use crate::page::browse::{self, Info};
use crate::page::graph::Drawing;

pub fn run(project_args: &ProjectArgs, args: &GraphArgs) -> Result<Exit, Stop> {
    let kinds = kbuild_tasks::kinds();
    let project = open(project_args, &kinds)?;
    let graph = project.graph();
    let goals = match args.goals.as_slice() {
        [] => graph.everything(),
        words => super::select(graph, words)?,
    };
    let tasks = graph.reach(&goals);
    let drawing = Drawing::of(graph, &tasks, |id| graph.task(id).kind.clone());
    let drawn = match args.format {
        GraphFormat::Dot => folded(drawing, args.grouped).dot(),
        GraphFormat::Mermaid => folded(drawing, args.grouped).mermaid(),
        GraphFormat::Svg => {
            let infos = infos(&project, &goals);
            let marked = drawing.marked(infos.iter().map(|info| info.status));
            folded(marked, args.grouped).svg()
        }
        GraphFormat::Html => {
            let title = if args.goals.is_empty() {
                "every task".to_owned()
            } else {
                args.goals.join(", ")
            };
            let lead = text::plural(tasks.len(), "task");
            browse::html(&title, &lead, &drawing, &infos(&project, &goals))
        }
    };
    let Some(path) = &args.output else {
        console::foreign(&drawn);
        return Ok(Exit::Done);
    };
    std::fs::write(path, drawn).map_err(|cause| Stop::io("write", path, &cause))?;
    console::data(&format!("{}\n", path.display()));
    Ok(Exit::Done)
}

/// With each composite and each matrix as one box, where that is wanted.
fn folded(drawing: Drawing, grouped: bool) -> Drawing {
    if !grouped {
        return drawing;
    }
    drawing.collapsed(|members| match members {
        [only] => drawing.nodes[*only].detail.clone(),
        several => text::plural(several.len(), "task"),
    })
}

/// What is known today of everything that the goals need.
fn infos(project: &Project, goals: &[TaskId]) -> Vec<Info> {
    let graph = project.graph();
    let plan = project.prepare(goals).plan;
    let info = |(id, status): &(TaskId, Status)| {
        let task = graph.task(*id);
        let (key, took) = match status {
            Status::Hit(receipt) | Status::Dropped(receipt) => {
                (receipt.key.short(), Some(receipt.elapsed_ms))
            }
            Status::Miss(work) => (work.key.short(), None),
            _ => (String::new(), None),
        };
        Info {
            name: task.name.clone(),
            kind: task.kind.clone(),
            status: word(status),
            reason: clean::without_commands(&detail(graph, task, status)).into_owned(),
            key,
            took: took.map_or(String::new(), |ms| {
                text::duration(Duration::from_millis(ms))
            }),
        }
    };
    plan.tasks.iter().map(info).collect()
}
