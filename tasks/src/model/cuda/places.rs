//! What a batch looks like to kernels: tables that are made on the host, from lengths and tokens alone.

use crate::model::batch::Batch;

/// Rows of a piece of the embedding gradient, at most.
const PIECE: u32 = 64;

/// `[start, end, first]` of every tile of `rows` rows: sequence and first row. Tiles with most keys before them come
/// first, so that the card is not left with the longest work at the end.
pub fn tiles(batch: &Batch, rows: usize) -> Vec<[u32; 3]> {
    let mut tiles: Vec<[u32; 3]> = batch
        .sequences()
        .flat_map(|range| {
            let (start, end) = (range.start as u32, range.end as u32);
            range
                .step_by(rows)
                .map(move |first| [start, end, first as u32])
        })
        .collect();
    tiles.sort_by_key(|[start, _, first]| std::cmp::Reverse(first - start));
    tiles
}

/// Position of each row in its sequence.
pub fn positions(batch: &Batch) -> Vec<u32> {
    batch
        .sequences()
        .flat_map(|rows| 0..rows.len() as u32)
        .collect()
}

/// Rows that go to the same place, side by side.
#[derive(Debug, PartialEq, Eq)]
pub struct Grouped {
    /// Rows, by place and then in order.
    pub order: Vec<u32>,
    /// `[place, first, last]` of each group in `order`.
    pub groups: Vec<[u32; 3]>,
}

/// Groups the rows `0..to.len()` by where each goes.
pub fn grouped(to: &[u32]) -> Grouped {
    let mut order: Vec<u32> = (0..to.len() as u32).collect();
    order.sort_by_key(|row| to[*row as usize]);
    let mut groups: Vec<[u32; 3]> = Vec::new();
    for (at, row) in order.iter().enumerate() {
        let (place, at) = (to[*row as usize], at as u32);
        match groups.last_mut() {
            Some(group) if group[0] == place => group[2] = at + 1,
            _ => groups.push([place, at, at + 1]),
        }
    }
    Grouped { order, groups }
}

/// Groups of few rows, and the rest cut into pieces of bounded length.
#[derive(Debug, PartialEq, Eq)]
pub struct Pieces {
    /// `[place, first, last]` of each short group in the order.
    pub short: Vec<[u32; 3]>,
    /// `[first, last, number]` of each piece of a long group in the order.
    pub pieces: Vec<[u32; 3]>,
    /// `[place, first, last]` of each long group among the pieces.
    pub long: Vec<[u32; 3]>,
}

pub fn pieces(grouped: &Grouped) -> Pieces {
    let mut found = Pieces {
        short: Vec::new(),
        pieces: Vec::new(),
        long: Vec::new(),
    };
    for group in &grouped.groups {
        let [place, first, last] = *group;
        if last - first <= PIECE {
            found.short.push(*group);
            continue;
        }
        let before = found.pieces.len() as u32;
        for from in (first..last).step_by(PIECE as usize) {
            let number = found.pieces.len() as u32;
            found.pieces.push([from, (from + PIECE).min(last), number]);
        }
        found.long.push([place, before, found.pieces.len() as u32]);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_stay_within_their_sequence_and_the_longest_work_comes_first() {
        let batch = Batch::of([vec![0; 20], vec![0; 3]]);
        assert_eq!(tiles(&batch, 16), [[0, 20, 16], [0, 20, 0], [20, 23, 20]]);
        assert_eq!(positions(&batch)[18..], [18, 19, 0, 1, 2]);
    }

    #[test]
    fn rows_of_one_place_keep_their_order() {
        let found = grouped(&[7, 2, 7, 7, 0]);
        assert_eq!(found.order, [4, 1, 0, 2, 3]);
        assert_eq!(found.groups, [[0, 0, 1], [2, 1, 2], [7, 2, 5]]);
        assert_eq!(grouped(&[]).groups, [[0; 3]; 0]);
    }

    #[test]
    fn a_frequent_token_is_cut_into_pieces() {
        let tokens = [vec![5; 2 * PIECE as usize + 1], vec![1; 2]].concat();
        let found = pieces(&grouped(&tokens));
        let (a, b, c) = (2 + PIECE, 2 + 2 * PIECE, 3 + 2 * PIECE);
        assert_eq!(found.short, [[1, 0, 2]]);
        assert_eq!(found.pieces, [[2, a, 0], [a, b, 1], [b, c, 2]]);
        assert_eq!(found.long, [[5, 0, 3]]);
    }
}
