//! What can go: results that no goal, newest name or pin reaches, and litter of dead processes.
//!
//! First a list, then, if asked, its removal. Never while a build runs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Store;
use super::locks::Presence;
use crate::artifact::Content;
use crate::digest::Digest;
use crate::error::{Doing, Error};
use crate::receipt::Receipt;
use crate::runner::{Process, place};

/// A result that can go.
#[derive(Debug, Clone, PartialEq)]
pub struct Garbage {
    pub task: String,
    pub key: Digest,
    /// Bytes that only garbage holds are freed by removing it; what kept results share stays.
    pub bytes: u64,
    pub age: Option<Duration>,
    /// What it took to make: the cost of wanting it back.
    pub elapsed: Duration,
}

/// Files that belong to nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Litter {
    pub path: PathBuf,
    pub bytes: u64,
}

/// What stays and what can go.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Kept {
    pub results: usize,
    pub bytes: u64,
    pub garbage: Vec<Garbage>,
    pub litter: Vec<Litter>,
}

/// How much may be removed, beside what nothing reaches.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Stop removing once the store is no larger than this.
    pub max_bytes: Option<u64>,
    /// Only what is older than this.
    pub older_than: Option<Duration>,
}

impl Kept {
    /// Bytes that removal frees.
    pub fn freed(&self) -> u64 {
        let litter: u64 = self.litter.iter().map(|litter| litter.bytes).sum();
        let results: u64 = self.garbage.iter().map(|garbage| garbage.bytes).sum();
        litter + results
    }
}

impl Store {
    /// Keys that the user wants to keep: files in `pins/` named by key.
    pub fn pins(&self) -> BTreeSet<Digest> {
        let pins = self.below().entries(&self.root().join("pins"));
        pins.iter()
            .filter_map(|path| path.file_name()?.to_str()?.parse().ok())
            .collect()
    }

    /// Keeps a key until it is unpinned.
    pub fn pin(&self, key: &Digest) -> Result<(), Error> {
        let path = self.root().join("pins").join(key.to_hex());
        let root = self.below();
        ["pins", "tmp"]
            .iter()
            .try_for_each(|name| root.create_dir_all(&self.root().join(name)))
            .and_then(|()| root.write(&self.temporary(), &path, b""))
            .doing("write", &path)
    }

    pub fn unpin(&self, key: &Digest) -> Result<(), Error> {
        let path = self.root().join("pins").join(key.to_hex());
        self.below().remove_file(&path).doing("remove", &path)
    }

    /// What can go when `reached` (the keys that goals need now), newest results and pins stay. Writes nothing.
    pub fn garbage(&self, reached: &BTreeSet<Digest>, limits: &Limits) -> Kept {
        let roots = self.roots(reached);
        let (mut kept, rest): (Vec<Receipt>, Vec<Receipt>) = self
            .receipts()
            .into_iter()
            .partition(|receipt| roots.contains(&receipt.key));
        let named = blobs_of(&kept);
        // A part stays as long as a kept whole holds its content, or held it.
        let (parts, rest): (Vec<Receipt>, Vec<Receipt>) = rest
            .into_iter()
            .partition(|receipt| is_part_of(receipt, &named));
        kept.extend(parts);
        let (rest, spared) = self.within(rest, &kept, limits);
        kept.extend(spared);
        let live = blobs_held(&kept);
        let mut counted = live.clone();
        let garbage = rest
            .iter()
            .map(|receipt| self.describe(receipt, &mut counted))
            .collect();
        Kept {
            results: kept.len(),
            bytes: live.values().sum(),
            garbage,
            litter: self.litter(&counted, &roots),
        }
    }

