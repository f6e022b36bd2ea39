//! The end of the protocol inside a built-in kind: what it is given, what it may say, when it must stop.
//!
//! A kind sees paths and params and nothing of stores, keys or other tasks.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;

use super::protocol::{Event, FailureClass, PROTOCOL, PartRequest, Request, RequestInput};
use crate::artifact::Shape;
use crate::error::limit_help;
use crate::kind::{Body, Kinds};

/// An artifact on an input port.
pub type Artifact = RequestInput;
/// One part that a mapping kind must make.
pub type Part = PartRequest;

/// Why a kind stops without a result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    pub class: FailureClass,
    /// What was expected and what was found, with the place.
    pub message: String,
    /// A way out; may be empty.
    pub help: String,
}

impl Failure {
    pub fn new(class: FailureClass, message: impl Into<String>) -> Self {
        Self {
            class,
            message: message.into(),
            help: String::new(),
        }
    }

    /// An input or param that cannot be used.
    pub fn input(message: impl Into<String>) -> Self {
        Self::new(FailureClass::Input, message)
    }

    /// The attempt was asked to stop, and whoever has a state to save has saved it.
    pub fn interrupted() -> Self {
        let message = "interrupted; what it had saved is kept";
        Self::new(FailureClass::Interrupted, message)
    }

    /// I/O that failed on `path`.
    pub fn io(path: &Path, error: &std::io::Error) -> Self {
        let class = match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::OutOfMemory => {
                FailureClass::Resources
            }
            _ => FailureClass::Environment,
        };
        Self::new(class, format!("`{}`: {error}", path.display()))
            .help(limit_help(error).unwrap_or_default())
    }

    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = help.into();
        self
    }
}

/// Adds the path to an I/O error.
pub trait AtPath<T> {
    fn at(self, path: &Path) -> Result<T, Failure>;
}

impl<T> AtPath<T> for std::io::Result<T> {
    fn at(self, path: &Path) -> Result<T, Failure> {
        self.map_err(|error| Failure::io(path, &error))
    }
}

/// What a running kind is given.
pub struct Context {
    request: Request,
    events: Box<dyn Write + Send>,
    stop: Arc<AtomicBool>,
}

impl Context {
    /// A context over any request; tests use it to run a kind in-process.
    pub fn new(request: Request, events: Box<dyn Write + Send>, stop: Arc<AtomicBool>) -> Self {
        Self {
            request,
            events,
            stop,
        }
    }

    pub fn request(&self) -> &Request {
        &self.request
    }

    /// The artifact of a port that always has exactly one.
    pub fn one(&self, port: &str) -> &Artifact {
        self.many(port)
            .first()
            .expect("the planner binds every required port")
    }

    pub fn optional(&self, port: &str) -> Option<&Artifact> {
        self.many(port).first()
    }

    /// The artifacts of a port in order.
    pub fn many(&self, port: &str) -> &[Artifact] {
        self.request.inputs.get(port).map_or(&[], Vec::as_slice)
    }

    /// Every file of every artifact of a port, in order: the shards of one that has them.
    pub fn files(&self, port: &str) -> Vec<PathBuf> {
        let files = |artifact: &Artifact| match artifact.shape {
            Shape::Shards => artifact.parts.clone(),
            Shape::File | Shape::Directory => vec![artifact.path.clone()],
        };
        self.many(port).iter().flat_map(files).collect()
    }

    /// Where the output of a port goes: a file to create, or a directory that exists and is empty.
    pub fn output(&self, port: &str) -> &Path {
        self.request
            .outputs
            .get(port)
            .expect("the planner places every output")
    }

    /// The parts that are missing (mapping kinds). Call [`Context::part_done`] after each.
    pub fn parts(&self) -> Vec<Part> {
        self.request.parts.clone()
    }

    /// A directory that survives an interrupted attempt.
    pub fn partial(&self) -> &Path {
        &self.request.partial
    }

    pub fn threads(&self) -> usize {
        self.request.threads.max(1)
    }

    /// True if memory is worth more than time: what can be computed again is not kept.
    pub fn recompute(&self) -> bool {
        self.request.recompute
    }

    pub fn device(&self) -> &str {
        &self.request.device
    }

    /// Device kind, instruction set and kernel version: a checkpoint is continued in its own environment alone.
    pub fn numeric_environment(&self) -> &str {
        &self.request.numeric_environment
    }

