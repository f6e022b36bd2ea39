//! Everything that is printed, and nothing else: the one place that writes to stdout and stderr.
//!
//! Data goes to stdout, talk to stderr. Knows nothing of how the things it prints came about.

pub mod cost;
pub mod doctor;
pub mod events;
pub mod flat;
pub mod kinds;
pub mod metrics;
pub mod plan;
pub mod problem;
pub mod progress;
pub mod schema;
pub mod sides;
pub mod status;
pub mod summary;

pub mod text;
pub mod toml;
pub mod why;

use std::io::{self, IsTerminal, Write};
use std::sync::{LazyLock, OnceLock};

use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};

pub const BOLD: Style = Style::new().bold();
pub const DIM: Style = Style::new().dimmed();
pub const GREEN: Style = AnsiColor::Green.on_default();
pub const RED: Style = AnsiColor::Red.on_default().bold();
pub const YELLOW: Style = AnsiColor::Yellow.on_default();
pub const CYAN: Style = AnsiColor::Cyan.on_default();

/// Whether a stream shows styles. Where none does, nothing is made that would be dropped letter by letter.
static SHOWS_STYLES: LazyLock<bool> = LazyLock::new(|| {
    let stdout = AutoStream::choice(&io::stdout());
    let stderr = AutoStream::choice(&io::stderr());
    [stdout, stderr] != [ColorChoice::Never; 2]
});

/// Text in a style; the streams below drop the styles where they are not wanted.
pub fn styled(style: Style, text: impl std::fmt::Display) -> String {
    match *SHOWS_STYLES {
        true => format!("{style}{text}{style:#}"),
        false => text.to_string(),
    }
}

/// The first write to stdout that failed.
static LOST: OnceLock<io::Error> = OnceLock::new();

/// Why data did not get to where stdout goes, if some did not: a full disk.
pub fn lost() -> Option<&'static io::Error> {
    LOST.get()
}

/// Prints data on stdout, at once. A reader that has gone away (`| head`) is no error; any other is kept for the end.
pub fn data(text: &str) {
    let written = match text.contains('\x1b') {
        true => written(anstream::stdout().lock(), text),
        false => written(io::stdout().lock(), text),
    };
    if let Err(cause) = written
        && cause.kind() != io::ErrorKind::BrokenPipe
    {
        let _ = LOST.set(cause);
    }
}

fn written(mut stdout: impl Write, text: &str) -> io::Result<()> {
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// Prints a line of talk on stderr.
pub fn talk(line: &str) {
    let _ = writeln!(anstream::stderr().lock(), "{line}");
}

/// Prints talk on stderr as it is, without ending the line.
pub fn prompt(text: &str) {
    let mut stderr = anstream::stderr().lock();
    let _ = stderr.write_all(text.as_bytes());
    let _ = stderr.flush();
}

/// Prints a warning on stderr.
pub fn warn(message: &str) {
    talk(&format!("{}: {message}", styled(YELLOW, "warning")));
}

/// Prints an error with its way out on stderr.
pub fn error(message: &str, help: &str) {
    talk(&format!("{}: {message}", styled(RED, "error")));
    if !help.is_empty() {
        talk(&format!("  {}: {help}", styled(CYAN, "help")));
    }
}

/// Where the talk goes: columns of the terminal, or none for pipes and files.
pub fn terminal_width() -> Option<usize> {
    io::stderr().is_terminal().then(columns)
}

/// Columns of the terminal that stdout goes to, or none for pipes and files.
pub fn data_width() -> Option<usize> {
    io::stdout().is_terminal().then(columns)
}

/// True where lines that move are of use: a terminal, and not the log of a CI run.
pub fn is_interactive() -> bool {
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    io::stderr().is_terminal() && !dumb && std::env::var_os("CI").is_none()
}

fn columns() -> usize {
    usize::from(console::Term::stderr().size().1)
}

/// Help, version, or what is wrong with a command line, as the parser words it.
pub fn usage(error: &clap::Error, is_help: bool) {
    let text = error.render();
    if is_help {
        data(&text.ansi().to_string());
    } else {
        prompt(&text.ansi().to_string());
    }
}
