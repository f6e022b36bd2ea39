//! Causal attention with grouped queries; every sequence and every group of heads for itself.
//!
//! A block of queries of one head meets all keys up to its own; its scores live in scratch memory only, and backward
//! makes them again from the logarithm of their sum (Dao et al. 2022). Blocks do not depend on the instruction set, so
//! neither does the result.
//!
//! H query heads, G key/value heads, n = H / G heads of a group, hd the width of a head, T tokens. A row of `qkv` is
//! `[H hd | G hd | G hd]`, a row of the output `[H hd]`.

#![allow(unsafe_code)]

use std::ops::Range;

use rayon::prelude::*;

use super::isa::kernels;
use super::packed::Panels;
use super::product::{Into, Left, Right, multiply_into};
use super::row::{self, exp};
use super::scratch::with_scratch;
use super::target::{Shared, Target};
use crate::model::ops::Heads;

/// Queries of a block forwards: the scores of a block stay in the first cache.
const FORWARD: usize = 12;
/// Queries of a block backwards: gradients of keys and values are read and written once a block.
const BACKWARD: usize = 48;
/// Scores of a query are filled up to a multiple of any panel.
const PADDING: usize = 32;
/// And a little more: rows a power of two apart would share few lines of the first cache.
const ASIDE: usize = 16;

impl Heads {
    /// Where keys and values of a group begin in a row.
    fn columns(&self, group: usize) -> (usize, usize) {
        let key = self.queries() + group * self.head_dim;
        (key, key + self.groups * self.head_dim)
    }

    /// Query heads of a group.
    fn per_group(&self) -> usize {
        self.heads / self.groups
    }

    /// The same, by their numbers.
    fn heads_of(&self, group: usize) -> Range<usize> {
        group * self.per_group()..(group + 1) * self.per_group()
    }

    /// Their columns in a row of queries, or of the output.
    pub(super) fn queries_of(&self, group: usize) -> Range<usize> {
        let heads = self.heads_of(group);
        heads.start * self.head_dim..heads.end * self.head_dim
    }

    /// Columns of the keys, and of the values, of a group in a row.
    fn keys_and_values_of(&self, group: usize) -> (Range<usize>, Range<usize>) {
        let (key, value) = self.columns(group);
        (key..key + self.head_dim, value..value + self.head_dim)
    }
}

/// `out [N, H hd]` and the log-sum-exp of scores `lse [N, H]` from `qkv` after RoPE, of sequences that end at these rows.
pub fn forward(out: &mut [f32], lse: &mut [f32], qkv: &[f32], shape: Heads, ends: &[usize]) {
    let out = Shared::new(out, shape.queries());
    let lse = Shared::new(lse, shape.heads);
    (pieces(ends, shape).into_par_iter()).for_each(|(rows, group)| {
        // SAFETY: a sequence has rows of its own, and in them a group has columns of its own.
        let (out, lse) = unsafe {
            (
                out.target(rows.clone(), shape.queries_of(group)),
                lse.target(rows.clone(), shape.heads_of(group)),
            )
        };
        forward_group(out, lse, of(&rows, qkv, shape.width()), shape, group);
    });
}

/// `d_qkv` from `d_out`; everything is read as [`forward`] left it.
pub fn backward(
    d_qkv: &mut [f32],
    d_out: &[f32],
    out: &[f32],
    lse: &[f32],
    qkv: &[f32],
    shape: Heads,
    ends: &[usize],
) {
    let d_qkv = Shared::new(d_qkv, shape.width());
    (pieces(ends, shape).into_par_iter()).for_each(|(rows, group)| {
        let (keys, values) = shape.keys_and_values_of(group);
        // SAFETY: as above.
        let pulled = unsafe {
            Pulled {
                queries: d_qkv.target(rows.clone(), shape.queries_of(group)),
                keys: d_qkv.target(rows.clone(), keys),
                values: d_qkv.target(rows.clone(), values),
            }
        };
        backward_group(
            pulled,
            of(&rows, d_out, shape.queries()),
            of(&rows, out, shape.queries()),
            of(&rows, lse, shape.heads),
            of(&rows, qkv, shape.width()),
            shape,
            group,
        );
    });
}

/// Rows of each sequence, for each group of heads.
fn pieces(ends: &[usize], shape: Heads) -> Vec<(Range<usize>, usize)> {
    let starts = std::iter::once(0).chain(ends.iter().copied());
    let rows = starts.zip(ends).map(|(start, end)| start..*end);
    rows.flat_map(|rows| (0..shape.groups).map(move |group| (rows.clone(), group)))
        .collect()
}

/// Some rows of a matrix.
fn of<'a>(rows: &Range<usize>, all: &'a [f32], width: usize) -> &'a [f32] {
    &all[rows.start * width..rows.end * width]
}

