//! Mapping tasks: only missing parts run, each is kept as soon as it is done, the whole is put together at the end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::mpsc::Receiver;
use tokio::task::{JoinError, JoinSet};

use super::attempt::{
    Measured, Room, abort, agrees, attempt, blocking, finish, new_receipt, pass_on, prepare,
    unharmed, unmoved,
};
use super::claim::{claim_parts, look};
use super::driver::Job;
use super::outputs::{self, broken};
use super::stage::Staged;
use crate::artifact::Content;
use crate::digest::Digest;
use crate::event::BuildEvent;
use crate::graph::Task;
use crate::plan::{Part, Parts};
use crate::receipt::Receipt;
use crate::runner::{Event, Failure, FailureClass};
use crate::store::{Lock, PartLocks};

/// Parts that are being kept at once. Keeping one is waiting for the disk, which makes many last in one go.
const AT_ONCE: usize = 32;

/// Receipts of parts by key.
type Done = BTreeMap<Digest, Arc<Receipt>>;

/// Makes the parts that nobody has made, and then the whole.
pub async fn execute(job: &Arc<Job>, parts: &Parts, lock: Lock) -> Result<Receipt, Failure> {
    let begun = Instant::now();
    if let Some(port) = job.task().outputs.iter().find(|port| !port.mapped) {
        return Err(broken(format!(
            "output `{}` is not mapped, and kind `{}` works part by part",
            port.name,
            job.task().kind
        )));
    }
    let mut done: Done = parts
        .all
        .iter()
        .filter_map(|part| Some((part.key, Arc::clone(part.receipt.as_ref()?))))
        .collect();
    let wanted: Vec<Part> = parts.missing().into_iter().cloned().collect();
    let keys: Vec<Digest> = wanted.iter().map(|part| part.key).collect();
    let locks = Arc::new(claim_parts(job, &keys).await?);
    let missing = look_again(job, wanted, &locks, &mut done).await?;
    if !missing.is_empty() {
        done = make(job, missing, locks, &lock, done).await?;
    }
    let (job, parts) = (Arc::clone(job), parts.clone());
    blocking(move || {
        let receipt = assemble(&job, &parts, &done, begun.elapsed())?;
        finish(&job, &receipt)?;
        drop(lock);
        Ok(receipt)
    })
    .await
}

/// The parts that are still missing now that nobody else can make them.
async fn look_again(
    job: &Arc<Job>,
    wanted: Vec<Part>,
    locks: &Arc<PartLocks>,
    done: &mut Done,
) -> Result<Vec<Part>, Failure> {
    let (job, locks) = (Arc::clone(job), Arc::clone(locks));
    let (found, missing) = blocking(move || {
        let mut found = Done::new();
        let mut missing = Vec::new();
        for part in wanted {
            match look(&job, &part.key) {
                Some(receipt) => {
                    locks.release(&part.key);
                    found.insert(part.key, receipt);
                }
                None => missing.push(part),
            }
        }
        Ok((found, missing))
    })
    .await?;
    done.extend(found);
    Ok(missing)
}

async fn make(
    job: &Arc<Job>,
    missing: Vec<Part>,
    locks: Arc<PartLocks>,
    lock: &Lock,
    done: Done,
) -> Result<Done, Failure> {
    let staged = Arc::new(prepare(job, missing.clone()).await?);
    let mut maker = Maker {
        job: Arc::clone(job),
        staged: Arc::clone(&staged),
        locks,
        missing: missing
            .iter()
            .map(|part| (part.index, part.clone()))
            .collect(),
        wanted: missing.len(),
        done,
        keeping: JoinSet::new(),
        measured: Measured::new(),
        room: Room::default(),
        since: Instant::now(),
        failure: None,
    };
    let ended = attempt(job, &staged, lock, async |events| {
        maker.listen(events).await
    })
    .await;
    if let Some(failure) = maker.failure {
        return Err(failure);
    }
    ended?;
    outputs::nothing_else(&staged.out(), &staged.promised())?;
    match maker.missing.keys().next() {
        None => Ok(maker.done),
        Some(index) => Err(broken(format!("ended without making part {index}"))),
    }
}

/// Takes in parts while the child goes on.
struct Maker {
    job: Arc<Job>,
    staged: Arc<Staged>,
    locks: Arc<PartLocks>,
    /// Parts that the child has not stated yet.
    missing: BTreeMap<usize, Part>,
    wanted: usize,
    done: Done,
    /// Parts that were stated, on their way into the store.
    keeping: JoinSet<Result<(usize, Receipt), Failure>>,
    /// Facts that hold for the next part: the child states them anew where they differ.
    measured: Measured,
    /// For the facts of one part.
    room: Room,
    since: Instant,
    failure: Option<Failure>,
}

impl Maker {
    async fn listen(&mut self, mut events: Receiver<Event>) {
        loop {
            tokio::select! {
                Some(kept) = self.keeping.join_next() => self.note(kept),
                event = events.recv(), if self.keeping.len() < AT_ONCE => match event {
                    Some(event) => self.on(event),
                    None => break,
                },
            }
        }
        while let Some(kept) = self.keeping.join_next().await {
            self.note(kept);
        }
    }

    fn on(&mut self, event: Event) {
        match event {
            Event::Fact { port, name, value } => {
                if let Err(failure) = self.state(port, name, value) {
                    self.fail(failure);
                }
            }
            Event::Part { index } if self.failure.is_none() => {
                if let Err(failure) = self.take(index) {
                    self.fail(failure);
                }
            }
            event => pass_on(&self.job, event),
        }
    }

