//! One file a verb. A command asks the engine for a value and hands it to `console`.

mod accept;
mod artifact;
mod build;
mod chat;
mod check;
mod completions;
mod diff;
mod doctor;
mod export;
mod fsck;
mod gc;
mod graph;
mod init;
mod kinds;
mod log;
mod made;
mod metrics;
mod page;
mod plan;
mod schema;
mod settled;
mod show;
mod signals;
mod status;
mod verify;
mod why;

use std::mem::ManuallyDrop;
use std::path::Path;
use std::process::ExitCode;

use kbuild_engine::digest::Digest;
use kbuild_engine::error::{Error, limit_help};
use kbuild_engine::graph::{Graph, TaskId};
use kbuild_engine::kananafile::{Options, Problem, suggest};
use kbuild_engine::kind::Kinds;
use kbuild_engine::project::{Closed, NotAccepted, Project};
use kbuild_engine::workspace::{KANANAFILE, SAFE_DIRECTORY, Trust, Workspace};

use crate::args::{Cli, ProjectArgs, Verb, verbs};
use crate::console::{self, text};

/// Goal that `kbuild` alone builds.
const DEFAULT_GOAL: &str = "default";

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
    /// What was asked for is not there yet.
    Missing { message: String, help: String },
    /// Something outside failed.
    Environment { message: String, help: String },
    /// The Kananafile is somebody else's.
    Untrusted { message: String, help: String },
}

impl Stop {
    pub fn words(message: impl Into<String>, help: impl Into<String>) -> Self {
        Self::Words {
            message: message.into(),
            help: help.into(),
        }
    }

    pub fn missing(message: impl Into<String>, help: impl Into<String>) -> Self {
        Self::Missing {
            message: message.into(),
            help: help.into(),
        }
    }

    /// I/O that the program does itself.
    pub fn io(doing: &str, path: &Path, cause: &std::io::Error) -> Self {
        let message = format!("cannot {doing} `{}`: {cause}", path.display());
        Self::Environment {
            message,
            help: limit_help(cause).unwrap_or_default().to_owned(),
        }
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        let help = error.help().unwrap_or_default().to_owned();
        Self::Environment {
            message: error.to_string(),
            help,
        }
    }
}

impl From<Closed> for Stop {
    fn from(closed: Closed) -> Self {
        match closed {
            Closed::Problems(problems) => Self::Problems(problems),
            Closed::Environment(error) => error.into(),
        }
    }
}

impl From<NotAccepted> for Stop {
    fn from(not_accepted: NotAccepted) -> Self {
        match not_accepted {
            NotAccepted::Refused { message, help } => Self::Missing { message, help },
            NotAccepted::Environment(error) => error.into(),
        }
    }
}

/// Runs the command line to its end.
pub fn run(cli: Cli) -> ExitCode {
    if let Some(Verb::Task { request }) = &cli.verb {
        return kbuild_engine::runner::serve(&kbuild_tasks::kinds(), &build_id(), request);
    }
    match dispatch(&cli) {
        Ok(exit) => exit.into(),
        Err(stop) => report(stop).into(),
    }
}

fn dispatch(cli: &Cli) -> Result<Exit, Stop> {
    if let Some(directory) = &cli.project.directory {
        std::env::set_current_dir(directory)
            .map_err(|cause| Stop::io("enter", directory, &cause))?;
    }
    let project = &cli.project;
    let Some(verb) = &cli.verb else {
        return build::run(project, &cli.build);
    };
    if let Some(goal) = cli.build.goals.first() {
        let message = format!("`{goal}` stands before a verb");
        return Err(Stop::words(
            message,
            "goals follow the verb: `kbuild plan GOAL`",
        ));
    }
    match verb {
        Verb::Check(args) => check::run(project, args),
        Verb::Plan(args) => plan::run(project, args),
        Verb::Why(args) => why::run(project, args),
        Verb::Graph(args) => graph::run(project, args),
        Verb::Kinds(args) => kinds::run(project, args),
        Verb::Show(args) => show::run(project, args),
        Verb::Status(args) => status::run(project, args),
        Verb::Log(args) => log::run(project, args),
        Verb::Diff(args) => diff::run(project, args),
        Verb::Metrics(args) => metrics::run(project, args),
        Verb::Accept(args) => accept::run(project, args),
        Verb::Export(args) => export::run(project, args),
        Verb::Chat(args) => chat::run(project, args),
        Verb::Page(args) => page::run(project, args),
        Verb::Verify(args) => verify::run(project, args),
        Verb::Fsck(args) => fsck::run(project, args),
        Verb::Gc(args) => gc::run(project, args),
        Verb::Init(args) => init::run(args),
        Verb::Doctor => doctor::run(),
        Verb::Schema => schema::run(),
        Verb::Completions(args) => completions::run(args),
        Verb::Task { .. } => unreachable!("served before anything else is looked at"),
    }
}

