//! Seals: what a build that found everything done looked at, and how each of it looked. While none of it moves,
//! everything is still done. Disposable.
//!
//! One flat file for each question (which goals, how the Kananafile was read, by which program), written by rename,
//! closed by a checksum. A file that was young when it was looked at is not trusted, so such a build leaves no seal.
//! Knows nothing of graphs and plans: whoever seals says what was looked at.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustix::fs::{AtFlags, Mode, OFlags};

use super::Store;
use super::memo::Stamp;
use crate::digest::Digest;
use crate::error::{Doing, Error};

const MAGIC: &[u8; 8] = b"kbseal1\n";
/// Names in a group: what one thread looks at in one go.
const GROUP: usize = 1024;
/// Seals that are kept beside each other.
const KEPT: usize = 8;

/// What a conclusion rests on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Grounds {
    /// Files and directories by the directory that they are looked up in.
    paths: BTreeMap<PathBuf, Vec<Looked>>,
    /// Environment variables and what they held.
    pub env: BTreeMap<String, Option<String>>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Looked {
    name: PathBuf,
    /// Links are followed.
    follows: bool,
    /// Believed however young it is: nothing but a warning depends on it.
    is_helper: bool,
    /// How it looked when it was read, where somebody noted that.
    then: Option<Stamp>,
}

impl Grounds {
    /// Something that is looked up as `name` in `directory`, and is what its links lead to.
    pub fn followed(&mut self, directory: &Path, name: impl Into<PathBuf>) {
        self.add(directory, name.into(), true, false, None);
    }

    /// The same for something that was read when it looked like this: if it does not any more, nothing is known of it.
    pub fn followed_since(&mut self, directory: &Path, name: impl Into<PathBuf>, then: Stamp) {
        self.add(directory, name.into(), true, false, Some(then));
    }

    /// Something that is looked up as `name` in `directory`, and is not a link.
    pub fn own(&mut self, directory: &Path, name: impl Into<PathBuf>) {
        self.add(directory, name.into(), false, false, None);
    }

    /// A file by its path alone, not a link.
    pub fn own_path(&mut self, path: &Path) {
        if let (Some(directory), Some(name)) = (path.parent(), path.file_name()) {
            self.own(directory, name);
        }
    }

    /// The same for a file that looked like this when it was known to be right.
    pub fn own_path_since(&mut self, path: &Path, then: Stamp) {
        if let (Some(directory), Some(name)) = (path.parent(), path.file_name()) {
            self.add(directory, name.into(), false, false, Some(then));
        }
    }

    /// A helper of the store: whoever finds it damaged says so, which only somebody who looks can.
    pub fn helper(&mut self, directory: &Path, name: &str) {
        self.add(directory, name.into(), false, true, None);
    }

    fn add(
        &mut self,
        directory: &Path,
        name: PathBuf,
        follows: bool,
        is_helper: bool,
        then: Option<Stamp>,
    ) {
        // A lookup of the directory itself.
        let name = match name.as_os_str().is_empty() {
            true => PathBuf::from("."),
            false => name,
        };
        let looked = Looked {
            name,
            follows,
            is_helper,
            then,
        };
        match self.paths.get_mut(directory) {
            Some(names) => names.push(looked),
            None => {
                self.paths.insert(directory.to_owned(), vec![looked]);
            }
        }
    }
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
        answer: &[u8],
        grounds: Grounds,
        begun_ns: i64,
    ) -> Result<bool, Error> {
        self.commit()?;
        let path = self.seal_path(question);
        let Some(bytes) = encode(question, answer, grounds, begun_ns) else {
            return Ok(false);
        };
        self.prune_seals();
        let temporary = self.temporary();
        let written = File::create(&temporary)
            .and_then(|mut file| file.write_all(&bytes))
            .and_then(|()| fs::rename(&temporary, &path))
            .doing("write", &path);
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        written.map(|()| true)
    }

    /// The answer to a question, if there is a seal and nothing that it rests on has moved.
    pub fn sealed(&self, question: &Digest) -> Option<Vec<u8>> {
        let bytes = fs::read(self.seal_path(question)).ok()?;
        let seal = decode(&bytes, question)?;
        holds(&seal).then(|| seal.answer.to_vec())
    }

    /// Makes room for one more: the seals that were written longest ago go.
    fn prune_seals(&self) {
        let entries = fs::read_dir(self.root().join("memo"));
        let mut seals: Vec<_> = entries
            .into_iter()
            .flatten()
            .flatten()
            .filter(|entry| entry.file_name().as_bytes().starts_with(b"seal-"))
            .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
            .collect();
        seals.sort_unstable();
        let old = seals.len().saturating_sub(KEPT - 1);
        for (_, path) in &seals[..old] {
            let _ = fs::remove_file(path);
        }
    }
}

