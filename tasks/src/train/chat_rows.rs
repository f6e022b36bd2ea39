//! Conversations as training rows: shares of the inputs, packing, order, micro-batches.
//!
//! Everything is a function of (seed, epoch, step) and the examples; the rows of an epoch are shuffled after packing,
//! so that long examples do not come first.

use std::ops::Range;

use kbuild_engine::runner::Failure;

use super::dialogue::TokenizedChat;
use super::order::permutation;
use super::packing::{Packing, Piece, pack};
use super::steps::micro_batches;
use super::token_batch::TokenBatch;
use super::token_objective::StepSource;

/// How examples become steps.
#[derive(Debug, Clone)]
pub struct Plan {
    pub packing: Packing,
    pub row_length: usize,
    pub rows_per_step: usize,
    pub epochs: usize,
    pub micro_batch_tokens: usize,
    pub seed: u64,
}

/// The rows of all epochs.
pub struct ChatRows {
    plan: Plan,
    examples: Vec<TokenizedChat>,
    /// Rows of all epochs in order.
    rows: Vec<Vec<Piece>>,
    /// Rows of each step; a step never crosses the end of an epoch.
    steps: Vec<Range<usize>>,
    /// Tokens before each step, and in all at the end.
    tokens: Vec<u64>,
}

/// Shuffles of whole epochs use numbers that no source has.
const EXAMPLES: u64 = u64::MAX;
const ROWS: u64 = u64::MAX - 1;

impl ChatRows {
    /// `sources` are examples by input; `weights` says how often each is read per epoch.
    pub fn new(sources: Vec<Vec<TokenizedChat>>, weights: &[f64], plan: Plan) -> Self {
        let starts = starts_of(&sources);
        let examples: Vec<TokenizedChat> = sources.into_iter().flatten().collect();
        let (mut rows, mut steps) = (Vec::new(), Vec::new());
        for epoch in 0..plan.epochs {
            let first = rows.len();
            rows.extend(epoch_rows(&plan, &examples, &starts, weights, epoch as u64));
            let ends = (first..rows.len()).step_by(plan.rows_per_step.max(1));
            steps.extend(ends.map(|start| start..rows.len().min(start + plan.rows_per_step)));
        }
        let mut tokens = vec![0];
        for step in &steps {
            let length: usize = rows[step.clone()]
                .iter()
                .flatten()
                .map(|piece| piece.length)
                .sum();
            tokens.push(tokens[tokens.len() - 1] + length as u64);
        }
        Self {
            plan,
            examples,
            rows,
            steps,
            tokens,
        }
    }

    pub fn n_rows(&self) -> usize {
        self.rows.len()
    }

    fn append(&self, row: &[Piece], batch: &mut TokenBatch) {
        if self.plan.packing == Packing::Wrapped {
            let (mut tokens, mut targets) = (Vec::new(), Vec::new());
            for piece in row {
                let (ids, mask) = self.piece(piece);
                tokens.extend_from_slice(ids);
                // Nothing before a conversation predicts its first token.
                targets.extend(
                    mask.iter()
                        .enumerate()
                        .map(|(at, target)| *target && piece.start + at > 0),
                );
            }
            return batch.push_masked(&tokens, &targets);
        }
        for piece in row {
            let (ids, mask) = self.piece(piece);
            batch.push_masked(ids, mask);
        }
    }

    fn piece(&self, piece: &Piece) -> (&[u32], &[bool]) {
        let example = &self.examples[piece.example];
        let range = piece.start..piece.start + piece.length;
        (&example.ids[range.clone()], &example.targets[range])
    }
}

/// First example of each source, and the number of all at the end.
fn starts_of(sources: &[Vec<TokenizedChat>]) -> Vec<usize> {
    let mut starts = vec![0];
    for source in sources {
        starts.push(starts[starts.len() - 1] + source.len());
    }
    starts
}