/// `out [T, n hd]` and `lse [T, n]` of one group in one sequence.
fn forward_group(mut out: Target, mut lse: Target, qkv: &[f32], shape: Heads, group: usize) {
    let (width, hd, n) = (shape.width(), shape.head_dim, shape.per_group());
    let tokens = qkv.len() / width;
    let wide = tokens.next_multiple_of(PADDING) + ASIDE;
    let (key, value) = shape.columns(group);
    let mut keys = Panels::empty();
    keys.pack(until_last(qkv, key, hd, width), hd, width);
    with_scratch([FORWARD * wide], |[scores]| {
        for head in 0..n {
            for first in (0..tokens).step_by(FORWARD) {
                let block = Block::new(first, FORWARD, tokens, wide);
                let queries = &qkv[first * width + (group * n + head) * hd..];
                block.scores(scores, queries, width, &keys, hd);
                let mut norms = [0.0; FORWARD];
                for (row, norm) in norms.iter_mut().enumerate().take(block.rows) {
                    let scores = &mut scores[row * wide..][..block.end];
                    let (seen, hidden) = scores.split_at_mut(first + row + 1);
                    let shift = row::maximum(seen) * shape.scale();
                    let sum = row::exponentials(seen, shape.scale(), shift);
                    hidden.fill(0.0);
                    lse.row(first + row)[head] = shift + sum.ln();
                    *norm = 1.0 / sum;
                }
                let mut out = out.part(first..block.end, head * hd..(head + 1) * hd);
                multiply_into(
                    out.part(0..block.rows, 0..hd),
                    Into::Replace,
                    Left::strided(scores, wide),
                    Right::Strided(&qkv[value..], width),
                    block.end,
                );
                for (row, norm) in norms.iter().enumerate().take(block.rows) {
                    row::scale(out.row(row), *norm);
                }
            }
        }
    });
}

/// Gradients of what the heads of a group read, each `[T, …]`.
struct Pulled<'a> {
    /// `n hd` columns
    queries: Target<'a>,
    /// `hd` columns
    keys: Target<'a>,
    values: Target<'a>,
}

/// The gradients of one group in one sequence.
fn backward_group(
    mut pulled: Pulled,
    d_out: &[f32],
    out: &[f32],
    lse: &[f32],
    qkv: &[f32],
    shape: Heads,
    group: usize,
) {
    let (width, hd, queries) = (shape.width(), shape.head_dim, shape.queries());
    let tokens = qkv.len() / width;
    let wide = tokens.next_multiple_of(PADDING) + ASIDE;
    let (key, value) = shape.columns(group);
    let (mut keys, mut values) = (Panels::empty(), Panels::empty());
    keys.pack(until_last(qkv, key, hd, width), hd, width);
    values.pack(until_last(qkv, value, hd, width), hd, width);
    for row in 0..tokens {
        pulled.keys.row(row).fill(0.0);
        pulled.values.row(row).fill(0.0);
    }
    with_scratch([BACKWARD * wide, BACKWARD * wide], |[p, d_p]| {
        for (own, head) in shape.heads_of(group).enumerate() {
            for first in (0..tokens).step_by(BACKWARD) {
                let block = Block::new(first, BACKWARD, tokens, wide);
                let query = first * width + head * hd;
                let pull = first * queries + head * hd;
                block.scores(p, &qkv[query..], width, &keys, hd);
                block.scores(d_p, &d_out[pull..], queries, &values, hd);
                for row in 0..block.rows {
                    let at = (first + row) * queries + head * hd;
                    let delta = row::dot(&out[at..at + hd], &d_out[at..at + hd]);
                    let log_sum = lse[(first + row) * shape.heads + head];
                    let (p, d_p) = (&mut p[row * wide..], &mut d_p[row * wide..]);
                    let seen = first + row + 1;
                    let (p, p_hidden) = p[..block.end].split_at_mut(seen);
                    let (d_p, d_p_hidden) = d_p[..block.end].split_at_mut(seen);
                    score_gradients(p, d_p, shape.scale(), log_sum, delta);
                    p_hidden.fill(0.0);
                    d_p_hidden.fill(0.0);
                }
                multiply_into(
                    (pulled.queries).part(first..block.end, own * hd..(own + 1) * hd),
                    Into::Replace,
                    Left::strided(d_p, wide),
                    Right::Strided(&qkv[key..], width),
                    block.end,
                );
                for (pulled, weights, rows, step) in [
                    (&mut pulled.keys, &*d_p, &qkv[query..], width),
                    (&mut pulled.values, &*p, &d_out[pull..], queries),
                ] {
                    let target = pulled.part(0..block.end, 0..hd);
                    let (weights, rows) =
                        (Left::transposed(weights, wide), Right::Strided(rows, step));
                    multiply_into(target, Into::Add, weights, rows, block.rows);
                }
            }
        }
    });
}

/// Some consecutive queries, and the keys up to the last of them.
struct Block {
    rows: usize,
    /// Keys.
    end: usize,
    /// From row to row of the scores.
    wide: usize,
}

impl Block {
    fn new(first: usize, rows: usize, tokens: usize, wide: usize) -> Self {
        let end = tokens.min(first + rows);
        Self {
            rows: end - first,
            end,
            wide,
        }
    }

    /// `[rows, end]`: products of rows of `hd` with all keys, or values.
    fn scores(&self, to: &mut [f32], rows: &[f32], step: usize, panels: &Panels, hd: usize) {
        // Whole panels: what lies beyond the last key is 0 and not read.
        let columns = self.end.next_multiple_of(panels.width());
        let target = Target::new(to, self.wide, self.rows, columns);
        multiply_into(
            target,
            Into::Replace,
            Left::strided(rows, step),
            Right::Panels(panels),
            hd,
        );
    }
}

/// Rows of `hd` values at a column of wider rows, up to the end of the last.
fn until_last(rows: &[f32], column: usize, hd: usize, width: usize) -> &[f32] {
    match rows.len() / width {
        0 => &[],
        n => &rows[column..(n - 1) * width + column + hd],
    }
}

kernels! {
    /// From scores to probabilities `p`, and from their gradients `d_p` to those of the scores:
    /// `scale · p (d_p − delta)`.
    fn score_gradients(p: &mut [f32], d_p: &mut [f32], scale: f32, log_sum: f32, delta: f32) {
        let n = p.len();
        let d_p = &mut d_p[..n];
        for i in 0..n {
            let value = exp(p[i].mul_add(scale, -log_sum));
            p[i] = value;
            d_p[i] = value * (d_p[i] - delta) * scale;
        }
    }
}
