//! Human names for the newest results: `latest/<task>/<port>`, copies that nothing depends on.
//!
//! Large artifacts are only there when the filesystem can share their blocks; `export` copies them on demand.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Store;
use super::blobs::{Materialise, files_of, hash_file};
use super::memo::{Memo, Seen, Stamp, now_ns};
use super::root::Root;
use crate::artifact::{Blob, Content};
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

/// A file of the newest results.
struct Placed {
    path: PathBuf,
    /// In the memo.
    name: PathBuf,
    blob: Blob,
}

impl Placed {
    /// Whether the file holds what it should, told by stat where that is enough.
    fn is_still(&self, memo: &mut Memo) -> bool {
        let seen_ns = now_ns();
        let Ok(metadata) = fs::symlink_metadata(&self.path) else {
            return false;
        };
        let (stamp, digest) = (Stamp::of(&metadata), self.blob.digest);
        if memo.seen(&self.name, &stamp) == Seen::Same(digest) {
            return true;
        }
        let is_same =
            metadata.is_file() && hash_file(&self.path).is_ok_and(|found| found.digest == digest);
        if is_same {
            memo.note(self.name.clone(), stamp, digest, seen_ns);
        }
        is_same
    }

    /// Notes what was just written.
    fn note(&self, memo: &mut Memo) {
        let seen_ns = now_ns();
        if let Ok(metadata) = fs::symlink_metadata(&self.path) {
            let stamp = Stamp::of(&metadata);
            memo.note(self.name.clone(), stamp, self.blob.digest, seen_ns);
        }
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
        serde_json::from_slice(&self.below().read(&path).ok()?).ok()
    }

    /// Every task that has a newest result.
    pub fn tasks(&self) -> Vec<(String, Last)> {
        let mut found = Vec::new();
        collect(self.below(), &self.root().join("latest"), "", &mut found);
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
        let directory = self.latest(task);
        self.below()
            .create_dir_all(&directory)
            .doing("create", &directory)?;
        let bytes = serde_json::to_vec(&last).unwrap_or_default();
        self.below()
            .write(&self.temporary(), &path, &bytes)
            .doing("write", &path)?;
        Ok(true)
    }

    /// Writes a file beside a task's newest results, in one step.
    pub fn write_latest(&self, task: &str, name: &str, bytes: &[u8]) -> Result<(), Error> {
        let directory = self.latest(task);
        let path = directory.join(name);
        self.below()
            .create_dir_all(&directory)
            .and_then(|()| self.below().write(&self.temporary(), &path, bytes))
            .doing("write", &path)
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
            // A build that was killed may have left its receipt without a sync.
            self.disk.pend(&self.receipt_path(key));
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
            .map(|placed| placed.path)
            .collect()
    }

    fn publish_port(&self, task: &str, export: &Export<'_>, memo: &mut Memo) -> Result<(), Error> {
        let target = self.latest(task).join(export.file_name());
        if !self.is_copied(export.content) {
            self.below().remove_tree(&target);
            return Ok(());
        }
        if are_files(export.content) && is_tree(&target) {
            return self.renew(&target, &self.placed(task, export), memo);
        }
        self.materialise(
            export.content,
            export.extension,
            &target,
            Materialise::ReadOnly,
        )?;
        for placed in self.placed(task, export) {
            placed.note(memo);
        }
        Ok(())
    }

    /// Makes a folder of shards hold these, each in one step: where one of a thousand changed, one is copied. A build
    /// that ends on the way has not said that they are the newest, so the next one goes on.
    fn renew(&self, folder: &Path, shards: &[Placed], memo: &mut Memo) -> Result<(), Error> {
        let wanted: HashSet<&OsStr> = shards
            .iter()
            .filter_map(|shard| shard.path.file_name())
            .collect();
        for path in self.below().entries(folder) {
            if path.file_name().is_some_and(|name| !wanted.contains(name)) {
                self.below().remove_tree(&path);
            }
        }
        for shard in shards {
            if shard.is_still(memo) {
                continue;
            }
            let content = Content::File(shard.blob);
            self.materialise(&content, "", &shard.path, Materialise::ReadOnly)?;
            shard.note(memo);
        }
        Ok(())
    }

    fn is_whole(&self, task: &str, export: &Export<'_>, memo: &mut Memo) -> bool {
        if !self.is_copied(export.content) {
            return true;
        }
        let placed = self.placed(task, export);
        !placed.is_empty() && placed.iter().all(|placed| placed.is_still(memo))
    }

    /// Every file of an export.
    fn placed(&self, task: &str, export: &Export<'_>) -> Vec<Placed> {
        let target = self.latest(task).join(export.file_name());
        let stem = Path::new(task).join(export.file_name());
        files_of(export.content, export.extension)
            .into_iter()
            .map(|(file, blob)| {
                let (path, name) = match file.as_str() {
                    "" => (target.clone(), stem.clone()),
                    file => (target.join(file), stem.join(file)),
                };
                Placed { path, name, blob }
            })
            .collect()
    }

    fn is_copied(&self, content: &Content) -> bool {
        content.size() <= COPIED_UP_TO || self.shares_blocks()
    }

