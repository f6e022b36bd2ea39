//! One worker for each key, whatever process it is in.
//!
//! The lock of a key is an open file: it is handed down to the attempt's processes, so that it outlives a build that
//! is killed until the last of them has closed it. Parts are locked by byte ranges of one file (nothing of them is
//! shared before they are done, so these are not handed down). Nothing of these waits: callers ask again.
//!
//! Beside them stands a gate: whoever builds or copies content out shares it, whoever removes results has it alone.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::OFlags;

use super::Store;
use crate::digest::Digest;
use crate::error::{Doing, Error};
use crate::runner::Attempt;

/// The right to work on a key.
#[derive(Debug)]
pub struct Lock {
    file: File,
    path: PathBuf,
}

impl Drop for Lock {
    /// Lets go for whoever the file was handed down to as well: a process that an attempt left behind keeps nobody
    /// waiting. The record tells the next worker to end it.
    fn drop(&mut self) {
        let _ = self.file.unlock();
    }
}

impl AsFd for Lock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Somebody who works in the store: nobody else removes anything while this lives.
#[derive(Debug)]
pub struct Presence {
    gate: File,
}

impl Presence {
    /// Does something while nobody else works in the store. `None`: somebody does, and nothing was done.
    ///
    /// Shared and exclusive are two states of one lock that the kernel changes in one step, or not at all: there is no
    /// moment in between in which others could remove what this process relies on.
    pub fn alone<T>(&self, act: impl FnOnce() -> T) -> Option<T> {
        if !set(&self.gate, FIRST_BYTE, libc::F_WRLCK).unwrap_or(false) {
            return None;
        }
        let done = count(&self.gate).is_ok().then(act);
        // Nothing stands against sharing what one had alone. If it fails all the same, others only wait longer.
        let _ = set(&self.gate, FIRST_BYTE, libc::F_RDLCK);
        done
    }
}

/// Counts one more removal: the length of the gate is their number. To be called by who has it alone.
fn count(gate: &File) -> io::Result<()> {
    gate.set_len(gate.metadata()?.len() + 1)
}

/// The byte of the gate that is locked.
const FIRST_BYTE: i64 = 0;
/// Name of the gate among the locks.
const GATE: &str = "builds";
/// Bytes of a record that are read.
const LONGEST: u64 = 1 << 20;

impl Store {
    /// Lets a build say that it runs: results stay while this lives. `None`: they are being removed right now.
    pub fn enter(&self) -> Result<Option<Presence>, Error> {
        self.pass(libc::F_RDLCK)
    }

    /// The same for a short visit, which waits while results are removed. `None` where nothing can be locked: a store that
    /// cannot be written.
    pub fn visit(&self) -> Option<Presence> {
        loop {
            match self.enter() {
                Ok(None) => std::thread::sleep(Duration::from_millis(20)),
                found => return found.ok().flatten(),
            }
        }
    }

    /// Keeps builds from starting while this lives, to remove something. `None`: one is running.
    pub(super) fn alone(&self) -> Result<Option<Presence>, Error> {
        let alone = self.pass(libc::F_WRLCK)?;
        if let Some(presence) = &alone {
            count(&presence.gate).doing("write", &self.root().join("locks").join(GATE))?;
        }
        Ok(alone)
    }

    /// How often something may have been removed: what was found in the store holds for as long as this stays the same,
    /// and from then on for whoever has entered.
    pub fn removals(&self) -> u64 {
        let gate = fs::symlink_metadata(self.root().join("locks").join(GATE));
        gate.map_or(0, |gate| gate.len())
    }

    fn pass(&self, kind: libc::c_int) -> Result<Option<Presence>, Error> {
        self.trouble().map_or(Ok(()), Err)?;
        let path = self.root().join("locks").join(GATE);
        let gate = self.open_lock(&path)?;
        let is_ours = set(&gate, FIRST_BYTE, kind).doing("lock", &path)?;
        Ok(is_ours.then_some(Presence { gate }))
    }

    fn open_lock(&self, path: &Path) -> Result<File, Error> {
        let opened = self.below().open_or_create(path, OFlags::empty());
        opened.doing("open", path)
    }

    fn lock_path(&self, key: &Digest) -> PathBuf {
        self.root().join("locks").join(key.to_hex())
    }

    /// Takes the lock of a key, or says that somebody has it (`None`). What an earlier attempt left running on the key
    /// is gone when this returns a lock.
    pub fn try_lock(&self, key: &Digest) -> Result<Option<Lock>, Error> {
        let path = self.lock_path(key);
        let file = self.open_lock(&path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error).doing("lock", &path),
        }
        if !is_at(&file, &path) {
            // Somebody removed the file meanwhile; the caller asks again.
            return Ok(None);
        }
        let lock = Lock { file, path };
        if let Some(attempt) = lock.recorded() {
            attempt.kill();
            lock.clear()?;
        }
        Ok(Some(lock))
    }

    /// Who works on a key, as far as it was recorded.
    pub fn worker(&self, key: &Digest) -> Option<Attempt> {
        serde_json::from_slice(&self.below().read(&self.lock_path(key)).ok()?).ok()
    }

    /// Removes the lock files that nobody holds.
    pub(super) fn remove_free_locks(&self) {
        for path in self.below().entries(&self.root().join("locks")) {
            // The gate and the locks of parts are locked in another way. Others are nobody's locks.
            let name = path.file_name().and_then(|name| name.to_str());
            if name.is_some_and(|name| name.parse::<Digest>().is_ok())
                && let Ok(file) = self.open_lock(&path)
                && file.try_lock().is_ok()
                && is_at(&file, &path)
            {
                let _ = self.below().remove_file(&path);
            }
        }
    }

    /// Locks for parts; holds none yet.
    pub fn part_locks(&self) -> Result<PartLocks, Error> {
        let path = self.root().join("locks").join("parts");
        Ok(PartLocks {
            file: self.open_lock(&path)?,
        })
    }
}

