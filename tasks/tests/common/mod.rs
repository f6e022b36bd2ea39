//! One kind, run in this process: what a build would hand to a child process, put together in a temporary directory.
//!
//! Used by the tests under `tests/` and by the unit tests of the kinds. Knows nothing of stores, keys or plans; the
//! table of kinds is an argument.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use kbuild_engine::artifact::Shape;
use kbuild_engine::digest::Digest;
use kbuild_engine::facts::{Facts, Prediction};
use kbuild_engine::kind::{Body, Complaint, Kind, Kinds, Known};
use kbuild_engine::runner::{
    Context, Event, Failure, PartRequest, Recorder, Request, RequestInput, request,
};
use serde_json::Value;

/// A kind with its params and inputs, ready to run.
pub struct Job<'a> {
    kinds: &'a Kinds,
    kind: &'a Kind,
    request: Request,
    directory: tempfile::TempDir,
    stop: Arc<AtomicBool>,
    stop_after: Option<usize>,
}

/// Records events, and asks the kind to stop once it has told so many losses.
struct Watch {
    recorder: Recorder,
    stop: Arc<AtomicBool>,
    losses_left: Option<usize>,
}

impl std::io::Write for Watch {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        if let Some(left) = &mut self.losses_left
            && text.contains("\"name\":\"loss\"")
        {
            *left = left.saturating_sub(1);
            if *left == 0 {
                self.stop.store(true, std::sync::atomic::Ordering::Relaxed);
            }
        }
        self.recorder.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What a job left: its outputs (alive as long as this value) and what it said.
pub struct Done {
    directory: tempfile::TempDir,
    pub outputs: BTreeMap<String, RequestInput>,
    pub events: Vec<Event>,
}

impl<'a> Job<'a> {
    /// A job of `kind` with `params`; panics where the kind refuses them.
    pub fn new(kinds: &'a Kinds, kind: &str, params: Value) -> Self {
        let kind = kinds
            .get(kind)
            .unwrap_or_else(|| panic!("no kind `{kind}`"));
        let Body::BuiltIn { resolve, .. } = &kind.body else {
            panic!("`{}` is not a built-in kind", kind.name);
        };
        let params =
            resolve(params).unwrap_or_else(|error| panic!("params of `{}`: {error}", kind.name));
        let directory = tempfile::tempdir().expect("a temporary directory");
        let partial = directory.path().join("partial");
        std::fs::create_dir(&partial).expect("a fresh directory");
        let request = request(&kind.name, params, partial);
        let stop = Arc::new(AtomicBool::new(false));
        Self {
            kinds,
            kind,
            request,
            directory,
            stop,
            stop_after: None,
        }
    }

    /// Binds one more artifact to an input port.
    pub fn input(mut self, port: &str, artifact: RequestInput) -> Self {
        assert!(
            self.kind.ports.find_input(port).is_some(),
            "`{}` has no input `{port}`",
            self.kind.name
        );
        let bound = self.request.inputs.entry(port.to_owned()).or_default();
        bound.push(artifact);
        self
    }

    pub fn threads(mut self, threads: usize) -> Self {
        self.request.threads = threads;
        self
    }

    /// Does not keep what can be computed again.
    pub fn recompute(mut self, recompute: bool) -> Self {
        self.request.recompute = recompute;
        self
    }

    /// Continues in the state that an earlier attempt left (a copy of its `partial` directory).
    pub fn partial(mut self, partial: PathBuf) -> Self {
        self.request.partial = partial;
        self
    }

    /// Asks the running kind to stop after so many steps of training.
    pub fn stop_after(mut self, steps: usize) -> Self {
        self.stop_after = Some(steps);
        self
    }

    /// The flag that asks the running kind to save and leave.
    pub fn stop(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.stop)
    }

    /// Runs the kind; a mapping kind makes all its parts.
    pub fn run(mut self) -> Result<Done, Failure> {
        self.place_outputs();
        let recorder = Recorder::default();
        let params = self.request.params.clone();
        let mut context = Context::new(
            self.request.clone(),
            Box::new(Watch {
                recorder: recorder.clone(),
                stop: Arc::clone(&self.stop),
                losses_left: self.stop_after,
            }),
            Arc::clone(&self.stop),
        );
        let Body::BuiltIn { run, .. } = &self.kind.body else {
            unreachable!("checked when the job was made");
        };
        run(params, &mut context)?;
        let events = recorder.events();
        let outputs = self.collect(&events);
        Ok(Done {
            directory: self.directory,
            outputs,
            events,
        })
    }