    /// True once the attempt should save its state and return [`Failure::interrupted`].
    pub fn should_stop(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    pub fn progress(&mut self, done: u64, total: u64, unit: &str) {
        self.emit(&Event::Progress {
            done,
            total,
            unit: unit.to_owned(),
        });
    }

    pub fn metric(&mut self, step: u64, name: &str, value: f64) {
        self.emit(&Event::Metric {
            step,
            name: name.to_owned(),
            value,
        });
    }

    pub fn note(&mut self, text: impl Into<String>) {
        self.emit(&Event::Note { text: text.into() });
    }

    /// States a measured fact of an output port.
    pub fn fact(&mut self, port: &str, name: &str, value: impl Into<Value>) {
        self.emit(&Event::Fact {
            port: port.to_owned(),
            name: name.to_owned(),
            value: value.into(),
        });
    }

    pub fn part_done(&mut self, index: usize) {
        self.emit(&Event::Part { index });
    }

    pub fn checkpoint(&mut self, step: u64) {
        self.emit(&Event::Checkpoint { step });
    }

    fn emit(&mut self, event: &Event) {
        // A build that is gone reads nothing: the watch on the pipe ends this process, not a failed write.
        if let Ok(line) = serde_json::to_string(event) {
            let _ = writeln!(self.events, "{line}");
            let _ = self.events.flush();
        }
    }
}

/// Runs the request of a built-in kind in this process: the body of `kbuild __task REQUEST.json`.
pub fn serve(kinds: &Kinds, build_id: &str, request: &Path) -> ExitCode {
    let stop = Arc::new(AtomicBool::new(false));
    watch_input(Arc::clone(&stop));
    watch_terminate(Arc::clone(&stop));
    let outcome = read_request(request, build_id).and_then(|request| {
        let mut context = Context::new(request, Box::new(std::io::stdout()), Arc::clone(&stop));
        run(kinds, &mut context).map_err(|failure| {
            let Failure {
                class,
                message,
                help,
            } = failure;
            context.emit(&Event::Failed {
                class,
                message: message.clone(),
                help: help.clone(),
            });
            Failure {
                class,
                message,
                help,
            }
        })
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let _ = writeln!(std::io::stderr(), "{failure}");
            ExitCode::FAILURE
        }
    }
}

/// Asks the kind to stop when standard input ends: the build that held the other end is gone. A kind that does not
/// stop is ended: nobody will ever take its result.
fn watch_input(stop: Arc<AtomicBool>) {
    const GRACE: Duration = Duration::from_secs(60);
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        stop.store(true, Ordering::Relaxed);
        std::thread::sleep(GRACE);
        std::process::exit(1);
    });
}

/// Asks the kind to stop on SIGTERM.
fn watch_terminate(stop: Arc<AtomicBool>) {
    use tokio::signal::unix::{SignalKind, signal};
    let (ready, is_ready) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let Ok(runtime) = runtime else { return };
        runtime.block_on(async {
            let Ok(mut terminate) = signal(SignalKind::terminate()) else {
                return;
            };
            let _ = ready.send(());
            while terminate.recv().await.is_some() {
                stop.store(true, Ordering::Relaxed);
            }
        });
    });
    // From here on SIGTERM no longer ends the process before the kind has saved.
    let _ = is_ready.recv();
}

fn read_request(path: &Path, build_id: &str) -> Result<Request, Failure> {
    let bytes = std::fs::read(path).at(path)?;
    let request: Request = serde_json::from_slice(&bytes)
        .map_err(|error| Failure::input(format!("`{}`: {error}", path.display())))?;
    if request.protocol != PROTOCOL {
        return Err(Failure::input(format!(
            "protocol {PROTOCOL} is spoken here, the request is of {}",
            request.protocol
        )));
    }
    if request.build_id != build_id {
        return Err(Failure::input(
            "the request comes from another build of kbuild",
        ));
    }
    Ok(request)
}

fn run(kinds: &Kinds, context: &mut Context) -> Result<(), Failure> {
    let name = context.request.kind.clone();
    let Some(Body::BuiltIn { run, .. }) = kinds.get(&name).map(|kind| &kind.body) else {
        return Err(Failure::input(format!("`{name}` is not a built-in kind")));
    };
    let params = context.request.params.clone();
    run(params, context)
}

/// An in-memory collector of events, for tests of kinds.
#[derive(Clone, Default)]
pub struct Recorder(Arc<std::sync::Mutex<Vec<u8>>>);

impl Recorder {
    pub fn events(&self) -> Vec<Event> {
        let bytes = self.0.lock().expect("a recorder is never poisoned").clone();
        bytes
            .split(|byte| *byte == b'\n')
            .filter_map(|line| serde_json::from_slice(line).ok())
            .collect()
    }
}

impl Write for Recorder {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0
            .lock()
            .expect("a recorder is never poisoned")
            .extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A request for a kind, put together by hand: how tests run one kind without a build.
pub fn request(kind: &str, params: Value, partial: PathBuf) -> Request {
    Request {
        protocol: PROTOCOL,
        kind: kind.to_owned(),
        version: 0,
        build_id: String::new(),
        task: kind.to_owned(),
        key: crate::digest::Digest::of(kind.as_bytes()),
        params,
        inputs: BTreeMap::new(),
        outputs: BTreeMap::new(),
        parts: Vec::new(),
        partial,
        device: "cpu".to_owned(),
        threads: 1,
        recompute: false,
        numeric_environment: String::new(),
    }
}