fn report(stop: Stop) -> Exit {
    match stop {
        Stop::Problems(problems) => {
            console::prompt(&console::problem::render_all(
                &problems,
                console::terminal_width(),
            ));
            Exit::Wrong
        }
        Stop::Words { message, help } => {
            console::error(&message, &help);
            Exit::Wrong
        }
        Stop::Missing { message, help } => {
            console::error(&message, &help);
            Exit::Failed
        }
        Stop::Environment { message, help } | Stop::Untrusted { message, help } => {
            console::error(&message, &help);
            Exit::Environment
        }
    }
}

/// The folder and the name of the Kananafile that the command line means.
fn workspace(args: &ProjectArgs) -> Result<(Workspace, String), Stop> {
    let Some(file) = &args.file else {
        let here =
            std::env::current_dir().map_err(|cause| Stop::io("find", Path::new("."), &cause))?;
        let workspace = Workspace::discover(&here).map_err(|error| Stop::Environment {
            message: error.to_string(),
            help: "`kbuild init` starts a project here; `-C DIR` and `-f FILE` name another"
                .to_owned(),
        })?;
        trusted(workspace.root())?;
        let workspace = workspace.allowing_outside(args.allow_outside_includes);
        return Ok((workspace, KANANAFILE.to_owned()));
    };
    if file.is_dir() {
        let message = format!("`{}` is a directory", file.display());
        let help = format!(
            "`-f` names the file itself; `-C {}` looks for one there",
            file.display()
        );
        return Err(Stop::words(message, help));
    }
    let file = std::path::absolute(file).map_err(|cause| Stop::io("find", file, &cause))?;
    let name = file
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let folder = file.parent().unwrap_or(Path::new("/"));
    let workspace = Workspace::at(folder).allowing_outside(args.allow_outside_includes);
    Ok((workspace, name))
}

/// Refuses a Kananafile that was found and that somebody else may have written: it names programs to run. One that is
/// named by `-f` is wanted.
fn trusted(folder: &Path) -> Result<(), Stop> {
    let Some(owner) = Trust::of_this_process().stranger(folder) else {
        return Ok(());
    };
    let file = folder.join(KANANAFILE);
    let message = format!(
        "`{}` or its folder belongs to another user (uid {owner})",
        file.display()
    );
    let help = format!(
        "a Kananafile can run programs as you: if you trust this one, set `{SAFE_DIRECTORY}={}`, or name it with `-f`",
        folder.display()
    );
    Err(Stop::Untrusted { message, help })
}

/// Reads and checks the Kananafile. The program ends with the command: a large graph is not taken apart before.
fn open(args: &ProjectArgs, kinds: &Kinds) -> Result<ManuallyDrop<Project>, Stop> {
    let (workspace, file) = workspace(args)?;
    open_at(workspace, &file, args, kinds)
}

/// The same, where the Kananafile is known.
fn open_at(
    workspace: Workspace,
    file: &str,
    args: &ProjectArgs,
    kinds: &Kinds,
) -> Result<ManuallyDrop<Project>, Stop> {
    let verbs = verbs();
    let reserved: Vec<&str> = verbs.iter().map(String::as_str).collect();
    let options = reading(file, args, &reserved);
    Ok(ManuallyDrop::new(Project::at(workspace, kinds, &options)?))
}

