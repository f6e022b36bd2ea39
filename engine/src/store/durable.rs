//! Writing so that a power cut leaves either the old or the new file, never half of one.
//!
//! The only file that calls fsync: what is promised, and how it is batched, is decided here.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

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

impl Durability {
    /// Makes the content of a file last.
    pub(super) fn file(self, path: &Path) -> Result<(), Error> {
        match self {
            Self::Full => File::open(path)
                .and_then(|file| file.sync_data())
                .doing("sync", path),
            Self::ProcessOnly => Ok(()),
        }
    }

    /// Makes the names in these directories last, each once.
    pub(super) fn directories(self, paths: impl IntoIterator<Item = PathBuf>) -> Result<(), Error> {
        if self == Self::ProcessOnly {
            return Ok(());
        }
        let distinct: BTreeSet<PathBuf> = paths.into_iter().collect();
        distinct.iter().try_for_each(|path| {
            File::open(path)
                .and_then(|directory| directory.sync_all())
                .doing("sync", path)
        })
    }

    /// Writes `bytes` to `path`, through `temporary` on the same filesystem, as one step.
    pub(super) fn write(self, temporary: &Path, path: &Path, bytes: &[u8]) -> Result<(), Error> {
        let written = write_new(temporary, bytes)
            .and_then(|()| self.file(temporary))
            .and_then(|()| fs::rename(temporary, path).doing("write", path));
        if written.is_err() {
            let _ = fs::remove_file(temporary);
        }
        written?;
        self.directories(path.parent().map(Path::to_owned))
    }
}

fn write_new(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    File::create(path)
        .and_then(|mut file| file.write_all(bytes))
        .doing("write", path)
}

/// Makes `path`, and lets its parent's entry last when the directory is new.
pub(super) fn ensure_directory(durability: Durability, path: &Path) -> Result<(), Error> {
    if path.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(path).doing("create", path)?;
    durability.directories(path.parent().map(Path::to_owned))
}