/// A seal that was read: everything borrows from its bytes.
struct Seal<'a> {
    answer: &'a [u8],
    env: Vec<(&'a str, Option<&'a str>)>,
    groups: Vec<Group<'a>>,
}

/// Names that are looked up in the same directory.
struct Group<'a> {
    directory: &'a CStr,
    /// One after the other: how it looked, whether links are followed, its name.
    entries: &'a [u8],
}

fn encode(question: &Digest, answer: &[u8], grounds: Grounds, begun_ns: i64) -> Option<Vec<u8>> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(question.as_bytes());
    put(&mut bytes, answer);
    put_count(&mut bytes, grounds.env.len());
    for (name, value) in &grounds.env {
        put(&mut bytes, name.as_bytes());
        bytes.push(u8::from(value.is_some()));
        put(&mut bytes, value.as_deref().unwrap_or_default().as_bytes());
    }
    for (directory, mut names) in grounds.paths {
        names.sort_unstable();
        names.dedup();
        let opened = open(&terminated(&directory)?)?;
        for names in names.chunks(GROUP) {
            let mut entries = Vec::with_capacity(names.len() * 96);
            for looked in names {
                let name = terminated(&looked.name)?;
                let stamp = stamp(
                    &opened,
                    CStr::from_bytes_with_nul(&name).ok()?,
                    looked.follows,
                )?;
                if stamp.is_racy(begun_ns) && !looked.is_helper {
                    return None;
                }
                // What has another place now may be old, and was never read.
                if looked.then.is_some_and(|then| then != stamp) {
                    return None;
                }
                put_stamp(&mut entries, &stamp);
                entries.push(u8::from(looked.follows));
                put(&mut entries, &name);
            }
            put(&mut bytes, &terminated(&directory)?);
            put(&mut bytes, &entries);
        }
    }
    let checksum = blake3::hash(&bytes);
    bytes.extend(checksum.as_bytes());
    Some(bytes)
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

fn decode<'a>(bytes: &'a [u8], question: &Digest) -> Option<Seal<'a>> {
    let (body, checksum) = bytes.split_last_chunk::<32>()?;
    if blake3::hash(body).as_bytes() != checksum {
        return None;
    }
    let rest = body.strip_prefix(MAGIC.as_slice())?;
    let mut rest = rest.strip_prefix(question.as_bytes().as_slice())?;
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

