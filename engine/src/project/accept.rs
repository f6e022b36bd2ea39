//! The user's word that an old result stands for the key of today.

use super::Project;
use crate::error::Error;
use crate::graph::{Task, TaskId};
use crate::plan::{Lookup, Receipts, Status, Work};
use crate::receipt::{Accepted, Receipt, Text};
use crate::store::Found;

/// Why a result is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum NotAccepted {
    #[error("{message}")]
    Refused { message: String, help: String },
    #[error(transparent)]
    Environment(#[from] Error),
}

fn refused<T>(message: String, help: impl Into<String>) -> Result<T, NotAccepted> {
    let help = help.into();
    Err(NotAccepted::Refused { message, help })
}

impl Project {
    /// Records that what a task gave last stands for its key of today, so that it need not be rebuilt.
    pub fn accept(&self, id: TaskId, reason: &str) -> Result<Receipt, NotAccepted> {
        let task = self.graph().task(id);
        // The content must not go before its second receipt holds it.
        let _visit = self.store.visit();
        let prepared = self.prepare(&[id]);
        let work = work(task, prepared.plan.status(id))?;
        let old = self.last_result(task, &Found::new(&self.store, &prepared.blobs))?;
        fits(task, &old)?;
        let from = old
            .accepted
            .as_ref()
            .map_or(old.key, |accepted| accepted.from);
        let receipt = Receipt {
            key: work.key,
            manifest: Text::of(&work.manifest),
            accepted: Some(Accepted {
                from,
                reason: reason.to_owned(),
            }),
            ..old
        };
        self.store.write_receipt(&receipt)?;
        self.store.commit()?;
        Ok(receipt)
    }

    fn last_result(&self, task: &Task, receipts: &Found<'_>) -> Result<Receipt, NotAccepted> {
        let name = &task.name;
        let build = format!("build it: `kbuild {name}`");
        let Some(last) = self.store.last(name) else {
            return refused(
                format!("`{name}` was never built: there is nothing to accept"),
                build,
            );
        };
        match receipts.get(&last.key) {
            Lookup::Found(old) => Ok((*old).clone()),
            Lookup::Dropped(_) => refused(
                format!("the content of the last result of `{name}` was dropped"),
                build,
            ),
            Lookup::Missing => refused(format!("the last result of `{name}` is gone"), build),
            Lookup::Unusable(detail) => refused(
                format!("the last result of `{name}` cannot be used: {detail}"),
                build,
            ),
        }
    }
}

fn work<'a>(task: &Task, status: Option<&'a Status>) -> Result<&'a Work, NotAccepted> {
    let name = &task.name;
    match status {
        Some(Status::Miss(work)) => Ok(work),
        Some(Status::Hit(_) | Status::Dropped(_)) => refused(
            format!("`{name}` is up to date: there is nothing to accept"),
            "",
        ),
        _ => refused(
            format!(
                "the key of `{name}` is not known yet: it depends on tasks that must run first"
            ),
            format!("build what it depends on (`kbuild why {name}` names it), then accept"),
        ),
    }
}

/// An old result must have the outputs of today, and must not contradict what is known of them.
fn fits(task: &Task, old: &Receipt) -> Result<(), NotAccepted> {
    let name = &task.name;
    let lacking = task
        .outputs
        .iter()
        .find(|port| !old.outputs.contains_key(&port.name));
    if let Some(port) = lacking {
        let message = format!("the last result of `{name}` has no output `{}`", port.name);
        return refused(message, "it must be rebuilt");
    }
    for (port, facts) in &old.facts {
        let predicted = task.prediction.outputs.get(port);
        let wrong = predicted.map(|predicted| predicted.contradictions(facts));
        if let Some((fact, expected, found)) = wrong.as_ref().and_then(|wrong| wrong.first()) {
            let message = format!(
                "`{name}` would have `{fact}` of `{port}` {expected} today, and its last result has {found}"
            );
            return refused(message, "what reads it would not fit: it must be rebuilt");
        }
    }
    Ok(())
}
