//! Built-in kinds: the program is this test program, started again through a script that stands for it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use kbuild_engine::build::Options;
use kbuild_engine::event::BuildEvent;
use kbuild_engine::facts::Facts;
use kbuild_engine::facts::Prediction;
use kbuild_engine::kind::{Complaint, Kind, Kinds, Known, Ports, TaskKind};
use kbuild_engine::runner::{AtPath, Context, Failure, FailureClass, Stop, serve};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::world::{World, until};

/// Counts to `total`, a checkpoint at each step, and goes on from the last one.
struct Count;

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Params {
    total: u64,
    /// Where to note each start.
    starts: PathBuf,
    /// `panic`, `stop` (refuse the input) or `lie` (state a fact that was predicted otherwise).
    mood: String,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            total: 3,
            starts: PathBuf::new(),
            mood: String::new(),
        }
    }
}

impl TaskKind for Count {
    const NAME: &'static str = "count";
    const VERSION: u32 = 1;
    const SUMMARY: &'static str = "counts";
    type Params = Params;

    fn ports() -> Ports {
        Ports::new().output("out", "file", "the count")
    }

    fn predict(params: &Params, known: &Known<'_>) -> Result<Prediction, Vec<Complaint>> {
        let mut facts = Facts::default();
        facts.set("total", params.total);
        let mut prediction = Prediction::default().output("out", facts);
        prediction.cost.memory_bytes = Some(if known.recompute { 1 } else { 2 });
        Ok(prediction)
    }

    fn run(params: Params, context: &mut Context) -> Result<(), Failure> {
        let state = context.partial().join("state");
        let from: u64 = fs::read_to_string(&state)
            .ok()
            .and_then(|n| n.parse().ok())
            .unwrap_or(0);
        let noted = fs::read_to_string(&params.starts).unwrap_or_default();
        fs::write(&params.starts, format!("{noted}{from}\n")).at(&params.starts)?;
        assert_ne!(params.mood, "panic", "as asked");
        if params.mood == "stop" {
            return Err(Failure::input("the input is wrong").help("mend it"));
        }
        for step in from + 1..=params.total {
            std::thread::sleep(Duration::from_millis(5));
            fs::write(&state, step.to_string()).at(&state)?;
            context.checkpoint(step);
            context.progress(step, params.total, "steps");
            if context.should_stop() {
                return Err(Failure::interrupted());
            }
        }
        let total = params.total + u64::from(params.mood == "lie");
        context.fact("out", "total", total);
        context.fact("out", "recomputes", context.recompute());
        let out = context.output("out").to_owned();
        fs::write(&out, params.total.to_string()).at(&out)
    }
}

fn kinds() -> Kinds {
    Kinds::new(vec![Kind::task::<Count>()], Vec::new())
}

const REQUEST: &str = "KBUILD_TEST_REQUEST";
const FOLDER: &str = "KBUILD_TEST_COUNT_FOLDER";

/// Not a test: the body of an attempt, when a build started it.
#[test]
fn body_of_an_attempt() {
    let Some(request) = std::env::var_os(REQUEST) else {
        return;
    };
    let code = serve(&kinds(), "test", request.as_ref());
    std::process::exit(i32::from(code != std::process::ExitCode::SUCCESS));
}

/// Not a test: the body of a build process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn body_of_a_build() {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else {
        return;
    };
    let project = World::open_with(&folder.join("project"), &kinds());
    let outcome = World::build_at(&project, "t", |options| {
        options.program = folder.join("program");
    })
    .await;
    assert!(outcome.is_complete());
}

fn world(params: &str) -> World {
    world_with(params, "")
}

fn world_with(params: &str, run: &str) -> World {
    let text = format!(
        "kananafile = 1\n[task.t]\nkind = \"count\"\nparams = {{ starts = \"RUNS\", {params} }}\nrun = {{ {run} }}\n"
    );
    let world = World::new(&text, &[]);
    let exe = std::env::current_exe().unwrap();
    let script = format!(
        "#!/bin/sh\n{REQUEST}=\"$2\" exec '{}' --exact built_in::body_of_an_attempt --nocapture\n",
        exe.display()
    );
    world.write("program", &script);
    fs::set_permissions(world.path("program"), fs::Permissions::from_mode(0o755)).unwrap();
    world
}

