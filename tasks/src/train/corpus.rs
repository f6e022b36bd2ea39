//! Token shards as training rows: sources, their shares, and the micro-batches of each step.
//!
//! Row `r` of the run belongs to the source that the interleave says, and is row `k` of that source's endless stream.
//! Both are pure functions of the params and the lengths of documents, so a resumed run reads what an uninterrupted
//! one would have read.

use std::path::Path;

use kbuild_engine::runner::{Artifact, AtPath, Context, Failure};
use serde_json::Value;

use super::mixture::{Interleave, RowOf, apportion, check_epochs, check_shares};
use super::order::{Piece, Stream};
use super::steps::micro_batches;
use super::token_batch::TokenBatch;
use super::token_objective::StepSource;
use crate::formats::tokens::TokenShards;

/// How a corpus is read.
#[derive(Debug, Clone)]
pub struct Reading {
    /// Tokens of the whole run; rounded up to whole rows.
    pub tokens: u64,
    pub seq_len: usize,
    pub tokens_per_step: usize,
    pub micro_batch_tokens: usize,
    /// Shares of the sources; by their sizes where absent.
    pub mixture: Option<Vec<f64>>,
    pub max_epochs: f64,
    pub seed: u64,
}

impl Reading {
    pub fn rows(&self) -> u64 {
        self.tokens.div_ceil(self.seq_len as u64)
    }

    pub fn rows_per_step(&self) -> u64 {
        (self.tokens_per_step / self.seq_len).max(1) as u64
    }

    /// Tokens of the largest micro-batch.
    pub fn micro_batch(&self) -> usize {
        let fit = (self.micro_batch_tokens / self.seq_len).max(1) as u64;
        fit.min(self.rows_per_step()).min(self.rows()) as usize * self.seq_len
    }

    pub fn steps(&self) -> u64 {
        self.rows().div_ceil(self.rows_per_step())
    }
}

/// Sources with their shares.
pub struct Corpus {
    reading: Reading,
    sources: Vec<Source>,
    shares: Vec<u64>,
    order: Interleave,
    /// Rows that `order` has given.
    given: u64,
}

struct Source {
    tokens: TokenShards,
    stream: Stream,
}

impl Corpus {
    /// Opens the artifacts of a `tokens` port.
    ///
    /// # Errors
    /// A damaged shard, or a mixture that cannot be had.
    pub fn open(artifacts: &[Artifact], reading: Reading) -> Result<Self, Failure> {
        let mut sources = Vec::new();
        for (index, artifact) in artifacts.iter().enumerate() {
            let tokens = TokenShards::open(&artifact.parts)?;
            let lengths = tokens
                .documents()
                .map(|document| document.end - document.start);
            let stream = Stream::new(lengths.collect(), reading.seed, index as u64);
            sources.push(Source { tokens, stream });
        }
        let held: Vec<u64> = sources.iter().map(|source| source.stream.total()).collect();
        let weights = match &reading.mixture {
            Some(weights) => weights.clone(),
            None => held.iter().map(|&tokens| tokens as f64).collect(),
        };
        let label = |index: usize| {
            artifacts
                .get(index)
                .map_or("", |artifact| artifact.label.as_str())
        };
        let shares = shares(&reading, &weights, &held).map_err(|problem| {
            let sources: Vec<String> = (0..artifacts.len())
                .map(|index| format!("{index} = `{}`", label(index)))
                .collect();
            Failure::input(problem.to_string()).help(format!(
                "sources: {}; change `mixture`, lower `tokens`, or raise `max_epochs`",
                sources.join(", ")
            ))
        })?;
        let order = Interleave::new(shares.clone());
        Ok(Self {
            reading,
            sources,
            shares,
            order,
            given: 0,
        })
    }

