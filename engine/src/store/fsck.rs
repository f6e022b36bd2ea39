//! Damage: content that is not what its name says, receipts that cannot be read, helpers that are torn.
//!
//! First a list, then, if asked, its repair from what is there: the same bytes under `latest/` come back, everything
//! else is put aside under `quarantine/`, so that its producer runs again. Nothing that is sound is touched.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::Serialize;

use super::blobs::hash_file;
use super::gc::blobs_held;
use super::root::Root;
use super::{BlobState, MEMOS, Memo, Store};
use crate::artifact::Blob;
use crate::digest::Digest;
use crate::error::{Doing, Error};

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub path: PathBuf,
    /// What should lie there, where it is content.
    #[serde(skip)]
    pub blob: Option<Blob>,
    /// What is wrong, in words.
    pub trouble: String,
    /// Tasks whose results it belongs to.
    pub tasks: BTreeSet<String>,
    #[serde(flatten)]
    pub remedy: Remedy,
}

/// What helps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "remedy", rename_all = "kebab-case")]
pub enum Remedy {
    /// The same bytes lie elsewhere.
    Restore { from: PathBuf },
    /// It is put aside, and its producer runs again.
    Quarantine,
    /// Nothing is there: its producer runs again.
    Rebuild,
    /// It only helped, and is made anew.
    Remove,
}

/// What an examination found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Examined {
    pub receipts: usize,
    pub blobs: usize,
    pub bytes: u64,
    pub findings: Vec<Finding>,
    /// Files that belong to nothing; `gc` removes them.
    pub litter: usize,
    pub litter_bytes: u64,
}

impl Store {
    /// Reads every receipt and every blob that one names, and compares. Writes nothing.
    pub fn examine(&self) -> Examined {
        let receipts = self.receipts();
        let mut named: BTreeMap<Digest, (Blob, BTreeSet<String>)> = BTreeMap::new();
        for receipt in &receipts {
            // Of what was dropped nothing is missing; what is left of it must be sound.
            let is_there = |blob: &Blob| self.blob_path(&blob.digest).exists();
            let named_now = receipt
                .blobs()
                .filter(|blob| !receipt.dropped || is_there(blob));
            for blob in named_now {
                let (_, tasks) = named.entry(blob.digest).or_insert((blob, BTreeSet::new()));
                tasks.insert(receipt.task.clone());
            }
        }
        let bad: Vec<(Blob, BlobState, BTreeSet<String>)> = named
            .par_iter()
            .map(|(_, (blob, tasks))| (*blob, self.verify(blob), tasks.clone()))
            .filter(|(_, state, _)| *state != BlobState::Sound)
            .collect();
        let copies = self.copies(&bad);
        let mut findings: Vec<Finding> = bad
            .into_iter()
            .map(|(blob, state, tasks)| self.finding(&blob, &state, tasks, &copies))
            .collect();
        findings.extend(self.unsound_receipts().into_iter().map(unsound));
        findings.extend(self.torn_memos());
        let roots = receipts.iter().map(|receipt| receipt.key).collect();
        let litter = self.litter(&blobs_held(&receipts), &roots);
        Examined {
            receipts: receipts.len(),
            blobs: named.len(),
            bytes: named.values().map(|(blob, _)| blob.size).sum(),
            findings,
            litter: litter.len(),
            litter_bytes: litter.iter().map(|litter| litter.bytes).sum(),
        }
    }

    fn finding(
        &self,
        blob: &Blob,
        state: &BlobState,
        tasks: BTreeSet<String>,
        copies: &HashMap<Digest, PathBuf>,
    ) -> Finding {
        let remedy = match (copies.get(&blob.digest), state) {
            (Some(from), _) => Remedy::Restore { from: from.clone() },
            (None, BlobState::Missing) => Remedy::Rebuild,
            (None, _) => Remedy::Quarantine,
        };
        Finding {
            path: self.blob_path(&blob.digest),
            blob: Some(*blob),
            trouble: state.trouble().unwrap_or_default(),
            tasks,
            remedy,
        }
    }