    /// The results among `rest` that are to go, and those that the limits spare.
    fn within(
        &self,
        rest: Vec<Receipt>,
        kept: &[Receipt],
        limits: &Limits,
    ) -> (Vec<Receipt>, Vec<Receipt>) {
        let is_old = |receipt: &Receipt| {
            let age = || self.receipt_age(&receipt.key);
            limits
                .older_than
                .is_none_or(|least| age().is_some_and(|age| age >= least))
        };
        let (old, mut spared): (Vec<Receipt>, Vec<Receipt>) =
            rest.into_iter().partition(|receipt| is_old(receipt));
        let Some(max_bytes) = limits.max_bytes else {
            return (old, spared);
        };
        // What was dropped makes no room.
        let (mut old, dropped): (Vec<Receipt>, Vec<Receipt>) =
            old.into_iter().partition(|receipt| !receipt.dropped);
        spared.extend(dropped);
        let all = kept.iter().chain(&spared).chain(&old);
        let mut holders = Holders::new(all.filter(|receipt| !receipt.dropped));
        old.sort_by(|a, b| worth(a).total_cmp(&worth(b)));
        let mut going = Vec::new();
        for receipt in old {
            if holders.bytes > max_bytes {
                holders.release(&receipt);
                going.push(receipt);
            } else {
                spared.push(receipt);
            }
        }
        (going, spared)
    }

    fn roots(&self, reached: &BTreeSet<Digest>) -> BTreeSet<Digest> {
        let mut roots = self.pins();
        roots.extend(reached);
        roots.extend(self.tasks().into_iter().map(|(_, last)| last.key));
        roots
    }

    fn describe(&self, receipt: &Receipt, counted: &mut BTreeMap<Digest, u64>) -> Garbage {
        let bytes = receipt
            .blobs()
            .filter(|_| !receipt.dropped)
            .filter(|blob| counted.insert(blob.digest, blob.size).is_none())
            .map(|blob| blob.size)
            .sum();
        Garbage {
            task: receipt.task.clone(),
            key: receipt.key,
            bytes,
            age: self.receipt_age(&receipt.key),
            elapsed: Duration::from_millis(receipt.elapsed_ms),
        }
    }

    /// Blobs that no receipt names, what dead processes left in `tmp/`, and checkpoints that serve nobody.
    pub(super) fn litter(
        &self,
        named: &BTreeMap<Digest, u64>,
        roots: &BTreeSet<Digest>,
    ) -> Vec<Litter> {
        // A name that kbuild would not give may be anybody's: it stays.
        let entries = |path: &Path| self.below().entries(path);
        let fans = entries(&self.root().join("blobs"));
        let mut paths: Vec<PathBuf> = fans.iter().flat_map(|fan| entries(fan)).collect();
        paths.retain(|path| digest_of(path).is_some_and(|digest| !named.contains_key(&digest)));
        let temporary = entries(&self.root().join("tmp"));
        let is_left = |path: &PathBuf| matches!(owner(path), Some(Owner::Dead | Owner::Elsewhere));
        paths.extend(temporary.into_iter().filter(is_left));
        let partial = entries(&self.root().join("partial"));
        paths.extend(
            partial
                .into_iter()
                .filter(|path| self.is_abandoned(path, roots)),
        );
        paths.sort_unstable();
        let litter = |path: PathBuf| Litter {
            bytes: self.size_of(&path),
            path,
        };
        paths.into_iter().map(litter).collect()
    }

    /// Checkpoints of a key that is finished, or that nothing has needed for two weeks. (A key that goals will need
    /// again may not be known before what it depends on has run.)
    fn is_abandoned(&self, partial: &Path, roots: &BTreeSet<Digest>) -> bool {
        const PATIENCE: Duration = Duration::from_secs(14 * 24 * 3600);
        let name = partial.file_name().and_then(|name| name.to_str());
        let Some(key) = name.and_then(|name| name.parse::<Digest>().ok()) else {
            return false;
        };
        if matches!(self.receipt(&key), Ok(Some(_))) {
            return true;
        }
        let touched = fs::symlink_metadata(partial).and_then(|metadata| metadata.modified());
        let is_old = touched.is_ok_and(|time| time.elapsed().is_ok_and(|age| age > PATIENCE));
        is_old && !roots.contains(&key)
    }

    /// Removes what [`Store::garbage`] lists now. `None`: a build is running, nothing was removed.
    pub fn collect(
        &self,
        reached: &BTreeSet<Digest>,
        limits: &Limits,
    ) -> Result<Option<Kept>, Error> {
        let Some(_alone) = self.alone()? else {
            return Ok(None);
        };
        // What cannot be read may hold anything: then nothing goes.
        self.all_receipts()?;
        let kept = self.garbage(reached, limits);
        for garbage in &kept.garbage {
            self.remove_receipt(&garbage.key)?;
        }
        let live = blobs_held(&self.all_receipts()?);
        let roots = self.roots(reached);
        for litter in self.litter(&live, &roots) {
            self.below().remove_tree(&litter.path);
        }
        self.remove_free_locks();
        Ok(Some(kept))
    }