    /// `(tokens read, times read)` of every source over the whole run.
    pub fn epochs(&self) -> Vec<(u64, f64)> {
        let row = self.reading.seq_len as u64;
        self.shares
            .iter()
            .zip(&self.sources)
            .map(|(&rows, source)| {
                let read = rows * row;
                (read, read as f64 / source.stream.total().max(1) as f64)
            })
            .collect()
    }

    /// Rows `first ..` of the run, at most `count`.
    fn rows(&mut self, first: u64, count: u64) -> Vec<RowOf> {
        if first < self.given {
            self.order = Interleave::new(self.shares.clone());
            self.given = 0;
        }
        while self.given < first && self.order.next().is_some() {
            self.given += 1;
        }
        let rows: Vec<RowOf> = self.order.by_ref().take(count as usize).collect();
        self.given += rows.len() as u64;
        rows
    }

    fn append(&mut self, row: RowOf, batch: &mut TokenBatch) {
        let source = &mut self.sources[row.source];
        for piece in source.stream.row(row.row, self.reading.seq_len as u64) {
            source.append(&piece, batch);
        }
    }
}

impl Source {
    fn append(&self, piece: &Piece, batch: &mut TokenBatch) {
        let document = self.tokens.document(piece.document);
        let start = document.start + piece.tokens.start;
        let length = (piece.tokens.end - piece.tokens.start) as usize;
        let stop = start + length as u64 + u64::from(piece.continues);
        let tokens = self.tokens.tokens(start..stop);
        batch.push(&tokens[..length], tokens.get(length).copied());
    }
}

fn shares(
    reading: &Reading,
    weights: &[f64],
    held: &[u64],
) -> Result<Vec<u64>, super::mixture::MixtureProblem> {
    if reading.mixture.is_some() {
        check_shares(weights, held.len())?;
    }
    let shares = apportion(reading.rows(), weights);
    check_epochs(
        &shares,
        weights,
        held,
        reading.seq_len as u64,
        reading.max_epochs,
    )?;
    Ok(shares)
}

impl StepSource for Corpus {
    fn steps(&self) -> u64 {
        self.reading.steps()
    }

    fn tokens_before(&self, step: u64) -> u64 {
        let rows = (step * self.reading.rows_per_step()).min(self.reading.rows());
        rows * self.reading.seq_len as u64
    }

    fn step(&mut self, step: u64) -> Result<Vec<TokenBatch>, Failure> {
        let per_step = self.reading.rows_per_step();
        let rows = self.rows(step * per_step, per_step);
        let lengths = vec![self.reading.seq_len; rows.len()];
        let groups = micro_batches(&lengths, self.reading.micro_batch_tokens);
        let batch_of = |group: std::ops::Range<usize>| {
            let mut batch = TokenBatch::default();
            for row in &rows[group] {
                self.append(*row, &mut batch);
            }
            batch
        };
        Ok(groups.into_iter().map(batch_of).collect())
    }
}

/// The mixture of a run: from the `mixture` port where it is bound, else from the param.
pub fn mixture(context: &Context, param: &Option<Vec<f64>>) -> Result<Option<Vec<f64>>, Failure> {
    match context.optional("mixture") {
        Some(choice) => mixture_of(&choice.path).map(Some),
        None => Ok(param.clone()),
    }
}

/// The value of a choice, as shares of the sources in the order of their port.
fn mixture_of(choice: &Path) -> Result<Vec<f64>, Failure> {
    let text = std::fs::read_to_string(choice).at(choice)?;
    let content: Value = serde_json::from_str(&text)
        .map_err(|error| Failure::input(format!("`{}`: {error}", choice.display())))?;
    let shares = content["value"].as_array().map(|shares| {
        let shares: Option<Vec<f64>> = shares.iter().map(Value::as_f64).collect();
        shares
    });
    shares.flatten().ok_or_else(|| {
        Failure::input(format!("the value of the choice is no mixture: `{}`", content["value"])).help(
            "give each candidate of `choose` a list of numbers, one for each input of `tokens` in order",
        )
    })
}
