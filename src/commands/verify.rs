//! `kbuild verify`: reads every blob of the store again.

use std::collections::BTreeMap;

use kbuild_engine::artifact::Blob;
use kbuild_engine::digest::Digest;
use kbuild_engine::store::Store;
use serde_json::{Value, json};

use super::{Exit, Stop, workspace};
use crate::args::{ProjectArgs, VerifyArgs};
use crate::console::{self, text};

pub fn run(project_args: &ProjectArgs, args: &VerifyArgs) -> Result<Exit, Stop> {
    let (workspace, _) = workspace(project_args)?;
    let store = Store::new(workspace.root().join("cache"));
    let blobs = blobs(&store);
    let bytes: u64 = blobs.values().map(|(blob, _)| blob.size).sum();
    let mut damaged: Vec<Value> = Vec::new();
    for (blob, task) in blobs.values() {
        if let Some(trouble) = store.verify(blob).trouble() {
            if !args.json {
                console::warn(&format!("{} of `{task}` is {trouble}", blob.digest.short()));
            }
            damaged.push(json!({ "blob": blob.digest, "task": task, "trouble": trouble }));
        }
    }
    let line = format!(
        "{} of {}, {} damaged",
        text::plural(blobs.len(), "blob"),
        text::bytes(bytes),
        damaged.len()
    );
    if args.json {
        console::data(&format!(
            "{:#}\n",
            json!({ "blobs": blobs.len(), "bytes": bytes, "damaged": damaged })
        ));
    } else {
        console::data(&format!("{line}\n"));
    }
    if damaged.is_empty() {
        return Ok(Exit::Done);
    }
    console::talk("the next build makes the damaged ones again");
    Ok(Exit::Failed)
}

/// Every blob that a receipt names, with the name of a task that made it.
fn blobs(store: &Store) -> BTreeMap<Digest, (Blob, String)> {
    let mut all = BTreeMap::new();
    for receipt in store.receipts() {
        for blob in receipt.outputs.values().flat_map(|content| content.blobs()) {
            all.entry(blob.digest)
                .or_insert_with(|| (blob, receipt.task.clone()));
        }
    }
    all
}