fn own_program(world: &World) -> impl FnOnce(&mut Options) {
    let program = world.path("program");
    move |options| options.program = program
}

fn starts(world: &World) -> Vec<u64> {
    let text = fs::read_to_string(world.path("runs")).unwrap_or_default();
    text.lines().map(|line| line.parse().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runs_and_delivers() {
    let world = world("total = 3");
    let project = World::open_with(&world.path("project"), &kinds());
    let built = World::run(
        &project,
        "t",
        own_program(&world),
        watch::Sender::new(Stop::No),
    )
    .await;
    let built = built.complete();
    assert_eq!(world.latest("t/out"), "3");
    let receipt = built.outcome.receipts.values().next().unwrap();
    assert_eq!(receipt.facts["out"]["total"], 3);
    assert_eq!(receipt.facts["out"]["recomputes"], false);
    assert_eq!(receipt.environment["device"], "cpu");
    let steps = |event: &&BuildEvent| matches!(event, BuildEvent::Progress { .. });
    assert_eq!(built.events.iter().filter(steps).count(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn is_told_to_recompute_and_its_prediction_too() {
    let world = world_with("", "recompute = true");
    let project = World::open_with(&world.path("project"), &kinds());
    let (_, task) = project.graph().tasks().next().unwrap();
    assert_eq!(task.prediction.cost.memory_bytes, Some(1));
    let stop = watch::Sender::new(Stop::No);
    let built = World::run(&project, "t", own_program(&world), stop).await;
    let built = built.complete();
    let receipt = built.outcome.receipts.values().next().unwrap();
    assert_eq!(receipt.facts["out"]["recomputes"], true);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_keep_their_class_and_words() {
    for (mood, class, expected) in [
        ("panic", FailureClass::Bug, "panicked"),
        ("stop", FailureClass::Input, "the input is wrong"),
        ("lie", FailureClass::Bug, "`total` was predicted as"),
    ] {
        let world = world(&format!("mood = \"{mood}\""));
        let project = World::open_with(&world.path("project"), &kinds());
        let stop = watch::Sender::new(Stop::No);
        let built = World::run(&project, "t", own_program(&world), stop).await;
        let failed = built.events.iter().find_map(|event| match event {
            BuildEvent::Failed { class, message, .. } => Some((*class, message.as_str())),
            _ => None,
        });
        let (found, message) = failed.unwrap();
        assert_eq!(found, class, "{mood}: {message}");
        assert!(message.contains(expected), "{mood}: {message}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn continues_where_it_was_stopped() {
    let world = world("total = 60");
    let project = World::open_with(&world.path("project"), &kinds());
    let stop = watch::Sender::new(Stop::No);
    let (asker, partial) = (stop.clone(), world.cache().join("partial"));
    let asking = std::thread::spawn(move || {
        until("a checkpoint", || !crate::world::files(&partial).is_empty());
        asker.send_replace(Stop::Leave);
    });
    let built = World::run(&project, "t", own_program(&world), stop).await;
    asking.join().unwrap();
    assert!(built.outcome.is_interrupted(), "{:#?}", built.events);
    let built = World::run(
        &project,
        "t",
        own_program(&world),
        watch::Sender::new(Stop::No),
    )
    .await;
    built.complete();
    assert_eq!(world.latest("t/out"), "60");
    let starts = starts(&world);
    assert!(matches!(starts[..], [0, from] if from > 0), "{starts:?}");
}

#[test]
fn continues_where_a_killed_build_left_it() {
    let world = world("total = 60");
    let spawn = || {
        std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "built_in::body_of_a_build"])
            .env(FOLDER, world.folder.path())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap()
    };
    let mut build = spawn();
    let partial = world.cache().join("partial");
    until("a checkpoint", || !crate::world::files(&partial).is_empty());
    build.kill().unwrap();
    build.wait().unwrap();
    assert!(spawn().wait().unwrap().success());
    assert_eq!(world.latest("t/out"), "60");
    let starts = starts(&world);
    assert!(matches!(starts[..], [0, from] if from > 0), "{starts:?}");
}
