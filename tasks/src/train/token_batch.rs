//! Micro-batches of language modelling: packed segments, and which rows predict which token.
//!
//! A segment sees itself alone. Row `t` predicts token `t + 1`, so the first token of a segment is nobody's target; the
//! last row has a target only where the document goes on behind the segment.

use crate::model::Batch;

/// Segments with the rows that a loss counts.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TokenBatch {
    pub batch: Batch,
    /// Rows of the batch, ascending.
    pub rows: Vec<usize>,
    /// The token that each of them predicts.
    pub targets: Vec<u32>,
}

impl TokenBatch {
    /// Appends a segment whose every next token is a target; `next` is the token behind it, if there is one.
    pub fn push(&mut self, segment: &[u32], next: Option<u32>) {
        let first = self.batch.len();
        self.batch.push(segment);
        let following = segment.iter().skip(1).copied().chain(next);
        for (offset, target) in following.enumerate().take(segment.len()) {
            self.rows.push(first + offset);
            self.targets.push(target);
        }
    }

    /// Appends a segment of which `targets[t]` says whether token `t` is a target.
    pub fn push_masked(&mut self, segment: &[u32], targets: &[bool]) {
        let first = self.batch.len();
        self.batch.push(segment);
        for at in (1..segment.len()).filter(|&at| targets[at]) {
            self.rows.push(first + at - 1);
            self.targets.push(segment[at]);
        }
    }

    /// Loss tokens.
    pub fn n_targets(&self) -> usize {
        self.targets.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_token_of_a_segment_is_no_target() {
        let mut batch = TokenBatch::default();
        batch.push(&[7, 8, 9], None);
        batch.push(&[4, 5], Some(6));
        batch.push(&[1], None);
        assert_eq!(batch.rows, [0, 1, 3, 4]);
        assert_eq!(batch.targets, [8, 9, 5, 6]);
        assert_eq!(batch.batch.ends, [3, 5, 6]);
    }

    #[test]
    fn a_mask_is_of_tokens_and_a_row_of_the_token_before() {
        let mut batch = TokenBatch::default();
        batch.push_masked(&[7, 8, 9], &[true, false, true]);
        assert_eq!((batch.rows, batch.targets), (vec![1], vec![9]));
    }
}
