//! Micro-batches of preference pairs: both sequences of each pair, and the rows that predict the completions.
//!
//! Sequences are packed without padding, so no token is ever recognised as padding by its id; the reward of a
//! sequence is read at its last row, whatever the token there.

use std::ops::Range;

use kbuild_engine::facts::Facts;
use kbuild_engine::kind::Known;
use kbuild_engine::runner::Failure;

use super::order::permutation;
use super::records::{self, TokenPair};
use super::steps::micro_batches;
use crate::facts;
use crate::model::memory::{Held, Work};
use crate::model::{Batch, Config, Core, Head, Numerics};

/// Pairs in the order chosen, rejected, chosen, rejected, …
#[derive(Debug, Default)]
pub struct PairBatch {
    pub batch: Batch,
    /// Rows that predict a token of a completion.
    pub rows: Vec<usize>,
    pub targets: Vec<u32>,
    /// Of each sequence, its part of `rows`.
    pub completions: Vec<Range<usize>>,
}

impl PairBatch {
    pub fn of<'a>(pairs: impl IntoIterator<Item = &'a TokenPair>) -> Self {
        let mut batch = Self::default();
        for pair in pairs {
            for sequence in pair.sequences() {
                batch.push(&sequence, pair.prompt.len());
            }
        }
        batch
    }

    fn push(&mut self, sequence: &[u32], prompt: usize) {
        let first = self.batch.len();
        self.batch.push(sequence);
        let start = self.rows.len();
        // Without a prompt nothing predicts the first token.
        for (at, target) in sequence.iter().enumerate().skip(prompt.max(1)) {
            self.rows.push(first + at - 1);
            self.targets.push(*target);
        }
        self.completions.push(start..self.rows.len());
    }

    /// `ln p` of every completion token under the weights; the core is left as after a forward pass. With `keep`, a
    /// gradient may follow.
    pub fn log_probabilities(&self, core: &mut Core, keep: bool) -> Result<Vec<f64>, Failure> {
        match keep {
            true => core.forward(&self.batch)?,
            false => core.forward_only(&self.batch, None)?,
        }
        let mut found = vec![0.0; self.rows.len()];
        core.lm_head(&self.rows, false, &mut |rows, logits| {
            let targets = &self.targets[rows.clone()];
            found[rows].copy_from_slice(&logits.log_probabilities(targets));
        })?;
        Ok(found)
    }

    /// Sums by sequence.
    pub fn sums(&self, values: &[f64]) -> Vec<f64> {
        self.completions
            .iter()
            .map(|rows| values[rows.clone()].iter().sum())
            .collect()
    }
}

/// Pairs of one or more files, checked against a model's context.
pub fn read(
    paths: impl IntoIterator<Item = impl AsRef<std::path::Path>>,
    config: &Config,
) -> Result<Vec<TokenPair>, Failure> {
    let pairs: Vec<TokenPair> = records::read_shards(paths)?;
    if let Some(at) = pairs
        .iter()
        .position(|pair| pair.chosen.is_empty() || pair.rejected.is_empty())
    {
        return Err(Failure::input(format!("pair {at} has an empty completion"))
            .help("make the pairs with `tokenize-preferences` or `make-pairs`"));
    }
    let length = |pair: &TokenPair| pair.prompt.len() + pair.chosen.len().max(pair.rejected.len());
    let longest = pairs.iter().map(length).max().unwrap_or(0);
    super::model_files::check_length(config, longest, "the longest pair")?;
    Ok(pairs)
}

/// Tokens of the largest micro-batch of the pairs on a port, as far as is known of them; a pair that is longer than
/// `limit` is alone.
pub fn largest(known: &Known<'_>, limit: usize, per_step: Option<usize>) -> usize {
    let pairs = known.many("pairs").iter();
    let longest = pairs.filter_map(|(_, facts)| facts::size(facts, "max_length"));
    // Both sequences of a pair.
    let longest = longest.max().map(|length| length.saturating_mul(2));
    let step = per_step
        .zip(longest)
        .map(|(pairs, longest)| longest.saturating_mul(pairs));
    let there = facts::sum_at_most(known, "pairs", "tokens").map(|tokens| tokens as usize);
    let most = limit.max(longest.unwrap_or(0));
    [step, there]
        .into_iter()
        .flatten()
        .fold(most, |least, bound| least.min(bound))
}

