//! One attempt at a task, from the lock to the receipt.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::arguments::arguments;
use super::blame::{blame, blame_disk};
use super::claim::{Claim, claim};
use super::driver::Job;
use super::machine;
use super::mapped;
use super::outputs;
use super::stage::{Lent, Staged, Watched, stage};
use crate::artifact::Content;
use crate::error::Error;
use crate::event::BuildEvent;
use crate::graph::{Executor, Program, Task};
use crate::key::Manifest;
use crate::receipt::{self, Receipt, Text};
use crate::runner::{Attempt, Ended, Event, Failure, FailureClass, Launch, MARK, Stdin, Stop, run};
use crate::store::{BlobState, Lock};

/// Measured facts by output port.
pub type Measured = BTreeMap<String, BTreeMap<String, Value>>;

/// What an attempt came to.
pub struct Success {
    pub receipt: Arc<Receipt>,
    /// False when somebody else did the work meanwhile.
    pub executed: bool,
}

impl std::convert::From<Error> for Failure {
    fn from(error: Error) -> Self {
        let class = match error.is_full() {
            true => FailureClass::Resources,
            false => FailureClass::Environment,
        };
        Self::new(class, error.to_string()).help(error.help().unwrap_or_default())
    }
}

/// Does the work of a job, or waits for whoever does it.
pub async fn execute(job: Arc<Job>) -> Result<Success, Failure> {
    let lock = match claim(&job).await? {
        Claim::Done(receipt) => {
            return Ok(Success {
                receipt,
                executed: false,
            });
        }
        Claim::Mine(lock) => lock,
    };
    let receipt = match &job.work.parts {
        Some(parts) => mapped::execute(&job, parts, lock).await?,
        None => whole(&job, lock).await?,
    };
    Ok(Success {
        receipt: Arc::new(receipt),
        executed: true,
    })
}

async fn whole(job: &Arc<Job>, lock: Lock) -> Result<Receipt, Failure> {
    let staged = Arc::new(prepare(job, Vec::new()).await?);
    let mut measured = Measured::new();
    let ended = attempt(job, &staged, &lock, async |events| {
        listen(job, events, &mut measured).await;
    })
    .await?;
    let job = Arc::clone(job);
    blocking(move || {
        let _unwritten = job.shared.unwritten.read();
        let receipt = conclude(&job, &staged, measured, ended.elapsed)?;
        finish(&job, &receipt)?;
        drop(lock);
        Ok(receipt)
    })
    .await
}

/// Stages an attempt at the whole, or at parts.
pub async fn prepare(job: &Arc<Job>, parts: Vec<crate::plan::Part>) -> Result<Staged, Failure> {
    let job = Arc::clone(job);
    blocking(move || {
        unmoved(&job, &all_watched(&job))?;
        stage(&job, &parts.iter().collect::<Vec<_>>())
    })
    .await
}

/// Program files; the files of sources are looked at when the attempt ends.
fn all_watched(job: &Job) -> Vec<Watched> {
    let sources = job.shared.graph.sources_of(&[job.id]);
    sources
        .into_iter()
        .filter_map(|id| job.shared.scan.files(id))
        .flat_map(|laid| laid.files().into_iter().map(Watched::itself))
        .collect()
}

/// Runs the child and hands its events to `listener`; both are over when this returns.
pub async fn attempt(
    job: &Job,
    staged: &Staged,
    lock: &Lock,
    listener: impl AsyncFnOnce(UnboundedReceiver<Event>),
) -> Result<Ended, Failure> {
    let mark = staged
        .directory
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let inherited = lock.as_fd().try_clone_to_owned().map_err(|error| {
        Failure::new(
            FailureClass::Environment,
            format!("cannot hand down a lock: {error}"),
        )
    })?;
    let launch = launch(job, staged, &mark, inherited);
    job.shared.events.send(BuildEvent::Running {
        task: job.task().name.clone(),
        attempt: job.attempt,
        log: launch.log.clone(),
        resumed: has_entries(&staged.request.partial),
    });
    let (sender, receiver) = unbounded_channel();
    lock.record(&Attempt::new(&mark))?;
    let running = run(launch, sender, job.stop.subscribe());
    let (ended, ()) = tokio::join!(running, listener(receiver));
    unharmed(
        job,
        staged
            .lent
            .iter()
            .chain(staged.lent_by_part.values().flatten()),
    )?;
    match ended.failure {
        Some(failure) => {
            let failure = blame(failure, &staged.inputs(), job.shared.workspace.root());
            Err(blame_disk(failure, &staged.directory))
        }
        None => Ok(ended),
    }
}

