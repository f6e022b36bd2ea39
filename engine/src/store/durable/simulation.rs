//! Power cuts and full disks, from a seed.
//!
//! A store does its work on a real disk and a witness writes every step down. From any prefix of that trace the disk
//! is made again as a power cut may have left it: of a file that was not synced since it was written, nothing, a part,
//! zeros or all is there; of the names in a directory that was not synced, any of the changes are. That is harsher than
//! journaling file systems are. Then the store is opened again.

use std::collections::BTreeMap;
use std::fs;

use super::*;
use crate::artifact::Content;
use crate::digest::Digest;
use crate::plan::{Lookup, Receipts};
use crate::receipt::{self, Receipt, Text};
use crate::store::{Found, Laid, Memo, Spare, Store};
use crate::testing::Seeded;

/// A step that owns what it is about, with paths below the store's folder.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Done {
    CreateDirectory(PathBuf),
    Write(PathBuf, Vec<u8>),
    SyncFile(PathBuf),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
    SyncDirectory(PathBuf),
    /// Not of the disk: the work of the task of this number was committed.
    Finished(usize),
    /// Nor this: from here on the content of a task may go.
    Spared(usize),
}

#[derive(Clone, Default)]
struct Trace(Arc<Mutex<Vec<Done>>>);

impl Trace {
    fn push(&self, done: Done) {
        self.0.lock().unwrap().push(done);
    }

    fn witness(&self, root: &Path) -> Witness {
        let (trace, root) = (self.clone(), root.to_owned());
        Arc::new(move |step| {
            let own = |path: &Path| path.strip_prefix(&root).unwrap().to_owned();
            trace.push(match step {
                // The store's own name lasts.
                Step::SyncDirectory(path) if !path.starts_with(&root) => return Ok(()),
                Step::CreateDirectory(path) => Done::CreateDirectory(own(path)),
                Step::Write(path, bytes) => Done::Write(own(path), bytes.to_vec()),
                Step::SyncFile(path) => Done::SyncFile(own(path)),
                Step::Rename(from, to) => Done::Rename(own(from), own(to)),
                Step::Remove(path) => Done::Remove(own(path)),
                Step::SyncDirectory(path) => Done::SyncDirectory(own(path)),
            });
            Ok(())
        })
    }

    fn steps(&self) -> Vec<Done> {
        self.0.lock().unwrap().clone()
    }
}

/// What a task of the simulation gives: some texts, one of them shared with other tasks.
fn texts(task: usize) -> Vec<String> {
    let own = (0..=task % 3).map(|part| format!("{task}.{part}").repeat(1 + task * 7));
    own.chain([format!("shared by some {}", task % 2)])
        .collect()
}

fn key(task: usize) -> Digest {
    Digest::of(&task.to_le_bytes())
}

/// Does the work of a task; its files are written as a child does it.
fn work(store: &Store, task: usize, trace: &Trace) -> Result<(), Error> {
    let made = texts(task).into_iter().map(|text| {
        let path = store.temporary();
        let own = path.strip_prefix(store.root()).unwrap().to_owned();
        trace.push(Done::Write(own, text.clone().into_bytes()));
        fs::write(&path, text).doing("write", &path)?;
        Ok(Laid::File(path))
    });
    let laid = Laid::Shards(made.collect::<Result<_, Error>>()?);
    let receipt = Receipt {
        schema: receipt::SCHEMA,
        key: key(task),
        manifest: Text::any(&serde_json::json!({ "task": task })),
        outputs: BTreeMap::from([("out".to_owned(), store.keep(&laid)?)]),
        facts: BTreeMap::new(),
        task: task.to_string(),
        elapsed_ms: 0,
        attempts: 1,
        environment: BTreeMap::new(),
        accepted: None,
        dropped: false,
    };
    store.write_receipt(&receipt)
}

