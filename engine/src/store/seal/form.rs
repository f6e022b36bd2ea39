//! Seals as bytes.
//!
//! ```text
//! magic  lengths of body and rest  body  BLAKE3 of it  rest  BLAKE3 of it
//! body   question  answer  environment  groups of looks
//! rest   sets of tasks  notes
//! ```
//!
//! The body is all that is read while nothing moves. Numbers are eight bytes, little end first, and stand before
//! whatever has a length.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::super::memo::Stamp;
use super::grounds::{Bearer, Grounds, Looked, Sets};
use super::{open, stamp};
use crate::digest::Digest;

pub const MAGIC: &[u8; 8] = b"kbseal2\n";
/// Bytes before the body.
pub const HEAD: usize = MAGIC.len() + 16;
/// Names in a group: what one thread looks at in one go.
const GROUP: usize = 1024;

/// How everything that a seal rests on looked.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Looks {
    /// By the directory that names are looked up in, with a NUL at its end; names in ascending order.
    directories: BTreeMap<Vec<u8>, Vec<Look>>,
    env: BTreeMap<String, Option<String>>,
    sets: Sets,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Look {
    /// With a NUL at its end.
    name: Vec<u8>,
    follows: bool,
    stamp: Stamp,
    bearer: Bearer,
}

impl Looks {
    /// Looks at everything. `None` when something may have changed since `begun_ns`, or looks other than it did when it
    /// was read: then it may be old, has another place now, and was never read.
    pub fn at(grounds: Grounds, begun_ns: i64) -> Option<Self> {
        let mut looks = Self {
            env: grounds.env,
            sets: grounds.sets,
            ..Self::default()
        };
        for (directory, mut names) in grounds.paths {
            let directory = terminated(&directory)?;
            let opened = open(&directory)?;
            names.sort_unstable();
            let mut found = Vec::with_capacity(names.len());
            let is_same = |a: &Looked, b: &Looked| (&a.name, a.follows) == (&b.name, b.follows);
            for same in names.chunk_by(is_same) {
                let stamp = look_at(&opened, &same[0], begun_ns)?;
                let mut before = same.iter().filter_map(|looked| looked.then);
                if before.any(|then| then != stamp) {
                    return None;
                }
                found.push(Look {
                    name: terminated(&same[0].name)?,
                    follows: same[0].follows,
                    stamp,
                    bearer: looks.sets.union(same.iter().map(|looked| looked.bearer)),
                });
            }
            found.sort_unstable();
            looks.directories.insert(directory, found);
        }
        Some(looks)
    }

    /// What a seal says.
    pub fn of(seal: &Seal<'_>, sets: Sets) -> Option<Self> {
        let env = seal.env.iter();
        let mut looks = Self {
            env: env
                .map(|(name, value)| ((*name).to_owned(), value.map(str::to_owned)))
                .collect(),
            sets,
            ..Self::default()
        };
        for group in &seal.groups {
            let directory = group.directory.to_bytes_with_nul().to_vec();
            let names = looks.directories.entry(directory).or_default();
            for entry in group.entries() {
                let entry = entry?;
                names.push(Look {
                    name: entry.name.to_bytes_with_nul().to_vec(),
                    follows: entry.follows,
                    stamp: entry.stamp,
                    bearer: Some(entry.bearer).filter(|bearer| bearer.is_known(&looks.sets))?,
                });
            }
        }
        Some(looks)
    }

    /// Forgets what these tasks rest on, and the helpers of the store.
    pub fn without(mut self, tasks: impl Fn(u32) -> bool) -> Self {
        for names in self.directories.values_mut() {
            names.retain_mut(|look| {
                let resting = self.sets.tasks(&look.bearer);
                let others = resting.iter().copied().filter(|task| !tasks(*task));
                let others: Vec<u32> = others.collect();
                let is_kept = look.bearer == Bearer::ALL || !others.is_empty();
                if is_kept && others.len() < resting.len() {
                    look.bearer = self.sets.bearer(others);
                }
                is_kept
            });
        }
        self.directories.retain(|_, names| !names.is_empty());
        self
    }

