//! Causal attention of one sequence with grouped queries: tiles of queries against their whole prefix.
//!
//! The probabilities of a tile live in scratch memory only; backward makes them again from the logarithm of their sum
//! (Dao et al. 2022). H query heads, G key/value heads, P = H / G queries a group, hd the width of a head, T tokens.
//! A row of `qkv` is `[H hd | G hd | G hd]`, a row of the output `[H hd]`.

use super::matrix::{Into, Mat, MatMut, multiply};
use super::row;
use super::scratch::with_scratch;

/// Queries that are treated together.
const TILE: usize = 64;

/// The shape of attention in one model.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub heads: usize,
    pub groups: usize,
    pub head_dim: usize,
}

impl Shape {
    fn queries(&self) -> usize {
        self.heads * self.head_dim
    }

    fn keys(&self) -> usize {
        self.groups * self.head_dim
    }

    /// Width of a row of `qkv`.
    pub fn width(&self) -> usize {
        self.queries() + 2 * self.keys()
    }

    fn scale(&self) -> f32 {
        1.0 / (self.head_dim as f32).sqrt()
    }

    /// Column of the key head, and of the value head, that a query head reads.
    fn sources(&self, head: usize) -> (usize, usize) {
        let group = head / (self.heads / self.groups);
        let key = self.queries() + group * self.head_dim;
        (key, key + self.keys())
    }
}

/// `out [T, H hd]` and the log-sum-exp `lse [T, H]` of one sequence, from `qkv` after RoPE.
pub fn forward(out: &mut [f32], lse: &mut [f32], qkv: &[f32], shape: Shape) {
    let tokens = qkv.len() / shape.width();
    let hd = shape.head_dim;
    with_scratch(4 * tokens * hd + TILE * tokens, |scratch| {
        let (q, scratch) = scratch.split_at_mut(tokens * hd);
        let (k, scratch) = scratch.split_at_mut(tokens * hd);
        let (v, scratch) = scratch.split_at_mut(tokens * hd);
        let (o, s) = scratch.split_at_mut(tokens * hd);
        for head in 0..shape.heads {
            let (key, value) = shape.sources(head);
            gather(q, qkv, shape.width(), head * hd, hd);
            gather(k, qkv, shape.width(), key, hd);
            gather(v, qkv, shape.width(), value, hd);
            for first in (0..tokens).step_by(TILE) {
                let last = (first + TILE).min(tokens);
                let (rows, tile) = (last - first, first * hd..last * hd);
                scores(s, &q[tile.clone()], &k[..last * hd], rows, last, hd);
                for (i, s) in s.chunks_exact_mut(last).take(rows).enumerate() {
                    let seen = first + i + 1;
                    lse[(first + i) * shape.heads + head] = softmax(s, seen, shape.scale());
                }
                multiply(
                    MatMut::new(&mut o[tile], rows, hd),
                    Into::Replace,
                    Mat::new(s, rows, last),
                    Mat::new(&v[..last * hd], last, hd),
                );
            }
            scatter(out, o, shape.queries(), head * hd, hd);
        }
    });
}

