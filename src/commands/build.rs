//! `kbuild GOAL…`: plans, builds, and says how it went.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clap::CommandFactory;
use kbuild_engine::build::{Options, Outcome, Prepared};
use kbuild_engine::error::{Error, MORE_PROCESSES};
use kbuild_engine::event::{Events, Totals};
use kbuild_engine::graph::{Graph, TaskId};
use kbuild_engine::kananafile::{Resources, suggest};
use kbuild_engine::project::Project;
use kbuild_engine::runner::{self, Stop as Ask};
use tokio::sync::watch;

use super::made::Made;
use super::settled::{self, Before, Closing};
use super::signals::{self, Between, Signals};
use super::{
    DEFAULT_GOAL, Exit, Stop, build_id, chat, mention_warnings, open_at, page, plan, select_beside,
    workspace,
};
use crate::args::{BuildArgs, Cli, PlanArgs, ProjectArgs, verbs};
use crate::console::progress::{self, View};
use crate::console::summary::{self, Results};
use crate::console::{self};

type Shown = Arc<Mutex<Box<dyn View>>>;

pub fn run(project_args: &ProjectArgs, args: &BuildArgs) -> Result<Exit, Stop> {
    if args.dry_run {
        let plan_args = PlanArgs {
            goals: args.goals.clone(),
            detailed_exitcode: false,
            cost: false,
            json: args.json,
        };
        return plan::run(project_args, &plan_args);
    }
    let (workspace, file) = match workspace(project_args) {
        // Without a Kananafile and without a goal, somebody is looking for the way in.
        Err(stop @ Stop::Environment { .. })
            if args.goals.is_empty() && project_args.file.is_none() =>
        {
            console::prompt(&Cli::command().render_help().ansi().to_string());
            return Err(stop);
        }
        found => found?,
    };
    let ask = || settled::question(&workspace, &file, project_args, args);
    let before = match args.yes.is_empty() {
        true => settled::from_before(ask(), &workspace, project_args, args)?,
        false => Before::Open(None),
    };
    let before = match before {
        Before::Done(exit) => return Ok(exit),
        Before::Open(outcome) => outcome,
    };
    let between = before.as_ref().map(|_| Between::builds());
    let question = ask();
    let kinds = kbuild_tasks::kinds();
    let project = open_at(workspace, &file, project_args, &kinds)?;
    mention_warnings(&project);
    if args.goals.is_empty() && !project.graph().goals().contains_key(DEFAULT_GOAL) {
        let goals: Vec<&str> = project.graph().goals().keys().map(String::as_str).collect();
        let message = format!("no goal is named, and the Kananafile has no goal `{DEFAULT_GOAL}`");
        let help = format!("name one: `kbuild {}`", goals.first().unwrap_or(&"TASK"));
        return Err(Stop::words(message, help));
    }
    let goals = select_beside(&verbs(), project.graph(), &args.goals)?;
    let options = Options {
        allowed: allowed(project.graph(), args)?,
        continues: before.as_ref().and_then(Outcome::name),
        ..options(&project.kananafile.resources, args)
    };
    let prepared = project.prepare(&goals);
    let before = before.map(|outcome| outcome.totals);
    if project.is_settled(&prepared) {
        let closing = nothing_left(&project, &prepared, project_args, args, before)?;
        settled::remember(&project, &prepared, &question, &closing);
        return Ok(Exit::Done);
    }
    drop(between);
    let reading = same_reading(project_args);
    let outcome = drive(args.json, &reading, |events, stop| {
        project.build(prepared, options, events, stop)
    })?;
    let built = Outcome {
        totals: together(&before.unwrap_or_default(), &outcome.totals),
        ..outcome
    };
    finish(&project, &goals, project_args, args, &built)
}

/// Says that there is nothing to do, or nothing more after what was built `before`.
fn nothing_left(
    project: &Project,
    prepared: &Prepared,
    project_args: &ProjectArgs,
    args: &BuildArgs,
    before: Option<Totals>,
) -> Result<Closing, Stop> {
    plan::warn(prepared);
    let made = Made::before(prepared);
    if before.is_some() {
        page::draw_latest(project, &made)?;
    }
    let closing = Closing {
        line: console::plan::count_line(&console::plan::Counts::of(&prepared.plan)),
        results: results(project, &made, project_args, args),
    };
    let Some(before) = before else {
        if !args.json {
            closing.say();
        }
        return Ok(closing);
    };
    let all = Totals {
        hits: prepared.plan.tasks.len(),
        ..Totals::default()
    };
    console::talk(&summary::totals(&together(&before, &all)));
    console::prompt(&summary::results(&closing.results));
    Ok(closing)
}