    /// Both together; `None` where they do not agree how something looks.
    pub fn and(mut self, other: Self) -> Option<Self> {
        for (directory, names) in other.directories {
            let all = self.directories.entry(directory).or_default();
            all.extend(names.into_iter().map(|look| Look {
                bearer: self.sets.adopt(look.bearer, &other.sets),
                ..look
            }));
            all.sort_unstable();
            let mut is_one = true;
            all.dedup_by(|later, first| {
                if (&later.name, later.follows) != (&first.name, first.follows) {
                    return false;
                }
                is_one &= later.stamp == first.stamp;
                first.bearer = self.sets.union([first.bearer, later.bearer]);
                true
            });
            if !is_one {
                return None;
            }
        }
        self.env.extend(other.env);
        Some(self)
    }

    /// The bytes of a seal.
    pub fn encode(&self, question: &Digest, answer: &[u8], notes: &[u8]) -> Vec<u8> {
        // In the order in which they come up here, whatever they were called on the way.
        let mut sets = Sets::default();
        let mut body = question.as_bytes().to_vec();
        put(&mut body, answer);
        put_count(&mut body, self.env.len());
        for (name, value) in &self.env {
            put(&mut body, name.as_bytes());
            body.push(u8::from(value.is_some()));
            put(&mut body, value.as_deref().unwrap_or_default().as_bytes());
        }
        for (directory, names) in &self.directories {
            for names in names.chunks(GROUP) {
                let mut entries = Vec::with_capacity(names.len() * 96);
                for look in names {
                    let bearer = sets.adopt(look.bearer, &self.sets);
                    put_stamp(&mut entries, &look.stamp);
                    entries.push(u8::from(look.follows));
                    entries.extend(bearer.0.to_le_bytes());
                    put(&mut entries, &look.name);
                }
                put(&mut body, directory);
                put(&mut body, &entries);
            }
        }
        let mut rest = Vec::new();
        put_count(&mut rest, sets.all().len());
        for set in sets.all() {
            put_count(&mut rest, set.len());
            rest.extend(set.iter().flat_map(|task| task.to_le_bytes()));
        }
        put(&mut rest, notes);
        let mut bytes = MAGIC.to_vec();
        put_count(&mut bytes, body.len());
        put_count(&mut bytes, rest.len());
        for part in [body, rest] {
            bytes.extend(&part);
            bytes.extend(blake3::hash(&part).as_bytes());
        }
        bytes
    }
}

fn look_at(directory: &rustix::fd::OwnedFd, looked: &Looked, begun_ns: i64) -> Option<Stamp> {
    let name = terminated(&looked.name)?;
    let name = CStr::from_bytes_with_nul(&name).ok()?;
    let stamp = stamp(directory, name, looked.follows)?;
    let is_believed = looked.bearer == Bearer::WARNING || !stamp.is_racy(begun_ns);
    is_believed.then_some(stamp)
}

/// A seal that was read: everything borrows from its bytes.
pub struct Seal<'a> {
    pub answer: &'a [u8],
    pub env: Vec<(&'a str, Option<&'a str>)>,
    pub groups: Vec<Group<'a>>,
}

/// Names that are looked up in the same directory.
pub struct Group<'a> {
    pub directory: &'a CStr,
    entries: &'a [u8],
}

/// One name, and how it looked.
pub struct Entry<'a> {
    pub stamp: Stamp,
    pub follows: bool,
    pub bearer: Bearer,
    pub name: &'a CStr,
}

impl<'a> Group<'a> {
    /// Ends with `None` where the bytes make no sense.
    pub fn entries(&self) -> impl Iterator<Item = Option<Entry<'a>>> {
        let mut rest = self.entries;
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let entry = take_entry(&mut rest);
            if entry.is_none() {
                rest = &[];
            }
            Some(entry)
        })
    }
}

fn take_entry<'a>(rest: &mut &'a [u8]) -> Option<Entry<'a>> {
    Some(Entry {
        stamp: take_stamp(rest)?,
        follows: take_byte(rest)? != 0,
        bearer: Bearer(take_task(rest)?),
        name: CStr::from_bytes_with_nul(take(rest)?).ok()?,
    })
}