fn epoch_rows(
    plan: &Plan,
    examples: &[TokenizedChat],
    starts: &[usize],
    weights: &[f64],
    epoch: u64,
) -> Vec<Vec<Piece>> {
    let mut chosen = Vec::new();
    for (source, &weight) in weights.iter().enumerate() {
        let n = starts[source + 1] - starts[source];
        let order = permutation(n, plan.seed, source as u64, epoch);
        let part = (weight.fract() * n as f64).round() as usize;
        let wanted = weight.trunc() as usize * n + part;
        let endless = order.iter().cycle().take(if n == 0 { 0 } else { wanted });
        chosen.extend(endless.map(|&example| starts[source] + example));
    }
    let shuffled: Vec<usize> = permutation(chosen.len(), plan.seed, EXAMPLES, epoch)
        .into_iter()
        .map(|at| chosen[at])
        .collect();
    let lengths: Vec<usize> = shuffled
        .iter()
        .map(|&example| examples[example].ids.len())
        .collect();
    let rows = pack(plan.packing, &lengths, plan.row_length);
    permutation(rows.len(), plan.seed, ROWS, epoch)
        .into_iter()
        .map(|row| {
            let named = |piece: &Piece| Piece {
                example: shuffled[piece.example],
                ..*piece
            };
            rows[row].iter().map(named).collect()
        })
        .collect()
}

impl StepSource for ChatRows {
    fn steps(&self) -> u64 {
        self.steps.len() as u64
    }

    fn tokens_before(&self, step: u64) -> u64 {
        self.tokens[step as usize]
    }

    fn step(&mut self, step: u64) -> Result<Vec<TokenBatch>, Failure> {
        let rows = &self.rows[self.steps[step as usize].clone()];
        let length = |row: &Vec<Piece>| row.iter().map(|piece| piece.length).sum();
        let lengths: Vec<usize> = rows.iter().map(length).collect();
        let batch_of = |group: Range<usize>| {
            let mut batch = TokenBatch::default();
            rows[group]
                .iter()
                .for_each(|row| self.append(row, &mut batch));
            batch
        };
        let groups = micro_batches(&lengths, self.plan.micro_batch_tokens);
        Ok(groups.into_iter().map(batch_of).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(id: u32, length: usize) -> TokenizedChat {
        TokenizedChat {
            ids: vec![id; length],
            targets: vec![true; length],
            stop: None,
        }
    }

    fn rows(weights: &[f64], epochs: usize, packing: Packing) -> ChatRows {
        let sources = vec![
            (0..10).map(|id| example(id, 5)).collect(),
            (10..14).map(|id| example(id, 3)).collect(),
        ];
        let plan = Plan {
            packing,
            row_length: 8,
            rows_per_step: 4,
            epochs,
            micro_batch_tokens: 16,
            seed: 1,
        };
        ChatRows::new(sources, weights, plan)
    }

    fn seen(rows: &mut ChatRows) -> Vec<u32> {
        let mut tokens = Vec::new();
        for step in 0..rows.steps() {
            for batch in rows.step(step).unwrap() {
                tokens.extend(
                    batch
                        .batch
                        .sequences()
                        .map(|rows| batch.batch.tokens[rows.start]),
                );
            }
        }
        tokens.sort_unstable();
        tokens
    }

    #[test]
    fn an_epoch_reads_each_example_as_often_as_its_weight() {
        let mut all = rows(&[1.0, 1.0], 1, Packing::Bfd);
        assert_eq!(seen(&mut all), (0..14).collect::<Vec<_>>());
        let mut weighted = rows(&[0.5, 2.0], 1, Packing::None);
        let seen = seen(&mut weighted);
        assert_eq!(seen.iter().filter(|id| **id < 10).count(), 5);
        assert_eq!(seen.iter().filter(|id| **id >= 10).count(), 8);
    }

    #[test]
    fn epochs_differ_in_order_and_steps_end_with_them() {
        let mut two = rows(&[1.0, 1.0], 2, Packing::None);
        assert_eq!(two.steps(), 2 * 14u64.div_ceil(4));
        let one = two.step(0).unwrap();
        assert_ne!(one, two.step(4).unwrap());
        assert_eq!(one, two.step(0).unwrap(), "a step can be asked for again");
        assert_eq!(two.tokens_before(two.steps()), 2 * (50 + 12));
    }
}
