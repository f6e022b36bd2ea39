//! Packing: which examples share a row (recipe 3.2; layouts equal to TRL 1.16 `pack_dataset`).
//!
//! Works on lengths alone and answers with pieces of examples. What a piece means for attention, positions and
//! targets is decided where batches are built: each piece is a segment of its own, except under `wrapped`.

use std::collections::{BTreeMap, VecDeque};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How examples become rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Packing {
    /// One example a row.
    None,
    /// Best fit, longest first; what does not fit a row is dropped.
    Bfd,
    /// Examples are first split into pieces that fit, then packed as `bfd`: no token is dropped.
    BfdSplit,
    /// All examples one after another, cut at the borders of rows; a piece that goes on in the next row is split.
    Wrapped,
}

/// Tokens `start .. start + length` of an example.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    pub example: usize,
    pub start: usize,
    pub length: usize,
}

/// Rows of at most `row_length` tokens, made of pieces of examples of these lengths.
pub fn pack(packing: Packing, lengths: &[usize], row_length: usize) -> Vec<Vec<Piece>> {
    assert!(row_length > 0, "a row has room for a token");
    match packing {
        Packing::None => cut(lengths, row_length)
            .into_iter()
            .map(|piece| vec![piece])
            .collect(),
        Packing::Bfd => best_fit_decreasing(cut(lengths, row_length), row_length),
        Packing::BfdSplit => best_fit_decreasing(split(lengths, row_length), row_length),
        Packing::Wrapped => wrap(lengths, row_length),
    }
}

/// Each example without what does not fit.
fn cut(lengths: &[usize], row_length: usize) -> Vec<Piece> {
    let piece = |(example, &length): (usize, &usize)| Piece {
        example,
        start: 0,
        length: length.min(row_length),
    };
    lengths
        .iter()
        .enumerate()
        .map(piece)
        .filter(|piece| piece.length > 0)
        .collect()
}

/// Each example in pieces that fit.
fn split(lengths: &[usize], row_length: usize) -> Vec<Piece> {
    let mut pieces = Vec::new();
    for (example, &length) in lengths.iter().enumerate() {
        for start in (0..length).step_by(row_length) {
            pieces.push(Piece {
                example,
                start,
                length: row_length.min(length - start),
            });
        }
    }
    pieces
}

/// Longest piece first into the row with the smallest room that is enough; of several such rows, the one that has
/// had that room for longest. Rows come out in the order in which they were opened.
fn best_fit_decreasing(mut pieces: Vec<Piece>, row_length: usize) -> Vec<Vec<Piece>> {
    pieces.sort_by_key(|piece| std::cmp::Reverse(piece.length));
    let mut rows: Vec<Vec<Piece>> = Vec::new();
    let mut by_room: BTreeMap<usize, VecDeque<usize>> = BTreeMap::new();
    for piece in pieces {
        let fitting = by_room.range(piece.length..).next().map(|(room, _)| *room);
        let (row, room) = match fitting {
            Some(room) => (take_oldest(&mut by_room, room), room),
            None => {
                rows.push(Vec::new());
                (rows.len() - 1, row_length)
            }
        };
        rows[row].push(piece);
        by_room
            .entry(room - piece.length)
            .or_default()
            .push_back(row);
    }
    rows
}

fn take_oldest(by_room: &mut BTreeMap<usize, VecDeque<usize>>, room: usize) -> usize {
    let rows = by_room
        .get_mut(&room)
        .expect("the room was found a moment ago");
    let row = rows.pop_front().expect("no empty queue is kept");
    if rows.is_empty() {
        by_room.remove(&room);
    }
    row
}

fn wrap(lengths: &[usize], row_length: usize) -> Vec<Vec<Piece>> {
    let mut rows: Vec<Vec<Piece>> = Vec::new();
    let mut room = 0;
    for (example, &length) in lengths.iter().enumerate() {
        let mut start = 0;
        while start < length {
            if room == 0 {
                rows.push(Vec::new());
                room = row_length;
            }
            let taken = room.min(length - start);
            let row = rows.last_mut().expect("a row was opened");
            row.push(Piece {
                example,
                start,
                length: taken,
            });
            room -= taken;
            start += taken;
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(rows: &[Vec<Piece>]) -> usize {
        rows.iter().flatten().map(|piece| piece.length).sum()
    }

    #[test]
    fn splitting_and_wrapping_keep_every_token() {
        let lengths = [3, 17, 0, 8, 25, 1];
        for packing in [Packing::BfdSplit, Packing::Wrapped] {
            let rows = pack(packing, &lengths, 8);
            assert_eq!(tokens(&rows), 54);
            for row in &rows {
                assert!(row.iter().map(|piece| piece.length).sum::<usize>() <= 8);
            }
        }
        assert_eq!(tokens(&pack(Packing::Bfd, &lengths, 8)), 3 + 8 + 8 + 8 + 1);
    }

    #[test]
    fn without_packing_examples_stay_apart_and_in_order() {
        let rows = pack(Packing::None, &[2, 9, 4], 8);
        let examples: Vec<_> = rows.iter().map(|row| (row.len(), row[0].example)).collect();
        assert_eq!(examples, [(1, 0), (1, 1), (1, 2)]);
    }

    #[test]
    fn the_smallest_room_that_is_enough_is_taken() {
        // Rows open with 7 (room 1) and 5 (room 3); 3 fits the second, 1 the first.
        let rows = pack(Packing::Bfd, &[7, 5, 3, 1], 8);
        let examples: Vec<Vec<_>> = rows
            .iter()
            .map(|row| row.iter().map(|p| p.example).collect())
            .collect();
        assert_eq!(examples, [vec![0, 3], vec![1, 2]]);
    }
}
