//! Everything that is printed, and nothing else: the one place that writes to stdout and stderr.
//!
//! Data goes to stdout, talk to stderr. Text of others is made harmless on the way ([`clean`]). Knows nothing of how the
//! things it prints came about.

pub mod clean;
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

use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};
use std::sync::{LazyLock, OnceLock};

use anstream::stream::RawStream;
use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};

pub const BOLD: Style = Style::new().bold();
pub const DIM: Style = Style::new().dimmed();
pub const GREEN: Style = AnsiColor::Green.on_default();
pub const RED: Style = AnsiColor::Red.on_default().bold();
pub const YELLOW: Style = AnsiColor::Yellow.on_default();
pub const CYAN: Style = AnsiColor::Cyan.on_default();

/// What a stream makes of text.
struct Stream {
    shows_styles: bool,
    is_terminal: bool,
}

static STDOUT: LazyLock<Stream> = LazyLock::new(|| Stream::of(&io::stdout()));
static STDERR: LazyLock<Stream> = LazyLock::new(|| Stream::of(&io::stderr()));

impl Stream {
    fn of(stream: &impl RawStream) -> Self {
        Self {
            shows_styles: AutoStream::choice(stream) != ColorChoice::Never,
            is_terminal: stream.is_terminal(),
        }
    }

    /// What the program has put together, as it is written: no control character of others, no command of a CI run
    /// where it may be its log.
    fn harmless<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let text = clean::composed(text, self.shows_styles);
        match (self.is_terminal, text) {
            (true, text) => text,
            (false, Cow::Borrowed(text)) => clean::without_commands(text),
            (false, Cow::Owned(text)) => Cow::Owned(clean::without_commands(&text).into_owned()),
        }
    }
}

/// Text in a style; the streams below drop the styles where they are not wanted. Where no stream shows any, nothing is
/// made that would be dropped letter by letter.
pub fn styled(style: Style, text: impl std::fmt::Display) -> String {
    let text = text.to_string();
    let text = clean::one_line(&text);
    match STDOUT.shows_styles || STDERR.shows_styles {
        true => format!("{style}{text}{style:#}"),
        false => text.into_owned(),
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
    verbatim(&STDOUT.harmless(text));
}

/// Prints JSON on stdout: the same values, and no control character.
pub fn json(text: &str) {
    verbatim(&clean::json(text));
}

/// Prints text of several lines that another program or a model wrote: harmless on a terminal, and as it is for a
/// program that reads it.
pub fn foreign(text: &str) {
    match STDOUT.is_terminal {
        true => verbatim(&clean::lines(text)),
        false => verbatim(text),
    }
}

/// Prints on stdout what is harmless already.
pub fn verbatim(text: &str) {
    if let Err(cause) = written(io::stdout().lock(), text)
        && cause.kind() != io::ErrorKind::BrokenPipe
    {
        let _ = LOST.set(cause);
    }
}

fn written(mut stream: impl Write, text: &str) -> io::Result<()> {
    stream.write_all(text.as_bytes())?;
    stream.flush()
}

/// Prints a line of talk on stderr.
pub fn talk(line: &str) {
    prompt(&format!("{line}\n"));
}

/// Prints talk on stderr as it is, without ending the line.
pub fn prompt(text: &str) {
    let _ = written(io::stderr().lock(), &STDERR.harmless(text));
}

/// Prints a warning on stderr.
pub fn warn(message: &str) {
    let message = clean::lines(message);
    let message = clean::indented(&message);
    talk(&format!("{}: {message}", styled(YELLOW, "warning")));
}

/// Prints an error with its way out on stderr.
pub fn error(message: &str, help: &str) {
    let (message, help) = (clean::lines(message), clean::lines(help));
    let message = clean::indented(&message);
    talk(&format!("{}: {message}", styled(RED, "error")));
    if !help.is_empty() {
        let help = clean::indented(&help);
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
