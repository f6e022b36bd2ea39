//! Data order: which tokens stand in row `k` of a source, as a pure function of (seed, source, epoch, row).
//!
//! A source is read as an endless stream: its documents in the random order of epoch 0, then of epoch 1, and so on.
//! Row `k` of length `S` is the positions `[k·S, k·S + S)` of that stream, so a row is made of documents that are cut
//! at the borders of rows. Nothing here remembers where training stood: a resumed run asks for the same row and gets
//! the same tokens.
//!
//! Knows lengths of documents, never their tokens.

use std::ops::Range;

use crate::model::Rng;

/// The order of `n` items in one epoch of one source.
pub fn permutation(n: usize, seed: u64, source: u64, epoch: u64) -> Vec<usize> {
    Rng::new(seed, &format!("data order/{source}")).permutation(epoch, n)
}

/// A run of consecutive tokens of one document inside a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Index of the document in its source.
    pub document: usize,
    /// Positions inside the document.
    pub tokens: Range<u64>,
    /// The document goes on behind the piece: the last token of the piece has a target, which stands in the next row.
    pub continues: bool,
}

/// The endless stream of one source.
pub struct Stream {
    lengths: Vec<u64>,
    total: u64,
    seed: u64,
    source: u64,
    epoch: Option<Epoch>,
}

struct Epoch {
    index: u64,
    order: Vec<usize>,
    /// Position in the epoch where each document of `order` ends.
    ends: Vec<u64>,
}

impl Stream {
    /// A stream over documents of these lengths, in tokens. `source` is the position of the source in its port.
    pub fn new(lengths: Vec<u64>, seed: u64, source: u64) -> Self {
        let total = lengths.iter().sum();
        Self {
            lengths,
            total,
            seed,
            source,
            epoch: None,
        }
    }

    /// Tokens of one epoch.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The pieces of row `row`, which together are `row_length` tokens. The source must not be empty.
    pub fn row(&mut self, row: u64, row_length: u64) -> Vec<Piece> {
        assert!(self.total > 0, "an empty source has no rows");
        let (mut at, end) = (row * row_length, (row + 1) * row_length);
        let mut pieces = Vec::new();
        while at < end {
            let piece = self.piece(at, end - at);
            at += piece.tokens.end - piece.tokens.start;
            pieces.push(piece);
        }
        pieces
    }

    /// The piece that starts at stream position `at` and has at most `room` tokens.
    fn piece(&mut self, at: u64, room: u64) -> Piece {
        let (epoch, within) = (at / self.total, at % self.total);
        self.enter(epoch);
        let epoch = self.epoch.as_ref().expect("the epoch was just entered");
        let place = epoch.ends.partition_point(|&end| end <= within);
        let document = epoch.order[place];
        let length = self.lengths[document];
        let start = within - (epoch.ends[place] - length);
        let stop = length.min(start + room);
        Piece {
            document,
            tokens: start..stop,
            continues: stop < length,
        }
    }

    fn enter(&mut self, index: u64) {
        if self
            .epoch
            .as_ref()
            .is_some_and(|epoch| epoch.index == index)
        {
            return;
        }
        let order = permutation(self.lengths.len(), self.seed, self.source, index);
        let ends = order
            .iter()
            .scan(0, |end, &document| {
                *end += self.lengths[document];
                Some(*end)
            })
            .collect();
        self.epoch = Some(Epoch { index, order, ends });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_permutation_depends_on_seed_source_and_epoch_alone() {
        let base = permutation(100, 7, 0, 0);
        assert_eq!(base, permutation(100, 7, 0, 0));
        for other in [(8, 0, 0), (7, 1, 0), (7, 0, 1)] {
            assert_ne!(base, permutation(100, other.0, other.1, other.2));
        }
        let mut sorted = base;
        sorted.sort_unstable();
        assert_eq!(sorted, (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn the_rows_of_an_epoch_hold_every_token_once() {
        let lengths = vec![3, 10, 1, 0, 7, 5];
        let mut stream = Stream::new(lengths.clone(), 1, 0);
        let mut seen: Vec<Vec<u32>> = lengths.iter().map(|n| vec![0; *n as usize]).collect();
        // 26 tokens: 13 rows of 4 are exactly two epochs.
        for row in 0..13 {
            let pieces = stream.row(row, 4);
            let length: u64 = pieces.iter().map(|p| p.tokens.end - p.tokens.start).sum();
            assert_eq!(length, 4);
            for piece in pieces {
                for token in piece.tokens {
                    seen[piece.document][token as usize] += 1;
                }
            }
        }
        assert!(seen.iter().flatten().all(|&times| times == 2));
    }

    #[test]
    fn a_row_is_the_same_whoever_asks_first() {
        let lengths: Vec<u64> = (1..40).collect();
        let mut forward = Stream::new(lengths.clone(), 3, 2);
        let rows: Vec<_> = (0..60).map(|row| forward.row(row, 33)).collect();
        let mut resumed = Stream::new(lengths, 3, 2);
        for row in (0..60).rev() {
            assert_eq!(resumed.row(row, 33), rows[row as usize]);
        }
    }

    #[test]
    fn a_cut_document_goes_on_in_the_next_row() {
        let mut stream = Stream::new(vec![10], 0, 0);
        let first = stream.row(0, 6);
        assert_eq!((first[0].tokens.clone(), first[0].continues), (0..6, true));
        let second = stream.row(1, 6);
        assert_eq!(
            (second[0].tokens.clone(), second[0].continues),
            (6..10, false)
        );
        assert_eq!(second[1].tokens, 0..2, "then the next epoch begins");
    }
}
