//! The disk below a store: every change that a receipt relies on is made here.
//!
//! Writes so that a power cut leaves either the old or the new file, never half of one. The only file that calls fsync:
//! what is promised, and how it is batched, is decided here. A witness is told every step before it is made and may
//! forbid it: how tests lose power and fill disks.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::{Doing, Error};

/// What survives a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// Finished tasks stay finished.
    #[default]
    Full,
    /// Survives the death of any process, not of the machine. Torn content is found by its size or digest.
    ProcessOnly,
}

/// One change, or the promise that one lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step<'a> {
    CreateDirectory(&'a Path),
    Write(&'a Path, &'a [u8]),
    SyncFile(&'a Path),
    Rename(&'a Path, &'a Path),
    SyncDirectory(&'a Path),
}

/// Sees every step, in the order in which they are made.
pub type Witness = Arc<dyn Fn(Step<'_>) -> io::Result<()> + Send + Sync>;

/// The disk as a store uses it.
#[derive(Clone, Default)]
pub struct Disk {
    pub durability: Durability,
    pub witness: Option<Witness>,
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
    fn tell(&self, step: Step<'_>) -> io::Result<()> {
        match &self.witness {
            Some(witness) => witness(step),
            None => Ok(()),
        }
    }

    /// Makes a directory and those above it, and lets their names last.
    pub(super) fn create_directory(&self, path: &Path) -> Result<(), Error> {
        // One at a time: who finds a directory can rely on its name.
        static MAKING: Mutex<()> = Mutex::new(());
        let _making = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
        self.create_below(path)
    }

    fn create_below(&self, path: &Path) -> Result<(), Error> {
        if path.is_dir() {
            return Ok(());
        }
        let Some(parent) = path.parent() else {
            return Ok(());
        };
        self.create_below(parent)?;
        let made = self
            .tell(Step::CreateDirectory(path))
            .and_then(|()| fs::create_dir(path));
        match made {
            // Another process was first.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => made.doing("create", path)?,
        }
        self.sync_directories([parent.to_owned()])
    }

    /// Makes the content of a file last.
    pub(super) fn sync_file(&self, path: &Path) -> Result<(), Error> {
        match self.durability {
            Durability::Full => self
                .tell(Step::SyncFile(path))
                .and_then(|()| File::open(path)?.sync_data())
                .doing("sync", path),
            Durability::ProcessOnly => Ok(()),
        }
    }

    /// Makes the names in these directories last, each once.
    pub(super) fn sync_directories(
        &self,
        paths: impl IntoIterator<Item = PathBuf>,
    ) -> Result<(), Error> {
        if self.durability == Durability::ProcessOnly {
            return Ok(());
        }
        let distinct: BTreeSet<PathBuf> = paths.into_iter().collect();
        distinct.iter().try_for_each(|path| {
            self.tell(Step::SyncDirectory(path))
                .and_then(|()| File::open(path)?.sync_all())
                .doing("sync", path)
        })
    }

    /// Puts a file where another may be, as one step.
    pub(super) fn rename(&self, from: &Path, to: &Path) -> Result<(), Error> {
        self.tell(Step::Rename(from, to))
            .and_then(|()| fs::rename(from, to))
            .doing("write", to)
    }

    /// Writes a file that nobody looks at yet.
    pub(super) fn write_new(&self, path: &Path, bytes: &[u8]) -> Result<(), Error> {
        self.tell(Step::Write(path, bytes))
            .and_then(|()| File::create(path)?.write_all(bytes))
            .doing("write", path)
    }

    /// Writes `bytes` to `path`, through `temporary` on the same filesystem, as one step that lasts.
    pub(super) fn write(&self, temporary: &Path, path: &Path, bytes: &[u8]) -> Result<(), Error> {
        let written = self
            .write_new(temporary, bytes)
            .and_then(|()| self.sync_file(temporary))
            .and_then(|()| self.rename(temporary, path));
        if written.is_err() {
            let _ = fs::remove_file(temporary);
        }
        written?;
        self.sync_directories(path.parent().map(Path::to_owned))
    }
}

#[cfg(test)]
mod simulation;