    fn place_outputs(&mut self) {
        let root = self.directory.path().join("outputs");
        std::fs::create_dir(&root).expect("a fresh directory");
        let mapped: Vec<(String, Vec<PathBuf>)> = self
            .kind
            .ports
            .inputs
            .iter()
            .filter(|port| port.mapped)
            .map(|port| {
                let bound = self.request.inputs.get(&port.name);
                let parts = bound.into_iter().flatten().flat_map(|a| a.parts.clone());
                (port.name.clone(), parts.collect())
            })
            .collect();
        let n_parts = mapped.first().map_or(0, |(_, parts)| parts.len());
        self.request.parts = (0..n_parts)
            .map(|index| PartRequest {
                index,
                inputs: mapped
                    .iter()
                    .map(|(port, parts)| (port.clone(), parts[index].clone()))
                    .collect(),
                outputs: BTreeMap::new(),
            })
            .collect();
        for port in &self.kind.ports.outputs {
            let format = self
                .kinds
                .format(&port.format)
                .unwrap_or_else(|| panic!("no format `{}`", port.format));
            let path = root.join(&port.name);
            let is_directory = port.mapped || format.shape != Shape::File;
            if is_directory {
                std::fs::create_dir(&path).expect("a fresh directory");
            }
            if port.mapped {
                for part in &mut self.request.parts {
                    let name = shard_name(part.index, format.extension);
                    part.outputs.insert(port.name.clone(), path.join(name));
                }
            }
            self.request.outputs.insert(port.name.clone(), path);
        }
    }

    fn collect(&self, events: &[Event]) -> BTreeMap<String, RequestInput> {
        self.kind
            .ports
            .outputs
            .iter()
            .filter_map(|port| {
                let path = &self.request.outputs[&port.name];
                let shape = self.kinds.format(&port.format)?.shape;
                let mut artifact = artifact(shape, path);
                for event in events {
                    if let Event::Fact {
                        port: of,
                        name,
                        value,
                    } = event
                        && *of == port.name
                    {
                        artifact.facts.insert(name.clone(), value.clone());
                    }
                }
                Some((port.name.clone(), artifact))
            })
            .collect()
    }
}

impl Done {
    /// The output of a port, to look at or to bind to the next job.
    pub fn output(&self, port: &str) -> RequestInput {
        self.outputs[port].clone()
    }

    pub fn path(&self, port: &str) -> &Path {
        &self.outputs[port].path
    }

    /// One digest over every file of the output: equal bytes, equal digest.
    pub fn digest(&self, port: &str) -> Digest {
        digest(self.path(port))
    }
}

/// One digest over every file of a tree.
pub fn digest(path: &Path) -> Digest {
    let mut hasher = blake3::Hasher::new();
    for file in files_below(path) {
        let bytes = std::fs::read(&file).expect("a file reads");
        hasher.update(blake3::hash(&bytes).as_bytes());
    }
    Digest::from_bytes(*hasher.finalize().as_bytes())
}

/// What the kind says of a task with these params and facts, without running it.
pub fn predict(
    kinds: &Kinds,
    kind: &str,
    params: Value,
    inputs: &[(&str, Facts)],
) -> Result<Prediction, Vec<Complaint>> {
    predict_run(kinds, kind, params, inputs, false)
}

/// The same, where it is said whether it recomputes.
pub fn predict_run(
    kinds: &Kinds,
    kind: &str,
    params: Value,
    inputs: &[(&str, Facts)],
    recompute: bool,
) -> Result<Prediction, Vec<Complaint>> {
    let Some(Body::BuiltIn {
        resolve, predict, ..
    }) = kinds.get(kind).map(|kind| &kind.body)
    else {
        panic!("no built-in kind `{kind}`");
    };
    let params = resolve(params).unwrap_or_else(|error| panic!("params of `{kind}`: {error}"));
    let mut known = Known {
        task: kind,
        inputs: BTreeMap::new(),
        on_gpu: false,
        recompute,
    };
    for (port, facts) in inputs {
        let bound = known.inputs.entry((*port).to_owned()).or_default();
        bound.push(((*port).to_owned(), facts.clone()));
    }
    predict(&params, &known)
}

/// A file, directory or list of shards on disk, as an input.
pub fn artifact(shape: Shape, path: &Path) -> RequestInput {
    let parts = match shape {
        Shape::Shards => entries(path),
        Shape::File | Shape::Directory => Vec::new(),
    };
    RequestInput {
        label: String::new(),
        digest: Digest::of(path.as_os_str().as_encoded_bytes()),
        shape,
        path: path.to_owned(),
        parts,
        facts: BTreeMap::new(),
    }
}

/// Shards that lie anywhere, in the order given.
pub fn shards(parts: &[PathBuf]) -> RequestInput {
    let parent = parts
        .first()
        .and_then(|part| part.parent())
        .unwrap_or(Path::new("."));
    RequestInput {
        parts: parts.to_vec(),
        ..artifact(Shape::Shards, parent)
    }
}

fn shard_name(index: usize, extension: &str) -> String {
    let dot = if extension.is_empty() { "" } else { "." };
    format!("{index:05}{dot}{extension}")
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    let Ok(listing) = std::fs::read_dir(directory) else {
        return Vec::new();
    };
    let mut paths: Vec<PathBuf> = listing.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

fn files_below(path: &Path) -> Vec<PathBuf> {
    if path.is_dir() {
        entries(path)
            .iter()
            .flat_map(|entry| files_below(entry))
            .collect()
    } else if path.exists() {
        vec![path.to_owned()]
    } else {
        Vec::new()
    }
}
