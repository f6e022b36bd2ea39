//! `kbuild check`: mistakes of the Kananafile. Reads no content of a source and runs nothing.

use kbuild_engine::kananafile::{Problem, Severity, problems_of_profiles};
use kbuild_engine::project::Project;

use super::{Exit, Stop, mention_trouble, open_at, reading, workspace};
use crate::args::{CheckArgs, CheckFormat, ProjectArgs, Sources, verbs};
use crate::console::{self, problem, text};

pub fn run(project_args: &ProjectArgs, args: &CheckArgs) -> Result<Exit, Stop> {
    let kinds = kbuild_tasks::kinds();
    let (workspace, file) = workspace(project_args)?;
    let (mut problems, n_tasks) = match open_at(workspace.clone(), &file, project_args, &kinds) {
        Ok(project) => {
            mention_trouble(&project);
            (found(&project, args.sources), project.graph().len())
        }
        Err(Stop::Problems(problems)) => (problems, 0),
        Err(other) => return Err(other),
    };
    // Whoever names profiles asks about those together; else each is looked into.
    if project_args.profile.is_empty() {
        let verbs = verbs();
        let reserved: Vec<&str> = verbs.iter().map(String::as_str).collect();
        let options = reading(&file, project_args, &reserved);
        let more = problems_of_profiles(&workspace, &kinds, &options, &problems);
        problems.extend(more);
    }
    let n_warnings = problems
        .iter()
        .filter(|problem| problem.severity == Severity::Warning)
        .count();
    let is_wrong = problems.len() > n_warnings;
    match args.format {
        CheckFormat::Json => console::json(&problem::json(&problems)),
        CheckFormat::Github => console::verbatim(&problem::github(&problems)),
        CheckFormat::Text => console::data(&problem::render_all(&problems, console::data_width())),
    }
    if is_wrong {
        return Ok(Exit::Wrong);
    }
    if args.format == CheckFormat::Text {
        let warnings = match n_warnings {
            0 => String::new(),
            n => format!(", {}", text::plural(n, "warning")),
        };
        console::data(&format!(
            "{}: no problems found{warnings}\n",
            text::plural(n_tasks, "task")
        ));
    }
    Ok(Exit::Done)
}

/// What there is to say of a file that can be built: warnings, and sources that are not there.
fn found(project: &Project, sources: Sources) -> Vec<Problem> {
    let mut found = project.kananafile.warnings.clone();
    if sources == Sources::Required {
        found.extend(project.missing_sources());
    }
    found
}
