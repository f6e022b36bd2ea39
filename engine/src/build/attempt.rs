//! One attempt at a task, from the lock to the receipt.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::mpsc::{Receiver, channel};

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
use crate::runner::{
    Attempt, EVENTS_AT_ONCE, Ended, Event, Failure, FailureClass, Launch, MARK, Stdin, Stop, run,
};
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
    let (mut measured, mut heard) = (Measured::new(), Ok(()));
    let ended = attempt(job, &staged, &lock, async |events| {
        heard = listen(job, events, &mut measured).await;
    })
    .await;
    heard?;
    let ended = ended?;
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
    listener: impl AsyncFnOnce(Receiver<Event>),
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
    let (sender, receiver) = channel(EVENTS_AT_ONCE);
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
async fn listen(
    job: &Job,
    mut events: Receiver<Event>,
    measured: &mut Measured,
) -> Result<(), Failure> {
    let (mut room, mut refused) = (Room::default(), Ok(()));
    while let Some(event) = events.recv().await {
        match event {
            Event::Fact { port, name, value } if refused.is_ok() => {
                refused = room.take(measured, port, name, value);
                if refused.is_err() {
                    abort(job);
                }
            }
            Event::Fact { .. } => {}
            event => pass_on(job, event),
        }
    }
    refused
}

/// How much an attempt may say of what it makes: it all goes into a receipt, which must stay readable.
#[derive(Default)]
pub struct Room {
    taken: usize,
}

impl Room {
    /// Bytes of one value as JSON.
    const VALUE: usize = 64 << 10;
    const LEVELS: usize = 32;
    /// Facts of one port.
    const FACTS: usize = 1000;
    /// Bytes of all facts of an attempt.
    const ALL: usize = 1 << 20;

    /// The room that is left when these facts are counted.
    pub fn of(measured: &Measured) -> Self {
        let facts = measured.iter().flat_map(|(port, facts)| {
            facts
                .iter()
                .map(move |(name, value)| size(port, name, value))
        });
        Self {
            taken: facts.fold(0, usize::saturating_add),
        }
    }

    /// Adds a fact, or says which limit stands against it.
    pub fn take(
        &mut self,
        measured: &mut Measured,
        port: String,
        name: String,
        value: Value,
    ) -> Result<(), Failure> {
        let size = size(&port, &name, &value);
        self.taken = self.taken.saturating_add(size);
        let facts = measured.get(&port);
        let is_one_more =
            facts.is_some_and(|facts| facts.len() >= Self::FACTS && !facts.contains_key(&name));
        let limit = if size > Self::VALUE {
            "a fact takes at most 64 KiB as JSON"
        } else if levels(&value) > Self::LEVELS {
            "a fact is nested at most 32 levels deep"
        } else if is_one_more {
            "a port has at most 1000 facts"
        } else if self.taken > Self::ALL {
            "the facts of an attempt take at most 1 MiB in all"
        } else {
            measured.entry(port).or_default().insert(name, value);
            return Ok(());
        };
        let message = format!("fact `{name}` of output `{port}` is refused: {limit}");
        Err(Failure::new(FailureClass::Bug, message)
            .help("write it to a file of an output instead"))
    }
}

/// Bytes of a fact in a receipt, about.
fn size(port: &str, name: &str, value: &Value) -> usize {
    let text = serde_json::to_vec(value).map_or(usize::MAX, |text| text.len());
    text.saturating_add(port.len() + name.len())
}

/// How deep a value is nested: 0 for a number. (What was parsed is never deeper than 128.)
fn levels(value: &Value) -> usize {
    let deepest = match value {
        Value::Array(values) => values.iter().map(levels).max(),
        Value::Object(values) => values.values().map(levels).max(),
        _ => return 0,
    };
    1 + deepest.unwrap_or_default()
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
        store.stamp(&lent.blob) != Some(lent.stamp) && store.verify(&lent.blob) != BlobState::Sound
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_beyond_a_limit_are_refused_by_name() {
        let refused = |name: &str, value: Value| {
            let (mut room, mut measured) = (Room::default(), Measured::new());
            let taken = room.take(&mut measured, "out".to_owned(), name.to_owned(), value);
            taken.err().map(|failure| failure.message)
        };
        let nested = |levels| (0..levels).fold(Value::Null, |value, _| Value::Array(vec![value]));
        assert_eq!(refused("deep", nested(32)), None);
        assert!(
            refused("deep", nested(33))
                .unwrap()
                .contains("fact `deep` of output `out`")
        );
        assert_eq!(refused("long", Value::String("x".repeat(60_000))), None);
        assert!(
            refused("long", Value::String("x".repeat(70_000)))
                .unwrap()
                .contains("64 KiB")
        );
        let (mut room, mut measured) = (Room::default(), Measured::new());
        let mut take = |number: usize, length: usize| {
            let value = Value::String("x".repeat(length));
            room.take(&mut measured, "out".to_owned(), number.to_string(), value)
        };
        assert!((0..1000).all(|number| take(number, 1).is_ok()));
        assert!(take(0, 1).is_ok(), "said anew");
        assert!(take(1000, 1).unwrap_err().message.contains("1000 facts"));
        assert!((0..20).any(|number| take(number, 60_000).is_err()));
    }
}
