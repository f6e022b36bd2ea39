//! Human names for the newest results: `latest/<task>/<port>`, copies that nothing depends on.
//!
//! Large artifacts are only there when the filesystem can share their blocks; `export` copies them on demand.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Store;
use super::blobs::{Materialise, files_of, hash_file, remove_tree};
use super::memo::{Memo, Seen, Stamp, now_ns};
use crate::artifact::Content;
use crate::digest::Digest;
use crate::error::{Doing, Error};
use crate::key::Manifest;
use crate::receipt::{Receipt, Text};

/// Largest artifact that is copied byte by byte.
const COPIED_UP_TO: u64 = 64 << 20;

/// An output port as people see it.
#[derive(Debug, Clone, Copy)]
pub struct Export<'a> {
    pub port: &'a str,
    pub extension: &'a str,
    pub content: &'a Content,
}

impl Export<'_> {
    /// `report.html`: the port, and the extension of a file.
    pub fn file_name(&self) -> String {
        match self.content {
            Content::File(_) if !self.extension.is_empty() => {
                format!("{}.{}", self.port, self.extension)
            }
            _ => self.port.to_owned(),
        }
    }
}

/// What a task of some name gave last.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Last {
    pub key: Digest,
    manifest: Text,
}

impl Last {
    pub fn manifest(&self) -> Option<Manifest> {
        self.manifest.read()
    }
}

impl Store {
    /// The directory of a task's newest results. Steps of composites nest.
    pub fn latest(&self, task: &str) -> PathBuf {
        self.root().join("latest").join(task)
    }

