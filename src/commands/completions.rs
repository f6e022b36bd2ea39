//! `kbuild completions SHELL`.

use clap::CommandFactory;

use super::{Exit, Stop};
use crate::args::{Cli, CompletionsArgs};
use crate::console;

pub fn run(args: &CompletionsArgs) -> Result<Exit, Stop> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "kbuild", &mut script);
    console::verbatim(&String::from_utf8_lossy(&script));
    Ok(Exit::Done)
}