impl Lock {
    /// Records who works, before it starts, so that whoever comes after can end it.
    pub fn record(&self, attempt: &Attempt) -> Result<(), Error> {
        let bytes = serde_json::to_vec(attempt).unwrap_or_default();
        self.clear()?;
        (&self.file).write_all(&bytes).doing("write", &self.path)
    }

    /// Forgets the attempt, whose last process is gone.
    fn clear(&self) -> Result<(), Error> {
        self.file
            .set_len(0)
            .and_then(|()| (&self.file).rewind())
            .doing("write", &self.path)
    }

    fn recorded(&self) -> Option<Attempt> {
        let mut bytes = Vec::new();
        (&self.file).take(LONGEST).read_to_end(&mut bytes).ok()?;
        serde_json::from_slice(&bytes).ok()
    }
}

fn is_at(file: &File, path: &Path) -> bool {
    let inode = |metadata: &fs::Metadata| (metadata.dev(), metadata.ino());
    matches!(
        (file.metadata(), fs::symlink_metadata(path)),
        (Ok(held), Ok(named)) if inode(&held) == inode(&named)
    )
}

/// The right to work on some parts. Released one by one, and all when dropped.
#[derive(Debug)]
pub struct PartLocks {
    file: File,
}

impl PartLocks {
    /// Takes the lock of one part, or says that somebody else has it. To be asked in the order of
    /// [`PartLocks::place`], so that no two builds wait for each other.
    pub fn try_lock(&self, part: &Digest) -> bool {
        set(&self.file, Self::place(part), libc::F_WRLCK).unwrap_or(false)
    }

    pub fn release(&self, part: &Digest) {
        let _ = set(&self.file, Self::place(part), libc::F_UNLCK);
    }

    /// Position of the part's lock: its order.
    pub fn place(part: &Digest) -> i64 {
        let (head, _) = part.as_bytes().split_at(8);
        let number = head
            .iter()
            .fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
        i64::try_from(number >> 2).unwrap_or_default()
    }
}

/// Sets an open-file-description lock (fcntl(2)) on one byte, or changes it, in one step. False when somebody else has
/// one that stands against it: then everything is as it was.
#[allow(unsafe_code)]
fn set(file: &File, place: i64, kind: libc::c_int) -> io::Result<bool> {
    let range = libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: place,
        l_len: 1,
        l_pid: 0,
    };
    // SAFETY: the descriptor is open for as long as `file` lives, and `range` is a complete `flock` that fcntl only
    // reads for F_OFD_SETLK.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &range) } == 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EACCES) => Ok(false),
        _ => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::new(directory.path());
        store.create().unwrap();
        (directory, store)
    }

    #[test]
    fn one_holder_at_a_time() {
        let (_directory, store) = store();
        let key = Digest::of(b"key");
        let first = store.try_lock(&key).unwrap();
        assert!(first.is_some());
        assert!(store.try_lock(&key).unwrap().is_none());
        store.remove_free_locks();
        assert!(store.try_lock(&key).unwrap().is_none(), "a held lock stays");
        drop(first);
        assert!(store.try_lock(&key).unwrap().is_some());
    }

    #[test]
    fn a_process_that_was_left_behind_keeps_nobody_waiting() {
        let (_directory, store) = store();
        let key = Digest::of(b"key");
        let lock = store.try_lock(&key).unwrap().unwrap();
        let handed_down = lock.as_fd().try_clone_to_owned().unwrap();
        drop(lock);
        assert!(store.try_lock(&key).unwrap().is_some());
        drop(handed_down);
    }

    #[test]
    fn a_record_is_read_by_anybody_and_cleared_by_the_next() {
        let (_directory, store) = store();
        let key = Digest::of(b"key");
        let lock = store.try_lock(&key).unwrap().unwrap();
        let attempt = Attempt::new("nobody has this mark");
        lock.record(&attempt).unwrap();
        assert_eq!(store.worker(&key), Some(attempt));
        drop(lock);
        let _next = store.try_lock(&key).unwrap().unwrap();
        assert_eq!(store.worker(&key), None);
    }

    #[test]
    fn the_gate_is_shared_or_somebodys_alone_and_changes_in_one_step() {
        let (_directory, store) = store();
        let (one, two) = (store.enter().unwrap().unwrap(), store.enter().unwrap());
        assert!(store.alone().unwrap().is_none());
        assert_eq!(one.alone(|| ()), None, "there is another");
        drop(two);
        assert!(store.alone().unwrap().is_none(), "it kept what it had");
        let before = store.removals();
        let inside = one.alone(|| {
            let is_open = store.enter().unwrap().is_some();
            store.remove_free_locks();
            (is_open, store.enter().unwrap().is_some())
        });
        assert_eq!(inside, Some((false, false)));
        assert_eq!(store.removals(), before + 1);
        assert!(store.enter().unwrap().is_some(), "shared again");
        assert!(store.alone().unwrap().is_none(), "and still there");
        drop(one);
        assert!(store.alone().unwrap().is_some());
    }

    #[test]
    fn parts_are_locked_one_by_one() {
        let (_directory, store) = store();
        let (one, two) = (Digest::of(b"1"), Digest::of(b"2"));
        let (ours, theirs) = (store.part_locks().unwrap(), store.part_locks().unwrap());
        assert!(ours.try_lock(&one) && ours.try_lock(&one));
        assert!(!theirs.try_lock(&one) && theirs.try_lock(&two));
        ours.release(&one);
        assert!(theirs.try_lock(&one));
    }
}