fn launch(job: &Job, staged: &Staged, mark: &str, lock: OwnedFd) -> Launch {
    let task = job.task();
    let mut environment: BTreeMap<String, Option<OsString>> = declared(job, task);
    environment.insert("TMPDIR".to_owned(), Some(staged.scratch().into()));
    environment.insert(
        "CUDA_VISIBLE_DEVICES".to_owned(),
        Some(machine::visible_cards(&job.grant.gpus).into()),
    );
    environment.insert(MARK.to_owned(), Some(mark.into()));
    Launch {
        argv: argv(job, task, staged),
        directory: job.shared.workspace.root().to_owned(),
        environment,
        stdin: match task.executor {
            Executor::BuiltIn => Stdin::Watch,
            Executor::Command(_) | Executor::Plugin(_) => Stdin::Null,
        },
        speaks: !matches!(task.executor, Executor::Command(_)),
        log: job.shared.journal.task_log(&task.name),
        timeout: task.run.timeout,
        grace: job.shared.options.grace,
        inherited: vec![lock],
        mark: mark.to_owned(),
    }
}

/// Declared variables as the key has them: what is not set is not passed on.
fn declared(job: &Job, task: &Task) -> BTreeMap<String, Option<OsString>> {
    let names = task
        .executor
        .program()
        .map_or(&[][..], |program| &program.env);
    let values = &job.shared.scan.snapshot.env;
    names
        .iter()
        .map(|name| (name.clone(), values.get(name).map(OsString::from)))
        .collect()
}

fn argv(job: &Job, task: &Task, staged: &Staged) -> Vec<OsString> {
    let request = staged.request_path().into_os_string();
    match &task.executor {
        Executor::BuiltIn => {
            vec![
                job.shared.options.program.clone().into(),
                "__task".into(),
                request,
            ]
        }
        Executor::Command(Program { argv, .. }) => arguments(argv, &staged.request),
        Executor::Plugin(Program { argv, .. }) => {
            argv.iter().map(OsString::from).chain([request]).collect()
        }
    }
}

/// Passes on what a child says, and collects its facts.
async fn listen(job: &Job, mut events: UnboundedReceiver<Event>, measured: &mut Measured) {
    while let Some(event) = events.recv().await {
        if let Event::Fact { port, name, value } = event {
            measured.entry(port).or_default().insert(name, value);
        } else {
            pass_on(job, event);
        }
    }
}

/// Passes on what a child says to people.
pub fn pass_on(job: &Job, event: Event) {
    let task = job.task().name.clone();
    job.shared.events.send(match event {
        Event::Progress { done, total, unit } => BuildEvent::Progress {
            task,
            done,
            total,
            unit,
        },
        Event::Metric { step, name, value } => BuildEvent::Metric {
            task,
            step,
            name,
            value,
        },
        Event::Note { text } => BuildEvent::Note { task, text },
        Event::Checkpoint { step } => BuildEvent::Checkpoint { task, step },
        Event::Fact { .. } | Event::Part { .. } | Event::Failed { .. } => return,
    });
}

/// From what lies in `out/` to a receipt that can be written.
fn conclude(
    job: &Job,
    staged: &Staged,
    measured: Measured,
    elapsed: Duration,
) -> Result<Receipt, Failure> {
    let out = staged.out();
    outputs::nothing_else(&out, &staged.promised())?;
    agrees(job.task(), &measured)?;
    let mut laid = BTreeMap::new();
    for port in &job.task().outputs {
        let path = &staged.request.outputs[&port.name];
        laid.insert(
            port.name.clone(),
            outputs::survey(&out, &port.name, path, port.shape)?,
        );
    }
    unmoved(job, &staged.watched)?;
    let outputs = laid
        .iter()
        .map(|(port, laid)| Ok((port.clone(), job.shared.store.keep(laid)?)))
        .collect::<Result<BTreeMap<_, _>, Failure>>()?;
    Ok(new_receipt(
        job,
        &job.work.manifest,
        outputs,
        measured,
        elapsed,
    ))
}

