//! The loop that every mapping kind of text runs: parts one after another, documents of a part on several threads.
//!
//! Results are written in the order of the documents, so that the bytes do not depend on the threads.

use std::path::Path;

use kbuild_engine::runner::{Context, Failure, Part};
use rayon::prelude::*;

use super::ledger::Ledger;
use crate::formats::documents::{self, Document, Writer};

/// Documents that are in memory at once.
const BATCH: usize = 1024;

/// What a step makes of one document.
pub enum Outcome {
    Keep(Document),
    /// Dropped, and by which rule.
    Drop(String),
}

/// The path of an output port of a part.
pub fn output<'a>(part: &'a Part, port: &str) -> &'a Path {
    part.outputs
        .get(port)
        .expect("the planner places every mapped output")
}

/// The path of an input port of a part.
pub fn input<'a>(part: &'a Part, port: &str) -> &'a Path {
    part.inputs
        .get(port)
        .expect("the planner binds every mapped input")
}

/// Runs `make` on every missing part and reports each. Stops between parts when asked to: finished parts are kept.
pub fn for_each(
    context: &mut Context,
    mut make: impl FnMut(&mut Context, &Part) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let parts = context.parts();
    let n_parts = parts.len() as u64;
    for (done, part) in parts.iter().enumerate() {
        if context.should_stop() {
            return Err(Failure::interrupted());
        }
        make(context, part)?;
        context.part_done(part.index);
        context.progress(done as u64 + 1, n_parts, "parts");
    }
    Ok(())
}

/// A pool of as many threads as the attempt may use.
pub fn pool(context: &Context) -> Result<rayon::ThreadPool, Failure> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(context.threads())
        .build()
        .map_err(|error| {
            Failure::new(
                kbuild_engine::runner::FailureClass::Resources,
                format!("threads cannot be started: {error}"),
            )
        })
}

/// Maps the items of a stream on the pool, batch by batch, and hands the results over in order.
pub fn map_in_order<T: Send, R: Send>(
    pool: &rayon::ThreadPool,
    mut items: impl Iterator<Item = Result<T, Failure>>,
    map: impl Fn(T) -> Result<R, Failure> + Sync,
    mut take: impl FnMut(R) -> Result<(), Failure>,
) -> Result<(), Failure> {
    loop {
        let batch: Result<Vec<T>, Failure> = items.by_ref().take(BATCH).collect();
        let batch = batch?;
        if batch.is_empty() {
            return Ok(());
        }
        let results: Vec<Result<R, Failure>> =
            pool.install(|| batch.into_par_iter().map(&map).collect());
        for result in results {
            take(result?)?;
        }
    }
}

/// A step from documents to documents with a ledger: ports `documents` in, `documents` and `ledger` out.
///
/// `judge` sees one document at a time and may count what it replaced.
pub fn clean(
    context: &mut Context,
    judge: impl Fn(Document, &mut Ledger) -> Result<Outcome, Failure> + Sync,
) -> Result<(), Failure> {
    let pool = pool(context)?;
    for_each(context, |_, part| {
        clean_part(&pool, input(part, "documents"), part, &judge)
    })
}

/// One part of [`clean`], from the file `from`.
pub fn clean_part(
    pool: &rayon::ThreadPool,
    from: &Path,
    part: &Part,
    judge: &(impl Fn(Document, &mut Ledger) -> Result<Outcome, Failure> + Sync),
) -> Result<(), Failure> {
    let mut ledger = Ledger::default();
    let mut writer = Writer::create(output(part, "documents"))?;
    let map = |document: Document| {
        let before = document.text.clone();
        let mut counts = Ledger::default();
        let outcome = judge(document, &mut counts)?;
        match &outcome {
            Outcome::Keep(after) => counts.keep(&before, &after.text),
            Outcome::Drop(rule) => counts.drop(rule, &before),
        }
        Ok((outcome, counts))
    };
    map_in_order(pool, documents::read(from)?, map, |(outcome, counts)| {
        ledger.add(&counts);
        match outcome {
            Outcome::Keep(document) => writer.write(&document),
            Outcome::Drop(_) => Ok(()),
        }
    })?;
    writer.finish()?;
    ledger.write(output(part, "ledger"))
}
