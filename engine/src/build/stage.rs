//! What an attempt sees: its inputs as a tree of links, empty places for its outputs, and the request.
//!
//! ```text
//! tmp/<attempt>/in/<port>/00000.<ext>   a file, a directory, or a directory of shards
//!               out/<port>[.<ext>]      to be made
//!               scratch/                TMPDIR
//!               request.json
//! ```
//!
//! A command is told everything by its arguments: of it, only what they name is laid out, and no request is written.
//! Files are dear where there are many tasks.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use super::driver::Job;
use super::machine;
use crate::artifact::{Blob, Content, Shape, numbered};
use crate::graph::{Binding, Executor, InputPort, Origin, OutputPort};
use crate::plan;
use crate::runner::{AtPath, Failure, FailureClass, PROTOCOL, PartRequest, Request, RequestInput};
use crate::store::{BlobState, Laid, Stamp, Store};

/// An attempt that can start. Its directory is removed when this is dropped.
#[derive(Debug)]
pub struct Staged {
    pub directory: PathBuf,
    store: Store,
    pub request: Request,
    /// Files of the workspace that the result depends on, beside those of parts.
    pub watched: Vec<Watched>,
    /// Files of the workspace that each part depends on.
    pub watched_by_part: BTreeMap<usize, Vec<Watched>>,
    /// Blobs that the task reads, beside those of parts.
    pub lent: Vec<Lent>,
    /// Blobs that each part reads.
    pub lent_by_part: BTreeMap<usize, Vec<Lent>>,
}

/// A file of the workspace that an attempt reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watched {
    /// As the scan knows it.
    pub name: PathBuf,
    /// Where the attempt reads it.
    pub place: PathBuf,
}

impl Watched {
    /// A file that is read under its own name.
    pub fn itself(file: &Path) -> Self {
        Self {
            name: file.to_owned(),
            place: file.to_owned(),
        }
    }
}

/// A blob of the store that an attempt reads: it may be written to by who does not mind its permissions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lent {
    pub blob: Blob,
    /// How it looked when it was lent, and was sound.
    pub stamp: Stamp,
    /// What people call the input.
    pub label: String,
}

impl Drop for Staged {
    fn drop(&mut self) {
        self.store.below().remove_tree(&self.directory);
    }
}

impl Staged {
    pub fn request_path(&self) -> PathBuf {
        self.directory.join("request.json")
    }

    /// Links to all inputs, by port.
    pub fn inputs(&self) -> PathBuf {
        self.directory.join("in")
    }

    /// Directory of all outputs.
    pub fn out(&self) -> PathBuf {
        self.directory.join("out")
    }

    pub fn scratch(&self) -> PathBuf {
        self.directory.join("scratch")
    }

    /// The paths directly below [`Staged::out`] that may exist.
    pub fn promised(&self) -> BTreeSet<PathBuf> {
        self.request.outputs.values().cloned().collect()
    }
}

/// An artifact on its way to an input port.
struct Bound<'a> {
    label: &'a str,
    content: Arc<Content>,
    laid: Laid,
    /// Of the files that a task made; `None`: each file keeps its own.
    extension: Option<&'a str>,
    facts: BTreeMap<String, Value>,
    is_source: bool,
}

impl Bound<'_> {
    /// The blobs of this artifact, or of a part of it, that lie in the store. They are sound.
    fn lent(&self, content: &Content, job: &Job) -> Result<Vec<Lent>, Failure> {
        let blobs = if self.is_source {
            Vec::new()
        } else {
            content.blobs()
        };
        let lend = |blob: Blob| {
            Ok(Lent {
                stamp: self.lend(&blob, job)?,
                label: self.label.to_owned(),
                blob,
            })
        };
        blobs.into_iter().map(lend).collect()
    }

    /// A blob that was damaged since it was planned with is given up: whoever made it makes it again.
    fn lend(&self, blob: &Blob, job: &Job) -> Result<Stamp, Failure> {
        let store = &job.shared.store;
        let state = match store.lend(blob, &job.shared.blobs) {
            Ok(stamp) => return Ok(stamp),
            Err(state) => state,
        };
        if matches!(state, BlobState::Damaged | BlobState::WrongSize { .. }) {
            store.give_up(blob)?;
        }
        let message = format!(
            "its input `{}` was harmed since this build began: `{}` is {}",
            self.label,
            store.blob_path(&blob.digest).display(),
            state.trouble().unwrap_or_default()
        );
        Err(Failure::new(FailureClass::Environment, message)
            .help("run the same command again; the input is made again"))
    }
}

