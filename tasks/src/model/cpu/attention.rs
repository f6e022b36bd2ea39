//! Causal attention of one group of query heads in one sequence.
//!
//! A block of queries of one head meets all keys up to its own; its scores live in scratch memory only, and backward
//! makes them again from the logarithm of their sum (Dao et al. 2022). Blocks do not depend on the instruction set, so
//! neither does the result.
//!
//! H query heads, G key/value heads, n = H / G heads of a group, hd the width of a head, T tokens. A row of `qkv` is
//! `[H hd | G hd | G hd]`, a row of the output `[H hd]`.

use super::isa::kernels;
use super::packed::Panels;
use super::product::{Left, Right, Target, multiply_into};
use super::row::{self, exp};
use super::scratch::with_scratch;
use crate::model::ops::{Heads, Into};

/// Queries of a block forwards: the scores of a block stay in the first cache.
const FORWARD: usize = 12;
/// Queries of a block backwards: gradients of keys and values are read and written once a block.
const BACKWARD: usize = 48;
/// Scores of a query are filled up to a multiple of any panel.
const PADDING: usize = 32;
/// And a little more: rows a power of two apart would share few lines of the first cache.
const ASIDE: usize = 16;

impl Heads {
    /// Columns of the keys, and of the values, of a group.
    fn columns(&self, group: usize) -> (usize, usize) {
        let key = self.queries() + group * self.head_dim;
        (key, key + self.groups * self.head_dim)
    }

    /// Query heads of a group.
    fn per_group(&self) -> usize {
        self.heads / self.groups
    }
}

/// What the heads of a group attend to.
pub struct Attended {
    /// `[T, n hd]`
    out: Vec<f32>,
    /// `[T, n]`, log-sum-exp of the scores
    lse: Vec<f32>,
}

impl Attended {
    /// Puts it into its columns of `out [T, H hd]` and `lse [T, H]`.
    pub fn put(&self, out: &mut [f32], lse: &mut [f32], shape: Heads, group: usize) {
        let (n, hd) = (shape.per_group(), shape.head_dim);
        let first = group * n;
        put(
            out,
            shape.queries(),
            first * hd,
            &self.out,
            n * hd,
            0..n * hd,
        );
        put(lse, shape.heads, first, &self.lse, n, 0..n);
    }
}

/// Gradients of what the heads of a group read: `[T, (n + 2) hd]`, queries, key and value.
pub struct Pulled(Vec<f32>);

impl Pulled {
    /// Puts it into its columns of `d_qkv`.
    pub fn put(&self, d_qkv: &mut [f32], shape: Heads, group: usize) {
        let (n, hd) = (shape.per_group(), shape.head_dim);
        let (key, value) = shape.columns(group);
        for (column, from) in [
            (group * n * hd, 0..n * hd),
            (key, n * hd..(n + 1) * hd),
            (value, (n + 1) * hd..(n + 2) * hd),
        ] {
            put(d_qkv, shape.width(), column, &self.0, (n + 2) * hd, from);
        }
    }
}

/// Copies columns of rows to where they begin in wider rows.
fn put(
    to: &mut [f32],
    width: usize,
    column: usize,
    from: &[f32],
    step: usize,
    columns: std::ops::Range<usize>,
) {
    for (to, from) in to.chunks_exact_mut(width).zip(from.chunks_exact(step)) {
        to[column..column + columns.len()].copy_from_slice(&from[columns.clone()]);
    }
}

/// From `qkv` of one sequence, after RoPE.
pub fn forward(qkv: &[f32], shape: Heads, group: usize) -> Attended {
    let (width, hd, n) = (shape.width(), shape.head_dim, shape.per_group());
    let tokens = qkv.len() / width;
    let wide = tokens.next_multiple_of(PADDING) + ASIDE;
    let (mut out, mut lse) = (vec![0.0; tokens * n * hd], vec![0.0; tokens * n]);
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
                    lse[(first + row) * n + head] = shift + sum.ln();
                    *norm = 1.0 / sum;
                }
                let at = (first * n + head) * hd;
                multiply_into(
                    block.target(&mut out[at..], n * hd, hd),
                    Into::Replace,
                    Left::strided(scores, wide),
                    Right::Strided(&qkv[value..], width),
                    block.end,
                );
                for (row, norm) in norms.iter().enumerate().take(block.rows) {
                    row::scale(&mut out[at + row * n * hd..][..hd], *norm);
                }
            }
        }
    });
    Attended { out, lse }
}

/// From `d_out` of one sequence; everything is read as [`forward`] left it.
pub fn backward(
    d_out: &[f32],
    out: &[f32],
    lse: &[f32],
    qkv: &[f32],
    shape: Heads,
    group: usize,
) -> Pulled {
    let (width, hd, queries) = (shape.width(), shape.head_dim, shape.queries());
    let n = shape.per_group();
    let tokens = qkv.len() / width;
    let wide = tokens.next_multiple_of(PADDING) + ASIDE;
    let (key, value) = shape.columns(group);
    let (mut keys, mut values) = (Panels::empty(), Panels::empty());
    keys.pack(until_last(qkv, key, hd, width), hd, width);
    values.pack(until_last(qkv, value, hd, width), hd, width);
    let step = (n + 2) * hd;
    let mut pulled = vec![0.0; tokens * step];
    with_scratch([BACKWARD * wide, BACKWARD * wide], |[p, d_p]| {
        for (own, head) in (group * n..(group + 1) * n).enumerate() {
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
                    block.target(&mut pulled[first * step + own * hd..], step, hd),
                    Into::Replace,
                    Left::strided(d_p, wide),
                    Right::Strided(&qkv[key..], width),
                    block.end,
                );
                for (column, weights, rows, row_step) in [
                    (n * hd, &*d_p, &qkv[query..], width),
                    ((n + 1) * hd, &*p, &d_out[pull..], queries),
                ] {
                    let target = Target {
                        data: &mut pulled[column..],
                        step,
                        rows: block.end,
                        columns: hd,
                    };
                    let (weights, rows) = (
                        Left::transposed(weights, wide),
                        Right::Strided(rows, row_step),
                    );
                    multiply_into(target, Into::Add, weights, rows, block.rows);
                }
            }
        }
    });
    Pulled(pulled)
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

    fn target<'a>(&self, data: &'a mut [f32], step: usize, columns: usize) -> Target<'a> {
        Target {
            data,
            step,
            rows: self.rows,
            columns,
        }
    }

    /// `[rows, end]`: products of rows of `hd` with all keys, or values.
    fn scores(&self, to: &mut [f32], rows: &[f32], step: usize, panels: &Panels, hd: usize) {
        // Whole panels: what lies beyond the last key is 0 and not read.
        let columns = self.end.next_multiple_of(panels.width());
        let target = self.target(to, self.wide, columns);
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