/// Removes the content of a task, but for what others hold.
fn drop_content(store: &Store, task: usize, trace: &Trace) -> Result<(), Error> {
    trace.push(Done::Spared(task));
    let spare = Spare {
        task: task.to_string(),
        key: key(task),
        parts: Vec::new(),
        published: Vec::new(),
    };
    store.drop_content(&[spare], &BTreeSet::new()).map(drop)
}

/// True when the store holds the result of a task. One that it says to hold must be right.
fn holds(store: &Store, task: usize) -> bool {
    let memo = Memo::default();
    let Lookup::Found(receipt) = Found::new(store, &memo).get(&key(task)) else {
        return false;
    };
    let Content::Shards(parts) = &receipt.outputs["out"] else {
        panic!("a task gives shards");
    };
    let read = |part: &Content| String::from_utf8(store.read(&part.blobs()[0]).unwrap()).unwrap();
    let found: Vec<String> = parts.iter().map(read).collect();
    assert_eq!(found, texts(task), "a receipt lied");
    true
}

fn is_dropped(store: &Store, task: usize) -> bool {
    let memo = Memo::default();
    matches!(Found::new(store, &memo).get(&key(task)), Lookup::Dropped(_))
}

/// The trace of a store that works through some tasks, some of them twice, commits now and then, and drops content.
fn trace(seed: u64, durability: Durability) -> Vec<Done> {
    let folder = tempfile::tempdir().unwrap();
    let trace = Trace::default();
    let store = Store::new(folder.path())
        .with_durability(durability)
        .with_witness(trace.witness(folder.path()));
    store.create().unwrap();
    let mut random = Seeded(seed);
    let mut made = Vec::new();
    for _ in 0..6 {
        made.push(random.below(5));
        work(&store, made[made.len() - 1], &trace).unwrap();
        if random.chance(50) {
            store.commit().unwrap();
            let finished = made.drain(..).map(Done::Finished);
            finished.for_each(|done| trace.push(done));
        }
        if random.chance(30) {
            drop_content(&store, random.below(5), &trace).unwrap();
        }
    }
    trace.steps()
}

/// The trace of a store in which a build is killed before it commits, and of one that finds and remembers what it left.
fn trace_of_two(seed: u64) -> Vec<Done> {
    let folder = tempfile::tempdir().unwrap();
    let trace = Trace::default();
    let open = || Store::new(folder.path()).with_witness(trace.witness(folder.path()));
    let (killed, next) = (open(), open());
    killed.create().unwrap();
    let mut random = Seeded(seed);
    let made: Vec<usize> = (0..4).map(|_| random.below(5)).collect();
    for task in &made {
        work(&killed, *task, &trace).unwrap();
    }
    let mut memo = Memo::default();
    let nothing = Memo::default();
    let found = Found::new(&next, &nothing);
    for task in &made {
        assert!(matches!(found.get(&key(*task)), Lookup::Found(_)));
    }
    for (digest, stamp, seen_ns) in found.into_read() {
        memo.note(digest.to_hex().into(), stamp, digest, seen_ns);
    }
    next.save_memo("blobs", &memo).unwrap();
    made.iter()
        .for_each(|task| trace.push(Done::Finished(*task)));
    trace.steps()
}

/// A disk between two syncs.
#[derive(Default)]
struct Cut {
    files: Vec<File>,
    /// Names as running programs see them: a file by its number, a directory as `None`.
    seen: BTreeMap<PathBuf, Option<usize>>,
    /// Names that last.
    lasting: BTreeMap<PathBuf, Option<usize>>,
    /// Changes of names that do not last yet, in order: what is there, or `None` for a name that goes.
    open: Vec<(PathBuf, Option<Option<usize>>)>,
}

#[derive(Default)]
struct File {
    written: Vec<u8>,
    lasting: Vec<u8>,
}

impl Cut {
    fn after(steps: &[Done]) -> Self {
        let mut cut = Self::default();
        steps.iter().for_each(|step| cut.apply(step));
        cut
    }

