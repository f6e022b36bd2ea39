//! A build with nothing to do, told from what the last one left.

use std::path::PathBuf;

use kbuild_engine::build::Prepared;
use kbuild_engine::project::{Project, Question};
use kbuild_engine::workspace::Workspace;
use serde::{Deserialize, Serialize};

use super::build_id;
use crate::args::{BuildArgs, ProjectArgs};
use crate::console;
use crate::console::summary::{self, Results};

/// What is said when there is nothing to do.
#[derive(Debug, Serialize, Deserialize)]
pub struct Closing {
    pub line: String,
    pub results: Results,
}

impl Closing {
    pub fn say(&self) {
        console::talk(&self.line);
        console::prompt(&summary::results(&self.results));
    }
}

/// The question that this command line asks: everything that the closing words depend on beside files.
pub fn question(
    workspace: &Workspace,
    file: &str,
    project: &ProjectArgs,
    args: &BuildArgs,
) -> Question {
    let here = std::env::current_dir().unwrap_or_default();
    let program = std::env::args().next().unwrap_or_default();
    let words = serde_json::to_string(&(&project.profile, &project.set, &args.goals, args.json));
    let words = [
        build_id(),
        file.to_owned(),
        here.to_string_lossy().into_owned(),
        program,
        words.unwrap_or_default(),
    ];
    Question::new(workspace, &words)
}

/// Says that there is nothing to do if that is known from the last time; false if it is not.
pub fn say_again(question: &Question, workspace: &Workspace, args: &BuildArgs) -> bool {
    let answer = question.answer(workspace);
    let closing = answer.and_then(|answer| serde_json::from_slice::<Closing>(&answer).ok());
    if let Some(closing) = closing.as_ref().filter(|_| !args.json) {
        closing.say();
    }
    closing.is_some()
}

/// Remembers it for the next time. What cannot be remembered is found out again.
pub fn remember(project: &Project, prepared: &Prepared, question: &Question, closing: &Closing) {
    let is_silent = project.kananafile.warnings.is_empty() && prepared.warnings.is_empty();
    if let (true, Ok(answer)) = (is_silent, serde_json::to_vec(closing)) {
        let here = std::env::current_dir().unwrap_or_default();
        let shown = closing.results.model.iter().chain(&closing.results.page);
        let shown: Vec<PathBuf> = shown.map(|path| here.join(path)).collect();
        let _ = project.seal(question, prepared, &answer, &shown);
    }
}
