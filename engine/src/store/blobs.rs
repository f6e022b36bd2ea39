//! Content: files named by digest, read-only, put in by rename, taken out by copy.
//!
//! Never lends a hard link: whoever writes to an export cannot reach the store. Knows no keys and no tasks.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, Permissions};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{MutexGuard, PoisonError};

use blake3::hazmat::{self, ChainingValue, HasherExt, Mode};
use rayon::prelude::*;
use rustix::fs::OFlags;

use super::memo::{Memo, Seen, Stamp, now_ns};
use super::root::remove_at;
use super::{Store, fanned};
use crate::artifact::{Blob, Content, numbered};
use crate::digest::Digest;
use crate::error::{Doing, Error};

/// Files that are to become content, in the layout of their port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Laid {
    File(PathBuf),
    Directory(BTreeMap<String, PathBuf>),
    Shards(Vec<Laid>),
}

impl Laid {
    /// Every file, in the order of the content's blobs.
    pub fn files(&self) -> Vec<&Path> {
        match self {
            Self::File(path) => vec![path],
            Self::Directory(files) => files.values().map(PathBuf::as_path).collect(),
            Self::Shards(parts) => parts.iter().flat_map(Self::files).collect(),
        }
    }

    /// The parts of shards; anything else is its own single part.
    pub fn parts(&self) -> &[Self] {
        match self {
            Self::Shards(parts) => parts,
            _ => std::slice::from_ref(self),
        }
    }

    /// The content of this layout, given the blobs of its files in order.
    fn content(&self, blobs: &mut impl Iterator<Item = Blob>) -> Content {
        let mut next = || blobs.next().expect("one blob for each file");
        match self {
            Self::File(_) => Content::File(next()),
            Self::Directory(files) => {
                Content::Directory(files.keys().map(|name| (name.clone(), next())).collect())
            }
            Self::Shards(parts) => {
                Content::Shards(parts.iter().map(|part| part.content(blobs)).collect())
            }
        }
    }
}

/// How a blob looks against what its receipt says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BlobState {
    Sound,
    Missing,
    WrongSize { found: u64 },
    Damaged,
    Unreadable(String),
}

impl BlobState {
    /// What is wrong, for a warning.
    pub fn trouble(&self) -> Option<String> {
        match self {
            Self::Sound => None,
            Self::Missing => Some("missing".to_owned()),
            Self::WrongSize { found } => Some(format!("damaged: {found} bytes long")),
            Self::Damaged => Some("damaged: other content than its name says".to_owned()),
            Self::Unreadable(cause) => Some(format!("unreadable: {cause}")),
        }
    }
}

/// What a copy out of the store is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Materialise {
    /// For people: writable.
    Writable,
    /// For looking at.
    ReadOnly,
}

/// The digest and length of a file; large ones are read and hashed by many threads.
///
/// Nothing is mapped: a file that somebody else cuts while it is read would end the process (SIGBUS).
pub fn hash_file(path: &Path) -> Result<Blob, Error> {
    crate::read::open(path)
        .and_then(hash_opened)
        .doing("read", path)
}

fn hash_opened(file: File) -> io::Result<Blob> {
    const LARGE: u64 = 128 * 1024;
    let size = file.metadata()?.len();
    let hash = if size >= LARGE {
        let (left, right) = halves(&file, 0, size)?;
        hazmat::merge_subtrees_root(&left, &right, Mode::Hash)
    } else {
        let mut bytes = Vec::with_capacity(size as usize + 1);
        // Not of the file itself: that asks again how long it is.
        (&file).take(u64::MAX).read_to_end(&mut bytes)?;
        blake3::hash(&bytes)
    };
    let digest = Digest::from_bytes(*hash.as_bytes());
    Ok(Blob { digest, size })
}

/// What the subtree of BLAKE3 over `size` bytes from `start` comes to. Each thread reads what it hashes, so that the
/// bytes are still in its cache.
fn subtree(file: &File, start: u64, size: u64) -> io::Result<ChainingValue> {
    const LEAF: u64 = 256 * 1024;
    if size > LEAF {
        let (left, right) = halves(file, start, size)?;
        return Ok(hazmat::merge_subtrees_non_root(&left, &right, Mode::Hash));
    }
    let mut bytes = vec![0; size as usize];
    file.read_exact_at(&mut bytes, start)?;
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(start).update(&bytes);
    Ok(hasher.finalize_non_root())
}

