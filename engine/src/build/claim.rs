//! The right to work on a key: waited for, and looked at again once it is there.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::sync::watch;

use super::driver::Job;
use crate::digest::Digest;
use crate::event::BuildEvent;
use crate::plan::{Lookup, Receipts};
use crate::receipt::Receipt;
use crate::runner::{Failure, Stop};
use crate::store::{Found, Lock, PartLocks};

/// What a claim comes to.
pub enum Claim {
    /// Somebody else did the work meanwhile.
    Done(Arc<Receipt>),
    /// Nobody did; nobody else will while this lives.
    Mine(Lock),
}

/// Waits for the lock of the job's key.
pub async fn claim(job: &Job) -> Result<Claim, Failure> {
    let mut wait = Wait::new(job.stop.subscribe());
    loop {
        if let Some(lock) = job.shared.store.try_lock(&job.work.key)? {
            return Ok(match look(job, &job.work.key) {
                Some(receipt) => Claim::Done(receipt),
                None => Claim::Mine(lock),
            });
        }
        if let Some(receipt) = look(job, &job.work.key) {
            return Ok(Claim::Done(receipt));
        }
        if wait.is_first() {
            job.shared.events.send(BuildEvent::Waiting {
                task: job.task().name.clone(),
                key: job.work.key,
            });
        }
        wait.end_orphans(job);
        wait.pause().await?;
    }
}

/// The receipt of a key, if it can be used now for every output.
pub fn look(job: &Job, key: &Digest) -> Option<Arc<Receipt>> {
    let Lookup::Found(receipt) = Found::new(&job.shared.store, &job.shared.blobs).get(key) else {
        return None;
    };
    let mut ports = job.task().outputs.iter();
    ports
        .all(|port| receipt.outputs.contains_key(&port.name))
        .then_some(receipt)
}

/// Waits for the locks of parts, in the order that keeps builds from waiting for each other.
pub async fn claim_parts(job: &Job, parts: &[Digest]) -> Result<PartLocks, Failure> {
    /// Beyond this many, two builds may both make a part: wasteful, never wrong.
    const LOCKED_UP_TO: usize = 16_384;
    let locks = job.shared.store.part_locks()?;
    if parts.len() > LOCKED_UP_TO {
        return Ok(locks);
    }
    let mut ordered = parts.to_vec();
    ordered.sort_unstable_by_key(PartLocks::place);
    let mut wait = Wait::new(job.stop.subscribe());
    for part in &ordered {
        while !locks.try_lock(part) {
            wait.pause().await?;
        }
    }
    Ok(locks)
}

/// Asking again, less and less often.
struct Wait {
    stop: watch::Receiver<Stop>,
    pauses: u32,
    orphans_since: Option<Instant>,
}

impl Wait {
    fn new(stop: watch::Receiver<Stop>) -> Self {
        Self {
            stop,
            pauses: 0,
            orphans_since: None,
        }
    }

    fn is_first(&self) -> bool {
        self.pauses == 0
    }

    async fn pause(&mut self) -> Result<(), Failure> {
        let pause = Duration::from_millis(5 << self.pauses.min(5));
        self.pauses += 1;
        tokio::select! {
            () = tokio::time::sleep(pause) => Ok(()),
            _ = self.stop.wait_for(|stop| *stop != Stop::No) => Err(Failure::interrupted()),
        }
    }

    /// Ends what a dead build left running on the key: first asked, then killed.
    fn end_orphans(&mut self, job: &Job) {
        let Some(attempt) = job.shared.store.worker(&job.work.key) else {
            return;
        };
        if !attempt.is_orphaned() {
            return;
        }
        let since = *self.orphans_since.get_or_insert_with(|| {
            attempt.signal(Signal::TERM);
            Instant::now()
        });
        if since.elapsed() > job.shared.options.grace {
            attempt.kill();
        }
    }
}