    fn shares_blocks(&self) -> bool {
        let (from, to) = (self.temporary(), self.temporary());
        let root = self.below();
        let shared = root
            .create_new(&from)
            .and_then(|mut file| file.write_all(b"x"))
            .and_then(|()| Ok((root.open(&from)?, root.create_new(&to)?)))
            .is_ok_and(|(from, to)| rustix::fs::ioctl_ficlone(&to, &from).is_ok());
        let _ = root.remove_file(&from);
        let _ = root.remove_file(&to);
        shared
    }
}

/// Hidden: the name of a port cannot begin with a dot.
const KEY_FILE: &str = ".receipt";

/// Where the key of a task's newest results is written, below `latest/`.
pub(crate) fn key_file(task: &str) -> PathBuf {
    Path::new(task).join(KEY_FILE)
}

/// True when every shard is a file.
fn are_files(content: &Content) -> bool {
    let is_file = |part: &Content| matches!(part, Content::File(_));
    matches!(content, Content::Shards(parts) if parts.iter().all(is_file))
}

fn is_tree(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.is_dir())
}

fn collect(root: &Root, directory: &Path, name: &str, into: &mut Vec<(String, Last)>) {
    if let Ok(bytes) = root.read(&directory.join(KEY_FILE)) {
        if let Ok(last) = serde_json::from_slice(&bytes) {
            into.push((name.to_owned(), last));
        }
        return;
    }
    for path in root.entries(directory) {
        if is_tree(&path)
            && let Some(child) = path.file_name().and_then(OsStr::to_str)
        {
            let name = if name.is_empty() {
                child.to_owned()
            } else {
                format!("{name}/{child}")
            };
            collect(root, &path, &name, into);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::receipt;
    use std::collections::BTreeMap;
    use std::os::unix::fs::MetadataExt;

    struct World {
        _directory: tempfile::TempDir,
        store: Store,
        memo: Memo,
    }

    impl World {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let store = Store::new(directory.path());
            store.create().unwrap();
            Self {
                _directory: directory,
                store,
                memo: Memo::default(),
            }
        }

        fn publish(&mut self, shards: &[&str]) {
            let kept = shards
                .iter()
                .map(|text| self.store.keep_bytes(text.as_bytes()).unwrap());
            let content = Content::Shards(kept.map(Content::File).collect());
            let receipt = Receipt {
                schema: receipt::SCHEMA,
                key: Digest::of(shards.concat().as_bytes()),
                manifest: Text::any(&serde_json::json!({"kind": "k"})),
                outputs: BTreeMap::from([("out".to_owned(), content.clone())]),
                facts: BTreeMap::new(),
                task: "t".to_owned(),
                elapsed_ms: 1,
                attempts: 1,
                environment: BTreeMap::new(),
                accepted: None,
                dropped: false,
            };
            let export = Export {
                port: "out",
                extension: "txt",
                content: &content,
            };
            let published = self
                .store
                .publish("t", &receipt, &[export], &mut self.memo)
                .unwrap();
            assert!(published);
        }

        /// What is there: name, content and inode.
        fn files(&self) -> Vec<(String, String, u64)> {
            let entries = fs::read_dir(self.store.latest("t").join("out")).unwrap();
            let mut files: Vec<_> = entries
                .map(|entry| {
                    let entry = entry.unwrap();
                    (
                        entry.file_name().into_string().unwrap(),
                        fs::read_to_string(entry.path()).unwrap(),
                        entry.metadata().unwrap().ino(),
                    )
                })
                .collect();
            files.sort();
            files
        }
    }

    #[test]
    fn of_many_shards_those_that_changed_are_copied() {
        let mut world = World::new();
        world.publish(&["a", "b", "c"]);
        let before = world.files();
        world.publish(&["a", "B", "c"]);
        let after = world.files();
        assert_eq!(after[1].1, "B");
        assert_eq!((&after[0], &after[2]), (&before[0], &before[2]));
    }

    #[test]
    fn a_folder_of_shards_holds_nothing_else() {
        let mut world = World::new();
        world.publish(&["a", "b", "c"]);
        let folder = world.store.latest("t").join("out");
        fs::write(folder.join("stray"), "x").unwrap();
        fs::remove_file(folder.join("00001.txt")).unwrap();
        fs::remove_file(folder.join("00000.txt")).unwrap();
        fs::write(folder.join("00000.txt"), "tampered").unwrap();
        world.publish(&["a", "b"]);
        let files = world.files();
        let shown: Vec<(&str, &str)> = files
            .iter()
            .map(|(name, text, _)| (name.as_str(), text.as_str()))
            .collect();
        assert_eq!(shown, [("00000.txt", "a"), ("00001.txt", "b")]);
    }

    #[test]
    fn where_a_file_was_shards_may_come() {
        let mut world = World::new();
        fs::create_dir_all(world.store.latest("t")).unwrap();
        fs::write(world.store.latest("t").join("out"), "a file").unwrap();
        world.publish(&["a"]);
        assert_eq!(world.files()[0].1, "a");
        world.publish(&[]);
        assert_eq!(world.files().len(), 0);
    }
}