/// `d_qkv` of one sequence from `d_out`; everything is read as [`forward`] left it.
pub fn backward(
    d_qkv: &mut [f32],
    d_out: &[f32],
    out: &[f32],
    lse: &[f32],
    qkv: &[f32],
    shape: Shape,
) {
    let tokens = qkv.len() / shape.width();
    let hd = shape.head_dim;
    let per_group = shape.heads / shape.groups;
    with_scratch(7 * tokens * hd + 2 * TILE * tokens, |scratch| {
        let (q, scratch) = scratch.split_at_mut(tokens * hd);
        let (k, scratch) = scratch.split_at_mut(tokens * hd);
        let (v, scratch) = scratch.split_at_mut(tokens * hd);
        let (d_o, scratch) = scratch.split_at_mut(tokens * hd);
        let (d_q, scratch) = scratch.split_at_mut(tokens * hd);
        let (d_k, scratch) = scratch.split_at_mut(tokens * hd);
        let (d_v, scratch) = scratch.split_at_mut(tokens * hd);
        let (p, d_p) = scratch.split_at_mut(TILE * tokens);
        for group in 0..shape.groups {
            let (key, value) = shape.sources(group * per_group);
            gather(k, qkv, shape.width(), key, hd);
            gather(v, qkv, shape.width(), value, hd);
            d_k.fill(0.0);
            d_v.fill(0.0);
            for head in group * per_group..(group + 1) * per_group {
                gather(q, qkv, shape.width(), head * hd, hd);
                gather(d_o, d_out, shape.queries(), head * hd, hd);
                for first in (0..tokens).step_by(TILE) {
                    let last = (first + TILE).min(tokens);
                    let (rows, tile) = (last - first, first * hd..last * hd);
                    scores(p, &q[tile.clone()], &k[..last * hd], rows, last, hd);
                    scores(d_p, &d_o[tile.clone()], &v[..last * hd], rows, last, hd);
                    let both = p.chunks_exact_mut(last).zip(d_p.chunks_exact_mut(last));
                    for (i, (p, d_p)) in both.take(rows).enumerate() {
                        let at = (first + i) * shape.heads + head;
                        let o = &out[at * hd..(at + 1) * hd];
                        let d_o = &d_o[(first + i) * hd..(first + i + 1) * hd];
                        let delta = row::dot(o, d_o);
                        softmax_backward(p, d_p, first + i + 1, lse[at], delta, shape.scale());
                    }
                    let (p, d_p) = (Mat::new(p, rows, last), Mat::new(d_p, rows, last));
                    multiply(
                        MatMut::new(&mut d_q[tile.clone()], rows, hd),
                        Into::Replace,
                        d_p,
                        Mat::new(&k[..last * hd], last, hd),
                    );
                    multiply(
                        MatMut::new(&mut d_k[..last * hd], last, hd),
                        Into::Add,
                        d_p.t(),
                        Mat::new(&q[tile.clone()], rows, hd),
                    );
                    multiply(
                        MatMut::new(&mut d_v[..last * hd], last, hd),
                        Into::Add,
                        p.t(),
                        Mat::new(&d_o[tile], rows, hd),
                    );
                }
                scatter(d_qkv, d_q, shape.width(), head * hd, hd);
            }
            scatter(d_qkv, d_k, shape.width(), key, hd);
            scatter(d_qkv, d_v, shape.width(), value, hd);
        }
    });
}

/// `s [rows, last] = q · kᵀ`
fn scores(s: &mut [f32], q: &[f32], k: &[f32], rows: usize, last: usize, hd: usize) {
    multiply(
        MatMut::new(&mut s[..rows * last], rows, last),
        Into::Replace,
        Mat::new(q, rows, hd),
        Mat::new(k, last, hd).t(),
    );
}

/// Softmax of the first `seen` scores, zero for the rest; the log-sum-exp.
fn softmax(s: &mut [f32], seen: usize, scale: f32) -> f32 {
    let (visible, hidden) = s.split_at_mut(seen);
    hidden.fill(0.0);
    let shift = row::maximum(visible) * scale;
    let sum = row::exponentials(visible, scale, shift);
    row::scale(visible, 1.0 / sum);
    shift + sum.ln()
}

/// From scores to probabilities, and from `dP` to the gradient of the unscaled scores.
fn softmax_backward(p: &mut [f32], d_p: &mut [f32], seen: usize, lse: f32, delta: f32, scale: f32) {
    p[seen..].fill(0.0);
    d_p[seen..].fill(0.0);
    row::exponentials(&mut p[..seen], scale, lse);
    row::softmax_gradient(&mut d_p[..seen], &p[..seen], delta, scale);
}

fn gather(to: &mut [f32], from: &[f32], width: usize, column: usize, hd: usize) {
    for (to, from) in to.chunks_exact_mut(hd).zip(from.chunks_exact(width)) {
        to.copy_from_slice(&from[column..column + hd]);
    }
}

fn scatter(to: &mut [f32], from: &[f32], width: usize, column: usize, hd: usize) {
    for (to, from) in to.chunks_exact_mut(width).zip(from.chunks_exact(hd)) {
        to[column..column + hd].copy_from_slice(from);
    }
}
