//! Nothing to do: found out thoroughly once, and from then on by a look at everything that the answer rests on.
//!
//! A seal proves that sources, receipts, blobs and newest results look as they did when their digests were compared.
//! That the bytes of a blob are what its name says, whatever its times say, only a check of every blob proves.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Project;
use super::slice::Notes;
use crate::build::{Prepared, exports, spares};
use crate::digest::Digest;
use crate::error::Error;
use crate::graph::{Origin, SourceId, Task, TaskId};
use crate::plan::{Known, Status};
use crate::receipt::Receipt;
use crate::store::{Bearer, Export, Grounds, MEMOS, Memo, Moved, Sealed, Store, key_file, now_ns};
use crate::workspace::Workspace;

/// Whether there is anything to do, asked by a program with certain words.
#[derive(Debug)]
pub struct Question {
    pub(super) digest: Digest,
    pub(super) begun_ns: i64,
    /// How often anything had been removed from the store.
    pub(super) removals: u64,
}

/// What is known of a question from before.
#[derive(Debug)]
pub enum Answer {
    /// What [`Project::seal`] left: nothing has moved since.
    Settled(Vec<u8>),
    /// A little has moved: there is a [`super::Slice`] of it.
    Loose(Moved),
}

impl Question {
    /// `words` hold whatever the answer depends on beside files: the program, the goals, how the Kananafile is read.
    /// To be asked before anything is read.
    pub fn new(workspace: &Workspace, words: &[String]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("kbuild question v1");
        let root = workspace.root().to_string_lossy();
        for word in words.iter().map(String::as_str).chain([&*root]) {
            hasher.update(&(word.len() as u64).to_le_bytes());
            hasher.update(word.as_bytes());
        }
        Self {
            digest: Digest::from_bytes(*hasher.finalize().as_bytes()),
            begun_ns: now_ns(),
            removals: Store::of(workspace).removals(),
        }
    }

    /// What is known from before; `None`: nothing, or too much has moved.
    pub fn answer(&self, workspace: &Workspace) -> Option<Answer> {
        Some(match Store::of(workspace).sealed(&self.digest)? {
            Sealed::Holds(answer) => Answer::Settled(answer),
            Sealed::Moved(moved) => Answer::Loose(moved),
        })
    }
}

/// A task with nothing to do.
struct Hit<'a> {
    id: TaskId,
    task: &'a Task,
    receipt: &'a Receipt,
    /// It only makes what others read.
    is_passing: bool,
    /// Its content was dropped.
    is_absent: bool,
}

impl<'a> Hit<'a> {
    /// What people see of it: nothing of what was dropped.
    fn exports(&self) -> Vec<Export<'a>> {
        match self.receipt.dropped && self.is_passing {
            true => Vec::new(),
            false => exports(self.task, self.receipt),
        }
    }
}

impl Project {
    /// True when there is nothing to run, and the newest results are those of the plan, whole and unharmed. Notes what
    /// was read to find out.
    pub fn is_settled(&self, prepared: &Prepared) -> bool {
        self.remember("sources", &prepared.sources);
        self.remember("blobs", &prepared.blobs);
        if !prepared.plan.is_done() {
            return false;
        }
        let mut latest = prepared.latest.clone();
        let is_settled = self.hits(prepared).all(|hit| {
            // A build makes content stay that is asked for.
            let is_held = hit.is_passing || !hit.receipt.dropped;
            let name = &hit.task.name;
            is_held && (self.store).is_published(name, hit.receipt, &hit.exports(), &mut latest)
        });
        self.remember("latest", &latest);
        is_settled && !self.is_burdened(prepared)
    }

    /// Whether there is content that a build would drop: one that could not, because others were at work, left it.
    fn is_burdened(&self, prepared: &Prepared) -> bool {
        let mut known = Known::new(&prepared.scan.snapshot);
        let (mut idle, mut kept) = (Vec::new(), self.store.pins());
        for hit in self.hits(prepared) {
            match hit.is_passing && !hit.is_absent {
                true => idle.push(hit.id),
                false => drop(kept.insert(hit.receipt.key)),
            }
        }
        if idle.is_empty() {
            return false;
        }
        for (id, status) in &prepared.plan.tasks {
            if let Some(receipt) = status.done() {
                known.insert(&self.graph, *id, Arc::clone(receipt));
            }
        }
        let spares = spares(&self.graph, &self.store, &known, &idle, &kept);
        self.store.is_burdened(&spares, &kept)
    }

    /// A memo that cannot be saved is a slower build.
    pub(super) fn remember(&self, name: &str, memo: &Memo) {
        let _ = self.store.save_memo(name, memo);
    }

