//! One file a verb. A command asks the engine for a value and hands it to `console`.

use std::process::ExitCode;

use kbuild_engine::kananafile::Problem;

use crate::args::{Cli, Verb};


mod completions;
mod kinds;

/// How the program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Done,
    /// A task failed or is held.
    Failed,
    /// The Kananafile, or the command line, is wrong.
    Wrong,
    /// Something outside failed.
    Environment,
    /// Work is pending: `plan --detailed-exitcode` alone.
    Pending,
    Interrupted,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Wrong => 2,
            Exit::Environment => 3,
            Exit::Pending => 4,
            Exit::Interrupted => 130,
        })
    }
}

/// Why a command could not do what it was asked.
#[derive(Debug)]
pub enum Stop {
    /// The Kananafile is wrong; all problems.
    Problems(Vec<Problem>),
    /// A word of the command line means nothing here.
    Words { message: String, help: String },
    /// Something outside failed.
    Environment(String),
}

pub fn run(cli: Cli) -> ExitCode {
    let outcome = match &cli.verb {
        Some(Verb::Kinds(args)) => kinds::run(args),
        Some(Verb::Completions(args)) => completions::run(args),
        _ => Ok(Exit::Done),
    };
    match outcome {
        Ok(exit) => exit.into(),
        Err(_) => Exit::Environment.into(),
    }
}
