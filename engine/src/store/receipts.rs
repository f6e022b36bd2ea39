//! Receipts on disk: one file per key, written last, closed by a checksum.
//!
//! A receipt that does not parse, or whose content is gone or damaged, is no receipt: a miss with a warning, never a
//! stop and never a wrong hit. One that says that its content was dropped promises none.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rayon::prelude::*;

use super::memo::{Memo, Stamp};
use super::{Store, fanned};
use crate::artifact::Content;
use crate::digest::Digest;
use crate::error::{Doing, Error};
use crate::key::Manifest;
use crate::plan::{Lookup, Receipts};
use crate::receipt::{self, Receipt};

/// A receipt file is `{"blake3":"<64 digits>","receipt":<text>}`, the digest being that of the text.
const OPEN: &str = "{\"blake3\":\"";
const MIDDLE: &str = "\",\"receipt\":";
const CLOSE: &str = "}\n";

/// What is wrong with the bytes of a receipt.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error("damaged")]
    Damaged,
    #[error("written in form {0}, not {schema}", schema = receipt::SCHEMA)]
    OtherForm(u32),
    #[error("no build wrote this: {0}")]
    Forged(String),
    #[error(transparent)]
    Json(#[from] serde_json::Error),
}

/// A receipt file that cannot be used, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unsound(pub String);

impl Store {
    pub(crate) fn receipt_path(&self, key: &Digest) -> PathBuf {
        fanned(&self.root().join("receipts"), key, ".json")
    }

    /// The receipt of a key, whether or not its content is there.
    pub fn receipt(&self, key: &Digest) -> Result<Option<Receipt>, Unsound> {
        let path = self.receipt_path(key);
        let bytes = match self.below().read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(unsound(&path, &error.to_string())),
        };
        let receipt = parse(&bytes).map_err(|cause| unsound(&path, &cause.to_string()))?;
        match receipt.key == *key {
            true => Ok(Some(receipt)),
            false => Err(unsound(&path, "it is the receipt of another key")),
        }
    }

    /// Writes a receipt. Its content must be kept already. It lasts from the next [`Store::commit`] on.
    pub fn write_receipt(&self, receipt: &Receipt) -> Result<(), Error> {
        let path = self.receipt_path(&receipt.key);
        let text = serde_json::to_string(receipt)
            .map_err(|error| Error::unusable(&path, error.to_string()))?;
        let digest = Digest::of(text.as_bytes());
        let bytes = format!("{OPEN}{digest}{MIDDLE}{text}{CLOSE}");
        if let Some(parent) = path.parent() {
            self.disk.create_directory(parent)?;
        }
        if path.exists() {
            // It speaks of content that comes back: not before that lasts.
            self.commit()?;
        }
        self.disk.vouch(&self.temporary(), &path, bytes.as_bytes())
    }

    /// Every receipt that parses, in the order of keys.
    pub fn receipts(&self) -> Vec<Receipt> {
        let files = self.receipt_files().into_iter();
        files
            .filter_map(|path| parse(&self.below().read(&path).ok()?).ok())
            .collect()
    }

    /// The same, to remove by: an error where there is one that cannot be read, or is of another form, since what it
    /// holds is not known. A damaged one holds nothing, nor does one that no build wrote.
    pub(super) fn all_receipts(&self) -> Result<Vec<Receipt>, Error> {
        let mut receipts = Vec::new();
        for path in self.receipt_files() {
            match parse(&self.below().read(&path).doing("read", &path)?) {
                Ok(receipt) => receipts.push(receipt),
                Err(Unusable::Damaged | Unusable::Forged(_)) => {}
                Err(other) => return Err(Error::unusable(&path, other.to_string())),
            }
        }
        Ok(receipts)
    }

    /// Receipt files that cannot be used, and why.
    pub(super) fn unsound_receipts(&self) -> Vec<(PathBuf, String)> {
        let files = self.receipt_files().into_iter();
        files
            .filter_map(|path| Some((self.unsound_receipt(&path)?, path)))
            .map(|(cause, path)| (path, cause))
            .collect()
    }

    /// In the order of keys.
    fn receipt_files(&self) -> Vec<PathBuf> {
        let fans = self.below().entries(&self.root().join("receipts"));
        let files = fans.iter().flat_map(|fan| self.below().entries(fan));
        let mut files: Vec<PathBuf> = files.filter(|path| is_receipt(path)).collect();
        files.sort_unstable();
        files
    }

    /// Why a receipt file cannot be used, if it cannot.
    pub(super) fn unsound_receipt(&self, path: &Path) -> Option<String> {
        match self.below().read(path) {
            Err(error) => Some(error.to_string()),
            Ok(bytes) => match parse(&bytes) {
                Err(cause) => Some(cause.to_string()),
                Ok(receipt) if self.receipt_path(&receipt.key) != path => {
                    Some("it is the receipt of another key".to_owned())
                }
                Ok(_) => None,
            },
        }
    }

    /// Results whose key, or the digest of one of whose outputs, begins like this; of parts as well.
    pub fn named_by(&self, prefix: &str) -> Vec<Receipt> {
        let is_meant = |receipt: &Receipt| {
            let outputs = receipt.outputs.values().map(Content::digest);
            let mut digests = outputs.chain([receipt.key]);
            digests.any(|digest| digest.to_hex().starts_with(prefix))
        };
        self.receipts().into_iter().filter(is_meant).collect()
    }

    /// When a receipt was written.
    pub(super) fn receipt_age(&self, key: &Digest) -> Option<std::time::Duration> {
        let written = fs::symlink_metadata(self.receipt_path(key))
            .ok()?
            .modified()
            .ok()?;
        written.elapsed().ok()
    }

    pub(super) fn remove_receipt(&self, key: &Digest) -> Result<(), Error> {
        self.disk.remove(&self.receipt_path(key))
    }
}