fn halves(file: &File, start: u64, size: u64) -> io::Result<(ChainingValue, ChainingValue)> {
    let left = hazmat::left_subtree_len(size);
    let (left, right) = rayon::join(
        || subtree(file, start, left),
        || subtree(file, start + left, size - left),
    );
    Ok((left?, right?))
}

impl Store {
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        fanned(&self.root().join("blobs"), digest, "")
    }

    /// Moves the files into the store. They must lie below the store's `tmp/` or `partial/`, and nobody may write to
    /// them any more. A blob that exists is replaced: what was just made is known to be sound.
    pub fn keep(&self, laid: &Laid) -> Result<Content, Error> {
        let files = laid.files();
        let blobs: Vec<Blob> = match files.as_slice() {
            // Keeping is waiting for the disk as well: one file does not wait for a free core.
            [path] => vec![self.keep_file(path)?],
            paths => paths
                .par_iter()
                .map(|path| self.keep_file(path))
                .collect::<Result<_, _>>()?,
        };
        Ok(laid.content(&mut blobs.into_iter()))
    }

    fn keep_file(&self, path: &Path) -> Result<Blob, Error> {
        let metadata = fs::symlink_metadata(path).doing("read", path)?;
        if metadata.nlink() > 1 {
            // Another name of this inode may be written to later.
            self.unshare(path)?;
        }
        fs::set_permissions(path, Permissions::from_mode(0o444)).doing("protect", path)?;
        let blob = hash_file(path)?;
        let place = self.blob_path(&blob.digest);
        if let Some(parent) = place.parent() {
            self.disk.create_directory(parent)?;
        }
        let there = self.stamp_if_sound(&blob);
        let was_there = there.is_some();
        let stamp = match there {
            Some(stamp) => {
                self.below().remove_file(path).doing("remove", path)?;
                stamp
            }
            None => {
                self.disk.rename(path, &place)?;
                Stamp::of(&fs::symlink_metadata(&place).doing("read", &place)?)
            }
        };
        // Bytes that were written to while they were read are not known: they are read again before they are used.
        let before = Stamp::of(&metadata);
        if was_there || (before.mtime_ns, before.size) == (stamp.mtime_ns, stamp.size) {
            self.kept_stamps().insert(blob.digest, stamp);
        }
        self.disk.pend(&place);
        Ok(blob)
    }

    /// How a blob looks whose bytes are there and right.
    fn stamp_if_sound(&self, blob: &Blob) -> Option<Stamp> {
        let found = fs::symlink_metadata(self.blob_path(&blob.digest)).ok()?;
        let is_sound = found.is_file() && self.verify(blob) == BlobState::Sound;
        is_sound.then(|| Stamp::of(&found))
    }

    fn kept_stamps(&self) -> MutexGuard<'_, HashMap<Digest, Stamp>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives `path` an inode of its own.
    fn unshare(&self, path: &Path) -> Result<(), Error> {
        let own = self.temporary();
        let source = File::open(path).doing("read", path)?;
        let target = self.below().create_new(&own).doing("write", &own)?;
        copy(source, target, &own, Materialise::Writable)?;
        self.disk.rename(&own, path)
    }

    /// Puts bytes that are in memory into the store.
    pub fn keep_bytes(&self, bytes: &[u8]) -> Result<Blob, Error> {
        let path = self.temporary();
        self.disk.write_new(&path, bytes)?;
        self.keep_file(&path)
    }

    /// Looks at a blob: its length always, its bytes when they may have changed since the memo saw them,
    /// or it never did: without the memo the same is found, only later.
    pub fn check(&self, blob: &Blob, memo: &Memo) -> BlobState {
        self.check_noting(blob, memo, |_, _| ())
    }

    /// The same, telling `read` how a blob looked (and when) whose bytes had to be read and were sound.
    pub(super) fn check_noting(
        &self,
        blob: &Blob,
        memo: &Memo,
        read: impl FnOnce(Stamp, i64),
    ) -> BlobState {
        let path = self.blob_path(&blob.digest);
        let seen_ns = now_ns();
        let metadata = match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return BlobState::Missing;
            }
            Err(error) => return BlobState::Unreadable(error.to_string()),
            Ok(metadata) if !metadata.is_file() => return BlobState::Damaged,
            Ok(metadata) => metadata,
        };
        if metadata.len() != blob.size {
            return BlobState::WrongSize {
                found: metadata.len(),
            };
        }
        let stamp = Stamp::of(&metadata);
        match memo.seen(Path::new(&blob.digest.to_hex()), &stamp) {
            Seen::Same(digest) if digest == blob.digest => return BlobState::Sound,
            Seen::Same(_) | Seen::Changed | Seen::Never => {}
        }
        let state = self.verify(blob);
        if state == BlobState::Sound {
            // A build that was killed may have left it without a sync.
            self.disk.pend(&path);
            read(stamp, seen_ns);
        }
        state
    }

    /// Reads the bytes of a blob again.
    pub fn verify(&self, blob: &Blob) -> BlobState {
        let path = self.blob_path(&blob.digest);
        let opened = self.below().open_seen(&path);
        if let Ok((_, found)) = &opened
            && found.len() != blob.size
        {
            return BlobState::WrongSize { found: found.len() };
        }
        match opened.and_then(|(file, _)| hash_opened(file)) {
            Ok(found) if found.size != blob.size => BlobState::WrongSize { found: found.size },
            Ok(found) if found.digest == blob.digest => BlobState::Sound,
            Ok(_) => BlobState::Damaged,
            Err(_) if !path.exists() => BlobState::Missing,
            Err(error) => BlobState::Unreadable(error.to_string()),
        }
    }

    /// Notes how sound blobs look, so that they need not be read again until they change. One that does not look as
    /// when it was kept or noted is read first.
    pub fn note_blobs(&self, memo: &mut Memo, blobs: impl IntoIterator<Item = Blob>) {
        for blob in blobs {
            let seen_ns = now_ns();
            let Ok(metadata) = fs::symlink_metadata(self.blob_path(&blob.digest)) else {
                continue;
            };
            let stamp = Stamp::of(&metadata);
            let name = PathBuf::from(blob.digest.to_hex());
            let is_news = match memo.seen(&name, &stamp) {
                Seen::Same(_) => false,
                Seen::Never | Seen::Changed => {
                    self.kept_stamps().get(&blob.digest) == Some(&stamp)
                        || self.verify(&blob) == BlobState::Sound
                }
            };
            if is_news {
                memo.note(name, stamp, blob.digest, seen_ns);
            }
        }
    }

    /// How a blob looks, to find out later whether somebody wrote to it.
    pub fn stamp(&self, blob: &Blob) -> Option<Stamp> {
        let found = fs::symlink_metadata(self.blob_path(&blob.digest)).ok()?;
        Some(Stamp::of(&found))
    }

    /// How a blob looks that is to be read now. Its bytes are read unless it still looks as when the memo last saw it, or
    /// when this process kept it: it was looked at before, and somebody may have written to it since. An error says what
    /// is wrong with it.
    pub fn lend(&self, blob: &Blob, memo: &Memo) -> Result<Stamp, BlobState> {
        // Taken before the bytes are read: what is written after that shows in the stamp.
        let stamp = self.stamp(blob).ok_or(BlobState::Missing)?;
        let name = blob.digest.to_hex();
        let is_known = memo.seen(Path::new(&name), &stamp) == Seen::Same(blob.digest)
            || self.kept_stamps().get(&blob.digest) == Some(&stamp);
        if !is_known {
            match self.verify(blob) {
                BlobState::Sound => {}
                state => return Err(state),
            }
        }
        Ok(stamp)
    }

    /// Removes a blob that somebody wrote to: what made it runs again.
    pub fn give_up(&self, blob: &Blob) -> Result<(), Error> {
        self.disk.remove(&self.blob_path(&blob.digest))
    }

    /// The bytes of a small blob.
    pub fn read(&self, blob: &Blob) -> Result<Vec<u8>, Error> {
        let path = self.blob_path(&blob.digest);
        self.below().read(&path).doing("read", &path)
    }

    /// Copies content to `target`, which appears (or is replaced) in one step. Shards are named by position:
    /// `00000.<extension>`.
    pub fn materialise(
        &self,
        content: &Content,
        extension: &str,
        target: &Path,
        mode: Materialise,
    ) -> Result<(), Error> {
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let parent = target.parent().unwrap_or(Path::new("."));
        let mut temporary = self.temporary();
        if target.starts_with(self.root()) {
            self.below()
                .create_dir_all(parent)
                .doing("create", parent)?;
        } else {
            fs::create_dir_all(parent).doing("create", parent)?;
            // Another filesystem, perhaps. Within the store, what a kill leaves behind is swept.
            let unique = temporary.file_name().unwrap_or_default().to_string_lossy();
            temporary = parent.join(format!(".{name}.{unique}"));
        }
        let done = self
            .copy_out(content, extension, &temporary, mode)
            .and_then(|()| self.replace(&temporary, target));
        self.discard(&temporary);
        done
    }

    fn copy_out(
        &self,
        content: &Content,
        extension: &str,
        to: &Path,
        mode: Materialise,
    ) -> Result<(), Error> {
        let mut folder = PathBuf::new();
        if !matches!(content, Content::File(_)) {
            fs::create_dir_all(to).doing("create", to)?;
            to.clone_into(&mut folder);
        }
        for (name, blob) in files_of(content, extension) {
            let path = if name.is_empty() {
                to.to_owned()
            } else {
                to.join(name)
            };
            if let Some(parent) = path.parent().filter(|parent| *parent != folder) {
                fs::create_dir_all(parent).doing("create", parent)?;
                parent.clone_into(&mut folder);
            }
            let from = self.blob_path(&blob.digest);
            let source = self.below().open(&from).doing("read", &from)?;
            // What it lies in was just made, under a name that is new.
            let target = File::create_new(&path).doing("write", &path)?;
            copy(source, target, &path, mode)?;
        }
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        match to.starts_with(self.root()) {
            true => self.below().rename(from, to),
            false => fs::rename(from, to),
        }
    }

    fn exchange(&self, from: &Path, to: &Path) -> io::Result<()> {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        match to.starts_with(self.root()) {
            true => self.below().exchange(from, to),
            false => Ok(renameat_with(CWD, from, CWD, to, RenameFlags::EXCHANGE)?),
        }
    }

    /// Removes whatever is at `path`, in the store or elsewhere.
    fn discard(&self, path: &Path) {
        match path.starts_with(self.root()) {
            true => self.below().remove_tree(path),
            false => remove_tree(path),
        }
    }

    /// Puts `from` where `to` is, whatever `to` was. Two trees change places in one step.
    fn replace(&self, from: &Path, to: &Path) -> Result<(), Error> {
        let is_tree = |path: &Path| fs::symlink_metadata(path).is_ok_and(|found| found.is_dir());
        if !is_tree(from) && !is_tree(to) {
            return self.rename(from, to).doing("write", to);
        }
        let exchange = || self.exchange(from, to).is_ok();
        // There may be nothing to change places with; and by then another build may have put something there.
        if exchange() || self.rename(from, to).is_ok() || exchange() {
            return Ok(());
        }
        // A filesystem without exchange: there is a moment without `to`.
        self.discard(to);
        self.rename(from, to).doing("write", to)
    }
}

