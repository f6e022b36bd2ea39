//! What a file's content was when it was last read: path and stat → digest. Disposable.
//!
//! One flat file, written by rename, closed by a checksum: a damaged one is empty. A file that changed so shortly
//! before it was seen that a later change could carry the same timestamp is not trusted (git calls it racy).

use std::borrow::Cow;
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::Metadata;
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use super::root::Root;
use crate::digest::Digest;
use crate::error::{Doing, Error};

const MAGIC: &[u8; 8] = b"kbmemo2\n";
/// Of memos that an earlier program left: they are empty.
const FORMER: &[u8] = b"kbmemo1\n";
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
#[derive(Debug, Clone)]
pub struct Memo {
    buckets: Vec<Bucket>,
    is_new: bool,
}

/// What is known of the paths whose hash ends alike: as it was read, until somebody asks for one of them.
#[derive(Debug, Clone, Default)]
struct Bucket {
    packed: Packed,
    /// By paths as text: a path is hashed component by component.
    entries: OnceLock<HashMap<OsString, Entry>>,
}

/// A run of the bytes of a file, which all buckets share.
#[derive(Debug, Clone, Default)]
struct Packed {
    bytes: Arc<Vec<u8>>,
    range: Range<usize>,
}

impl Packed {
    fn bytes(&self) -> &[u8] {
        &self.bytes[self.range.clone()]
    }
}

/// Of a memo of a hundred thousand files somebody may want three.
const BUCKETS: usize = 64;

impl Bucket {
    fn entries(&self) -> &HashMap<OsString, Entry> {
        self.entries
            .get_or_init(|| unpack(self.packed.bytes()).unwrap_or_default())
    }

    fn note(&mut self, path: OsString, entry: Entry) {
        self.entries();
        if let Some(entries) = self.entries.get_mut() {
            entries.insert(path, entry);
        }
        self.packed = Packed::default();
    }

    /// Sorted by path.
    fn pack(&self) -> Cow<'_, [u8]> {
        if !self.packed.range.is_empty() {
            return Cow::Borrowed(self.packed.bytes());
        }
        let mut sorted: Vec<_> = self.entries().iter().collect();
        sorted.sort_unstable_by_key(|(path, _)| path.as_os_str());
        let mut bytes = Vec::new();
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
        Cow::Owned(bytes)
    }
}

impl Default for Memo {
    fn default() -> Self {
        Self {
            buckets: vec![Bucket::default(); BUCKETS],
            is_new: false,
        }
    }
}

impl Memo {
    fn get(&self, path: &Path) -> Option<&Entry> {
        let path = path.as_os_str();
        self.buckets[bucket_of(path)].entries().get(path)
    }

    /// What is known of the content at `path`, which now has this stamp.
    pub fn seen(&self, path: &Path, stamp: &Stamp) -> Seen {
        match self.get(path) {
            None => Seen::Never,
            Some(entry) if entry.stamp == *stamp && !stamp.is_racy(entry.seen_ns) => {
                Seen::Same(entry.digest)
            }
            Some(_) => Seen::Changed,
        }
    }

    /// The content at `path` when it was last noted, whatever it is now.
    pub fn last(&self, path: &Path) -> Option<Digest> {
        self.get(path).map(|entry| entry.digest)
    }

    /// How the file at `path` looked when it was last noted.
    pub fn stamp(&self, path: &Path) -> Option<Stamp> {
        self.get(path).map(|entry| entry.stamp)
    }

    /// Notes that the file, which had this stamp at `seen_ns` (taken before the stat), has this content.
    pub fn note(&mut self, path: PathBuf, stamp: Stamp, digest: Digest, seen_ns: i64) {
        let entry = Entry {
            stamp,
            digest,
            seen_ns,
        };
        let path = OsString::from(path);
        self.buckets[bucket_of(&path)].note(path, entry);
        self.is_new = true;
    }

