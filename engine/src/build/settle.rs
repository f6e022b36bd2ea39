//! The build that has nothing to do: every task is a hit, and its newest names are whole.
//!
//! Takes no lock and starts nothing; it works on a store that cannot be written.

use super::Prepared;
use super::driver::exports;
use crate::graph::TaskId;
use crate::plan::Status;
use crate::receipt::Receipt;
use crate::store::Memo;

/// True when a build would change nothing that people see. What was learnt on the way is saved where that is possible,
/// so that the next one is quicker.
pub fn settle(prepared: &Prepared) -> bool {
    let (mut latest, warning) = prepared.store.memo("latest");
    let is_settled = |(id, status): &(TaskId, Status)| match status {
        Status::Hit(receipt) => is_published(prepared, *id, receipt, &mut latest),
        _ => false,
    };
    // A build says what was damaged.
    let is_done = warning.is_none() && prepared.plan.tasks.iter().all(is_settled);
    if is_done {
        save(prepared, &latest);
    }
    is_done
}

fn is_published(prepared: &Prepared, id: TaskId, receipt: &Receipt, latest: &mut Memo) -> bool {
    let task = prepared.graph.task(id);
    let exports = exports(task, receipt);
    prepared
        .store
        .is_published(&task.name, receipt, &exports, latest)
}

fn save(prepared: &Prepared, latest: &Memo) {
    let memos = [
        ("sources", &prepared.sources),
        ("blobs", &prepared.blobs),
        ("latest", latest),
    ];
    for (name, memo) in memos {
        // One that cannot be saved costs time, and nothing else.
        let _ = prepared.store.save_memo(name, memo);
    }
}