    /// Each part has a receipt of its own, so the limit of all facts holds for what stands at a time.
    fn state(&mut self, port: String, name: String, value: Value) -> Result<(), Failure> {
        self.room.take(&mut self.measured, port, name, value)
    }

    fn take(&mut self, index: usize) -> Result<(), Failure> {
        let part = self.missing.remove(&index).ok_or_else(|| {
            broken(format!(
                "stated part {index}, which it was not asked for, or twice"
            ))
        })?;
        let elapsed = std::mem::replace(&mut self.since, Instant::now()).elapsed();
        let (job, staged) = (Arc::clone(&self.job), Arc::clone(&self.staged));
        let measured = self.measured.clone();
        self.room = Room::of(&measured);
        self.keeping.spawn_blocking(move || {
            let receipt = keep(&job, &staged, &part, measured, elapsed)?;
            Ok((index, receipt))
        });
        Ok(())
    }

    fn note(&mut self, kept: Result<Result<(usize, Receipt), Failure>, JoinError>) {
        let (index, receipt) = match kept {
            Ok(Ok(kept)) => kept,
            Ok(Err(failure)) => return self.fail(failure),
            Err(error) => {
                return self.fail(Failure::new(FailureClass::Bug, error.to_string()));
            }
        };
        self.locks.release(&receipt.key);
        self.done.insert(receipt.key, Arc::new(receipt));
        self.job.shared.events.send(BuildEvent::Part {
            task: self.job.task().name.clone(),
            index,
            done: self.wanted - self.missing.len() - self.keeping.len(),
            missing: self.wanted,
        });
    }

    /// Of several failures the first is told.
    fn fail(&mut self, failure: Failure) {
        self.failure.get_or_insert(failure);
        abort(&self.job);
    }
}

/// Keeps one part, whatever becomes of the others.
fn keep(
    job: &Job,
    staged: &Staged,
    part: &Part,
    measured: Measured,
    elapsed: Duration,
) -> Result<Receipt, Failure> {
    let request = staged
        .request
        .parts
        .iter()
        .find(|request| request.index == part.index);
    let places = request
        .map(|request| &request.outputs)
        .into_iter()
        .flatten();
    let out = staged.out();
    let laid = places
        .map(|(port, path)| Ok((port.clone(), outputs::part(&out, port, path)?)))
        .collect::<Result<BTreeMap<_, _>, Failure>>()?;
    let own = staged
        .watched_by_part
        .get(&part.index)
        .into_iter()
        .flatten();
    unmoved(job, own.chain(&staged.watched))?;
    let lent = staged.lent_by_part.get(&part.index).into_iter().flatten();
    unharmed(job, lent.chain(&staged.lent))?;
    let _unwritten = job.shared.unwritten.read();
    let outputs = laid
        .iter()
        .map(|(port, laid)| Ok((port.clone(), job.shared.store.keep(laid)?)))
        .collect::<Result<BTreeMap<_, _>, Failure>>()?;
    let manifest = job.work.manifest.part(&part.inputs);
    let receipt = new_receipt(job, &manifest, outputs, measured, elapsed);
    job.shared.store.write_receipt(&receipt)?;
    Ok(receipt)
}

/// The whole, from parts that are all there.
fn assemble(job: &Job, parts: &Parts, done: &Done, elapsed: Duration) -> Result<Receipt, Failure> {
    let receipts = parts
        .all
        .iter()
        .map(|part| {
            done.get(&part.key)
                .ok_or_else(|| broken(format!("part {} is missing", part.index)))
        })
        .collect::<Result<Vec<_>, _>>()?;
    let mut outputs = BTreeMap::new();
    for port in &job.task().outputs {
        let contents = receipts
            .iter()
            .map(|receipt| {
                receipt
                    .outputs
                    .get(&port.name)
                    .cloned()
                    .ok_or_else(|| broken(format!("a part has no output `{}`", port.name)))
            })
            .collect::<Result<Vec<_>, _>>()?;
        outputs.insert(port.name.clone(), Content::Shards(contents));
    }
    let facts = common_facts(job.task(), &receipts);
    agrees(job.task(), &facts)?;
    Ok(new_receipt(
        job,
        &job.work.manifest,
        outputs,
        facts,
        elapsed,
    ))
}

/// Facts of the whole: what every part says alike. A number may be a count, which is not the whole's even where all
/// parts have the same; it holds for the whole only where it was predicted for the whole.
fn common_facts(task: &Task, receipts: &[&Arc<Receipt>]) -> Measured {
    let Some((first, others)) = receipts.split_first() else {
        return Measured::new();
    };
    let mut common = Measured::new();
    for (port, facts) in &first.facts {
        let is_common = |name: &String, value: &Value| {
            let everywhere = others
                .iter()
                .all(|part| part.facts.get(port).and_then(|facts| facts.get(name)) == Some(value));
            let predicted = task.prediction.outputs.get(port);
            let is_predicted = predicted.and_then(|facts| facts.known(name)) == Some(value);
            everywhere && (is_predicted || !value.is_number())
        };
        let kept: BTreeMap<String, Value> = facts
            .iter()
            .filter(|(name, value)| is_common(name, value))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        if !kept.is_empty() {
            common.insert(port.clone(), kept);
        }
    }
    common
}
