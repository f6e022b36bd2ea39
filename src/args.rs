//! The command line: one enum of verbs is the table that parsing, help, completion and the list of reserved names
//! all come from.
//!
//! Knows nothing of what a verb does; `commands/` has one file for each.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

/// Make for LLM builds: content-addressed tasks from raw text to an aligned model
///
/// `kbuild GOAL…` builds goals or tasks of the Kananafile; `kbuild` alone builds the goal `default` where the
/// Kananafile has one.
#[derive(Debug, Parser)]
#[command(
    name = "kbuild",
    version,
    max_term_width = 100,
    subcommand_help_heading = "Verbs",
    subcommand_value_name = "VERB",
    override_usage = "kbuild [OPTIONS] [GOAL]...\n       kbuild VERB [OPTIONS] ..."
)]
pub struct Cli {
    #[command(flatten)]
    pub project: ProjectArgs,
    #[command(flatten)]
    pub build: BuildArgs,
    #[command(subcommand)]
    pub verb: Option<Verb>,
}

/// Which Kananafile, and how it is read.
#[derive(Debug, Clone, Default, Args)]
pub struct ProjectArgs {
    /// Kananafile to read [default: the nearest one, from here upwards]
    #[arg(short, long, global = true, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Change to this directory first
    #[arg(short = 'C', long, global = true, value_name = "DIR")]
    pub directory: Option<PathBuf>,
    /// Profile of the Kananafile to apply; may be repeated, later ones win
    #[arg(long, global = true, value_name = "NAME")]
    pub profile: Vec<String>,
    /// Set a variable of the Kananafile: `--set seed=7`
    #[arg(long, global = true, value_name = "NAME=VALUE", value_parser = name_and_value)]
    pub set: Vec<(String, String)>,
    /// Read includes and plugins that lie outside the folder of the Kananafile, links followed
    #[arg(long, global = true)]
    pub allow_outside_includes: bool,
}

/// How a build runs.
#[derive(Debug, Clone, Default, Args)]
pub struct BuildArgs {
    /// Goals or tasks to build
    #[arg(value_name = "GOAL")]
    pub goals: Vec<String>,
    /// Print the plan and stop: nothing runs, nothing is written
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Tasks at once [default: as many as the processor has room for]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub jobs: Option<u32>,
    /// After a failure, finish everything that does not depend on it
    #[arg(long)]
    pub keep_going: bool,
    /// Allow this protected task to be rebuilt; may be repeated
    #[arg(long, value_name = "TASK")]
    pub yes: Vec<String>,
    /// Print events as JSON lines on stdout
    #[arg(long)]
    pub json: bool,
}

/// The verbs: everything that is not a build.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Find mistakes in the Kananafile: names, types, shapes, vocabularies, memory. Runs nothing
    Check(CheckArgs),
    /// Say what a build would do, and why
    Plan(PlanArgs),
    /// Say why one task must run, or why it need not: what differs from the last time
    Why(WhyArgs),
    /// Draw the graph of tasks
    Graph(GraphArgs),
    /// List the kinds of task, or describe one
    Kinds(KindsArgs),
    /// Print the Kananafile as it is after variables, profiles, matrices and composites are expanded
    Show(ShowArgs),
    /// Say what runs now, and how the last build went
    Status(StatusArgs),
    /// Print what the attempt that made a task's result wrote, or the events of a build
    Log(LogArgs),
    /// Put two results side by side: manifests, outputs, facts, metrics
    Diff(DiffArgs),
    /// Print the numbers that tasks measured
    Metrics(MetricsArgs),
    /// Let the old result of a task stand for what it would be today
    Accept(AcceptArgs),
    /// Copy an artifact out of the store
    Export(ExportArgs),
    /// Talk to a model
    Chat(ChatArgs),
    /// Draw the report of a goal or task as a page
    Page(PageArgs),
    /// Run a task again in a place of its own and compare what comes out
    Verify(VerifyArgs),
    /// Find damage in the store, and repair it from what is there
    Fsck(FsckArgs),
    /// Free what no goal reaches
    Gc(GcArgs),
    /// Start a new project: a Kananafile with a few lines of data
    Init(InitArgs),
    /// Say what this machine offers: processor, memory, cards, libraries, and what is missing
    Doctor,
    /// Print the JSON Schema of the Kananafile, for editors
    Schema,
    /// Print a completion script for a shell
    Completions(CompletionsArgs),
    /// Run one request of a build: the program is its own runner
    #[command(name = "__task", hide = true)]
    Task { request: PathBuf },
}

