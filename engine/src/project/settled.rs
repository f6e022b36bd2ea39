//! Nothing to do: found out thoroughly once, and from then on by a look at everything that the answer rests on.
//!
//! A seal proves that sources, receipts, blobs and newest results look as they did when their digests were compared.
//! That the bytes of a blob are what its name says, whatever its times say, only a check of every blob proves.

use std::path::{Path, PathBuf};

use super::Project;
use crate::build::{Prepared, exports};
use crate::digest::Digest;
use crate::error::Error;
use crate::graph::Task;
use crate::plan::Status;
use crate::receipt::Receipt;
use crate::store::{Grounds, MEMOS, Memo, Store, now_ns};
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

impl Project {
    /// True when there is nothing to run, and the newest results are those of the plan, whole and unharmed. Notes what
    /// was read to find out.
    pub fn is_settled(&self, prepared: &Prepared) -> bool {
        if !prepared.plan.is_done() {
            return false;
        }
        let mut latest = prepared.latest.clone();
        let is_settled = self.hits(prepared).all(|(task, receipt)| {
            let exports = exports(task, receipt);
            self.store
                .is_published(&task.name, receipt, &exports, &mut latest)
        });
        self.remember("latest", &latest);
        self.remember("sources", &prepared.sources);
        self.remember("blobs", &prepared.blobs);
        is_settled
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

    fn hits<'a>(&'a self, prepared: &'a Prepared) -> impl Iterator<Item = (&'a Task, &'a Receipt)> {
        prepared
            .plan
            .tasks
            .iter()
            .filter_map(|(id, status)| match status {
                Status::Hit(receipt) => Some((self.graph.task(*id), &**receipt)),
                _ => None,
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
        for (task, receipt) in self.hits(prepared) {
            grounds.own_path(&self.store.receipt_path(&receipt.key));
            for blob in receipt.blobs() {
                grounds.own_path(&self.store.blob_path(&blob.digest));
            }
            for path in self.store.published(&task.name, &exports(task, receipt)) {
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
            grounds.followed(root, name);
        }
        for id in snapshot.sources.keys() {
            let laid = prepared.scan.files(*id)?;
            let directories = self.workspace.directories(self.graph.source(*id), laid)?;
            let paths = laid
                .files()
                .into_iter()
                .chain(directories.iter().map(PathBuf::as_path));
            for path in paths {
                grounds.followed(root, relative(root, path));
            }
        }
        for task in self.hits(prepared).map(|(task, _)| task) {
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
