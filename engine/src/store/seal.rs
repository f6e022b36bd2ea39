//! Seals: what a build that found everything done looked at, and how each of it looked. While none of it moves,
//! everything is still done; where something moves, that is known too, and whose it is. Disposable.
//!
//! One flat file for each question (which goals, how the Kananafile was read, by which program), written by rename,
//! closed by checksums. A file that was young when it was looked at is not trusted, so such a build leaves no seal.
//! Knows nothing of graphs and plans: whoever seals says what was looked at, and numbers those who rest on it.

mod form;
mod grounds;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::ffi::CStr;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{AtFlags, Mode, OFlags};

use self::form::{Group, HEAD, Looks, Seal, checked, decode, decode_rest};
pub use self::grounds::{Bearer, Grounds};
use super::memo::Stamp;
use super::root::MOST as MOST_BYTES;
use super::{Book, Store};
use crate::digest::Digest;
use crate::error::{Doing, Error};

/// Seals that are kept beside each other.
const KEPT: usize = 8;
/// Where more tasks than these rest on what moved, a look at everything is no slower.
const MOST: usize = 64;

/// What a seal says today.
#[derive(Debug, PartialEq, Eq)]
pub enum Sealed {
    /// Nothing has moved, and this is still the answer.
    Holds(Vec<u8>),
    Moved(Moved),
}

/// Something that a seal rests on has moved, and it does not bear the answer as a whole.
#[derive(Debug, PartialEq, Eq)]
pub struct Moved {
    body: Vec<u8>,
    sets: grounds::Sets,
    pub answer: Vec<u8>,
    /// What whoever sealed wanted to know in this case.
    pub notes: Vec<u8>,
    /// The tasks that rest on what moved.
    pub tasks: BTreeSet<u32>,
}

impl Store {
    fn seal_path(&self, question: &Digest) -> PathBuf {
        let memo = self.root().join("memo");
        memo.join(format!("seal-{}", &question.to_hex()[..32]))
    }

    /// Leaves a seal: the answer to `question` is `answer` for as long as its grounds look as they do. They must not
    /// have changed since `begun_ns`, which is before any of them was read, nor look other than they are said to have
    /// looked then; false, and no seal, if one may have.
    pub fn seal(
        &self,
        question: &Digest,
        (answer, notes): (&[u8], &[u8]),
        grounds: Grounds,
        begun_ns: i64,
    ) -> Result<bool, Error> {
        self.commit()?;
        let Some(looks) = Looks::at(grounds, begun_ns) else {
            return Ok(false);
        };
        self.write_seal(question, &looks.encode(question, answer, notes))?;
        Ok(true)
    }

    /// Leaves a seal again that held but for what some tasks rest on: `grounds` are those of the tasks in
    /// [`Moved::tasks`], and of nobody else.
    pub fn seal_again(
        &self,
        question: &Digest,
        moved: &Moved,
        notes: &[u8],
        grounds: Grounds,
        begun_ns: i64,
    ) -> Result<bool, Error> {
        self.commit()?;
        let before = decode(&moved.body, question)
            .and_then(|seal| Looks::of(&seal, moved.sets.clone()))
            .map(|looks| looks.without(|task| moved.tasks.contains(&task)));
        let now = Looks::at(grounds, begun_ns);
        let (Some(before), Some(now)) = (before, now) else {
            return Ok(false);
        };
        let Some(looks) = before.and(now) else {
            return Ok(false);
        };
        self.write_seal(question, &looks.encode(question, &moved.answer, notes))?;
        Ok(true)
    }

    /// Lays a book beside the seal of a question, and says by which name it is to be called for.
    pub fn write_book(
        &self,
        question: &Digest,
        pages: impl Iterator<Item = Vec<u8>>,
    ) -> Result<Digest, Error> {
        Book::write(self, &book_of(&self.seal_path(question)), pages)
    }

    /// The book of a name that lies beside the seal of a question.
    pub fn book(&self, question: &Digest, name: &Digest) -> Option<Book> {
        Book::open(self.below(), &book_of(&self.seal_path(question)), name)
    }

    fn write_seal(&self, question: &Digest, bytes: &[u8]) -> Result<(), Error> {
        let path = self.seal_path(question);
        self.prune_seals(&path);
        self.below()
            .write(&self.temporary(), &path, bytes)
            .doing("write", &path)
    }