    fn apply(&mut self, step: &Done) {
        match step {
            Done::CreateDirectory(path) => self.name(path, Some(None)),
            Done::Write(path, bytes) => {
                self.files.push(File {
                    written: bytes.clone(),
                    lasting: Vec::new(),
                });
                self.name(path, Some(Some(self.files.len() - 1)));
            }
            Done::SyncFile(path) => {
                let number = self.seen[path].expect("a file is synced");
                let file = &mut self.files[number];
                file.lasting.clone_from(&file.written);
            }
            Done::Rename(from, to) => {
                let what = self.seen[from];
                self.name(to, Some(what));
                self.name(from, None);
            }
            Done::Remove(path) => self.name(path, None),
            Done::SyncDirectory(directory) => {
                let (settled, open) = std::mem::take(&mut self.open)
                    .into_iter()
                    .partition(|(path, _)| path.parent() == Some(directory.as_path()));
                self.open = open;
                Vec::into_iter(settled).for_each(|(path, what)| set(&mut self.lasting, path, what));
            }
            Done::Finished(_) | Done::Spared(_) => {}
        }
    }

    fn name(&mut self, path: &Path, what: Option<Option<usize>>) {
        set(&mut self.seen, path.to_owned(), what);
        self.open.push((path.to_owned(), what));
    }

    /// Writes to a folder what a power cut may have left.
    fn write(mut self, random: &mut Seeded, folder: &Path) {
        for (path, what) in std::mem::take(&mut self.open) {
            if random.chance(50) {
                set(&mut self.lasting, path, what);
            }
        }
        let torn: Vec<Vec<u8>> = self.files.iter().map(|file| file.torn(random)).collect();
        for (path, what) in &self.lasting {
            let place = folder.join(path);
            // Names sort after their directory's. A name in a directory that is gone is gone.
            if place.parent().is_some_and(Path::is_dir) {
                match what {
                    None => fs::create_dir(&place).unwrap(),
                    Some(number) => fs::write(&place, &torn[*number]).unwrap(),
                }
            }
        }
    }
}

fn set(names: &mut BTreeMap<PathBuf, Option<usize>>, path: PathBuf, what: Option<Option<usize>>) {
    match what {
        Some(what) => names.insert(path, what),
        None => names.remove(&path),
    };
}

impl File {
    fn torn(&self, random: &mut Seeded) -> Vec<u8> {
        let length = self.written.len();
        match random.below(4) {
            _ if self.lasting == self.written => self.written.clone(),
            0 => self.lasting.clone(),
            1 => self.written[..random.below(length + 1)].to_vec(),
            2 => vec![0; length],
            _ => self.written.clone(),
        }
    }
}

/// A store that does not wait for the disk of the machine that runs this.
fn quick(folder: &Path) -> Store {
    Store::new(folder).with_durability(Durability::ProcessOnly)
}

/// Cuts the power after `length` steps, opens the store again, and lets it go on. The tasks whose finished work is lost.
fn cut_power(steps: &[Done], length: usize, seed: u64) -> Vec<usize> {
    let folder = tempfile::tempdir().unwrap();
    let steps = &steps[..length];
    Cut::after(steps).write(&mut Seeded(seed), folder.path());
    let store = quick(folder.path());
    let may_go = |task: usize| steps.contains(&Done::Spared(task)) && is_dropped(&store, task);
    let is_lost = |step: &Done| match step {
        Done::Finished(task) if !holds(&store, *task) && !may_go(*task) => Some(*task),
        _ => None,
    };
    let lost = steps.iter().filter_map(is_lost).collect();
    store.create().unwrap();
    for task in 0..5 {
        if !holds(&store, task) {
            work(&store, task, &Trace::default()).unwrap();
        }
        assert!(holds(&store, task), "no manual step is needed");
    }
    lost
}

/// Cuts the power after every third step, from one on that the seed says; how often finished work was lost.
fn losses(steps: &[Done], seed: u64) -> usize {
    let first = (seed % 3) as usize;
    let lengths = (first..=steps.len()).step_by(3);
    let lost = lengths.map(|length| cut_power(steps, length, seed + length as u64));
    lost.filter(|lost| !lost.is_empty()).count()
}

