//! Running a task again in a place of its own, and comparing what comes out with what is in the store.
//!
//! The store is not written to: the second run has one of its own under `tmp/`, with links to the inputs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;
use tokio::sync::watch;

use super::Project;
use crate::artifact::Blob;
use crate::build::{self, Options, Outcome, Prepared};
use crate::digest::Digest;
use crate::error::{Doing, Error};
use crate::event::Events;
use crate::graph::{Task, TaskId};
use crate::key::Manifest;
use crate::kind::Kinds;
use crate::plan::{Known, Lookup, Receipts, Status, decide};
use crate::receipt::Receipt;
use crate::runner::Stop;
use crate::store::{Durability, Memo, Presence, Store, files_of, remove_tree};

/// A second run of a task.
#[derive(Debug)]
pub struct Again {
    pub outcome: Outcome,
    /// What is in the store.
    pub first: Arc<Receipt>,
    /// What the second run gave, if it gave anything.
    pub second: Option<Arc<Receipt>>,
    store: Store,
    /// What is compared stays as long as this lives.
    _visit: Option<Presence>,
}

impl Drop for Again {
    fn drop(&mut self) {
        remove_tree(self.store.root());
    }
}

/// How a file of the second run compares with that of the first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileDifference {
    pub port: String,
    /// Within the port; empty for an output that is one file.
    pub file: String,
    pub verdict: Verdict,
    pub detail: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Other bytes, and numbers that agree within tolerance: made in another numeric environment.
    Close,
    Differs,
    /// Only one of the runs made it.
    Alone,
}

/// A store that knows no receipt.
struct Nothing;

impl Receipts for Nothing {
    fn get(&self, _: &Digest) -> Lookup {
        Lookup::Missing
    }

    fn last(&self, _: &str) -> Option<Manifest> {
        None
    }
}

impl Project {
    /// Runs a task that is up to date again. `None`: it is not up to date, so there is nothing to compare with.
    pub async fn again(
        &self,
        id: TaskId,
        mut options: Options,
        events: Events,
        stop: watch::Receiver<Stop>,
    ) -> Result<Option<Again>, Error> {
        let visit = self.store.visit();
        let mut prepared = self.prepare(&[id]);
        let Some(Status::Hit(first)) = prepared.plan.status(id).cloned() else {
            return Ok(None);
        };
        let store = Store::new(self.store.temporary()).with_durability(Durability::ProcessOnly);
        store.create()?;
        self.lend(&prepared, id, &store)?;
        let known = known(&prepared, id);
        let snapshot = &prepared.scan.snapshot;
        let status = decide(self.graph(), id, snapshot, &known, &Nothing);
        for (task, planned) in &mut prepared.plan.tasks {
            if *task == id {
                planned.clone_from(&status);
            }
        }
        options.allowed.insert(self.graph().task(id).name.clone());
        options.publish = false;
        prepared.store = store.clone();
        prepared.blobs = Memo::default();
        // Nobody else knows this store.
        let Some(presence) = build::enter(&store, &events, stop.clone()).await? else {
            return Ok(None);
        };
        let outcome = build::build(prepared, &presence, options, events, stop).await?;
        Ok(Some(Again {
            second: outcome.receipts.get(&id).cloned(),
            outcome,
            first,
            store,
            _visit: visit,
        }))
    }

    /// Links the blobs that a task reads into another store on the same filesystem.
    fn lend(&self, prepared: &Prepared, id: TaskId, store: &Store) -> Result<(), Error> {
        let receipts = self.graph().dependencies(id).iter();
        let receipts = receipts.filter_map(|above| match prepared.plan.status(*above) {
            Some(Status::Hit(receipt)) => Some(receipt),
            _ => None,
        });
        let blobs: BTreeSet<Digest> = receipts
            .flat_map(|receipt| receipt.blobs())
            .map(|blob| blob.digest)
            .collect();
        for digest in blobs {
            let (from, to) = (self.store.blob_path(&digest), store.blob_path(&digest));
            let parent = to.parent().unwrap_or(Path::new("."));
            store
                .below()
                .create_dir_all(parent)
                .doing("create", parent)?;
            std::fs::hard_link(&from, &to).doing("link", &from)?;
        }
        Ok(())
    }

    /// How the second run of a task compares with the first, file by file; nothing when every byte is the same. Where
    /// the numeric environments differ, `kinds` says how files of a format are compared.
    pub fn compare(&self, task: &Task, again: &Again, kinds: &Kinds) -> Vec<FileDifference> {
        let Some(second) = &again.second else {
            return Vec::new();
        };
        let is_elsewhere = again.first.environment != second.environment;
        let mut found = Vec::new();
        for port in &task.outputs {
            let files = |receipt: &Receipt| -> BTreeMap<String, Blob> {
                let content = receipt.outputs.get(&port.name);
                let files = content.map(|content| files_of(content, &port.extension));
                files.into_iter().flatten().collect()
            };
            let (first, second) = (files(&again.first), files(second));
            let names: BTreeSet<&String> = first.keys().chain(second.keys()).collect();
            for name in names {
                let verdict = match (first.get(name), second.get(name)) {
                    (Some(a), Some(b)) if a == b => continue,
                    (Some(a), Some(b)) if is_elsewhere => {
                        let place = |store: &Store, blob: &Blob| store.blob_path(&blob.digest);
                        let (a, b) = (place(&self.store, a), place(&again.store, b));
                        within(kinds, &port.format, name, &a, &b)
                    }
                    (Some(a), Some(b)) => {
                        (Verdict::Differs, format!("{} and {} bytes", a.size, b.size))
                    }
                    (Some(_), None) => (Verdict::Alone, "made the first time alone".to_owned()),
                    _ => (Verdict::Alone, "made the second time alone".to_owned()),
                };
                found.push(FileDifference {
                    port: port.name.clone(),
                    file: name.clone(),
                    verdict: verdict.0,
                    detail: verdict.1,
                });
            }
        }
        found
    }
}

fn within(kinds: &Kinds, format: &str, name: &str, a: &Path, b: &Path) -> (Verdict, String) {
    let Some(compare) = kinds.comparer(format) else {
        return (Verdict::Differs, "other bytes".to_owned());
    };
    match compare(name, a, b) {
        Ok(likeness) if likeness.is_close => (Verdict::Close, likeness.detail),
        Ok(likeness) => (Verdict::Differs, likeness.detail),
        Err(cause) => (Verdict::Differs, cause),
    }
}

/// What is known of everything but the task itself.
fn known(prepared: &Prepared, id: TaskId) -> Known {
    let mut known = Known::new(&prepared.scan.snapshot);
    for (task, status) in &prepared.plan.tasks {
        if let (true, Status::Hit(receipt)) = (*task != id, status) {
            known.insert(&prepared.graph, *task, Arc::clone(receipt));
        }
    }
    known
}