    /// Removes what dead processes left in `tmp/`. What was left on another machine, before this one came up or in
    /// another container goes only while nobody else works in the store.
    pub fn sweep(&self, presence: &Presence) {
        let left = self.below().entries(&self.root().join("tmp"));
        let of_owner = |wanted| left.iter().filter(move |path| owner(path) == Some(wanted));
        let remove = |path: &PathBuf| self.below().remove_tree(path);
        of_owner(Owner::Dead).for_each(remove);
        if of_owner(Owner::Elsewhere).next().is_some() {
            presence.alone(|| of_owner(Owner::Elsewhere).for_each(remove));
        }
    }

    fn size_of(&self, path: &Path) -> u64 {
        match fs::symlink_metadata(path) {
            Ok(metadata) if metadata.is_dir() => {
                let entries = self.below().entries(path);
                entries.iter().map(|path| self.size_of(path)).sum()
            }
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        }
    }
}

/// How many results hold each blob, and the bytes of all.
struct Holders {
    blobs: BTreeMap<Digest, (u64, usize)>,
    bytes: u64,
}

impl Holders {
    fn new<'a>(receipts: impl IntoIterator<Item = &'a Receipt>) -> Self {
        let mut blobs: BTreeMap<Digest, (u64, usize)> = BTreeMap::new();
        for receipt in receipts {
            for blob in receipt.blobs() {
                blobs.entry(blob.digest).or_insert((blob.size, 0)).1 += 1;
            }
        }
        Self {
            bytes: blobs.values().map(|(size, _)| size).sum(),
            blobs,
        }
    }

    fn release(&mut self, receipt: &Receipt) {
        for blob in receipt.blobs() {
            if let Some((size, holders)) = self.blobs.get_mut(&blob.digest) {
                *holders -= 1;
                self.bytes -= if *holders == 0 { *size } else { 0 };
            }
        }
    }
}

/// Milliseconds of work in a byte: what is large and quick to make goes first.
fn worth(receipt: &Receipt) -> f64 {
    let bytes: u64 = receipt.outputs.values().map(Content::size).sum();
    receipt.elapsed_ms as f64 / (bytes.max(1)) as f64
}

fn blobs_of(receipts: &[Receipt]) -> BTreeMap<Digest, u64> {
    receipts.iter().flat_map(sizes).collect()
}

/// The blobs that results hold: what a dropped one still has belongs to nobody.
pub(super) fn blobs_held(receipts: &[Receipt]) -> BTreeMap<Digest, u64> {
    let held = receipts.iter().filter(|receipt| !receipt.dropped);
    held.flat_map(sizes).collect()
}

fn sizes(receipt: &Receipt) -> impl Iterator<Item = (Digest, u64)> + '_ {
    receipt.blobs().map(|blob| (blob.digest, blob.size))
}

fn is_part_of(receipt: &Receipt, live: &BTreeMap<Digest, u64>) -> bool {
    (receipt.manifest.read()).is_some_and(|manifest| manifest.part)
        && blobs_of(std::slice::from_ref(receipt))
            .keys()
            .all(|digest| live.contains_key(digest))
}

/// Whose a temporary name is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    Alive,
    Dead,
    /// Of a process that cannot be looked for from here.
    Elsewhere,
}

/// A temporary name tells the process that made it, and where: `<process>-<start>-<place>-<number>`. `None`: kbuild gave
/// no such name.
fn owner(path: &Path) -> Option<Owner> {
    let name = path.file_name()?.to_str()?;
    let mut fields = name.split('-');
    let pid = fields.next()?.parse().ok()?;
    let start = fields.next()?.parse().ok()?;
    let (at, number) = (fields.next()?, fields.next()?);
    let is_word = !at.is_empty() && at.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if !is_word || number.parse::<u64>().is_err() || fields.next().is_some() {
        return None;
    }
    Some(match (Process { pid, start }.is_alive(), at == place()) {
        (_, false) => Owner::Elsewhere,
        (true, true) => Owner::Alive,
        (false, true) => Owner::Dead,
    })
}

