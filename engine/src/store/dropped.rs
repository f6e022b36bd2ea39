//! Content that nobody needs any more makes room, while its receipts stay: key and digests remain known.
//!
//! First the receipts say so, durably, then the files go. Whatever is killed in between, a receipt that says that it was
//! dropped promises no content, and what was not removed yet is removed with the next content that is dropped. A blob
//! that another result holds stays. Where the content of a dropped result comes back and is relied on again, its receipt
//! is written anew. Knows no tasks and no graph: whoever drops says which keys are spare.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::Store;
use crate::digest::Digest;
use crate::error::Error;
use crate::receipt::Receipt;

/// The content of a result that may go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spare {
    /// Name of the task.
    pub task: String,
    pub key: Digest,
    /// Keys of its parts.
    pub parts: Vec<Digest>,
    /// What people see of it under `latest/`.
    pub published: Vec<PathBuf>,
}

/// What was dropped.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Tasks of which something went.
    pub tasks: Vec<String>,
    pub bytes: u64,
}

/// What a drop would do.
#[derive(Debug, Default)]
struct Going {
    /// Receipts that are to say so.
    receipts: Vec<Receipt>,
    /// Blobs that nothing holds then, with their sizes.
    blobs: BTreeMap<Digest, u64>,
    /// Spares of which something goes, by position.
    spares: Vec<usize>,
}

impl Store {
    /// Whether dropping these would remove anything. Writes nothing.
    pub fn is_burdened(&self, spares: &[Spare], kept: &BTreeSet<Digest>) -> bool {
        let going = || self.going(spares, kept);
        !spares.is_empty() && going().is_ok_and(|going| !going.blobs.is_empty())
    }

    /// Removes the content of results that are spare, but for what other results hold, and those of the keys in `kept`,
    /// whatever their receipts say. To be called while nobody else works in the store and nothing is kept whose receipt
    /// is not written yet.
    pub fn drop_content(
        &self,
        spares: &[Spare],
        kept: &BTreeSet<Digest>,
    ) -> Result<Dropped, Error> {
        let going = self.going(spares, kept)?;
        for receipt in going.receipts {
            self.write_receipt(&Receipt {
                dropped: true,
                ..receipt
            })?;
        }
        self.commit()?;
        let gone: Vec<&Spare> = going.spares.iter().map(|at| &spares[*at]).collect();
        for spare in &gone {
            // A task may have been built under this name with another key since.
            let is_newest = (self.last(&spare.task)).is_some_and(|last| last.key == spare.key);
            let files = spare.published.iter().filter(|_| is_newest);
            files.for_each(|path| self.below().remove_tree(path));
        }
        let blobs = going.blobs.into_iter();
        let removed = blobs.filter(|(digest, _)| self.disk.remove(&self.blob_path(digest)).is_ok());
        Ok(Dropped {
            bytes: removed.map(|(_, size)| size).sum(),
            tasks: gone.iter().map(|spare| spare.task.clone()).collect(),
        })
    }

    /// Makes a result hold its content again, all of which is there.
    pub fn take_back(&self, receipt: &Receipt) -> Result<Receipt, Error> {
        let kept = Receipt {
            dropped: false,
            ..receipt.clone()
        };
        self.write_receipt(&kept)?;
        Ok(kept)
    }

    fn going(&self, spares: &[Spare], kept: &BTreeSet<Digest>) -> Result<Going, Error> {
        let mut owners: BTreeMap<Digest, Vec<usize>> = BTreeMap::new();
        for (at, spare) in spares.iter().enumerate() {
            for key in spare.parts.iter().chain([&spare.key]) {
                owners.entry(*key).or_default().push(at);
            }
        }
        let (going, staying): (Vec<Receipt>, Vec<Receipt>) = self
            .all_receipts()?
            .into_iter()
            .partition(|receipt| owners.contains_key(&receipt.key));
        let (holders, dropped): (Vec<Receipt>, Vec<Receipt>) = staying
            .into_iter()
            .partition(|receipt| !receipt.dropped || kept.contains(&receipt.key));
        let held: BTreeSet<Digest> = digests(&holders).map(|(digest, _)| digest).collect();
        // What a dropped result still has was left by somebody who was killed, or held by what goes now.
        let blobs: BTreeMap<Digest, u64> = digests(&going)
            .chain(digests(&dropped))
            .filter(|(digest, _)| !held.contains(digest) && self.blob_path(digest).exists())
            .collect();
        let loses =
            |receipt: &Receipt| receipt.blobs().any(|blob| blobs.contains_key(&blob.digest));
        let losing = going.into_iter().filter(loses);
        let mut receipts: Vec<Receipt> = losing.collect();
        let spares: BTreeSet<usize> = receipts
            .iter()
            .flat_map(|receipt| owners[&receipt.key].iter().copied())
            .collect();
        receipts.retain(|receipt| !receipt.dropped);
        Ok(Going {
            receipts,
            blobs,
            spares: spares.into_iter().collect(),
        })
    }
}

