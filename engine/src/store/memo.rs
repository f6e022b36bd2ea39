//! What a file's content was when it was last read: path and stat → digest. Disposable.
//!
//! One flat file, written by rename, closed by a checksum: a damaged one is empty. A file that changed so shortly
//! before it was seen that a later change could carry the same timestamp is not trusted (git calls it racy).

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io::Write;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::digest::Digest;
use crate::error::{Doing, Error};

const MAGIC: &[u8; 8] = b"kbmemo1\n";
/// One tick of the coarsest kernel clock that stamps files.
const TICK_NS: i64 = 10_000_000;
/// Granularity of filesystems that keep whole or even seconds.
const WHOLE_SECONDS_NS: i64 = 2_000_000_000;

/// What stat says of a file. Times in nanoseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp {
    pub size: u64,
    pub mtime_ns: i64,
    pub ctime_ns: i64,
    pub inode: u64,
}

impl Stamp {
    pub fn of(metadata: &Metadata) -> Self {
        let nanoseconds =
            |seconds: i64, rest: i64| seconds.saturating_mul(1_000_000_000).saturating_add(rest);
        Self {
            size: metadata.len(),
            mtime_ns: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
            ctime_ns: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
            inode: metadata.ino(),
        }
    }

    pub(super) fn of_stat(stat: &rustix::fs::Stat) -> Self {
        let nanoseconds = |seconds: i64, rest: u64| {
            let rest = i64::try_from(rest).unwrap_or_default();
            seconds.saturating_mul(1_000_000_000).saturating_add(rest)
        };
        Self {
            size: stat.st_size.cast_unsigned(),
            mtime_ns: nanoseconds(stat.st_mtime, stat.st_mtime_nsec),
            ctime_ns: nanoseconds(stat.st_ctime, stat.st_ctime_nsec),
            inode: stat.st_ino,
        }
    }

    /// Whether a change after `seen_ns` could leave this very stamp.
    pub(crate) fn is_racy(&self, seen_ns: i64) -> bool {
        let granule = if self.mtime_ns % 1_000_000_000 == 0 {
            WHOLE_SECONDS_NS
        } else {
            TICK_NS
        };
        self.mtime_ns.saturating_add(granule) >= seen_ns
            || self.ctime_ns.saturating_add(TICK_NS) >= seen_ns
    }
}

/// What a memo knows of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// The content is still the one of this digest.
    Same(Digest),
    /// The file may have changed since.
    Changed,
    Never,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    stamp: Stamp,
    digest: Digest,
    seen_ns: i64,
}

/// Path → stat → digest.
#[derive(Debug, Clone, Default)]
pub struct Memo {
    /// By paths as text: a path is hashed component by component.
    entries: HashMap<OsString, Entry>,
    is_new: bool,
}

impl Memo {
    /// What is known of the content at `path`, which now has this stamp.
    pub fn seen(&self, path: &Path, stamp: &Stamp) -> Seen {
        match self.entries.get(path.as_os_str()) {
            None => Seen::Never,
            Some(entry) if entry.stamp == *stamp && !stamp.is_racy(entry.seen_ns) => {
                Seen::Same(entry.digest)
            }
            Some(_) => Seen::Changed,
        }
    }

    /// The content at `path` when it was last noted, whatever it is now.
    pub fn last(&self, path: &Path) -> Option<Digest> {
        self.entries.get(path.as_os_str()).map(|entry| entry.digest)
    }

    /// How the file at `path` looked when it was last noted.
    pub fn stamp(&self, path: &Path) -> Option<Stamp> {
        self.entries.get(path.as_os_str()).map(|entry| entry.stamp)
    }

    /// Notes that the file, which had this stamp at `seen_ns` (taken before the stat), has this content.
    pub fn note(&mut self, path: PathBuf, stamp: Stamp, digest: Digest, seen_ns: i64) {
        let entry = Entry {
            stamp,
            digest,
            seen_ns,
        };
        self.entries.insert(path.into(), entry);
        self.is_new = true;
    }

    /// True when something was noted since the memo was loaded: worth saving.
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The memo in a file; empty when there is none, empty with a warning when it is damaged.
    pub fn load(path: &Path) -> (Self, Option<String>) {
        match fs::read(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => (Self::default(), None),
            Err(error) => (Self::default(), Some(warning(path, &error.to_string()))),
            Ok(bytes) => match decode(&bytes) {
                Some(entries) => (
                    Self {
                        entries,
                        is_new: false,
                    },
                    None,
                ),
                None => (Self::default(), Some(warning(path, "damaged"))),
            },
        }
    }