#[test]
fn what_is_finished_survives_every_power_cut() {
    for seed in 0..6 {
        let steps = trace(seed, Durability::Full);
        assert_eq!(losses(&steps, seed), 0, "seed {seed}");
    }
}

#[test]
fn what_a_killed_build_left_lasts_once_it_is_remembered() {
    for seed in 0..3 {
        let steps = trace_of_two(seed);
        assert_eq!(losses(&steps, seed), 0, "seed {seed}");
    }
}

#[test]
fn a_sync_that_fails_takes_the_receipts_of_its_group_along() {
    let folder = tempfile::tempdir().unwrap();
    let trace = Trace::default();
    let quiet = Store::new(folder.path());
    quiet.create().unwrap();
    work(&quiet, 0, &trace).unwrap();
    quiet.commit().unwrap();
    let failing = Store::new(folder.path()).with_witness(Arc::new(|step| match step {
        Step::SyncFile(_) => Err(io::ErrorKind::Other.into()),
        _ => Ok(()),
    }));
    work(&failing, 1, &trace).unwrap();
    assert!(
        holds(&failing, 1),
        "there until something is known against it"
    );
    assert!(failing.commit().is_err());
    assert!(!holds(&failing, 1) && holds(&failing, 0));
    assert!(failing.commit().is_err(), "nobody knows what lasts");
    let memo = {
        let mut memo = Memo::default();
        let stamp = crate::store::Stamp::of(&fs::metadata(folder.path()).unwrap());
        memo.note("x".into(), stamp, key(1), 0);
        memo
    };
    assert!(failing.save_memo("blobs", &memo).is_err());
}

#[test]
fn without_syncs_work_may_be_lost_and_no_receipt_lies() {
    let steps = trace(1, Durability::ProcessOnly);
    assert!(losses(&steps, 1) > 0);
    // Each sort of sync is needed: the simulation would notice one that is missing.
    let steps = trace(1, Durability::Full);
    let is_file = |step: &&Done| matches!(step, Done::SyncFile(_));
    let is_directory = |step: &&Done| matches!(step, Done::SyncDirectory(_));
    let without = |is_left_out: fn(&&Done) -> bool| -> Vec<Done> {
        steps
            .iter()
            .filter(|step| !is_left_out(step))
            .cloned()
            .collect()
    };
    assert!(losses(&without(is_file), 1) > 0);
    assert!(losses(&without(is_directory), 1) > 0);
}

/// A witness with room for this many changes.
fn full_after(room: usize) -> Witness {
    let left = Mutex::new(room);
    Arc::new(move |step| {
        let mut left = left.lock().unwrap();
        match step {
            Step::SyncFile(_) | Step::SyncDirectory(_) => return Ok(()),
            _ if *left == 0 => return Err(io::ErrorKind::StorageFull.into()),
            _ => *left -= 1,
        }
        Ok(())
    })
}

#[test]
fn a_disk_that_is_full_at_any_write_loses_nothing() {
    for room in 0.. {
        let folder = tempfile::tempdir().unwrap();
        let trace = Trace::default();
        let store = quick(folder.path());
        let tight = store.clone().with_witness(full_after(room));
        let mut finished = Vec::new();
        let outcome = tight.create().and_then(|()| {
            (0..5).try_for_each(|task| {
                work(&tight, task, &trace)?;
                finished.push(task);
                Ok(())
            })
        });
        for task in finished {
            assert!(holds(&store, task), "room for {room}");
        }
        let Err(error) = outcome else {
            assert!(room > 30, "the disk was full at {room} changes");
            return;
        };
        assert!(error.is_full() && error.help().is_some(), "{error}");
        store.create().unwrap();
        for task in 0..5 {
            work(&store, task, &trace).unwrap();
            assert!(holds(&store, task));
        }
    }
}