fn digests(receipts: &[Receipt]) -> impl Iterator<Item = (Digest, u64)> + '_ {
    let blobs = receipts.iter().flat_map(Receipt::blobs);
    blobs.map(|blob| (blob.digest, blob.size))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::artifact::Content;
    use crate::plan::{Lookup, Receipts};
    use crate::receipt::{SCHEMA, Text};
    use crate::store::gc::Limits;
    use crate::store::{Found, Memo};

    struct World {
        _folder: tempfile::TempDir,
        store: Store,
    }

    impl World {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let store = Store::new(folder.path());
            store.create().unwrap();
            Self {
                _folder: folder,
                store,
            }
        }

        /// A result with one file for each text.
        fn result(&self, task: &str, texts: &[&str]) -> Receipt {
            let keep = |text: &&str| Content::File(self.store.keep_bytes(text.as_bytes()).unwrap());
            let receipt = Receipt {
                schema: SCHEMA,
                key: Digest::of(task.as_bytes()),
                manifest: Text::any(&serde_json::json!({})),
                outputs: [(
                    "out".to_owned(),
                    Content::Shards(texts.iter().map(keep).collect()),
                )]
                .into(),
                facts: BTreeMap::new(),
                task: task.to_owned(),
                elapsed_ms: 5,
                attempts: 1,
                environment: BTreeMap::new(),
                accepted: None,
                dropped: false,
            };
            self.store.write_receipt(&receipt).unwrap();
            receipt
        }

        fn drop(&self, results: &[&Receipt]) -> Dropped {
            let spares: Vec<Spare> = results.iter().map(|result| spare(result)).collect();
            let none = BTreeSet::new();
            let would = self.store.is_burdened(&spares, &none);
            let dropped = self.store.drop_content(&spares, &none).unwrap();
            assert_eq!(would, dropped.bytes > 0);
            let is_left = self.store.is_burdened(&spares, &none);
            assert!(!is_left, "there is nothing left");
            dropped
        }

        fn look(&self, result: &Receipt) -> &'static str {
            let memo = Memo::default();
            let found = Found::new(&self.store, &memo);
            let word = match found.get(&result.key) {
                Lookup::Found(_) => "found",
                Lookup::Dropped(_) => "dropped",
                Lookup::Missing => "missing",
                Lookup::Unusable(_) => "unusable",
            };
            assert_eq!(found.take_warnings().is_empty(), word != "unusable");
            word
        }

        fn has(&self, text: &str) -> bool {
            let digest = Digest::of(text.as_bytes());
            self.store.blob_path(&digest).exists()
        }
    }

    fn spare(result: &Receipt) -> Spare {
        Spare {
            task: result.task.clone(),
            key: result.key,
            parts: Vec::new(),
            published: Vec::new(),
        }
    }

    #[test]
    fn what_others_hold_stays_and_the_receipt_says_that_the_rest_is_gone() {
        let world = World::new();
        let going = world.result("going", &["alone", "shared"]);
        let kept = world.result("kept", &["shared"]);
        let dropped = world.drop(&[&going]);
        assert_eq!(
            (dropped.tasks, dropped.bytes),
            (vec!["going".to_owned()], 5)
        );
        assert_eq!((world.has("alone"), world.has("shared")), (false, true));
        assert_eq!(
            (world.look(&going), world.look(&kept)),
            ("dropped", "found")
        );

        assert_eq!(world.store.examine().findings, [], "nothing is damaged");
        assert_eq!(world.store.examine().litter, 0);
        let reached = BTreeSet::from([going.key]);
        let garbage = world.store.garbage(&reached, &Limits::default());
        assert_eq!((garbage.results, garbage.bytes), (1, 0), "it holds nothing");
        let all = world.store.garbage(&BTreeSet::new(), &Limits::default());
        let bytes: Vec<u64> = all.garbage.iter().map(|garbage| garbage.bytes).collect();
        assert_eq!(bytes.iter().sum::<u64>(), 6, "shared");
        assert_eq!(all.freed(), 6);

        world.result("another", &["alone"]);
        assert_eq!(world.look(&going), "found", "it came back");
        assert_eq!(world.drop(&[&going]).bytes, 0, "and is another's now");
    }

    #[test]
    fn results_that_go_together_hold_nothing_for_each_other() {
        let world = World::new();
        let (a, b) = (world.result("a", &["same"]), world.result("b", &["same"]));
        assert_eq!(world.drop(&[&a]).bytes, 0);
        assert_eq!(world.look(&a), "found", "nothing went, so nothing is said");
        assert_eq!(world.drop(&[&a, &b]).bytes, 4);
        assert_eq!((world.look(&a), world.look(&b)), ("dropped", "dropped"));
    }

    #[test]
    fn what_came_back_stays_once_it_is_relied_on() {
        let world = World::new();
        let old = world.result("old", &["text"]);
        world.drop(&[&old]);
        let new = world.result("new", &["text"]);
        assert_eq!(world.look(&old), "found", "its content is there");
        let kept = BTreeSet::from([old.key]);
        let dropped = world.store.drop_content(&[spare(&new)], &kept).unwrap();
        assert_eq!(dropped.bytes, 0, "the build that drops relies on it");
        let marked = world.store.receipt(&old.key).unwrap().unwrap();
        assert_eq!(world.store.take_back(&marked).unwrap(), old);
        assert_eq!(world.drop(&[&new]).bytes, 0);

        world.drop(&[&old, &new]);
        let again = world.result("again", &["text"]);
        assert_eq!(
            world.drop(&[&again]).bytes,
            4,
            "nobody relies on the others"
        );
    }

    #[test]
    fn parts_go_with_the_whole() {
        let world = World::new();
        let whole = world.result("whole", &["one", "two"]);
        let parts = ["one", "two"].map(|text| world.result(text, &[text]));
        assert_eq!(world.drop(&[&whole]).bytes, 0, "its parts hold it");
        let with_parts = Spare {
            parts: parts.iter().map(|part| part.key).collect(),
            ..spare(&whole)
        };
        let none = BTreeSet::new();
        let dropped = world.store.drop_content(&[with_parts], &none).unwrap();
        assert_eq!(
            (dropped.tasks, dropped.bytes),
            (vec!["whole".to_owned()], 6)
        );
        assert_eq!(world.look(&parts[1]), "dropped");
    }

    #[test]
    fn whoever_was_killed_in_between_left_nothing_that_is_wrong_and_nothing_for_ever() {
        let world = World::new();
        let cut = world.result("cut", &["one", "two"]);
        let mut marked = cut.clone();
        marked.dropped = true;
        world.store.write_receipt(&marked).unwrap();
        assert_eq!(world.look(&cut), "found", "killed before anything went");
        fs::remove_file(world.store.blob_path(&Digest::of(b"one"))).unwrap();
        assert_eq!(world.look(&cut), "dropped", "killed in between");
        assert_eq!(world.store.examine().findings, []);
        let reached = BTreeSet::from([cut.key]);
        assert_eq!(world.store.garbage(&reached, &Limits::default()).freed(), 3);

        let other = world.result("other", &["three"]);
        assert_eq!(world.drop(&[&other]).bytes, 8, "the next drop removes it");
        assert!(!world.has("two"));
    }

    #[test]
    fn damage_of_what_was_dropped_is_absence_and_a_loss_that_nobody_announced_is_one() {
        let world = World::new();
        let (damaged, lost) = (
            world.result("d", &["one", "two"]),
            world.result("l", &["x"]),
        );
        world.drop(&[&damaged]);
        fs::write(world.store.blob_path(&Digest::of(b"two")), "TWO").unwrap();
        assert_eq!(world.look(&damaged), "dropped", "it promised no content");
        fs::remove_file(world.store.blob_path(&Digest::of(b"x"))).unwrap();
        assert_eq!(world.look(&lost), "unusable");
        assert_eq!(world.store.examine().findings.len(), 2);
    }
}