/// Measured facts must not contradict what was predicted.
pub fn agrees(task: &Task, measured: &Measured) -> Result<(), Failure> {
    for (port, facts) in measured {
        let Some(predicted) = task.prediction.outputs.get(port) else {
            continue;
        };
        if let Some((name, predicted, found)) = predicted.contradictions(facts).first() {
            let message =
                format!("output `{port}`: `{name}` was predicted as {predicted} and is {found}");
            return Err(Failure::new(FailureClass::Bug, message).help(
                "either a fact that a `[source]` declares is wrong, or this is a defect of the kind: then please \
                 report it",
            ));
        }
    }
    Ok(())
}

/// Refuses a result of a task that wrote to what it was lent: others read that, too. What it wrote to is given up, so
/// that whoever made it makes it again.
pub fn unharmed<'a>(job: &Job, lent: impl IntoIterator<Item = &'a Lent>) -> Result<(), Failure> {
    let store = &job.shared.store;
    let is_harmed = |lent: &&Lent| {
        store.stamp(&lent.blob) != lent.stamp && store.verify(&lent.blob) != BlobState::Sound
    };
    let harmed: Vec<&Lent> = lent.into_iter().filter(is_harmed).collect();
    let Some(first) = harmed.first() else {
        return Ok(());
    };
    for lent in &harmed {
        store.give_up(&lent.blob)?;
    }
    let message = format!(
        "its input `{}` was written to while it ran, and belongs to the cache",
        first.label
    );
    Err(Failure::new(FailureClass::Bug, message)
        .help("let it write to its outputs or to a copy; the next build makes the input again"))
}

/// Refuses a result whose inputs changed while it was made: nobody knows which of them it saw.
pub fn unmoved<'a>(
    job: &Job,
    watched: impl IntoIterator<Item = &'a Watched>,
) -> Result<(), Failure> {
    let files = watched.into_iter();
    let files = files.map(|file| (file.name.as_path(), file.place.as_path()));
    let moved = job.shared.workspace.moved(&job.shared.scan, files);
    let Some(first) = moved.first() else {
        return Ok(());
    };
    let others = match moved.len() {
        1 => String::new(),
        n => format!(" and {} more", n - 1),
    };
    let message = format!(
        "`{}`{others} changed since this build began; the result is discarded",
        first.display()
    );
    Err(Failure::new(FailureClass::Environment, message).help("run the same command again"))
}

pub fn new_receipt(
    job: &Job,
    manifest: &Manifest,
    outputs: BTreeMap<String, Content>,
    facts: Measured,
    elapsed: Duration,
) -> Receipt {
    Receipt {
        schema: receipt::SCHEMA,
        key: manifest.key(),
        manifest: Text::of(manifest),
        outputs,
        facts,
        task: job.task().name.clone(),
        elapsed_ms: u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
        attempts: job.attempt,
        environment: machine::environment(machine::device(&job.task().run, &job.grant)),
        accepted: None,
        dropped: false,
    }
}

/// Writes the receipt of the whole; once it lasts, checkpoints serve nobody.
pub fn finish(job: &Job, receipt: &Receipt) -> Result<(), Failure> {
    let store = &job.shared.store;
    store.write_receipt(receipt)?;
    let partial = store.partial(&receipt.key);
    if has_entries(&partial) {
        store.commit()?;
    }
    job.shared.store.below().remove_tree(&partial);
    Ok(())
}

/// Runs disk work off the event loop.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(Failure::new(FailureClass::Bug, error.to_string())),
    }
}

/// Stops the attempt at once: it broke a promise.
pub fn abort(job: &Job) {
    job.stop.send_replace(Stop::Kill);
}

fn has_entries(directory: &Path) -> bool {
    std::fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_some())
}