    /// Files under `latest/` that hold the bytes of a blob that is lost.
    fn copies(&self, lost: &[(Blob, BlobState, BTreeSet<String>)]) -> HashMap<Digest, PathBuf> {
        let sizes: BTreeSet<u64> = lost.iter().map(|(blob, _, _)| blob.size).collect();
        let digests: BTreeSet<Digest> = lost.iter().map(|(blob, _, _)| blob.digest).collect();
        if lost.is_empty() {
            return HashMap::new();
        }
        let mut files = Vec::new();
        walk(self.below(), &self.root().join("latest"), &mut files);
        files
            .into_par_iter()
            .filter(|path| {
                fs::symlink_metadata(path).is_ok_and(|found| sizes.contains(&found.len()))
            })
            .filter_map(|path| Some((hash_file(&path).ok()?.digest, path)))
            .filter(|(digest, _)| digests.contains(digest))
            .collect()
    }

    fn torn_memos(&self) -> Vec<Finding> {
        let memo = |name: &&str| {
            let path = self.root().join("memo").join(name);
            let (_, warning) = Memo::load(self.below(), &path);
            warning.map(|_| Finding {
                path,
                blob: None,
                trouble: "damaged: files are read again".to_owned(),
                tasks: BTreeSet::new(),
                remedy: Remedy::Remove,
            })
        };
        MEMOS.iter().filter_map(memo).collect()
    }

    /// Does what each finding says. `false`: a build is running, nothing was done.
    pub fn repair(&self, findings: &[Finding]) -> Result<bool, Error> {
        let Some(_alone) = self.alone()? else {
            return Ok(false);
        };
        findings.iter().try_for_each(|finding| self.mend(finding))?;
        self.commit()?;
        Ok(true)
    }

    /// Whether what was found is still so: a build may have made it anew before the store was ours alone.
    fn is_still(&self, finding: &Finding) -> bool {
        let path = &finding.path;
        match (&finding.blob, &finding.remedy) {
            (Some(blob), _) => self.verify(blob) != BlobState::Sound,
            (None, Remedy::Quarantine) => self.unsound_receipt(path).is_some(),
            (None, _) => path.symlink_metadata().is_ok(),
        }
    }

    fn mend(&self, finding: &Finding) -> Result<(), Error> {
        if !self.is_still(finding) {
            return Ok(());
        }
        let path = &finding.path;
        match &finding.remedy {
            Remedy::Restore { from } => {
                let copy = self.temporary();
                let root = self.below();
                let copied = root
                    .open(from)
                    .and_then(|mut from| std::io::copy(&mut from, &mut root.create_new(&copy)?));
                copied.doing("copy", from)?;
                self.keep(&super::Laid::File(copy)).map(drop)
            }
            Remedy::Quarantine => {
                let aside = self.root().join("quarantine");
                self.below()
                    .create_dir_all(&aside)
                    .doing("create", &aside)?;
                let name = path.strip_prefix(self.root()).unwrap_or(path);
                let name = name.to_string_lossy().replace('/', "-");
                self.below()
                    .rename(path, &aside.join(name))
                    .doing("move", path)
            }
            Remedy::Remove => self.below().remove_file(path).doing("remove", path),
            Remedy::Rebuild => Ok(()),
        }
    }
}

fn unsound((path, trouble): (PathBuf, String)) -> Finding {
    Finding {
        path,
        blob: None,
        trouble,
        tasks: BTreeSet::new(),
        remedy: Remedy::Quarantine,
    }
}