#[derive(Debug, Args)]
pub struct CheckArgs {
    /// How problems are printed
    #[arg(long, value_enum, default_value_t = CheckFormat::Text)]
    pub format: CheckFormat,
    /// Whether a source that is not there is a problem
    #[arg(long, value_enum, default_value_t = Sources::Required)]
    pub sources: Sources,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CheckFormat {
    /// For people: the line, a caret, a way out
    Text,
    /// One JSON object a line
    Json,
    /// Annotations of a GitHub workflow
    Github,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Sources {
    Required,
    Optional,
}

#[derive(Debug, Args)]
pub struct PlanArgs {
    /// Goals or tasks [default: the goal `default`, else every task]
    #[arg(value_name = "GOAL")]
    pub goals: Vec<String>,
    /// Exit with 4 when work is pending
    #[arg(long)]
    pub detailed_exitcode: bool,
    /// Add FLOPs, tokens, memory, disk and time
    #[arg(long)]
    pub cost: bool,
    /// Print the plan as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct WhyArgs {
    pub task: String,
    /// Print the difference as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct GraphArgs {
    /// Goals or tasks [default: every task]
    #[arg(value_name = "GOAL")]
    pub goals: Vec<String>,
    #[arg(long, value_enum, default_value_t = GraphFormat::Dot)]
    pub format: GraphFormat,
    /// Draw each composite and each matrix as one box; `html` shows both
    #[arg(long)]
    pub grouped: bool,
    /// Where it goes [default: stdout]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum GraphFormat {
    Dot,
    Mermaid,
    /// A picture with the status of each task
    Svg,
    /// A page to walk through: groups, pan, zoom, search, details
    Html,
}

#[derive(Debug, Args)]
pub struct KindsArgs {
    /// Kind to describe
    pub kind: Option<String>,
    /// Print the whole reference as Markdown
    #[arg(long, conflicts_with = "kind")]
    pub markdown: bool,
}

#[derive(Debug, Args)]
pub struct ShowArgs {
    /// Task to show [default: every task]
    pub task: Option<String>,
}

#[derive(Debug, Args)]
pub struct StatusArgs {
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct LogArgs {
    /// Task [default: the whole last build, as events]
    pub task: Option<String>,
    /// Lines from the end [default: all]
    #[arg(short = 'n', long, value_name = "N")]
    pub lines: Option<usize>,
    /// Replay what the build said of the task: progress, metrics, checkpoints
    #[arg(long)]
    pub events: bool,
    /// Print the events as JSON lines, as they were sent
    #[arg(long)]
    pub json: bool,
    /// Look into this build, by the beginning of its name [default: the one that made the result]
    #[arg(long, value_name = "BUILD")]
    pub build: Option<String>,
}

#[derive(Debug, Args)]
pub struct DiffArgs {
    /// Task, TASK.port, or the beginning of a key or digest
    pub a: String,
    pub b: String,
    /// Show what is equal as well
    #[arg(long)]
    pub all: bool,
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct MetricsArgs {
    /// Goals or tasks [default: the goal `default`, else every task]
    #[arg(value_name = "GOAL")]
    pub tasks: Vec<String>,
    /// Only numbers of this name, one column each; may be repeated
    #[arg(short, long, value_name = "NAME")]
    pub only: Vec<String>,
    /// Of everything that the goals need as well
    #[arg(long)]
    pub needed: bool,
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct AcceptArgs {
    pub task: String,
    /// Why it may stand: kept in the receipt
    #[arg(long)]
    pub reason: String,
}

#[derive(Debug, Args)]
pub struct ExportArgs {
    /// TASK or TASK.port
    pub artifact: String,
    /// Directory to make; must not exist, or be empty
    #[arg(value_name = "DIR")]
    pub target: PathBuf,
}

#[derive(Debug, Args)]
pub struct ChatArgs {
    /// A goal, a task that makes a model, or a directory in Hugging Face form
    pub model: String,
    /// Randomness of sampling; 0 always takes the likeliest token
    #[arg(long, default_value_t = 0.7, value_parser = temperature)]
    pub temperature: f32,
    /// Sample from the smallest set of tokens whose probabilities add up to this
    #[arg(long, default_value_t = 0.95, value_parser = share)]
    pub top_p: f32,
    /// Tokens in an answer at most
    #[arg(long, default_value_t = 256, value_parser = at_least_one)]
    pub max_tokens: usize,
    /// Seed of sampling
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Where answers are made: `cpu` or `gpu`
    #[arg(long, default_value = "cpu", value_parser = ["cpu", "gpu"])]
    pub device: String,
    /// A system message before the conversation
    #[arg(long)]
    pub system: Option<String>,
    /// Print the ids of prompt and answer as JSON instead of text
    #[arg(long)]
    pub show_tokens: bool,
}

fn temperature(word: &str) -> Result<f32, String> {
    let number: f32 = word.parse().map_err(|_| "not a number".to_owned())?;
    let is_one = number.is_finite() && number >= 0.0;
    is_one
        .then_some(number)
        .ok_or_else(|| "0 or more".to_owned())
}

fn share(word: &str) -> Result<f32, String> {
    let number: f32 = word.parse().map_err(|_| "not a number".to_owned())?;
    let is_one = number > 0.0 && number <= 1.0;
    is_one
        .then_some(number)
        .ok_or_else(|| "above 0, at most 1".to_owned())
}

fn at_least_one(word: &str) -> Result<usize, String> {
    let number: usize = word.parse().map_err(|_| "not a whole number".to_owned())?;
    (number > 0)
        .then_some(number)
        .ok_or_else(|| "1 or more".to_owned())
}

#[derive(Debug, Args)]
pub struct PageArgs {
    /// Task of kind `report`, or a goal that has one
    pub report: String,
    /// Where the page goes [default: beside the report, under cache/latest]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct VerifyArgs {
    pub task: String,
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct FsckArgs {
    /// Mend it; without this, only say what is wrong
    #[arg(long)]
    pub repair: bool,
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct GcArgs {
    /// Free it; without this, only say what would be freed
    #[arg(long)]
    pub yes: bool,
    /// Free no more than it takes for the store to be this small: `10GB`. What is quick to make goes first
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    pub max_size: Option<u64>,
    /// Free only what is older than this: `30d`, `12h`
    #[arg(long, value_name = "AGE", value_parser = age)]
    pub older_than: Option<Duration>,
    /// Keep the result of this task, whatever goals reach; may be repeated
    #[arg(long, value_name = "TASK")]
    pub pin: Vec<String>,
    /// Keep it no longer; may be repeated
    #[arg(long, value_name = "TASK")]
    pub unpin: Vec<String>,
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct InitArgs {
    /// Directory to start in [default: here]
    #[arg(value_name = "DIR")]
    pub target: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct CompletionsArgs {
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

/// Names that no goal and no task may have.
pub fn verbs() -> Vec<String> {
    let command = Cli::command();
    let names = command
        .get_subcommands()
        .map(|verb| verb.get_name().to_owned());
    names.chain(["help".to_owned()]).collect()
}

fn bytes(text: &str) -> Result<u64, String> {
    let whole = text.parse().ok();
    whole
        .or_else(|| kbuild_engine::kananafile::size(text))
        .ok_or_else(|| "expected a size such as `500M`, `10GB` or `1.5GiB`".to_owned())
}

fn age(text: &str) -> Result<Duration, String> {
    kbuild_engine::kananafile::duration(text)
        .ok_or_else(|| "expected a time such as `30d` or `12h`".to_owned())
}

fn name_and_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("expected NAME=VALUE, such as `seed=7`".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn goals_come_without_a_verb_and_options_may_stand_before_one() {
        let cli = Cli::parse_from(["kbuild", "-j", "2", "nano", "sft", "--set", "seed=7"]);
        assert_eq!(cli.build.goals, ["nano", "sft"]);
        assert_eq!(cli.project.set, [("seed".to_owned(), "7".to_owned())]);
        let cli = Cli::parse_from(["kbuild", "-C", "there", "plan", "nano", "--profile", "ci"]);
        assert!(matches!(cli.verb, Some(Verb::Plan(plan)) if plan.goals == ["nano"]));
        assert_eq!(cli.project.profile, ["ci"]);
    }

    #[test]
    fn sampling_that_is_none_is_refused() {
        for wrong in [
            ["--temperature", "nan"],
            ["--temperature", "-1"],
            ["--top-p", "0"],
            ["--top-p", "5"],
            ["--max-tokens", "0"],
        ] {
            let words = ["kbuild", "chat", "nano"].into_iter().chain(wrong);
            assert!(Cli::try_parse_from(words).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn reserved_names_are_the_verbs() {
        let verbs = verbs();
        for verb in ["check", "plan", "__task", "help", "gc"] {
            assert!(verbs.iter().any(|name| name == verb), "{verb}");
        }
    }
}