/// Whether the name is one of a receipt: others may be anybody's.
fn is_receipt(path: &Path) -> bool {
    let name = |path: &Path| Some(path.file_name()?.to_str()?.to_owned());
    let head = path.parent().and_then(name);
    let tail = name(path).and_then(|name| Some(name.strip_suffix(".json")?.to_owned()));
    matches!((head, tail), (Some(head), Some(tail))
        if head.len() == 2 && format!("{head}{tail}").parse::<Digest>().is_ok())
}

fn unsound(path: &Path, cause: &str) -> Unsound {
    Unsound(format!("`{}`: {cause}", path.display()))
}

fn parse(bytes: &[u8]) -> Result<Receipt, Unusable> {
    /// What every form has.
    #[derive(serde::Deserialize)]
    struct Form {
        schema: u32,
    }
    let damaged = || Unusable::Damaged;
    let text = std::str::from_utf8(bytes).map_err(|_| damaged())?;
    let rest = text.strip_prefix(OPEN).ok_or_else(damaged)?;
    let (digest, rest) = rest.split_at_checked(64).ok_or_else(damaged)?;
    let body = rest
        .strip_prefix(MIDDLE)
        .and_then(|rest| rest.strip_suffix(CLOSE))
        .ok_or_else(damaged)?;
    if Digest::of(body.as_bytes()).to_hex() != digest {
        return Err(damaged());
    }
    match serde_json::from_str::<Receipt>(body) {
        Ok(receipt) if receipt.schema == receipt::SCHEMA => match receipt.flaw() {
            None => Ok(receipt),
            Some(flaw) => Err(Unusable::Forged(flaw)),
        },
        found => match serde_json::from_str::<Form>(body)?.schema {
            receipt::SCHEMA => Ok(found?),
            other => Err(Unusable::OtherForm(other)),
        },
    }
}

/// The receipts of a store as the planner sees them: with their content looked at.
pub struct Found<'a> {
    store: &'a Store,
    /// Nothing was ever built: no file needs to be looked for.
    is_empty: bool,
    blobs: &'a Memo,
    foreseen: HashMap<Digest, Lookup>,
    warnings: Mutex<BTreeSet<String>>,
    read: Mutex<Vec<(Digest, Stamp, i64)>>,
}

impl<'a> Found<'a> {
    /// `blobs` says how blobs looked when they were last known to be sound.
    pub fn new(store: &'a Store, blobs: &'a Memo) -> Self {
        Self {
            store,
            is_empty: !store.root().exists(),
            blobs,
            foreseen: HashMap::new(),
            warnings: Mutex::default(),
            read: Mutex::default(),
        }
    }

    /// Looks for keys that will probably be asked for, on all cores.
    #[must_use]
    pub fn foreseeing(mut self, keys: Vec<Digest>) -> Self {
        let look = |key: Digest| (key, self.look(&key));
        self.foreseen = keys.into_par_iter().map(look).collect();
        self
    }

    /// What was found to be damaged, each once.
    pub fn take_warnings(&self) -> Vec<String> {
        std::mem::take(&mut *locked(&self.warnings))
            .into_iter()
            .collect()
    }

    /// The blobs whose bytes had to be read, and were sound: how and when they looked so.
    pub fn into_read(self) -> Vec<(Digest, Stamp, i64)> {
        self.read
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn look(&self, key: &Digest) -> Lookup {
        let receipt = match self.store.receipt(key) {
            Ok(Some(receipt)) => receipt,
            Ok(None) => return Lookup::Missing,
            Err(Unsound(detail)) => return Lookup::Unusable(detail),
        };
        match self.is_whole(&receipt) {
            Ok(true) => Lookup::Found(Arc::new(receipt)),
            Ok(false) => Lookup::Dropped(Arc::new(receipt)),
            Err(detail) => Lookup::Unusable(detail),
        }
    }

    /// Whether everything that a receipt names is there. What is wrong with a blob that must be there is an error.
    fn is_whole(&self, receipt: &Receipt) -> Result<bool, String> {
        let (mut is_whole, mut is_news) = (true, false);
        for blob in receipt.blobs() {
            let read = |stamp, seen_ns| {
                is_news = true;
                locked(&self.read).push((blob.digest, stamp, seen_ns));
            };
            let state = self.store.check_noting(&blob, self.blobs, read);
            let Some(trouble) = state.trouble() else {
                continue;
            };
            if receipt.dropped {
                // Also what a power cut tore while it was made again.
                is_whole = false;
            } else {
                let path = self.store.blob_path(&blob.digest);
                return Err(format!("`{}` is {trouble}", path.display()));
            }
        }
        if is_news {
            // As its content: a build that was killed may have left it without a sync.
            self.store.disk.pend(&self.store.receipt_path(&receipt.key));
        }
        Ok(is_whole)
    }
}

impl Receipts for Found<'_> {
    fn get(&self, key: &Digest) -> Lookup {
        if self.is_empty {
            return Lookup::Missing;
        }
        let foreseen = self.foreseen.get(key).cloned();
        let found = foreseen.unwrap_or_else(|| self.look(key));
        if let Lookup::Unusable(detail) = &found {
            locked(&self.warnings).insert(detail.clone());
        }
        found
    }