    /// Leaves the answer to a question for next time, together with everything that it rests on; `shown` are more
    /// files of the store that it speaks of. False when something is too young to be believed next time.
    pub fn seal(
        &self,
        question: &Question,
        prepared: &Prepared,
        answer: &[u8],
        shown: &[PathBuf],
    ) -> Result<bool, Error> {
        let mut grounds = Grounds::default();
        if (self.ground(prepared, &mut grounds, |id| Some(id.0))).is_none() {
            return Ok(false);
        }
        for name in &self.read {
            grounds.followed(Bearer::ALL, self.workspace.root(), name, None);
        }
        let latest = self.store.root().join("latest");
        for path in shown {
            grounds.followed(Bearer::ALL, &latest, relative(&latest, path), None);
        }
        let notes = Notes::leave(self, question, prepared)?;
        let said = (answer, &*notes.to_bytes());
        (self.store).seal(&question.digest, said, grounds, question.begun_ns)
    }

    fn hits<'a>(&'a self, prepared: &'a Prepared) -> impl Iterator<Item = Hit<'a>> {
        prepared.plan.tasks.iter().filter_map(|(id, status)| {
            let task = self.graph.task(*id);
            Some(Hit {
                id: *id,
                task,
                receipt: status.done().filter(|_| status.is_hit())?,
                is_passing: task.temporary && !prepared.goals.contains(id),
                is_absent: matches!(status, Status::Dropped(_)),
            })
        })
    }

    /// What it rests on that tasks have nothing to do: those that have a number.
    pub(super) fn ground(
        &self,
        prepared: &Prepared,
        grounds: &mut Grounds,
        number: impl Fn(TaskId) -> Option<u32>,
    ) -> Option<()> {
        let memo = self.store.root().join("memo");
        for name in MEMOS.iter().filter(|name| memo.join(name).exists()) {
            grounds.own(Bearer::WARNING, &memo, *name, None);
        }
        let latest = self.store.root().join("latest");
        let mut readers = Readers::default();
        for hit in self.hits(prepared) {
            let Some(number) = number(hit.id) else {
                continue;
            };
            if hit.is_passing && !hit.is_absent {
                // A pin holds it, or another result: when they go, so does this.
                return None;
            }
            readers.note(hit.task, number);
            let bearer = Bearer::task(number);
            grounds.own_path(bearer, &self.store.receipt_path(&hit.receipt.key), None);
            // That dropped content is absent is no ground: there is nothing to do either when it comes back.
            for blob in hit.receipt.blobs().filter(|_| !hit.is_absent) {
                let then = prepared.blobs.stamp(Path::new(&blob.digest.to_hex()))?;
                grounds.own_path(bearer, &self.store.blob_path(&blob.digest), Some(then));
            }
            let mut shown = self.store.published(&hit.task.name, &hit.exports());
            if shown.is_empty() {
                shown.push(latest.join(key_file(&hit.task.name)));
            }
            for path in shown {
                grounds.own(bearer, &latest, relative(&latest, &path), None);
            }
        }
        self.ground_workspace(prepared, grounds, readers)
    }

    fn ground_workspace(
        &self,
        prepared: &Prepared,
        grounds: &mut Grounds,
        readers: Readers<'_>,
    ) -> Option<()> {
        let root = self.workspace.root();
        let (scan, snapshot) = (&prepared.scan, &prepared.scan.snapshot);
        for (name, tasks) in readers.files {
            let bearer = grounds.tasks(tasks);
            let then = scan.stamp(&root.join(name))?;
            grounds.followed(bearer, root, name, Some(then));
        }
        for (id, tasks) in readers.sources {
            let bearer = grounds.tasks(tasks);
            let laid = scan.files(id)?;
            for path in laid.files() {
                let then = scan.stamp(path)?;
                grounds.followed(bearer, root, relative(root, path), Some(then));
            }
            for (path, then) in self.workspace.unchanged(self.graph.source(id), laid)? {
                grounds.followed(bearer, root, relative(root, &path), Some(then));
            }
        }
        for name in readers.env {
            let value = snapshot.env.get(name).cloned();
            grounds.env.insert(name.to_owned(), value);
        }
        Some(())
    }
}

/// Which tasks read what of the workspace, by their numbers.
#[derive(Default)]
struct Readers<'a> {
    sources: BTreeMap<SourceId, Vec<u32>>,
    /// Of programs.
    files: BTreeMap<&'a str, Vec<u32>>,
    env: Vec<&'a str>,
}

impl<'a> Readers<'a> {
    fn note(&mut self, task: &'a Task, number: u32) {
        for binding in task.bindings() {
            if let Origin::Source(source) = binding.from {
                self.sources.entry(source).or_default().push(number);
            }
        }
        if let Some(program) = task.executor.program() {
            for file in &program.files {
                self.files.entry(file).or_default().push(number);
            }
            self.env.extend(program.env.iter().map(String::as_str));
        }
    }
}

fn relative<'a>(root: &Path, path: &'a Path) -> &'a Path {
    path.strip_prefix(root).unwrap_or(path)
}