    /// True when something was noted since the memo was loaded: worth saving.
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    pub fn len(&self) -> usize {
        let entries = self.buckets.iter().map(Bucket::entries);
        entries.map(HashMap::len).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The memo in a file; empty when there is none, empty with a warning when it is damaged.
    pub(super) fn load(root: &Root, path: &Path) -> (Self, Option<String>) {
        match root.read(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => (Self::default(), None),
            Err(error) => (Self::default(), Some(warning(path, &error.to_string()))),
            Ok(bytes) => match decode(bytes) {
                Some(memo) => (memo, None),
                None => (Self::default(), Some(warning(path, "damaged"))),
            },
        }
    }

    /// Writes the memo by rename. It is not synced: one lost to a power cut is a slower build.
    pub(super) fn save(&self, root: &Root, path: &Path) -> Result<(), Error> {
        let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
        // Left by a process of this number, or by whoever made the cache.
        let _ = root.remove_file(&temporary);
        let written = root
            .create_new(&temporary)
            .and_then(|file| self.write(file))
            .and_then(|()| root.rename(&temporary, path))
            .doing("write", path);
        if written.is_err() {
            let _ = root.remove_file(&temporary);
        }
        written
    }

    fn write(&self, to: impl Write) -> std::io::Result<()> {
        let mut hasher = blake3::Hasher::new();
        let mut to = BufWriter::new(to);
        let mut put = |bytes: &[u8]| {
            hasher.update(bytes);
            to.write_all(bytes)
        };
        put(MAGIC)?;
        for bucket in &self.buckets {
            let packed = bucket.pack();
            put(&(packed.len() as u64).to_le_bytes())?;
            put(&packed)?;
        }
        to.write_all(hasher.finalize().as_bytes())?;
        to.flush()
    }
}

/// FNV-1a, which is the same for every program that reads the file.
fn bucket_of(path: &OsStr) -> usize {
    let hash = path
        .as_bytes()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
    // The high bits are mixed best.
    usize::try_from(hash >> 32).unwrap_or_default() % BUCKETS
}

fn warning(path: &Path, cause: &str) -> String {
    format!("`{}`: {cause}; files are read again", path.display())
}

fn decode(bytes: Vec<u8>) -> Option<Memo> {
    if bytes.starts_with(FORMER) {
        return Some(Memo::default());
    }
    let (body, checksum) = bytes.split_last_chunk::<32>()?;
    if blake3::hash(body).as_bytes() != checksum {
        return None;
    }
    let mut rest = body.strip_prefix(MAGIC.as_slice())?;
    let mut ranges = Vec::with_capacity(BUCKETS);
    for _ in 0..BUCKETS {
        let length = take_run(&mut rest)?.len();
        let end = body.len() - rest.len();
        ranges.push(end - length..end);
    }
    if !rest.is_empty() {
        return None;
    }
    let bytes = Arc::new(bytes);
    let bucket = |range| Bucket {
        packed: Packed {
            bytes: Arc::clone(&bytes),
            range,
        },
        entries: OnceLock::new(),
    };
    Some(Memo {
        buckets: ranges.into_iter().map(bucket).collect(),
        is_new: false,
    })
}

fn unpack(mut rest: &[u8]) -> Option<HashMap<OsString, Entry>> {
    let mut entries = HashMap::new();
    while !rest.is_empty() {
        let path = OsString::from_vec(take_run(&mut rest)?.to_vec());
        let stamp = Stamp {
            size: u64::from_le_bytes(take(&mut rest)?),
            mtime_ns: i64::from_le_bytes(take(&mut rest)?),
            ctime_ns: i64::from_le_bytes(take(&mut rest)?),
            inode: u64::from_le_bytes(take(&mut rest)?),
        };
        let seen_ns = i64::from_le_bytes(take(&mut rest)?);
        let digest = Digest::from_bytes(take(&mut rest)?);
        let entry = Entry {
            stamp,
            digest,
            seen_ns,
        };
        entries.insert(path, entry);
    }
    Some(entries)
}

/// Bytes that their number stands before.
fn take_run<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(u64::from_le_bytes(take(rest)?)).ok()?;
    let (run, tail) = rest.split_at_checked(length)?;
    *rest = tail;
    Some(run)
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
    use std::fs;

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
        let root = Root::new(directory.path(), true);
        let path = directory.path().join("sources");
        memo(9_000_000_000).save(&root, &path).unwrap();
        let (back, warning) = Memo::load(&root, &path);
        assert_eq!((back.len(), warning), (1, None));
        let bytes = fs::read(&path).unwrap();
        for cut in [0, 1, bytes.len() / 2, bytes.len() - 1] {
            fs::write(&path, &bytes[..cut]).unwrap();
            let (back, warning) = Memo::load(&root, &path);
            assert!(back.is_empty() && warning.is_some(), "cut at {cut}");
        }
        let mut flipped = bytes;
        flipped[20] ^= 1;
        fs::write(&path, flipped).unwrap();
        assert!(Memo::load(&root, &path).0.is_empty());
    }

    #[test]
    fn what_nobody_asks_for_stays_as_it_was_read() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::new(directory.path(), true);
        let path = directory.path().join("sources");
        let mut all = Memo::default();
        for number in 0..1_000 {
            let digest = Digest::of(&[u8::try_from(number % 250).unwrap()]);
            all.note(format!("src/{number}").into(), OLD, digest, 9_000_000_000);
        }
        all.save(&root, &path).unwrap();
        let (mut back, _) = Memo::load(&root, &path);
        back.note("src/7".into(), OLD, Digest::of(b"other"), 9_000_000_000);
        back.save(&root, &path).unwrap();
        all.note("src/7".into(), OLD, Digest::of(b"other"), 9_000_000_000);
        let mut bytes = Vec::new();
        all.write(&mut bytes).unwrap();
        assert_eq!(fs::read(&path).unwrap(), bytes);
        let (back, _) = Memo::load(&root, &path);
        assert_eq!(back.len(), 1_000);
        assert_eq!(back.last(Path::new("src/7")), Some(Digest::of(b"other")));
        assert_eq!(back.last(Path::new("src/8")), Some(Digest::of(&[8])));
    }
}