/// Lays out an attempt at the whole task, or at the given parts of it.
pub fn stage(job: &Job, parts: &[&plan::Part]) -> Result<Staged, Failure> {
    let directory = job.shared.store.temporary();
    let partial = job.shared.store.partial(&job.work.key);
    let mut staged = Staged {
        request: request(job, partial),
        store: job.shared.store.clone(),
        directory,
        watched: program_files(job),
        watched_by_part: BTreeMap::new(),
        lent: Vec::new(),
        lent_by_part: BTreeMap::new(),
    };
    let (out, scratch) = (staged.out(), staged.scratch());
    let argv = match &job.task().executor {
        Executor::Command(program) => Some(&program.argv),
        Executor::BuiltIn | Executor::Plugin(_) => None,
    };
    let partial = is_named(argv, "{partial}").then_some(&staged.request.partial);
    for path in [&out, &scratch].into_iter().chain(partial) {
        staged.store.below().create_dir_all(path).at(path)?;
    }
    staged.request.parts = parts
        .iter()
        .map(|part| PartRequest {
            index: part.index,
            inputs: BTreeMap::new(),
            outputs: BTreeMap::new(),
        })
        .collect();
    for port in &job.task().inputs {
        let is_seen = port.mapped || is_named(argv, &format!("{{inputs.{}}}", port.name));
        stage_input(job, port, is_seen, &mut staged)?;
    }
    for port in &job.task().outputs {
        stage_output(port, &out, &mut staged.request)?;
    }
    if argv.is_some() {
        return Ok(staged);
    }
    let path = staged.request_path();
    let bytes = serde_json::to_vec_pretty(&staged.request)
        .map_err(|error| Failure::input(format!("`{}`: {error}", path.display())))?;
    fs::write(&path, bytes).at(&path)?;
    Ok(staged)
}

/// Whether arguments name a placeholder. Whoever reads the request sees everything.
fn is_named(argv: Option<&Vec<String>>, placeholder: &str) -> bool {
    argv.is_none_or(|argv| argv.iter().any(|argument| argument.contains(placeholder)))
}

fn request(job: &Job, partial: PathBuf) -> Request {
    let task = job.task();
    let device = machine::device(&task.run, &job.grant);
    Request {
        protocol: PROTOCOL,
        kind: task.kind.clone(),
        version: task.version,
        build_id: job.shared.options.build_id.clone(),
        task: task.name.clone(),
        key: job.work.key,
        params: task.params.clone(),
        inputs: BTreeMap::new(),
        outputs: BTreeMap::new(),
        parts: Vec::new(),
        partial,
        device: device.to_owned(),
        threads: task.run.threads.unwrap_or(job.grant.cpu).max(1) as usize,
        recompute: task.run.recompute,
        numeric_environment: machine::environment_word(&machine::environment(device)),
    }
}

fn program_files(job: &Job) -> Vec<Watched> {
    let program = job.task().executor.program();
    let root = job.shared.workspace.root();
    program
        .into_iter()
        .flat_map(|program| &program.files)
        .map(|name| Watched::itself(&root.join(name)))
        .collect()
}

fn stage_input(
    job: &Job,
    port: &InputPort,
    is_seen: bool,
    staged: &mut Staged,
) -> Result<(), Failure> {
    let bound = port
        .bindings
        .iter()
        .map(|binding| bind(job, binding))
        .collect::<Result<Vec<_>, _>>()?;
    if !is_seen {
        let sources = bound.iter().filter(|bound| bound.is_source);
        let files = sources.flat_map(|bound| bound.laid.files());
        staged.watched.extend(files.map(Watched::itself));
        return Ok(());
    }
    let directory = staged.inputs().join(&port.name);
    fs::create_dir_all(&directory).at(&directory)?;
    let inputs = match port.mapped {
        true => stage_parts(&port.name, &bound, &directory, job, staged)?,
        false => stage_wholes(&bound, &directory, job, staged)?,
    };
    staged.request.inputs.insert(port.name.clone(), inputs);
    Ok(())
}