/// How the command line wants the Kananafile to be read.
fn reading<'a>(file: &'a str, args: &'a ProjectArgs, reserved: &'a [&'a str]) -> Options<'a> {
    Options {
        file,
        profiles: &args.profile,
        set: &args.set,
        reserved,
    }
}

/// Says that the Kananafile has warnings, where somebody is about to build.
fn mention_warnings(project: &Project) {
    let n = project.kananafile.warnings.len();
    if n > 0 {
        let warnings = text::plural(n, "warning");
        console::talk(&console::styled(
            console::YELLOW,
            format!("{warnings}: `kbuild check` shows them"),
        ));
    }
}

/// Says that a build would refuse the cache directory, and why.
fn mention_trouble(project: &Project) {
    if let Some(trouble) = project.store.trouble() {
        console::warn(&format!("a build will stop: {trouble}"));
    }
}

/// The tasks that some words name; without words the default goal, or else every task.
fn select(graph: &Graph, words: &[String]) -> Result<Vec<TaskId>, Stop> {
    select_beside(&[], graph, words)
}

/// The same, where the word that names nothing may be one of these verbs.
fn select_beside(verbs: &[String], graph: &Graph, words: &[String]) -> Result<Vec<TaskId>, Stop> {
    if words.is_empty() {
        return Ok(match graph.goals().get(DEFAULT_GOAL) {
            Some(tasks) => tasks.clone(),
            None => graph.everything(),
        });
    }
    graph
        .select(words)
        .map_err(|unknown| not_found(verbs, graph, &unknown.word, unknown.suggestion))
}

fn not_found(verbs: &[String], graph: &Graph, word: &str, suggestion: Option<String>) -> Stop {
    let near = || suggestion.or_else(|| suggest(word, verbs.iter().map(String::as_str)));
    let help = if verbs.iter().any(|verb| verb == word) {
        format!("a verb stands before goals: `kbuild {word} …`")
    } else {
        near().map_or_else(
            || goals_line(graph),
            |near| format!("did you mean `{near}`?"),
        )
    };
    Stop::words(format!("no goal or task is called `{word}`"), help)
}

/// The one task that a word names.
fn one(graph: &Graph, word: &str) -> Result<TaskId, Stop> {
    let tasks = select(graph, &[word.to_owned()])?;
    match tasks.as_slice() {
        [only] => Ok(*only),
        several => {
            let names: Vec<&str> = several
                .iter()
                .map(|id| graph.task(*id).name.as_str())
                .collect();
            let message = format!("`{word}` stands for {} tasks", several.len());
            Err(Stop::words(
                message,
                format!("name one of {}", names.join(", ")),
            ))
        }
    }
}

fn goals_line(graph: &Graph) -> String {
    let goals: Vec<String> = graph
        .goals()
        .keys()
        .map(|goal| format!("`{goal}`"))
        .collect();
    match goals.as_slice() {
        [] => "`kbuild show` lists the tasks".to_owned(),
        goals => format!(
            "goals are {}; `kbuild show` lists the tasks",
            goals.join(", ")
        ),
    }
}

/// Identity of this program: which file the running image is. It guards one machine for the length of a build, so that
/// a build never meets another program behind the same path; it is in no key.
fn build_id() -> String {
    use std::os::unix::fs::MetadataExt;
    let image = std::fs::metadata("/proc/self/exe").map_or([0; 5], |file| {
        [
            file.dev().cast_signed(),
            file.ino().cast_signed(),
            file.len().cast_signed(),
            file.mtime(),
            file.mtime_nsec(),
        ]
    });
    let bytes: Vec<u8> = image
        .iter()
        .flat_map(|number| number.to_le_bytes())
        .collect();
    format!(
        "{}-{}",
        env!("CARGO_PKG_VERSION"),
        Digest::of(&bytes).short()
    )
}
