//! The disk below a store: every change that a receipt relies on is made here, and is there at once for every process.
//!
//! Changes last in groups: a sync makes the disk do much that is the same for one file and for a hundred. What a power cut
//! may have left of a group that was not committed is found to be wanting when it is read: a receipt by its checksum, a
//! blob by its digest. So memos and seals, which save reading, are written after a commit only. The only file that calls
//! fsync. A witness is told every step before it is made and may forbid it: how tests lose power and fill disks.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::root::Root;
use crate::error::{Doing, Error};

/// What survives a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// What was committed.
    #[default]
    Full,
    /// Nothing for certain: only the death of any process does no harm.
    ProcessOnly,
}

/// One change, or the promise that one lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step<'a> {
    CreateDirectory(&'a Path),
    Write(&'a Path, &'a [u8]),
    SyncFile(&'a Path),
    Rename(&'a Path, &'a Path),
    Remove(&'a Path),
    SyncDirectory(&'a Path),
}

/// Sees every step, in the order in which they are made.
pub type Witness = Arc<dyn Fn(Step<'_>) -> io::Result<()> + Send + Sync>;

/// The disk as a store uses it. Clones share what is pending.
#[derive(Clone)]
pub struct Disk {
    root: Root,
    pub durability: Durability,
    pub witness: Option<Witness>,
    pending: Arc<Mutex<Group>>,
    /// Held by who commits; true once a sync failed: nobody knows then what lasts.
    has_failed: Arc<Mutex<bool>>,
}

/// Changes that do not last yet.
#[derive(Default)]
struct Group {
    files: BTreeSet<PathBuf>,
    /// Directories whose names are to last.
    directories: BTreeSet<PathBuf>,
    /// Those of the files that vouch for others, and were written by this process.
    vouching: Vec<PathBuf>,
}

impl fmt::Debug for Disk {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_tuple("Disk")
            .field(&self.durability)
            .finish()
    }
}

impl Disk {
    pub(super) fn below(root: Root) -> Self {
        Self {
            root,
            durability: Durability::default(),
            witness: None,
            pending: Arc::default(),
            has_failed: Arc::default(),
        }
    }

    fn tell(&self, step: Step<'_>) -> io::Result<()> {
        match &self.witness {
            Some(witness) => witness(step),
            None => Ok(()),
        }
    }

    /// Makes a directory and those above it.
    pub(super) fn create_directory(&self, path: &Path) -> Result<(), Error> {
        if self.root.is_directory(path) {
            return Ok(());
        }
        if let Some(parent) = path.parent().filter(|_| path != self.root.path()) {
            self.create_directory(parent)?;
        }
        self.tell(Step::CreateDirectory(path))
            .and_then(|()| self.root.create_dir(path))
            .doing("create", path)?;
        self.pend_name(path);
        Ok(())
    }

    /// Puts a file where another may be, as one step.
    pub(super) fn rename(&self, from: &Path, to: &Path) -> Result<(), Error> {
        self.tell(Step::Rename(from, to))
            .and_then(|()| self.root.rename(from, to))
            .doing("write", to)
    }

    pub(super) fn remove(&self, path: &Path) -> Result<(), Error> {
        self.tell(Step::Remove(path))
            .and_then(|()| self.root.remove_file(path))
            .doing("remove", path)
    }

    /// Writes a file that nobody looks at yet.
    pub(super) fn write_new(&self, path: &Path, bytes: &[u8]) -> Result<(), Error> {
        self.tell(Step::Write(path, bytes))
            .and_then(|()| self.root.create_new(path)?.write_all(bytes))
            .doing("write", path)
    }

    /// Writes a file that vouches for others to `path`, through `temporary` on the same filesystem, as one step. Where it
    /// takes the place of another, it lasts before that goes.
    pub(super) fn vouch(&self, temporary: &Path, path: &Path, bytes: &[u8]) -> Result<(), Error> {
        let lasts = || match path.exists() {
            true => self.sync_file(temporary),
            false => Ok(()),
        };
        let written = self
            .write_new(temporary, bytes)
            .and_then(|()| lasts())
            .and_then(|()| self.rename(temporary, path));
        if written.is_err() {
            let _ = self.root.remove_file(temporary);
        }
        written?;
        self.pend(path);
        if self.durability == Durability::Full {
            locked(&self.pending).vouching.push(path.to_owned());
        }
        Ok(())
    }

    fn sync_file(&self, path: &Path) -> Result<(), Error> {
        match self.durability {
            Durability::Full => {
                let file = self.root.open(path).doing("open", path)?;
                self.sync_opened(path, &file)
            }
            Durability::ProcessOnly => Ok(()),
        }
    }

    fn sync_opened(&self, path: &Path, file: &File) -> Result<(), Error> {
        self.tell(Step::SyncFile(path))
            .and_then(|()| file.sync_data())
            .doing("sync", path)
    }

    /// Lets a file last from the next commit on, whoever wrote it; and its name and those of the directories between it
    /// and the store's, which another process may have made.
    pub(super) fn pend(&self, path: &Path) {
        if self.durability == Durability::Full {
            locked(&self.pending).files.insert(path.to_owned());
            path.ancestors()
                .take(3)
                .for_each(|path| self.pend_name(path));
        }
    }

    /// Lets a name last from the next commit on.
    pub(super) fn pend_name(&self, path: &Path) {
        if let (Durability::Full, Some(parent)) = (self.durability, path.parent()) {
            locked(&self.pending).directories.insert(parent.to_owned());
        }
    }

    /// Whether there is anything to commit.
    pub(super) fn has_pending(&self) -> bool {
        let pending = locked(&self.pending);
        !(pending.files.is_empty() && pending.directories.is_empty())
    }

    /// Makes everything last that was changed before, by any thread. If that fails, what vouches for it goes: work is
    /// lost, and nothing is believed that may not be there. From then on every commit fails.
    pub(super) fn commit(&self) -> Result<(), Error> {
        let mut has_failed = locked(&self.has_failed);
        let group = std::mem::take(&mut *locked(&self.pending));
        let done = match *has_failed {
            false => self.sync(&group),
            true => Err(io::Error::other("an earlier sync failed"))
                .doing("sync", Path::new("what was written")),
        };
        if done.is_err() {
            *has_failed = true;
            for path in &group.vouching {
                let _ = self.root.remove_file(path);
            }
        }
        done
    }

    /// The disk is given all of a lot to write before anything is waited for: then a journal that has to be written is
    /// written once for all of them.
    fn sync(&self, group: &Group) -> Result<(), Error> {
        /// Files that are open at once.
        const LOT: usize = 128;
        let files: Vec<&PathBuf> = group.files.iter().collect();
        for lot in files.chunks(LOT) {
            let opened: Vec<(&PathBuf, File)> = lot
                .iter()
                .filter_map(|path| Some((*path, present(path).transpose()?)))
                .map(|(path, file)| Ok((path, file.doing("open", path)?)))
                .collect::<Result<_, Error>>()?;
            opened.iter().for_each(|(_, file)| begin_writing(file));
            for (path, file) in opened {
                self.sync_opened(path, &file)?;
            }
        }
        group.directories.iter().try_for_each(|path| {
            self.tell(Step::SyncDirectory(path))
                .and_then(|()| present(path)?.map_or(Ok(()), |directory| directory.sync_all()))
                .doing("sync", path)
        })
    }
}

/// What was removed meanwhile need not last.
fn present(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        opened => opened.map(Some),
    }
}

/// Starts to write a file's pages without waiting; that it is not supported does no harm.
#[allow(unsafe_code)]
fn begin_writing(file: &File) {
    // SAFETY: the descriptor is open for as long as `file` lives; the call touches no memory of this process.
    unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE) };
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod simulation;