fn take_number(rest: &mut &[u8]) -> Option<u64> {
    let (head, tail) = rest.split_first_chunk()?;
    *rest = tail;
    Some(u64::from_le_bytes(*head))
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

/// Looks at everything again, a few threads at a time where there is much of it.
fn holds(seal: &Seal<'_>) -> bool {
    let is_set = |(name, value): &(&str, Option<&str>)| {
        std::env::var_os(name)
            .map(|now| now.to_string_lossy().into_owned())
            .as_deref()
            == *value
    };
    if !seal.env.iter().all(is_set) {
        return false;
    }
    const MOST_THREADS: usize = 8;
    const GROUPS_PER_THREAD: usize = 64;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let useful = seal.groups.len().div_ceil(GROUPS_PER_THREAD);
    let (next, moved) = (AtomicUsize::new(0), AtomicBool::new(false));
    let look = || {
        while !moved.load(Ordering::Relaxed)
            && let Some(group) = seal.groups.get(next.fetch_add(1, Ordering::Relaxed))
        {
            if !stands(group).unwrap_or(false) {
                moved.store(true, Ordering::Relaxed);
            }
        }
    };
    std::thread::scope(|scope| {
        (1..useful.min(cores).min(MOST_THREADS)).for_each(|_| {
            scope.spawn(look);
        });
        look();
    });
    !moved.into_inner()
}

/// Whether everything in a group looks as it did.
fn stands(group: &Group<'_>) -> Option<bool> {
    let directory = open(group.directory.to_bytes_with_nul())?;
    let mut rest = group.entries;
    while !rest.is_empty() {
        let then = take_stamp(&mut rest)?;
        let follows = take_byte(&mut rest)? != 0;
        let name = CStr::from_bytes_with_nul(take(&mut rest)?).ok()?;
        if stamp(&directory, name, follows)? != then {
            return Some(false);
        }
    }
    Some(true)
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

#[cfg(test)]
mod tests {
    use super::*;

    const LATER_NS: i64 = i64::MAX / 2;

    struct World {
        folder: tempfile::TempDir,
        store: Store,
        question: Digest,
    }

    impl World {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let store = Store::new(folder.path().join("cache"));
            store.create().unwrap();
            fs::create_dir(folder.path().join("data")).unwrap();
            for name in ["a", "b"] {
                fs::write(folder.path().join("data").join(name), name).unwrap();
            }
            Self {
                folder,
                store,
                question: Digest::of(b"question"),
            }
        }

        fn data(&self) -> PathBuf {
            self.folder.path().join("data")
        }

        fn seal(&self) {
            let mut grounds = Grounds::default();
            grounds.followed(&self.data(), "");
            grounds.followed(&self.data(), "a");
            grounds.own(&self.data(), "b");
            let begun = LATER_NS;
            let sealed = self.store.seal(&self.question, b"yes", grounds, begun);
            assert!(sealed.unwrap());
        }

        fn answer(&self) -> Option<Vec<u8>> {
            self.store.sealed(&self.question)
        }
    }

    #[test]
    fn holds_until_something_moves() {
        let world = World::new();
        assert_eq!(world.answer(), None, "nobody has sealed anything");
        type Move = (&'static str, fn(&Path));
        let moves: [Move; 5] = [
            ("other bytes", |data| {
                fs::write(data.join("a"), "c").unwrap()
            }),
            ("a file more", |data| fs::write(data.join("c"), "").unwrap()),
            ("a file less", |data| {
                fs::remove_file(data.join("b")).unwrap()
            }),
            ("other times", |data| {
                let file = File::options().write(true).open(data.join("a")).unwrap();
                file.set_modified(std::time::UNIX_EPOCH).unwrap();
            }),
            ("a directory instead", |data| {
                fs::remove_file(data.join("a")).unwrap();
                fs::create_dir(data.join("a")).unwrap();
            }),
        ];
        for (what, change) in moves {
            let world = World::new();
            world.seal();
            assert_eq!(world.answer().as_deref(), Some(&b"yes"[..]));
            assert_eq!(world.store.sealed(&Digest::of(b"another")), None);
            change(&world.data());
            assert_eq!(world.answer(), None, "{what}");
        }
    }

    #[test]
    fn a_link_is_not_what_it_leads_to() {
        let world = World::new();
        fs::rename(world.data().join("b"), world.folder.path().join("b")).unwrap();
        std::os::unix::fs::symlink("../b", world.data().join("b")).unwrap();
        world.seal();
        assert!(world.answer().is_some());
        fs::write(world.folder.path().join("b"), "elsewhere").unwrap();
        assert!(world.answer().is_some(), "the link itself is as it was");
    }

    #[test]
    fn what_is_young_is_not_sealed() {
        let world = World::new();
        let mut grounds = Grounds::default();
        grounds.own_path(&world.data().join("a"));
        let begun = super::super::now_ns();
        let sealed = world.store.seal(&world.question, b"yes", grounds, begun);
        assert!(!sealed.unwrap());
        assert_eq!(world.answer(), None);
    }

    #[test]
    fn any_damage_makes_it_no_seal() {
        let world = World::new();
        world.seal();
        let path = world.store.seal_path(&world.question);
        let sound = fs::read(&path).unwrap();
        for at in 0..sound.len() {
            let mut flipped = sound.clone();
            flipped[at] ^= 0x10;
            for bytes in [&flipped[..], &sound[..at]] {
                fs::write(&path, bytes).unwrap();
                assert_eq!(world.answer(), None, "at {at}");
            }
        }
        fs::write(&path, sound).unwrap();
        assert!(world.answer().is_some());
    }

    #[test]
    fn an_environment_variable_counts() {
        let world = World::new();
        let mut grounds = Grounds::default();
        let path = std::env::var("PATH").ok();
        grounds.env.insert("PATH".to_owned(), path);
        grounds
            .env
            .insert("KBUILD_NO_SUCH_VARIABLE".to_owned(), None);
        let sealed = world
            .store
            .seal(&world.question, b"", grounds.clone(), LATER_NS);
        assert!(sealed.unwrap() && world.answer().is_some());
        grounds
            .env
            .insert("PATH".to_owned(), Some("another".to_owned()));
        let sealed = world.store.seal(&world.question, b"", grounds, LATER_NS);
        assert!(sealed.unwrap() && world.answer().is_none());
    }

    #[test]
    fn old_seals_make_room() {
        let world = World::new();
        for number in 0..KEPT + 3 {
            let question = Digest::of(&[u8::try_from(number).unwrap()]);
            world
                .store
                .seal(&question, b"", Grounds::default(), LATER_NS)
                .unwrap();
        }
        let memo = world.store.root().join("memo");
        assert_eq!(fs::read_dir(memo).unwrap().count(), KEPT);
    }
}
