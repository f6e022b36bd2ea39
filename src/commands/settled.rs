//! A build with nothing to do, or next to nothing, told from what the last one left.

use std::path::PathBuf;

use kbuild_engine::build::{Outcome, Prepared};
use kbuild_engine::project::{Answer, Project, Question, Slice};
use kbuild_engine::workspace::Workspace;
use serde::{Deserialize, Serialize};

use super::build::{drive, options, same_reading, unfinished};
use super::{Exit, Stop, build_id};
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
    let mut words = vec![
        build_id(),
        file.to_owned(),
        here.to_string_lossy().into_owned(),
        program,
        words.unwrap_or_default(),
    ];
    if project.allow_outside_includes {
        words.push("outside".to_owned());
    }
    Question::new(workspace, &words)
}

/// How far a command comes with what is known from before.
pub enum Before {
    Done(Exit),
    /// Everything must be looked at, after a build of what had moved if there was one.
    Open(Option<Outcome>),
}

/// Says that there is nothing to do if that is known from the last time; if it is known of all but a few tasks, looks at
/// those.
pub fn from_before(
    question: Question,
    workspace: &Workspace,
    project: &ProjectArgs,
    args: &BuildArgs,
) -> Result<Before, Stop> {
    let open = || Ok(Before::Open(None));
    let said = |answer: &[u8]| serde_json::from_slice::<Closing>(answer).ok();
    let loose = match question.answer(workspace) {
        None => return open(),
        Some(Answer::Settled(answer)) => {
            let Some(closing) = said(&answer) else {
                return open();
            };
            if !args.json {
                closing.say();
            }
            return Ok(Before::Done(Exit::Done));
        }
        // Whoever reads events expects one of every task.
        Some(Answer::Loose(_)) if args.json => return open(),
        Some(Answer::Loose(loose)) => loose,
    };
    let Some(slice) = Slice::cut(workspace, question, loose) else {
        return open();
    };
    let (Some(closing), Some(prepared)) = (said(slice.answer()), slice.prepare()) else {
        return open();
    };
    if slice.is_settled(&prepared) {
        closing.say();
        // What cannot be remembered is found out again.
        let _ = slice.seal(&prepared);
        return Ok(Before::Done(Exit::Done));
    }
    let (options, reading) = (options(slice.resources(), args), same_reading(project));
    let outcome = drive(args.json, &reading, |events, stop| {
        slice.build(prepared, options, events, stop)
    })?;
    let Some(outcome) = outcome else {
        // Results were removed meanwhile.
        return Ok(Before::Open(Some(Outcome::unbegun())));
    };
    let is_all = slice.is_all(&outcome);
    if outcome.is_complete() && !is_all && !outcome.was_asked {
        return Ok(Before::Open(Some(outcome)));
    }
    console::talk(&summary::totals(&slice.stopped(&outcome)));
    if !is_all {
        return Ok(Before::Done(unfinished(&outcome, args)));
    }
    console::prompt(&summary::results(&closing.results));
    Ok(Before::Done(Exit::Done))
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