/// Every file of a content with its relative name: empty for a single file, `00000.<extension>` for shards.
pub fn files_of(content: &Content, extension: &str) -> Vec<(String, Blob)> {
    match content {
        Content::File(blob) => vec![(String::new(), *blob)],
        Content::Directory(files) => files
            .iter()
            .map(|(name, blob)| (name.clone(), *blob))
            .collect(),
        Content::Shards(parts) => parts
            .iter()
            .enumerate()
            .flat_map(|(index, part)| {
                let number = numbered(index, parts.len());
                let stem = match part {
                    Content::File(_) if !extension.is_empty() => format!("{number}.{extension}"),
                    _ => number,
                };
                files_of(part, "")
                    .into_iter()
                    .map(move |(name, blob)| match name.as_str() {
                        "" => (stem.clone(), blob),
                        _ => (format!("{stem}/{name}"), blob),
                    })
            })
            .collect(),
    }
}

/// Copies a file, sharing its blocks where the filesystem can.
fn copy(mut source: File, mut target: File, to: &Path, mode: Materialise) -> Result<(), Error> {
    let bits = match mode {
        Materialise::Writable => 0o644,
        Materialise::ReadOnly => 0o444,
    };
    if rustix::fs::ioctl_ficlone(&target, &source).is_err() {
        std::io::copy(&mut source, &mut target).doing("write", to)?;
    }
    let permissions = Permissions::from_mode(bits);
    target.set_permissions(permissions).doing("protect", to)
}

