//! What is remembered of earlier builds, for explanations: results, and which parts the artifacts had that were read.
//!
//! Parts of sources lie in `memo/parts/<digest>`, for the store holds no content of sources. Disposable: what is
//! forgotten is not named.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::Store;
use super::root::Root;
use crate::artifact::Content;
use crate::digest::Digest;
use crate::error::{Doing, Error};
use crate::explain::{Earlier, NamedPart, Past};
use crate::receipt::Receipt;

/// Lists of parts that are kept.
const KEPT: usize = 512;

impl Store {
    fn parts_directory(&self) -> PathBuf {
        self.root().join("memo").join("parts")
    }

    /// Remembers the parts of artifacts that tasks read from outside.
    pub fn remember_parts(
        &self,
        artifacts: &BTreeMap<Digest, Vec<NamedPart>>,
    ) -> Result<(), Error> {
        let directory = self.parts_directory();
        let is_news = |(digest, _): &(&Digest, _)| !directory.join(digest.to_hex()).exists();
        let news: Vec<_> = artifacts.iter().filter(is_news).collect();
        if news.is_empty() {
            return Ok(());
        }
        let root = self.below();
        root.create_dir_all(&directory)
            .doing("create", &directory)?;
        for (digest, parts) in news {
            let (temporary, path) = (self.temporary(), directory.join(digest.to_hex()));
            let bytes = serde_json::to_vec(parts).unwrap_or_default();
            root.write(&temporary, &path, &bytes)
                .doing("write", &path)?;
        }
        forget_oldest(root, &directory);
        Ok(())
    }

    fn remembered_parts(&self, artifact: &Digest) -> Option<Vec<NamedPart>> {
        let path = self.parts_directory().join(artifact.to_hex());
        serde_json::from_slice(&self.below().read(&path).ok()?).ok()
    }
}

fn forget_oldest(root: &Root, directory: &Path) {
    let entries = root.entries(directory).into_iter();
    let mut by_age: Vec<_> = entries
        .filter_map(|path| Some((path.symlink_metadata().ok()?.modified().ok()?, path)))
        .collect();
    by_age.sort_unstable();
    let surplus = by_age.len().saturating_sub(KEPT);
    by_age[..surplus].iter().for_each(|(_, path)| {
        let _ = root.remove_file(path);
    });
}

/// The past of a store, read once.
#[derive(Debug)]
pub struct Remembered<'a> {
    store: &'a Store,
    /// Parts of what is read today.
    today: BTreeMap<Digest, Vec<NamedPart>>,
    results: Vec<Earlier>,
    outputs: BTreeMap<Digest, Content>,
}

impl<'a> Remembered<'a> {
    pub fn new(store: &'a Store, today: BTreeMap<Digest, Vec<NamedPart>>) -> Self {
        let receipts = store.receipts();
        let contents = receipts.iter().flat_map(|receipt| receipt.outputs.values());
        let outputs = contents
            .filter(|content| content.parts().len() > 1 || matches!(content, Content::Directory(_)))
            .map(|content| (content.digest(), content.clone()))
            .collect();
        let results = receipts
            .iter()
            .filter_map(|receipt| earlier(store, receipt))
            .collect();
        Self {
            store,
            today,
            results,
            outputs,
        }
    }
}

impl Past for Remembered<'_> {
    fn last(&self, task: &str) -> Option<Earlier> {
        let last = self.store.last(task)?;
        Some(Earlier {
            manifest: last.manifest()?,
            task: task.to_owned(),
            outputs: Vec::new(),
            age_ms: age_ms(self.store, &last.key),
            key: last.key,
        })
    }

    fn results(&self) -> &[Earlier] {
        &self.results
    }

    fn parts(&self, artifact: &Digest) -> Option<Vec<NamedPart>> {
        if let Some(parts) = self.today.get(artifact) {
            return Some(parts.clone());
        }
        let made = self.outputs.get(artifact).map(NamedPart::all);
        made.or_else(|| self.store.remembered_parts(artifact))
    }
}

/// A result of a whole task: those of parts are no tasks.
fn earlier(store: &Store, receipt: &Receipt) -> Option<Earlier> {
    let manifest = receipt.manifest.read().filter(|manifest| !manifest.part)?;
    Some(Earlier {
        key: receipt.key,
        task: receipt.task.clone(),
        manifest,
        outputs: receipt.outputs.values().map(Content::digest).collect(),
        age_ms: age_ms(store, &receipt.key),
    })
}

fn age_ms(store: &Store, key: &Digest) -> Option<u64> {
    u64::try_from(store.receipt_age(key)?.as_millis()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_remembered_and_may_be_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::new(directory.path());
        store.create().unwrap();
        let digest = Digest::of(b"both");
        let parts = vec![NamedPart {
            name: "data/1.txt".to_owned(),
            digest: Digest::of(b"1"),
        }];
        let artifacts = BTreeMap::from([(digest, parts.clone())]);
        store.remember_parts(&artifacts).unwrap();
        store.remember_parts(&artifacts).unwrap();
        let past = Remembered::new(&store, BTreeMap::new());
        assert_eq!(past.parts(&digest), Some(parts));
        std::fs::write(store.parts_directory().join(digest.to_hex()), "[{").unwrap();
        assert_eq!(past.parts(&digest), None, "damage is forgetting");
        assert!(past.results().is_empty() && past.last("t").is_none());
    }
}