/// The lengths of body and rest with their digests, of the first bytes of a seal.
pub fn lengths(head: &[u8; HEAD]) -> Option<(usize, usize)> {
    let mut rest = head.strip_prefix(MAGIC.as_slice())?;
    let mut length = || {
        let length = usize::try_from(take_number(&mut rest)?).ok()?;
        length.checked_add(32)
    };
    Some((length()?, length()?))
}

/// Bytes whose digest stands behind them.
pub fn checked(bytes: &[u8]) -> Option<&[u8]> {
    let (sound, checksum) = bytes.split_last_chunk::<32>()?;
    (blake3::hash(sound).as_bytes() == checksum).then_some(sound)
}

/// The body of a seal that answers a question.
pub fn decode<'a>(body: &'a [u8], question: &Digest) -> Option<Seal<'a>> {
    let mut rest = body.strip_prefix(question.as_bytes().as_slice())?;
    let answer = take(&mut rest)?;
    let mut env = Vec::new();
    for _ in 0..take_number(&mut rest)? {
        let name = std::str::from_utf8(take(&mut rest)?).ok()?;
        let is_set = take_byte(&mut rest)? != 0;
        let value = std::str::from_utf8(take(&mut rest)?).ok()?;
        env.push((name, is_set.then_some(value)));
    }
    let mut groups = Vec::new();
    while !rest.is_empty() {
        let directory = CStr::from_bytes_with_nul(take(&mut rest)?).ok()?;
        let entries = take(&mut rest)?;
        groups.push(Group { directory, entries });
    }
    Some(Seal {
        answer,
        env,
        groups,
    })
}

/// The rest of a seal: sets of tasks, and what was noted.
pub fn decode_rest(rest: &[u8]) -> Option<(Sets, Vec<u8>)> {
    let mut rest = rest;
    let mut sets = Sets::default();
    for _ in 0..take_number(&mut rest)? {
        let count = take_number(&mut rest)?;
        let tasks = (0..count).map(|_| take_task(&mut rest));
        sets.bearer(tasks.collect::<Option<_>>()?);
    }
    Some((sets, take(&mut rest)?.to_vec()))
}

fn terminated(path: &Path) -> Option<Vec<u8>> {
    let mut name = path.as_os_str().as_bytes().to_vec();
    name.push(0);
    CStr::from_bytes_with_nul(&name).is_ok().then_some(name)
}

fn put_count(bytes: &mut Vec<u8>, count: usize) {
    bytes.extend((count as u64).to_le_bytes());
}

fn put(bytes: &mut Vec<u8>, field: &[u8]) {
    put_count(bytes, field.len());
    bytes.extend(field);
}

fn put_stamp(bytes: &mut Vec<u8>, stamp: &Stamp) {
    bytes.extend(stamp.size.to_le_bytes());
    bytes.extend(stamp.mtime_ns.to_le_bytes());
    bytes.extend(stamp.ctime_ns.to_le_bytes());
    bytes.extend(stamp.inode.to_le_bytes());
}

fn take_number(rest: &mut &[u8]) -> Option<u64> {
    let (head, tail) = rest.split_first_chunk()?;
    *rest = tail;
    Some(u64::from_le_bytes(*head))
}

fn take_task(rest: &mut &[u8]) -> Option<u32> {
    let (head, tail) = rest.split_first_chunk()?;
    *rest = tail;
    Some(u32::from_le_bytes(*head))
}

fn take_byte(rest: &mut &[u8]) -> Option<u8> {
    let (head, tail) = rest.split_first()?;
    *rest = tail;
    Some(*head)
}

fn take<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(take_number(rest)?).ok()?;
    let (head, tail) = rest.split_at_checked(length)?;
    *rest = tail;
    Some(head)
}

fn take_stamp(rest: &mut &[u8]) -> Option<Stamp> {
    Some(Stamp {
        size: take_number(rest)?,
        mtime_ns: take_number(rest)?.cast_signed(),
        ctime_ns: take_number(rest)?.cast_signed(),
        inode: take_number(rest)?,
    })
}