/// How the build goes about it.
pub fn options(resources: &Resources, args: &BuildArgs) -> Options {
    let mut options = Options::new(&build_id());
    options.resources.pools = resources.pools();
    options.keep_going = args.keep_going;
    if let Some(jobs) = args.jobs {
        options.resources.cpu = jobs;
    }
    options
}

/// The tasks that `--yes` lets be rebuilt. A word may stand for several, and must stand for one.
fn allowed(graph: &Graph, args: &BuildArgs) -> Result<BTreeSet<String>, Stop> {
    let mut allowed = BTreeSet::new();
    for word in &args.yes {
        let tasks = graph.find(word).ok_or_else(|| {
            let near = suggest(word, graph.names());
            let help = near.map_or(String::new(), |near| format!("did you mean `{near}`?"));
            Stop::words(format!("`--yes {word}`: no task is called `{word}`"), help)
        })?;
        allowed.extend(tasks.iter().map(|id| graph.task(*id).name.clone()));
    }
    Ok(allowed)
}

/// Runs what executes tasks, shows its events, and passes on signals. `reading`: the options with which commands that
/// are suggested read the Kananafile.
pub fn drive<T, F>(
    json: bool,
    reading: &str,
    run: impl FnOnce(Events, watch::Receiver<Ask>) -> F,
) -> Result<T, Stop>
where
    F: Future<Output = Result<T, Error>>,
{
    runner::adopt_orphans();
    let start = |cause: std::io::Error| Stop::Environment {
        message: format!("cannot start the threads of the build: {cause}"),
        help: MORE_PROCESSES.to_owned(),
    };
    runner::can_start_threads().map_err(start)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(start)?;
    let view: Shown = Arc::new(Mutex::new(progress::view(json, reading)));
    let shown = Arc::clone(&view);
    let events = Events::new(move |event| with(&shown, |view| view.on(&event)));
    let (ask, asked) = watch::channel(Ask::No);
    let done = runtime.block_on(async {
        let signals = tokio::spawn(listen(ask, Arc::clone(&view)));
        let clock = tokio::spawn(tick(Arc::clone(&view)));
        let done = run(events, asked).await;
        signals.abort();
        clock.abort();
        done
    });
    with(&view, |view| view.close());
    Ok(done?)
}

/// Lets a view that moves show the time that passes, also where nothing is said.
async fn tick(view: Shown) {
    const PERIOD: Duration = Duration::from_millis(250);
    if !view.lock().is_ok_and(|view| view.moves()) {
        return;
    }
    loop {
        tokio::time::sleep(PERIOD).await;
        with(&view, |view| view.tick());
    }
}

/// Ctrl-C (or SIGTERM, SIGHUP) once: save and leave. Twice, or SIGQUIT: at once.
async fn listen(ask: watch::Sender<Ask>, view: Shown) {
    let Ok(mut signals) = Signals::new() else {
        return;
    };
    loop {
        let number = signals.next().await;
        let next = match *ask.borrow() {
            Ask::No if number != signals::AT_ONCE => Ask::Leave,
            Ask::No | Ask::Leave | Ask::Kill => Ask::Kill,
        };
        let line = match next {
            Ask::Kill => "killing what still runs",
            _ => "stopping: running tasks have time to save their state; once more kills them",
        };
        with(&view, |view| view.say(line));
        // The build holds the receiver; when it is gone there is nothing to stop.
        let _ = ask.send(next);
    }
}

fn with(view: &Shown, act: impl FnOnce(&mut Box<dyn View>)) {
    act(&mut view.lock().unwrap_or_else(PoisonError::into_inner));
}

fn finish(
    project: &Project,
    goals: &[TaskId],
    project_args: &ProjectArgs,
    args: &BuildArgs,
    outcome: &Outcome,
) -> Result<Exit, Stop> {
    if !args.json {
        console::talk(&summary::totals(&outcome.totals));
    }
    if outcome.is_complete() {
        let made = Made::by(outcome, project.graph(), goals);
        page::draw_latest(project, &made)?;
        if !args.json {
            let results = results(project, &made, project_args, args);
            console::prompt(&summary::results(&results));
        }
        return Ok(Exit::Done);
    }
    Ok(unfinished(outcome, args))
}

