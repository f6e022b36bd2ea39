//! `kbuild page GOAL`: the report of a pipeline, drawn as one HTML file. A build draws it as well.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kbuild_engine::artifact::Content;
use kbuild_engine::graph::{Graph, TaskId};
use kbuild_engine::project::Project;
use serde_json::Value;

use super::made::Made;
use super::{Exit, Stop, open, select};
use crate::args::{PageArgs, ProjectArgs};
use crate::console::{self, text};
use crate::page::graph::Drawing;
use crate::page::report::{Pipeline, page};

/// The kind whose reports are drawn.
const KIND: &str = "report";
/// Name of its page beside it.
const PAGE: &str = "report.html";

pub fn run(project_args: &ProjectArgs, args: &PageArgs) -> Result<Exit, Stop> {
    let kinds = kbuild_tasks::kinds();
    let project = open(project_args, &kinds)?;
    let goals = select(project.graph(), std::slice::from_ref(&args.report))?;
    let prepared = project.prepare(&goals);
    let made = Made::before(&prepared);
    let Some((task, report)) = report_of(&project, &made) else {
        let help = format!(
            "it must be built and hold a task of kind `{KIND}`: `kbuild {}`",
            args.report
        );
        return Err(Stop::missing(
            format!("`{}` has no report that is up to date", args.report),
            help,
        ));
    };
    let drawn = html(&made, task, &report);
    let path = match &args.output {
        Some(path) => {
            write(path, &drawn)?;
            path.clone()
        }
        None => {
            write_latest(&project, made.graph, task, &drawn)?;
            latest_path(&project, made.graph, task)
        }
    };
    console::data(&format!("{}\n", text::from_here(&path).display()));
    Ok(Exit::Done)
}

/// Draws the page of the goals' report beside it, where they have one.
pub fn draw_latest(project: &Project, made: &Made<'_>) -> Result<(), Stop> {
    let Some((task, report)) = report_of(project, made) else {
        return Ok(());
    };
    write_latest(project, made.graph, task, &html(made, task, &report))
}

/// The report among the goals, else the last one that they need: its task and its content.
pub fn report_of(project: &Project, made: &Made<'_>) -> Option<(TaskId, Value)> {
    let is_report = |id: &&TaskId| made.graph.task(**id).kind == KIND;
    let reached = made.graph.reach(made.goals);
    let task = *made
        .goals
        .iter()
        .rfind(is_report)
        .or_else(|| reached.iter().rfind(is_report))?;
    let Content::File(blob) = made.receipt(task)?.outputs.get("report")? else {
        return None;
    };
    let bytes = project.store.read(blob).ok()?;
    Some((task, serde_json::from_slice(&bytes).ok()?))
}

/// Where the page of a task's newest report lies.
pub fn latest_path(project: &Project, graph: &Graph, task: TaskId) -> PathBuf {
    project.store.latest(&graph.task(task).name).join(PAGE)
}

fn write_latest(project: &Project, graph: &Graph, task: TaskId, drawn: &str) -> Result<(), Stop> {
    let name = &graph.task(task).name;
    Ok(project.store.write_latest(name, PAGE, drawn.as_bytes())?)
}

fn html(made: &Made<'_>, task: TaskId, report: &Value) -> String {
    let name = &made.graph.task(task).name;
    page(name, report, &pipeline(made)).to_html()
}

/// The graph of everything that the goals need, each composite and matrix as one box.
fn pipeline(made: &Made<'_>) -> Pipeline {
    let graph = made.graph;
    let tasks = graph.reach(made.goals);
    let elapsed = |id: TaskId| made.receipt(id).map_or(0, |receipt| receipt.elapsed_ms);
    let drawing = Drawing::of(graph, &tasks, |id| graph.task(id).kind.clone());
    let drawing = drawing.collapsed(|members| {
        let sum: u64 = members.iter().map(|at| elapsed(tasks[*at])).sum();
        let what = match members {
            [only] => graph.task(tasks[*only]).kind.clone(),
            several => text::plural(several.len(), "task"),
        };
        format!("{what} · {}", text::duration(Duration::from_millis(sum)))
    });
    let sum: u64 = tasks.iter().map(|id| elapsed(*id)).sum();
    Pipeline {
        svg: crate::page::dag::svg(&drawing.nodes, &drawing.edges),
        lead: format!(
            "{}; {} of work when each ran last.",
            text::plural(tasks.len(), "task"),
            text::duration(Duration::from_millis(sum))
        ),
    }
}

fn write(path: &Path, html: &str) -> Result<(), Stop> {
    let parent = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent).map_err(|cause| Stop::io("create", parent, &cause))?;
    std::fs::write(path, html).map_err(|cause| Stop::io("write", path, &cause))
}
