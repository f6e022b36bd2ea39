//! Which content nobody needs any more: decided here from values, removed by the store.

use std::collections::BTreeSet;

use crate::digest::Digest;
use crate::graph::{Graph, TaskId};
use crate::plan::{Known, part_keys};
use crate::receipt::Receipt;
use crate::store::{Spare, Store};

use super::exports;

/// What some tasks gave, as far as nothing else goes by the same key. `kept` are the keys of everything that stays.
pub fn spares(
    graph: &Graph,
    store: &Store,
    known: &Known,
    idle: &[TaskId],
    kept: &BTreeSet<Digest>,
) -> Vec<Spare> {
    let given = idle
        .iter()
        .filter_map(|id| Some((*id, known.receipt(*id)?)));
    given
        .filter(|(_, receipt)| !kept.contains(&receipt.key))
        .map(|(id, receipt)| spare(graph, store, known, id, receipt, kept))
        .collect()
}

fn spare(
    graph: &Graph,
    store: &Store,
    known: &Known,
    id: TaskId,
    receipt: &Receipt,
    kept: &BTreeSet<Digest>,
) -> Spare {
    let task = graph.task(id);
    let whole = receipt.manifest.read();
    let parts = whole.map(|whole| part_keys(graph, task, known, &whole));
    let exports = exports(task, receipt);
    let latest = store.latest(&task.name);
    Spare {
        task: task.name.clone(),
        key: receipt.key,
        parts: parts
            .into_iter()
            .flatten()
            .filter(|part| !kept.contains(part))
            .collect(),
        published: exports
            .iter()
            .map(|export| latest.join(export.file_name()))
            .collect(),
    }
}
