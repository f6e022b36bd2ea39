//! `kbuild show [TASK]`: the Kananafile after expansion.

use super::{Exit, Stop, open, select};
use crate::args::{ProjectArgs, ShowArgs};
use crate::console;

pub fn run(project_args: &ProjectArgs, args: &ShowArgs) -> Result<Exit, Stop> {
    let kinds = kbuild_tasks::kinds();
    let project = open(project_args, &kinds)?;
    let graph = project.graph();
    let text = match &args.task {
        Some(name) => console::toml::tasks(graph, &select(graph, std::slice::from_ref(name))?),
        None => console::toml::kananafile(&project.kananafile),
    };
    console::foreign(&text);
    Ok(Exit::Done)
}