/// Every regular file below a directory.
fn walk(root: &Root, directory: &Path, files: &mut Vec<PathBuf>) {
    for path in root.entries(directory) {
        match fs::symlink_metadata(&path) {
            Ok(found) if found.is_dir() => walk(root, &path, files),
            Ok(found) if found.is_file() => files.push(path),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifact::Content;
    use crate::receipt::{Receipt, SCHEMA, Text};

    /// A store with one result, and its blob.
    fn world() -> (tempfile::TempDir, Store, Blob) {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::new(directory.path());
        store.create().unwrap();
        let blob = store.keep_bytes(b"content").unwrap();
        let receipt = Receipt {
            schema: SCHEMA,
            key: Digest::of(b"key"),
            manifest: Text::any(&serde_json::json!({})),
            outputs: BTreeMap::from([("out".to_owned(), Content::File(blob))]),
            facts: BTreeMap::new(),
            task: "t".to_owned(),
            elapsed_ms: 1,
            attempts: 1,
            environment: BTreeMap::new(),
            accepted: None,
            dropped: false,
        };
        store.write_receipt(&receipt).unwrap();
        (directory, store, blob)
    }

    fn damage(path: &Path) {
        fs::remove_file(path).unwrap();
        fs::write(path, "CONTENT").unwrap();
    }

    #[test]
    fn a_sound_store_has_nothing_to_repair() {
        let (_directory, store, _) = world();
        let found = store.examine();
        assert_eq!((found.receipts, found.blobs, found.bytes), (1, 1, 7));
        assert_eq!((found.findings, found.litter), (vec![], 0));
    }

    #[test]
    fn damaged_content_is_put_aside_and_comes_back_where_a_copy_is_left() {
        let (_directory, store, blob) = world();
        let path = store.blob_path(&blob.digest);
        damage(&path);
        let found = store.examine().findings;
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].remedy, Remedy::Quarantine);
        assert_eq!(found[0].tasks, BTreeSet::from(["t".to_owned()]));
        assert!(path.exists(), "an examination changes nothing");

        let latest = store.latest("t").join("out");
        fs::create_dir_all(latest.parent().unwrap()).unwrap();
        fs::write(&latest, "content").unwrap();
        let found = store.examine().findings;
        assert_eq!(
            found[0].remedy,
            Remedy::Restore {
                from: latest.clone()
            }
        );
        let building = store.enter().unwrap();
        assert!(!store.repair(&found).unwrap(), "a build is running");
        drop(building);
        assert!(store.repair(&found).unwrap());
        assert_eq!(store.examine().findings, []);

        fs::remove_file(latest).unwrap();
        damage(&path);
        store.repair(&store.examine().findings).unwrap();
        assert_eq!(store.verify(&blob), BlobState::Missing);
        let found = store.examine().findings;
        assert_eq!(found[0].remedy, Remedy::Rebuild);
        assert_eq!(
            fs::read_dir(store.root().join("quarantine"))
                .unwrap()
                .count(),
            1
        );
    }

    #[test]
    fn torn_receipts_and_helpers_are_found() {
        let (_directory, store, _) = world();
        let mut files = Vec::new();
        walk(store.below(), &store.root().join("receipts"), &mut files);
        let text = fs::read(&files[0]).unwrap();
        fs::write(&files[0], &text[..text.len() / 2]).unwrap();
        fs::write(store.root().join("memo/blobs"), "torn").unwrap();
        let found = store.examine();
        let remedies: Vec<&Remedy> = found.findings.iter().map(|each| &each.remedy).collect();
        assert_eq!(remedies, [&Remedy::Quarantine, &Remedy::Remove]);
        store.repair(&found.findings).unwrap();
        assert_eq!(store.examine().findings, []);
        assert_eq!(
            store.examine().litter,
            1,
            "its blob serves nobody now; gc removes it"
        );
    }

    #[test]
    fn what_was_healed_meanwhile_stays() {
        let (_directory, store, blob) = world();
        damage(&store.blob_path(&blob.digest));
        let found = store.examine().findings;
        assert_eq!(found.len(), 1);
        store.keep_bytes(b"content").unwrap();
        assert!(store.repair(&found).unwrap());
        assert_eq!(store.verify(&blob), BlobState::Sound);
    }
}