    /// What is known of a question, if there is a seal and no more has moved than a few tasks rest on.
    pub fn sealed(&self, question: &Digest) -> Option<Sealed> {
        let (mut file, found) = self.below().open_seen(&self.seal_path(question)).ok()?;
        let mut head = [0; HEAD];
        file.read_exact(&mut head).ok()?;
        let (length, others) = form::lengths(&head)?;
        let all = HEAD.checked_add(length)?.checked_add(others)? as u64;
        let is_whole = found.len() == all && all <= MOST_BYTES;
        let mut body = vec![0; is_whole.then_some(length)?];
        file.read_exact(&mut body).ok()?;
        let seal = decode(checked(&body)?, question)?;
        let bearers = moved(&seal)?;
        if bearers.is_empty() {
            return Some(Sealed::Holds(seal.answer.to_vec()));
        }
        let mut rest = Vec::new();
        file.read_to_end(&mut rest).ok()?;
        let (sets, notes) = decode_rest(checked(&rest)?)?;
        let mut tasks = BTreeSet::new();
        for bearer in bearers.iter().filter(|bearer| bearer.is_known(&sets)) {
            tasks.extend(sets.tasks(bearer));
        }
        if tasks.len() > MOST {
            return None;
        }
        let answer = seal.answer.to_vec();
        body.truncate(length - 32);
        Some(Sealed::Moved(Moved {
            body,
            sets,
            answer,
            notes,
            tasks,
        }))
    }

    /// Makes room for one at `path`: of the others, those that were written longest ago go.
    fn prune_seals(&self, path: &Path) {
        let entries = self.below().entries(&self.root().join("memo"));
        let mut seals: Vec<_> = entries
            .into_iter()
            .filter(|other| other != path && is_seal(other))
            .filter_map(|path| Some((path.symlink_metadata().ok()?.modified().ok()?, path)))
            .collect();
        seals.sort_unstable();
        let old = seals.len().saturating_sub(KEPT - 1);
        for (_, path) in &seals[..old] {
            let _ = self.below().remove_file(path);
            let _ = self.below().remove_file(&book_of(path));
        }
    }
}

/// `seal-` and 32 hexadecimal digits.
fn is_seal(path: &Path) -> bool {
    let name = path.file_name().map_or(&b""[..], OsStrExt::as_bytes);
    name.strip_prefix(b"seal-")
        .is_some_and(|digits| digits.len() == 32 && digits.iter().all(u8::is_ascii_hexdigit))
}

/// `book-…` of `seal-…`.
fn book_of(seal: &Path) -> PathBuf {
    let name = seal.file_name().unwrap_or_default().to_string_lossy();
    seal.with_file_name(name.replacen("seal", "book", 1))
}

/// Looks at everything again, a few threads at a time where there is much of it: who rests on what has moved. `None` if
/// that is everybody, or nearly.
fn moved(seal: &Seal<'_>) -> Option<BTreeSet<Bearer>> {
    let is_set = |(name, value): &(&str, Option<&str>)| {
        std::env::var_os(name)
            .map(|now| now.to_string_lossy().into_owned())
            .as_deref()
            == *value
    };
    if !seal.env.iter().all(is_set) {
        return None;
    }
    const MOST_THREADS: usize = 8;
    const GROUPS_PER_THREAD: usize = 64;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let useful = seal.groups.len().div_ceil(GROUPS_PER_THREAD);
    let (next, is_lost) = (AtomicUsize::new(0), AtomicBool::new(false));
    let moved = Mutex::new(BTreeSet::new());
    let note = |bearer: Option<Bearer>| {
        let mut moved = moved.lock().unwrap_or_else(PoisonError::into_inner);
        match bearer.filter(|bearer| *bearer != Bearer::ALL) {
            Some(bearer) if moved.len() < MOST => drop(moved.insert(bearer)),
            _ => is_lost.store(true, Ordering::Relaxed),
        }
    };
    let look = || {
        while !is_lost.load(Ordering::Relaxed)
            && let Some(group) = seal.groups.get(next.fetch_add(1, Ordering::Relaxed))
        {
            look_again(group, note);
        }
    };
    std::thread::scope(|scope| {
        (1..useful.min(cores).min(MOST_THREADS)).for_each(|_| {
            scope.spawn(look);
        });
        look();
    });
    let moved = moved.into_inner().unwrap_or_else(PoisonError::into_inner);
    (!is_lost.into_inner()).then_some(moved)
}

/// Notes whoever rests on something in a group that looks other than it did; `None` where the bytes make no sense.
fn look_again(group: &Group<'_>, note: impl Fn(Option<Bearer>)) {
    let directory = open(group.directory.to_bytes_with_nul());
    for entry in group.entries() {
        let Some(entry) = entry else {
            return note(None);
        };
        let now = directory.as_ref();
        let now = now.and_then(|directory| stamp(directory, entry.name, entry.follows));
        if now != Some(entry.stamp) {
            note(Some(entry.bearer));
        }
    }
}

fn open(directory: &[u8]) -> Option<rustix::fd::OwnedFd> {
    let path = CStr::from_bytes_with_nul(directory).ok()?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).ok()
}

fn stamp(directory: &rustix::fd::OwnedFd, name: &CStr, follows: bool) -> Option<Stamp> {
    let flags = match follows {
        true => AtFlags::empty(),
        false => AtFlags::SYMLINK_NOFOLLOW,
    };
    Some(Stamp::of_stat(
        &rustix::fs::statat(directory, name, flags).ok()?,
    ))
}
