//! `kbuild check`: mistakes of the Kananafile. Reads no content of a source and runs nothing.

use kbuild_engine::kananafile::{Problem, Severity};
use kbuild_engine::project::Project;

use super::{Exit, Stop, open};
use crate::args::{CheckArgs, CheckFormat, ProjectArgs, Sources};
use crate::console::{self, problem, text};

pub fn run(project_args: &ProjectArgs, args: &CheckArgs) -> Result<Exit, Stop> {
    let kinds = kbuild_tasks::kinds();
    let (problems, n_tasks) = match open(project_args, &kinds) {
        Ok(project) => (sources(&project, args.sources), project.graph().len()),
        Err(Stop::Problems(problems)) => (problems, 0),
        Err(other) => return Err(other),
    };
    let is_wrong = problems
        .iter()
        .any(|problem| problem.severity == Severity::Error);
    match args.format {
        CheckFormat::Json => console::data(&problem::json(&problems)),
        CheckFormat::Github => console::data(&problem::github(&problems)),
        CheckFormat::Text => console::data(&problem::render_all(&problems, console::data_width())),
    }
    if is_wrong {
        return Ok(Exit::Wrong);
    }
    if args.format == CheckFormat::Text {
        console::data(&format!(
            "{}: no problems found\n",
            text::plural(n_tasks, "task")
        ));
    }
    Ok(Exit::Done)
}

fn sources(project: &Project, sources: Sources) -> Vec<Problem> {
    match sources {
        Sources::Required => project.missing_sources(),
        Sources::Optional => Vec::new(),
    }
}