    fn last(&self, task: &str) -> Option<Manifest> {
        if self.is_empty {
            return None;
        }
        self.store.last(task)?.manifest()
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn world() -> (tempfile::TempDir, Store, Receipt) {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::new(directory.path());
        store.create().unwrap();
        let blob = store.keep_bytes(b"content").unwrap();
        let receipt = Receipt {
            schema: receipt::SCHEMA,
            key: Digest::of(b"key"),
            manifest: receipt::Text::any(&serde_json::json!({"kind": "k", "lr": 1e-3})),
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
        (directory, store, receipt)
    }

    fn usable(store: &Store, key: &Digest) -> bool {
        let memo = Memo::default();
        matches!(Found::new(store, &memo).get(key), Lookup::Found(_))
    }

    #[test]
    fn every_flipped_or_lost_byte_is_a_miss() {
        let (_directory, store, receipt) = world();
        let path = store.receipt_path(&receipt.key);
        let sound = fs::read(&path).unwrap();
        assert_eq!(store.receipt(&receipt.key), Ok(Some(receipt.clone())));
        for at in 0..sound.len() {
            let mut flipped = sound.clone();
            flipped[at] ^= 0x01;
            for bytes in [&flipped, &sound[..at].to_vec()] {
                fs::write(&path, bytes).unwrap();
                assert!(store.receipt(&receipt.key).is_err(), "at {at}");
            }
        }
        fs::write(&path, sound).unwrap();
        assert!(usable(&store, &receipt.key));
    }

    #[test]
    fn a_receipt_that_leads_out_of_its_directory_is_a_miss_with_a_warning() {
        let (_directory, store, sound) = world();
        let blob = sound.outputs["out"].blobs()[0];
        let tree = |name: &str| Content::Directory(BTreeMap::from([(name.to_owned(), blob)]));
        let forged = [
            ("out", tree("/home/x/.bashrc")),
            ("out", tree("../x")),
            ("out", Content::Shards(vec![tree("a/../../x")])),
            ("../out", Content::File(blob)),
        ];
        for (port, content) in forged {
            let mut receipt = sound.clone();
            receipt.outputs = BTreeMap::from([(port.to_owned(), content)]);
            store.write_receipt(&receipt).unwrap();
            let memo = Memo::default();
            let found = Found::new(&store, &memo);
            assert!(matches!(found.get(&receipt.key), Lookup::Unusable(_)));
            let warnings = found.take_warnings();
            assert!(warnings[0].contains("no build wrote this"), "{warnings:?}");
            assert_eq!(store.all_receipts().unwrap(), [], "it is in no way of gc");
        }
    }

    #[test]
    fn a_receipt_without_its_content_is_a_miss_with_a_warning() {
        let (_directory, store, receipt) = world();
        let blob = receipt.outputs["out"].blobs()[0];
        fs::remove_file(store.blob_path(&blob.digest)).unwrap();
        let memo = Memo::default();
        let found = Found::new(&store, &memo);
        assert!(matches!(found.get(&receipt.key), Lookup::Unusable(_)));
        assert_eq!(found.take_warnings().len(), 1);
        assert!(matches!(found.get(&Digest::of(b"other")), Lookup::Missing));
    }

    #[test]
    fn what_holds_nobody_knows_what_is_in_the_way_of_removals() {
        let (_directory, store, receipt) = world();
        assert_eq!(
            store.all_receipts().unwrap(),
            std::slice::from_ref(&receipt)
        );
        let path = store.receipt_path(&receipt.key);
        let sound = fs::read_to_string(&path).unwrap();
        fs::write(&path, &sound[1..]).unwrap();
        assert_eq!(store.all_receipts().unwrap(), [], "damage holds nothing");
        let text = r#"{"schema":99,"outputs":["of a later form"]}"#;
        let digest = Digest::of(text.as_bytes());
        fs::write(&path, format!("{OPEN}{digest}{MIDDLE}{text}{CLOSE}")).unwrap();
        let error = store.all_receipts().unwrap_err().to_string();
        assert!(error.contains("form 99"), "{error}");
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(store.all_receipts().is_err());
    }
}