/// Removes whatever is at `path`, if it can; directories that a task made read-only as well.
pub(crate) fn remove_tree(path: &Path) {
    let (parent, name) = (path.parent().unwrap_or(Path::new("/")), path.file_name());
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let parent = rustix::fs::open(parent, flags, rustix::fs::Mode::empty());
    if let (Ok(parent), Some(name)) = (parent, name) {
        remove_at(parent.as_fd(), name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::new(directory.path().join("cache"));
        store.create().unwrap();
        (directory, store)
    }

    fn made(store: &Store, text: &str) -> PathBuf {
        let path = store.temporary();
        fs::write(&path, text).unwrap();
        path
    }

    #[test]
    fn a_file_has_the_digest_of_its_bytes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        const KIB: usize = 1024;
        let sizes = [
            0,
            1,
            128 * KIB,
            256 * KIB,
            256 * KIB + 1,
            768 * KIB,
            1500 * KIB + 7,
        ];
        for size in sizes {
            let bytes: Vec<u8> = (0..size).map(|at| (at * 31 + at / 251) as u8).collect();
            fs::write(&path, &bytes).unwrap();
            let blob = hash_file(&path).unwrap();
            assert_eq!(blob.size, size as u64);
            assert_eq!(blob.digest, Digest::of(&bytes), "{size} bytes");
        }
    }

    #[test]
    fn keeps_and_gives_back_a_tree() {
        let (directory, store) = store();
        let parts = ["one", ""].map(|text| Laid::File(made(&store, text)));
        let content = store.keep(&Laid::Shards(parts.to_vec())).unwrap();
        assert_eq!(content.parts().len(), 2, "an empty part stays");
        let target = directory.path().join("out");
        fs::create_dir(&target).unwrap();
        fs::write(target.join("stale"), "").unwrap();
        store
            .materialise(&content, "txt", &target, Materialise::Writable)
            .unwrap();
        assert_eq!(fs::read_to_string(target.join("00000.txt")).unwrap(), "one");
        assert_eq!(fs::read_dir(&target).unwrap().count(), 2);
        assert_eq!(
            fs::read_dir(directory.path()).unwrap().count(),
            2,
            "nothing is left beside it"
        );
    }

    #[test]
    fn trees_of_several_builds_take_turns() {
        let (directory, store) = store();
        let content = store
            .keep(&Laid::Shards(vec![Laid::File(made(&store, "one"))]))
            .unwrap();
        for round in 0..20 {
            let target = directory.path().join(format!("out-{round}"));
            (0..8).into_par_iter().for_each(|_| {
                store
                    .materialise(&content, "txt", &target, Materialise::Writable)
                    .unwrap();
            });
            assert_eq!(fs::read_to_string(target.join("00000.txt")).unwrap(), "one");
        }
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 21);
    }

    #[test]
    fn notices_every_damage_of_a_blob_it_has_seen() {
        let (_directory, store) = store();
        let Content::File(blob) = store.keep(&Laid::File(made(&store, "abc"))).unwrap() else {
            panic!("a file was kept");
        };
        let mut memo = Memo::default();
        store.note_blobs(&mut memo, [blob]);
        assert_eq!(store.check(&blob, &memo), BlobState::Sound);
        let path = store.blob_path(&blob.digest);
        fs::remove_file(&path).unwrap();
        assert_eq!(store.check(&blob, &memo), BlobState::Missing);
        fs::write(&path, "abcd").unwrap();
        assert_eq!(store.check(&blob, &memo), BlobState::WrongSize { found: 4 });
        fs::write(&path, "abd").unwrap();
        assert_eq!(store.check(&blob, &memo), BlobState::Damaged);
        store.keep(&Laid::File(made(&store, "abc"))).unwrap();
        assert_eq!(
            store.check(&blob, &memo),
            BlobState::Sound,
            "healed by its producer"
        );
    }

    #[test]
    fn a_hard_link_does_not_reach_the_store() {
        let (directory, store) = store();
        let outside = directory.path().join("mine");
        fs::write(&outside, "abc").unwrap();
        let link = store.temporary();
        fs::hard_link(&outside, &link).unwrap();
        let content = store.keep(&Laid::File(link)).unwrap();
        fs::write(&outside, "xyz").unwrap();
        assert_eq!(store.verify(&content.blobs()[0]), BlobState::Sound);
    }
}