fn digest_of(path: &Path) -> Option<Digest> {
    let tail = path.file_name()?.to_str()?;
    if tail.len() != 62 {
        return None;
    }
    let head = path.parent()?.file_name()?.to_str()?;
    format!("{head}{tail}").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::receipt::{SCHEMA, Text};

    fn result(store: &Store, task: &str, text: &str) -> Receipt {
        let blob = store.keep_bytes(text.as_bytes()).unwrap();
        let receipt = Receipt {
            schema: SCHEMA,
            key: Digest::of(task.as_bytes()),
            manifest: Text::any(&serde_json::json!({})),
            outputs: BTreeMap::from([("out".to_owned(), Content::File(blob))]),
            facts: BTreeMap::new(),
            task: task.to_owned(),
            elapsed_ms: 5,
            attempts: 1,
            environment: BTreeMap::new(),
            accepted: None,
            dropped: false,
        };
        store.write_receipt(&receipt).unwrap();
        receipt
    }

    #[test]
    fn lists_then_removes_what_nobody_reaches() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::new(directory.path());
        store.create().unwrap();
        let (reached, pinned) = (result(&store, "a", "one"), result(&store, "b", "two"));
        let gone = result(&store, "c", "three");
        let shared = result(&store, "d", "one");
        store.pin(&pinned.key).unwrap();
        let unfinished = store.partial(&Digest::of(b"interrupted"));
        fs::create_dir_all(&unfinished).unwrap();
        fs::write(store.root().join("tmp/1-1-1-1"), "left by a dead process").unwrap();
        let reached = BTreeSet::from([reached.key]);
        let kept = store.garbage(&reached, &Limits::default());
        let bytes: BTreeMap<&str, u64> = kept
            .garbage
            .iter()
            .map(|garbage| (garbage.task.as_str(), garbage.bytes))
            .collect();
        assert_eq!(bytes, BTreeMap::from([("c", 5), ("d", 0)]));
        assert_eq!((kept.results, kept.bytes, kept.litter.len()), (2, 6, 1));
        assert!(
            store.receipt(&gone.key).unwrap().is_some(),
            "a list removes nothing"
        );

        let building = store.enter().unwrap();
        assert!(building.is_some());
        assert_eq!(
            store.collect(&reached, &Limits::default()).unwrap(),
            None,
            "a build is running"
        );
        drop(building);
        let removed = store
            .collect(&reached, &Limits::default())
            .unwrap()
            .map(|removed| removed.freed());
        assert_eq!(removed, Some(kept.freed()));
        assert!(store.receipt(&gone.key).unwrap().is_none());
        let blob = shared.outputs["out"].blobs()[0];
        assert!(
            store.blob_path(&blob.digest).exists(),
            "shared with a kept result"
        );
        assert!(unfinished.exists(), "an interrupted task will go on");
        assert_eq!(store.garbage(&reached, &Limits::default()).freed(), 0);
    }

    #[test]
    fn a_budget_spares_what_is_young_or_dear_and_never_touches_what_is_reached() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::new(directory.path());
        store.create().unwrap();
        let reached = BTreeSet::from([result(&store, "reached", "0123456789").key]);
        let mut dear = result(&store, "dear", "abcde");
        dear.elapsed_ms = 1_000;
        store.write_receipt(&dear).unwrap();
        result(&store, "cheap", "fghij");
        let going = |max_bytes, older_than| {
            let limits = Limits {
                max_bytes,
                older_than,
            };
            let kept = store.garbage(&reached, &limits);
            let tasks = kept.garbage.into_iter().map(|garbage| garbage.task);
            (tasks.collect::<Vec<_>>(), kept.bytes)
        };
        assert_eq!(going(Some(20), None), (vec![], 20));
        assert_eq!(going(Some(19), None), (vec!["cheap".to_owned()], 15));
        let (both, bytes) = going(Some(0), None);
        assert_eq!((both.len(), bytes), (2, 10), "what goals reach stays");
        let hour = Some(Duration::from_secs(3600));
        assert_eq!(going(None, hour), (vec![], 20));
    }
}