    /// Writes the memo by rename. It is not synced: one lost to a power cut is a slower build.
    pub fn save(&self, path: &Path) -> Result<(), Error> {
        let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
        let written = File::create(&temporary)
            .and_then(|mut file| file.write_all(&self.encode()))
            .and_then(|()| fs::rename(&temporary, path))
            .doing("write", path);
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        written
    }

    fn encode(&self) -> Vec<u8> {
        let mut sorted: Vec<_> = self.entries.iter().collect();
        sorted.sort_unstable_by_key(|(path, _)| path.as_os_str());
        let mut bytes = MAGIC.to_vec();
        for (path, entry) in sorted {
            let name = path.as_bytes();
            bytes.extend((name.len() as u64).to_le_bytes());
            bytes.extend(name);
            bytes.extend(entry.stamp.size.to_le_bytes());
            bytes.extend(entry.stamp.mtime_ns.to_le_bytes());
            bytes.extend(entry.stamp.ctime_ns.to_le_bytes());
            bytes.extend(entry.stamp.inode.to_le_bytes());
            bytes.extend(entry.seen_ns.to_le_bytes());
            bytes.extend(entry.digest.as_bytes());
        }
        let checksum = blake3::hash(&bytes);
        bytes.extend(checksum.as_bytes());
        bytes
    }
}

fn warning(path: &Path, cause: &str) -> String {
    format!("`{}`: {cause}; files are read again", path.display())
}

fn decode(bytes: &[u8]) -> Option<HashMap<OsString, Entry>> {
    let (body, checksum) = bytes.split_last_chunk::<32>()?;
    if blake3::hash(body).as_bytes() != checksum {
        return None;
    }
    let mut rest = body.strip_prefix(MAGIC.as_slice())?;
    let mut entries = HashMap::new();
    while !rest.is_empty() {
        let length = usize::try_from(u64::from_le_bytes(take(&mut rest)?)).ok()?;
        let (name, tail) = rest.split_at_checked(length)?;
        rest = tail;
        let stamp = Stamp {
            size: u64::from_le_bytes(take(&mut rest)?),
            mtime_ns: i64::from_le_bytes(take(&mut rest)?),
            ctime_ns: i64::from_le_bytes(take(&mut rest)?),
            inode: u64::from_le_bytes(take(&mut rest)?),
        };
        let seen_ns = i64::from_le_bytes(take(&mut rest)?);
        let digest = Digest::from_bytes(take(&mut rest)?);
        let path = OsString::from_vec(name.to_vec());
        entries.insert(
            path,
            Entry {
                stamp,
                digest,
                seen_ns,
            },
        );
    }
    Some(entries)
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk::<N>()?;
    *rest = tail;
    Some(*head)
}

/// Nanoseconds since 1970, of the clock that stamps files.
pub(crate) fn now_ns() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: Stamp = Stamp {
        size: 3,
        mtime_ns: 1_000_000_001,
        ctime_ns: 1_000_000_001,
        inode: 7,
    };

    fn memo(seen_ns: i64) -> Memo {
        let mut memo = Memo::default();
        memo.note("a\nb".into(), OLD, Digest::of(b"x"), seen_ns);
        memo
    }

    #[test]
    fn trusts_old_files_alone() {
        let path = Path::new("a\nb");
        assert_eq!(
            memo(9_000_000_000).seen(path, &OLD),
            Seen::Same(Digest::of(b"x"))
        );
        assert_eq!(memo(1_000_000_002).seen(path, &OLD), Seen::Changed, "racy");
        let touched = Stamp {
            mtime_ns: 1_500_000_000,
            ..OLD
        };
        assert_eq!(memo(9_000_000_000).seen(path, &touched), Seen::Changed);
        assert_eq!(memo(0).seen(Path::new("c"), &OLD), Seen::Never);
    }

    #[test]
    fn whole_seconds_need_more_distance() {
        let coarse = Stamp {
            mtime_ns: 5_000_000_000,
            ctime_ns: 5_000_000_000,
            ..OLD
        };
        assert!(coarse.is_racy(6_500_000_000));
        assert!(!coarse.is_racy(7_100_000_000));
    }

    #[test]
    fn reads_back_and_any_damage_empties_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sources");
        memo(9_000_000_000).save(&path).unwrap();
        let (back, warning) = Memo::load(&path);
        assert_eq!((back.len(), warning), (1, None));
        let bytes = fs::read(&path).unwrap();
        for cut in [0, 1, bytes.len() / 2, bytes.len() - 1] {
            fs::write(&path, &bytes[..cut]).unwrap();
            let (back, warning) = Memo::load(&path);
            assert!(back.is_empty() && warning.is_some(), "cut at {cut}");
        }
        let mut flipped = bytes;
        flipped[20] ^= 1;
        fs::write(&path, flipped).unwrap();
        assert!(Memo::load(&path).0.is_empty());
    }
}