/// What there is to say of a build that did not come to its end.
pub fn unfinished(outcome: &Outcome, args: &BuildArgs) -> Exit {
    if !outcome.was_asked {
        return Exit::Failed;
    }
    if !args.json {
        console::talk("interrupted; the same command goes on from here");
    }
    Exit::Interrupted
}

/// The numbers of a build together with those of what was built before it: for it, that was up to date.
fn together(before: &Totals, now: &Totals) -> Totals {
    Totals {
        built: before.built + now.built,
        hits: now.hits.saturating_sub(before.built),
        elapsed_ms: before.elapsed_ms + now.elapsed_ms,
        ..now.clone()
    }
}

/// Where the model and the report are, and what they say.
fn results(
    project: &Project,
    made: &Made<'_>,
    project_args: &ProjectArgs,
    args: &BuildArgs,
) -> Results {
    let mut results = Results::default();
    if let Some(model) = chat::model_of(made.graph, made.goals) {
        let directory = project
            .store
            .latest(&made.graph.task(model.task).name)
            .join(&model.port);
        if directory.join("chat_template.jinja").exists() {
            let word = model_word(&args.goals, &made.graph.task(model.task).name);
            let same = same_reading(project_args);
            results.chat = Some(format!("{} chat {word}{same}", program()));
        }
        results.model = directory
            .exists()
            .then(|| console::text::from_here(&directory));
    }
    if let Some((task, report)) = page::report_of(project, made) {
        results.headline = crate::page::report::headline(&report);
        let path = page::latest_path(project, made.graph, task);
        results.page = path.exists().then(|| console::text::from_here(&path));
    }
    results
}

/// What a model is asked for by: one goal stands for its model; of several, the model has a name of its own.
fn model_word<'a>(goals: &'a [String], model: &'a str) -> &'a str {
    match goals {
        [] => DEFAULT_GOAL,
        [goal] => goal,
        _ => model,
    }
}

/// The options with which another command reads the Kananafile in the same way.
pub fn same_reading(args: &ProjectArgs) -> String {
    let directory = args.directory.iter().map(|path| ("-C", path));
    let file = args.file.iter().map(|path| ("-f", path));
    let paths = directory.chain(file);
    let path = |path: &Path| quoted(&path.display().to_string()).into_owned();
    let paths = paths.map(|(option, name)| format!(" {option} {}", path(name)));
    let profiles = args.profile.iter();
    let profiles = profiles.map(|name| format!(" --profile {}", quoted(name)));
    let vars = args.set.iter();
    let vars = vars.map(|(name, value)| format!(" --set {name}={}", quoted(value)));
    let outside = (args.allow_outside_includes).then(|| " --allow-outside-includes".to_owned());
    (paths.chain(profiles).chain(vars).chain(outside)).collect()
}

/// A word as a shell takes it.
fn quoted(word: &str) -> Cow<'_, str> {
    // No word of a command line holds a NUL.
    shlex::try_quote(word).unwrap_or(Cow::Borrowed(word))
}

/// The program as it was called: `target/release/kbuild` under `cargo run`.
fn program() -> String {
    std::env::args()
        .next()
        .unwrap_or_else(|| "kbuild".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_talked_to_by_a_word_that_means_it_alone() {
        let goals = ["tok", "cont"].map(str::to_owned);
        assert_eq!(model_word(&[], "nano"), DEFAULT_GOAL);
        assert_eq!(model_word(&goals[1..], "cont"), "cont");
        assert_eq!(model_word(&goals, "cont"), "cont");
    }

    #[test]
    fn the_next_command_reads_the_same_file_in_the_same_way() {
        let args = ProjectArgs {
            file: Some("x.kanana".into()),
            directory: Some("there".into()),
            profile: vec!["ci".to_owned()],
            set: vec![("seed".to_owned(), "7".to_owned())],
            allow_outside_includes: true,
        };
        assert_eq!(
            same_reading(&args),
            " -C there -f x.kanana --profile ci --set seed=7 --allow-outside-includes"
        );
        assert_eq!(same_reading(&ProjectArgs::default()), "");
        let args = ProjectArgs {
            directory: Some("my models".into()),
            set: vec![("note".to_owned(), "two words".to_owned())],
            ..ProjectArgs::default()
        };
        assert_eq!(
            same_reading(&args),
            " -C 'my models' --set note='two words'"
        );
    }
}
