//! The program `kbuild`: words in, words out.
//!
//! It parses the command line, asks the engine, and prints. It computes nothing and knows no kind by name except where
//! a person is told how a model did and how to talk to it.

mod allocator;
mod args;
mod commands;
mod console;
mod page;

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;
use kbuild_engine::error::MORE_PROCESSES;
use kbuild_engine::limits;

#[global_allocator]
static ALLOCATOR: allocator::Allocator = allocator::Allocator;

fn main() -> ExitCode {
    limits::raise_open_files();
    explain_panics();
    let exit = match args::Cli::try_parse() {
        Ok(cli) => commands::run(cli),
        Err(error) => {
            // Help and version are data; a command line that cannot be read is the user's mistake.
            let is_help = matches!(
                error.kind(),
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
            );
            console::usage(&error, is_help);
            if is_help {
                ExitCode::SUCCESS
            } else {
                commands::Exit::Wrong.into()
            }
        }
    };
    match console::lost() {
        None => exit,
        Some(cause) => {
            console::error(&format!("cannot write to standard output: {cause}"), "");
            commands::Exit::Environment.into()
        }
    }
}

/// A panic for want of threads is no defect: the program says so and ends, because whoever waits for the thread that
/// could not be started would wait for ever.
fn explain_panics() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if limits::is_guarded() {
            return;
        }
        if limits::is_want_of_threads(&panic.to_string()) {
            let message = "cannot start a thread: the limit of processes is reached";
            console::error(message, MORE_PROCESSES);
            std::process::exit(3);
        }
        usual(panic);
    }));
}
