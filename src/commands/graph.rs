//! `kbuild graph`: the tasks and what they need, for other programs to draw.

use super::{Exit, Stop, open};
use crate::args::{GraphArgs, GraphFormat, ProjectArgs};
use crate::console;
use crate::page::graph::Drawing;

pub fn run(project_args: &ProjectArgs, args: &GraphArgs) -> Result<Exit, Stop> {
    let kinds = kbuild_tasks::kinds();
    let project = open(project_args, &kinds)?;
    let graph = project.graph();
    let goals = match args.goals.as_slice() {
        [] => graph.tasks().map(|(id, _)| id).collect(),
        words => super::select(graph, words)?,
    };
    let drawing = Drawing::of(graph, &graph.reach(&goals), |id| {
        graph.task(id).kind.clone()
    });
    console::data(&match args.format {
        GraphFormat::Dot => drawing.dot(),
        GraphFormat::Mermaid => drawing.mermaid(),
        GraphFormat::Svg => drawing.svg(),
    });
    Ok(Exit::Done)
}