/// What a model takes beside the pairs of a port, of which micro-batches have at most `rows` tokens: pairs that were read
/// take four bytes a token, where it is known how many there are.
pub fn memory(
    known: &Known<'_>,
    model: Option<&Facts>,
    head: Head,
    work: Work,
    rows: usize,
    numerics: Numerics,
) -> Option<Held> {
    let tokens = facts::sum_at_most(known, "pairs", "tokens").unwrap_or(0);
    let pairs = Held {
        lasting: size_of::<u32>() as u64 * tokens,
        passing: 0,
    };
    let backend = facts::backend(known, numerics);
    Some(facts::memory(model, head, work, rows, backend)?.beside(pairs))
}

/// Which pairs each step reads: epochs of shuffled pairs, the last step of an epoch with what is left.
pub struct PairOrder {
    n: usize,
    per_step: usize,
    epochs: usize,
    seed: u64,
    epoch: Option<(u64, Vec<usize>)>,
}

impl PairOrder {
    pub fn new(n: usize, per_step: usize, epochs: usize, seed: u64) -> Self {
        Self {
            n,
            per_step: per_step.max(1),
            epochs,
            seed,
            epoch: None,
        }
    }

    fn per_epoch(&self) -> u64 {
        self.n.div_ceil(self.per_step) as u64
    }

    pub fn steps(&self) -> u64 {
        self.per_epoch() * self.epochs as u64
    }

    /// Indices of the pairs of a step.
    pub fn step(&mut self, step: u64) -> Vec<usize> {
        let (epoch, within) = (step / self.per_epoch(), (step % self.per_epoch()) as usize);
        if self
            .epoch
            .as_ref()
            .is_none_or(|(entered, _)| *entered != epoch)
        {
            self.epoch = Some((epoch, permutation(self.n, self.seed, 0, epoch)));
        }
        let order = &self.epoch.as_ref().expect("the epoch was just entered").1;
        let first = within * self.per_step;
        order[first..self.n.min(first + self.per_step)].to_vec()
    }

    /// Tokens before every step, and of all steps at the end.
    pub fn tokens(&mut self, pairs: &[TokenPair]) -> Vec<u64> {
        let mut before = vec![0];
        for step in 0..self.steps() {
            let tokens: usize = self
                .step(step)
                .iter()
                .map(|&pair| pairs[pair].n_tokens())
                .sum();
            before.push(before[before.len() - 1] + tokens as u64);
        }
        before
    }
}

/// The pairs of a step in micro-batches of at most `limit` tokens.
pub fn groups(pairs: &[TokenPair], chosen: &[usize], limit: usize) -> Vec<Vec<usize>> {
    let lengths: Vec<usize> = chosen.iter().map(|&pair| pairs[pair].n_tokens()).collect();
    let ranges = micro_batches(&lengths, limit);
    ranges
        .into_iter()
        .map(|range| chosen[range].to_vec())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> TokenPair {
        TokenPair {
            prompt: vec![1, 2],
            chosen: vec![3, 4],
            rejected: vec![5],
            ..TokenPair::default()
        }
    }

    #[test]
    fn completions_are_predicted_from_the_token_before() {
        let batch = PairBatch::of([&pair()]);
        assert_eq!(batch.batch.tokens, [1, 2, 3, 4, 1, 2, 5]);
        assert_eq!(batch.batch.ends, [4, 7]);
        assert_eq!(batch.rows, [1, 2, 5]);
        assert_eq!(batch.targets, [3, 4, 5]);
        assert_eq!(batch.completions, [0..2, 2..3]);
    }

    #[test]
    fn every_epoch_reads_every_pair_once() {
        let mut order = PairOrder::new(10, 4, 2, 0);
        assert_eq!(order.steps(), 6);
        let epochs: Vec<Vec<usize>> = (0..2)
            .map(|epoch| {
                (0..3)
                    .flat_map(|step| order.step(3 * epoch + step))
                    .collect()
            })
            .collect();
        assert_ne!(epochs[0], epochs[1]);
        for mut epoch in epochs {
            epoch.sort_unstable();
            assert_eq!(epoch, (0..10).collect::<Vec<_>>());
        }
    }
}