fn bind<'a>(job: &'a Job, binding: &'a Binding) -> Result<Bound<'a>, Failure> {
    let gone = || Failure::input(format!("input `{}` is not there", binding.label));
    let shared = &job.shared;
    match binding.from {
        Origin::Source(id) => {
            let content = shared.scan.snapshot.sources.get(&id);
            let content = content
                .and_then(|found| found.as_ref().ok())
                .ok_or_else(gone)?;
            Ok(Bound {
                label: &binding.label,
                content: Arc::clone(content),
                laid: shared.scan.files(id).ok_or_else(gone)?.clone(),
                extension: None,
                facts: BTreeMap::new(),
                is_source: true,
            })
        }
        Origin::Task { task, port } => {
            let port = &shared.graph.task(task).outputs[port as usize];
            let receipt = job.inputs.get(&task).ok_or_else(gone)?;
            let content = receipt.outputs.get(&port.name).ok_or_else(gone)?;
            Ok(Bound {
                label: &binding.label,
                laid: in_store(&shared.store, content),
                content: Arc::new(content.clone()),
                extension: Some(&port.extension),
                facts: receipt.facts.get(&port.name).cloned().unwrap_or_default(),
                is_source: false,
            })
        }
    }
}

/// Where the files of a content lie in the store.
fn in_store(store: &Store, content: &Content) -> Laid {
    match content {
        Content::File(blob) => Laid::File(store.blob_path(&blob.digest)),
        Content::Directory(files) => Laid::Directory(
            files
                .iter()
                .map(|(name, blob)| (name.clone(), store.blob_path(&blob.digest)))
                .collect(),
        ),
        Content::Shards(parts) => {
            Laid::Shards(parts.iter().map(|part| in_store(store, part)).collect())
        }
    }
}