    /// The keys with which tasks were last resolved, as the memo of newest results has them: a guess.
    pub fn last_keys<'a>(&self, memo: &Memo, tasks: impl Iterator<Item = &'a str>) -> Vec<Digest> {
        tasks
            .filter_map(|task| memo.last(&key_file(task)))
            .collect()
    }

    /// The key and manifest with which a task of this name was last resolved.
    pub fn last(&self, task: &str) -> Option<Last> {
        let path = self.root().join("latest").join(key_file(task));
        serde_json::from_slice(&fs::read(path).ok()?).ok()
    }

    /// Every task that has a newest result.
    pub fn tasks(&self) -> Vec<(String, Last)> {
        let mut found = Vec::new();
        collect(&self.root().join("latest"), "", &mut found);
        found.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        found
    }

    /// Makes the newest results of a task those of `receipt`, unless they are already, whole and unharmed. True when
    /// something was written.
    pub fn publish(
        &self,
        task: &str,
        receipt: &Receipt,
        exports: &[Export<'_>],
        memo: &mut Memo,
    ) -> Result<bool, Error> {
        if self.is_published(task, receipt, exports, memo) {
            return Ok(false);
        }
        for export in exports {
            self.publish_port(task, export, memo)?;
        }
        let last = Last {
            key: receipt.key,
            manifest: receipt.manifest.clone(),
        };
        let path = self.root().join("latest").join(key_file(task));
        fs::create_dir_all(self.latest(task)).doing("create", &self.latest(task))?;
        let temporary = self.temporary();
        fs::write(&temporary, serde_json::to_vec(&last).unwrap_or_default())
            .and_then(|()| fs::rename(&temporary, &path))
            .doing("write", &path)?;
        Ok(true)
    }

    /// Whether the newest results of a task are those of `receipt`, whole and unharmed.
    pub fn is_published(
        &self,
        task: &str,
        receipt: &Receipt,
        exports: &[Export<'_>],
        memo: &mut Memo,
    ) -> bool {
        let mut exports = exports.iter();
        self.is_last(task, &receipt.key, memo)
            && exports.all(|export| self.is_whole(task, export, memo))
    }

    /// Whether a task was last resolved with this key; the file that says so is read only if it moved.
    fn is_last(&self, task: &str, key: &Digest, memo: &mut Memo) -> bool {
        let name = key_file(task);
        let seen_ns = now_ns();
        let Ok(metadata) = fs::symlink_metadata(self.root().join("latest").join(&name)) else {
            return false;
        };
        let stamp = Stamp::of(&metadata);
        if let Seen::Same(last) = memo.seen(&name, &stamp) {
            return last == *key;
        }
        let is_last = self.last(task).is_some_and(|last| last.key == *key);
        if is_last {
            memo.note(name, stamp, *key, seen_ns);
        }
        is_last
    }

    /// The files of a task's newest results, as people see them.
    pub fn published(&self, task: &str, exports: &[Export<'_>]) -> Vec<PathBuf> {
        let copied = exports
            .iter()
            .filter(|export| self.is_copied(export.content));
        copied
            .flat_map(|export| self.placed(task, export))
            .map(|(path, _, _)| path)
            .collect()
    }

    fn publish_port(&self, task: &str, export: &Export<'_>, memo: &mut Memo) -> Result<(), Error> {
        let target = self.latest(task).join(export.file_name());
        if !self.is_copied(export.content) {
            remove_tree(&target);
            return Ok(());
        }
        self.materialise(
            export.content,
            export.extension,
            &target,
            Materialise::ReadOnly,
        )?;
        for (path, name, blob) in self.placed(task, export) {
            let seen_ns = now_ns();
            if let Ok(metadata) = fs::symlink_metadata(&path) {
                memo.note(name, Stamp::of(&metadata), blob, seen_ns);
            }
        }
        Ok(())
    }

    fn is_whole(&self, task: &str, export: &Export<'_>, memo: &mut Memo) -> bool {
        if !self.is_copied(export.content) {
            return true;
        }
        let placed = self.placed(task, export);
        !placed.is_empty()
            && placed
                .into_iter()
                .all(|(path, name, digest)| is_still(&path, name, &digest, memo))
    }

    /// Every file of an export: where it lies, its name in the memo, its digest.
    fn placed(&self, task: &str, export: &Export<'_>) -> Vec<(PathBuf, PathBuf, Digest)> {
        let target = self.latest(task).join(export.file_name());
        let stem = Path::new(task).join(export.file_name());
        files_of(export.content, export.extension)
            .into_iter()
            .map(|(name, blob)| match name.as_str() {
                "" => (target.clone(), stem.clone(), blob.digest),
                _ => (target.join(&name), stem.join(&name), blob.digest),
            })
            .collect()
    }

    fn is_copied(&self, content: &Content) -> bool {
        content.size() <= COPIED_UP_TO || self.shares_blocks()
    }

    fn shares_blocks(&self) -> bool {
        let (from, to) = (self.temporary(), self.temporary());
        let shared = fs::write(&from, b"x")
            .and_then(|()| Ok((fs::File::open(&from)?, fs::File::create(&to)?)))
            .is_ok_and(|(from, to)| rustix::fs::ioctl_ficlone(&to, &from).is_ok());
        let _ = fs::remove_file(&from);
        let _ = fs::remove_file(&to);
        shared
    }
}

/// Where the key of a task's newest results is written, below `latest/`.
fn key_file(task: &str) -> PathBuf {
    Path::new(task).join("receipt")
}

fn is_still(path: &Path, name: PathBuf, digest: &Digest, memo: &mut Memo) -> bool {
    let seen_ns = now_ns();
    let Ok(metadata) = fs::symlink_metadata(path) else {
        return false;
    };
    let stamp = Stamp::of(&metadata);
    if memo.seen(&name, &stamp) == Seen::Same(*digest) {
        return true;
    }
    let is_same = metadata.is_file() && hash_file(path).is_ok_and(|found| found.digest == *digest);
    if is_same {
        memo.note(name, stamp, *digest, seen_ns);
    }
    is_same
}

fn collect(directory: &Path, name: &str, into: &mut Vec<(String, Last)>) {
    if let Ok(bytes) = fs::read(directory.join("receipt")) {
        if let Ok(last) = serde_json::from_slice(&bytes) {
            into.push((name.to_owned(), last));
        }
        return;
    }
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if let (Ok(kind), Ok(child)) = (entry.file_type(), entry.file_name().into_string())
            && kind.is_dir()
        {
            let name = if name.is_empty() {
                child
            } else {
                format!("{name}/{child}")
            };
            collect(&entry.path(), &name, into);
        }
    }
}
