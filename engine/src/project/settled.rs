//! Nothing to do: found out thoroughly once, and from then on by a look at everything that the answer rests on.
//!
//! A seal proves that sources, receipts, blobs and newest results look as they did when their digests were compared.
//! That the bytes of a blob are what its name says, whatever its times say, only a check of every blob proves.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Project;
use crate::build::{Prepared, exports, spares};
use crate::digest::Digest;
use crate::error::Error;
use crate::graph::{Task, TaskId};
use crate::plan::{Known, Status};
use crate::receipt::Receipt;
use crate::store::{Export, Grounds, MEMOS, Memo, Store, now_ns};
use crate::workspace::Workspace;

/// Whether there is anything to do, asked by a program with certain words.
#[derive(Debug)]
pub struct Question {
    digest: Digest,
    begun_ns: i64,
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
        }
    }

    /// What [`Project::seal`] left, if nothing has moved since.
    pub fn answer(&self, workspace: &Workspace) -> Option<Vec<u8>> {
        Store::of(workspace).sealed(&self.digest)
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
    fn remember(&self, name: &str, memo: &Memo) {
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
        match self.grounds(prepared, shown) {
            Some(grounds) => self
                .store
                .seal(&question.digest, answer, grounds, question.begun_ns),
            None => Ok(false),
        }
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

    fn grounds(&self, prepared: &Prepared, shown: &[PathBuf]) -> Option<Grounds> {
        let mut grounds = Grounds::default();
        self.ground_workspace(prepared, &mut grounds)?;
        let memo = self.store.root().join("memo");
        for name in MEMOS.iter().filter(|name| memo.join(name).exists()) {
            grounds.helper(&memo, name);
        }
        let latest = self.store.root().join("latest");
        for hit in self.hits(prepared) {
            grounds.own_path(&self.store.receipt_path(&hit.receipt.key));
            // That dropped content is absent is no ground: there is nothing to do either when it comes back.
            for blob in hit.receipt.blobs().filter(|_| !hit.is_absent) {
                let then = prepared.blobs.stamp(Path::new(&blob.digest.to_hex()))?;
                grounds.own_path_since(&self.store.blob_path(&blob.digest), then);
            }
            for path in self.store.published(&hit.task.name, &hit.exports()) {
                grounds.own(&latest, relative(&latest, &path));
            }
        }
        for path in shown {
            grounds.followed(&latest, relative(&latest, path));
        }
        Some(grounds)
    }

    fn ground_workspace(&self, prepared: &Prepared, grounds: &mut Grounds) -> Option<()> {
        let root = self.workspace.root();
        let snapshot = &prepared.scan.snapshot;
        for name in &self.read {
            grounds.followed(root, name);
        }
        for name in snapshot.files.keys() {
            let then = prepared.scan.stamp(&root.join(name))?;
            grounds.followed_since(root, name, then);
        }
        for id in snapshot.sources.keys() {
            let laid = prepared.scan.files(*id)?;
            for path in laid.files() {
                grounds.followed_since(root, relative(root, path), prepared.scan.stamp(path)?);
            }
            for (path, then) in self.workspace.unchanged(self.graph.source(*id), laid)? {
                grounds.followed_since(root, relative(root, &path), then);
            }
        }
        for task in self.hits(prepared).map(|hit| hit.task) {
            for name in task
                .executor
                .program()
                .iter()
                .flat_map(|program| &program.env)
            {
                let value = snapshot.env.get(name).cloned();
                grounds.env.insert(name.clone(), value);
            }
        }
        Some(())
    }
}

fn relative<'a>(root: &Path, path: &'a Path) -> &'a Path {
    path.strip_prefix(root).unwrap_or(path)
}