fn stage_wholes(
    all: &[Bound<'_>],
    directory: &Path,
    job: &Job,
    staged: &mut Staged,
) -> Result<Vec<RequestInput>, Failure> {
    let mut inputs = Vec::new();
    for (index, bound) in all.iter().enumerate() {
        let name = numbered(index, all.len());
        let mut parts = Vec::new();
        let mut links = Links::of(bound);
        let path = match &bound.laid {
            Laid::Shards(shards) => {
                let path = directory.join(&name);
                fs::create_dir_all(&path).at(&path)?;
                for (index, shard) in shards.iter().enumerate() {
                    parts.push(links.link(shard, &path, &numbered(index, shards.len()))?);
                }
                path
            }
            one => links.link(one, directory, &name)?,
        };
        staged.watched.extend(links.watched);
        staged.lent.extend(bound.lent(&bound.content, job)?);
        inputs.push(input(bound, path, parts));
    }
    Ok(inputs)
}

/// Stages the requested parts alone; the parts of all artifacts of a mapped port form one list.
fn stage_parts(
    port: &str,
    bound: &[Bound<'_>],
    directory: &Path,
    job: &Job,
    staged: &mut Staged,
) -> Result<Vec<RequestInput>, Failure> {
    let mut first = 0;
    let mut inputs = Vec::new();
    for bound in bound {
        let shards = bound.laid.parts();
        let mut parts = Vec::new();
        for request in &mut staged.request.parts {
            let at = request.index.checked_sub(first);
            let Some((at, shard)) = at.and_then(|at| Some((at, shards.get(at)?))) else {
                continue;
            };
            let mut links = Links::of(bound);
            let path = links.link(shard, directory, &format!("{:05}", request.index))?;
            request.inputs.insert(port.to_owned(), path.clone());
            parts.push(path);
            let watched = staged.watched_by_part.entry(request.index).or_default();
            watched.extend(links.watched);
            let lent = staged.lent_by_part.entry(request.index).or_default();
            lent.extend(bound.lent(&bound.content.parts()[at], job)?);
        }
        first += shards.len();
        inputs.push(input(bound, directory.to_owned(), parts));
    }
    Ok(inputs)
}

fn input(bound: &Bound<'_>, path: PathBuf, parts: Vec<PathBuf>) -> RequestInput {
    RequestInput {
        label: bound.label.to_owned(),
        digest: bound.content.digest(),
        shape: bound.content.shape(),
        path,
        parts,
        facts: bound.facts.clone(),
    }
}

/// Links to the files of an artifact.
struct Links<'a> {
    extension: Option<&'a str>,
    is_source: bool,
    /// Files of sources, with the links to them.
    watched: Vec<Watched>,
}

impl<'a> Links<'a> {
    fn of(bound: &'a Bound<'_>) -> Self {
        Self {
            extension: bound.extension,
            is_source: bound.is_source,
            watched: Vec::new(),
        }
    }

    /// Links a file under this name and its extension, or every file of a directory.
    fn link(&mut self, laid: &Laid, directory: &Path, name: &str) -> Result<PathBuf, Failure> {
        match laid {
            Laid::File(target) => {
                let own = self
                    .extension
                    .map_or_else(|| own_extension(target), str::to_owned);
                let path = directory.join(dotted(name, &own));
                self.put(target, &path)?;
                Ok(path)
            }
            Laid::Directory(files) => {
                let path = directory.join(name);
                fs::create_dir_all(&path).at(&path)?;
                for (name, target) in files {
                    let place = path.join(name);
                    if let Some(parent) = place.parent() {
                        fs::create_dir_all(parent).at(parent)?;
                    }
                    self.put(target, &place)?;
                }
                Ok(path)
            }
            Laid::Shards(_) => Err(Failure::input("a shard cannot hold shards")),
        }
    }

    /// A source is linked where it really lies: links of the user that lead there may be turned while the task reads,
    /// and turned back.
    fn put(&mut self, target: &Path, link: &Path) -> Result<(), Failure> {
        if !self.is_source {
            return symlink(target, link).at(link);
        }
        symlink(fs::canonicalize(target).at(target)?, link).at(link)?;
        self.watched.push(Watched {
            name: target.to_owned(),
            place: link.to_owned(),
        });
        Ok(())
    }
}

/// `jsonl.zst` of `a.b.jsonl.zst`: the last suffix, and the one before a compression's.
fn own_extension(path: &Path) -> String {
    let name = path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let mut suffixes: Vec<&str> = name.split('.').skip(1).collect();
    let is_packed = matches!(suffixes.last(), Some(&("gz" | "zst" | "bz2" | "xz")));
    let wanted = if is_packed { 2 } else { 1 };
    suffixes.drain(..suffixes.len().saturating_sub(wanted));
    suffixes.join(".")
}

fn dotted(stem: &str, extension: &str) -> String {
    match extension {
        "" => stem.to_owned(),
        extension => format!("{stem}.{extension}"),
    }
}

fn stage_output(port: &OutputPort, out: &Path, request: &mut Request) -> Result<(), Failure> {
    let is_file = port.shape == Shape::File && !port.mapped;
    let name = if is_file {
        dotted(&port.name, &port.extension)
    } else {
        port.name.clone()
    };
    let path = out.join(name);
    if !is_file {
        fs::create_dir_all(&path).at(&path)?;
    }
    if port.mapped {
        for part in &mut request.parts {
            let place = path.join(dotted(&format!("{:05}", part.index), &port.extension));
            if port.extension.is_empty() {
                // Parts of a format without extension are directories.
                fs::create_dir_all(&place).at(&place)?;
            }
            part.outputs.insert(port.name.clone(), place);
        }
    }
    request.outputs.insert(port.name.clone(), path);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_keeps_what_readers_look_at() {
        for (name, extension) in [
            ("a.b.jsonl.zst", "jsonl.zst"),
            ("x.parquet", "parquet"),
            ("README", ""),
            ("v1.2.txt", "txt"),
            ("plain.gz", "gz"),
        ] {
            assert_eq!(own_extension(Path::new(name)), extension, "{name}");
        }
    }
}
