//! Causal attention of one sequence with grouped queries.
//!
//! Sixteen queries of one head lie side by side in the lanes of a vector and meet their keys one after the other, so
//! that maxima, sums and products of the softmax need no work across lanes. The probabilities of such a block live in
//! scratch memory only; backward makes them again from the logarithm of their sum (Dao et al. 2022).
//!
//! H query heads, G key/value heads, hd the width of a head, T tokens. A row of `qkv` is `[H hd | G hd | G hd]`, a row
//! of the output `[H hd]`. Products of so few columns are what `gemm` is slowest at, therefore the kernels of
//! `attention_kernels`.

use super::attention_kernels::{LANES, combine, mask, probabilities, products, softmax, spread};
use super::row;
use super::scratch::with_scratch;
use crate::model::ops::Heads;

impl Heads {
    /// Columns of the keys, and of the values, of a group.
    fn columns(&self, group: usize) -> (usize, usize) {
        let key = self.queries() + group * self.head_dim;
        (key, key + self.groups * self.head_dim)
    }

    /// Query heads of a group.
    fn heads_of(&self, group: usize) -> std::ops::Range<usize> {
        let per_group = self.heads / self.groups;
        group * per_group..(group + 1) * per_group
    }

    /// Width of a head in rows of scratch, padded with zeros.
    fn padded(&self) -> usize {
        self.head_dim.next_multiple_of(8)
    }
}

/// `out [T, H hd]` and the log-sum-exp `lse [T, H]` of one sequence, from `qkv` after RoPE.
pub fn forward(out: &mut [f32], lse: &mut [f32], qkv: &[f32], shape: Heads) {
    let tokens = qkv.len() / shape.width();
    let (padded, hd) = (tokens.next_multiple_of(LANES), shape.head_dim);
    let sizes = [
        padded * hd,
        padded * hd,
        padded * LANES,
        hd * LANES,
        hd * LANES,
    ];
    with_scratch(sizes, |[k, v, s, q, o]| {
        let (s, _) = s.as_chunks_mut::<LANES>();
        let (q, _) = q.as_chunks_mut::<LANES>();
        let (o, _) = o.as_chunks_mut::<LANES>();
        for group in 0..shape.groups {
            let (key, value) = shape.columns(group);
            gather(k, hd, qkv, shape.width(), key, hd);
            gather(v, hd, qkv, shape.width(), value, hd);
            for head in shape.heads_of(group) {
                for first in (0..tokens).step_by(LANES) {
                    let last = first + LANES;
                    let s = &mut s[..last];
                    gather_lanes(q, qkv, shape.width(), first, head * hd, shape.scale());
                    products(s, q, &k[..last * hd]);
                    mask(&mut s[first..]);
                    let (shifts, sums) = softmax(s);
                    combine(o, s, &v[..last * hd]);
                    for lane in 0..LANES.min(tokens - first) {
                        let at = (first + lane) * shape.heads + head;
                        lse[at] = shifts[lane] + sums[lane].ln();
                        let norm = 1.0 / sums[lane];
                        for (out, o) in out[at * hd..(at + 1) * hd].iter_mut().zip(&*o) {
                            *out = o[lane] * norm;
                        }
                    }
                }
            }
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
    shape: Heads,
) {
    let tokens = qkv.len() / shape.width();
    let (padded, hd, wide) = (
        tokens.next_multiple_of(LANES),
        shape.head_dim,
        shape.padded(),
    );
    let sizes = [
        2 * padded * hd,
        2 * padded * wide,
        2 * padded * LANES,
        3 * hd * LANES,
        2 * wide * LANES,
    ];
    with_scratch(sizes, |[inputs, gradients, blocks, lanes, rows]| {
        let (k, v) = inputs.split_at_mut(padded * hd);
        let (d_k, d_v) = gradients.split_at_mut(padded * wide);
        let (p, d_p) = blocks.as_chunks_mut::<LANES>().0.split_at_mut(padded);
        let (q, lanes) = lanes.as_chunks_mut::<LANES>().0.split_at_mut(hd);
        let (d_o, d_q) = lanes.split_at_mut(hd);
        let (q_rows, d_o_rows) = rows.split_at_mut(wide * LANES);
        for group in 0..shape.groups {
            let (key, value) = shape.columns(group);
            gather(k, hd, qkv, shape.width(), key, hd);
            gather(v, hd, qkv, shape.width(), value, hd);
            d_k.fill(0.0);
            d_v.fill(0.0);
            for head in shape.heads_of(group) {
                for first in (0..tokens).step_by(LANES) {
                    let last = first + LANES;
                    let (p, d_p) = (&mut p[..last], &mut d_p[..last]);
                    gather_lanes(q, qkv, shape.width(), first, head * hd, shape.scale());
                    gather_lanes(d_o, d_out, shape.queries(), first, head * hd, 1.0);
                    let of_block = block_constants(out, d_out, lse, first, head, shape);
                    products(p, q, &k[..last * hd]);
                    mask(&mut p[first..]);
                    products(d_p, d_o, &v[..last * hd]);
                    probabilities(p, d_p, &of_block.0, &of_block.1);
                    combine(d_q, d_p, &k[..last * hd]);
                    scatter_lanes(d_qkv, d_q, shape.width(), first, head * hd, shape.scale());
                    rows_of(q_rows, wide, q);
                    rows_of(d_o_rows, wide, d_o);
                    spread(&mut d_k[..last * wide], d_p, q_rows, wide);
                    spread(&mut d_v[..last * wide], p, d_o_rows, wide);
                }
            }
            scatter(d_qkv, shape.width(), key, d_k, wide, hd);
            scatter(d_qkv, shape.width(), value, d_v, wide, hd);
        }
    });
}

/// Log-sum-exp of each lane, and `Σ out · d_out`; zero beyond the sequence.
fn block_constants(
    out: &[f32],
    d_out: &[f32],
    lse: &[f32],
    first: usize,
    head: usize,
    shape: Heads,
) -> ([f32; LANES], [f32; LANES]) {
    let hd = shape.head_dim;
    let (mut log_sums, mut deltas) = ([0.0; LANES], [0.0; LANES]);
    for lane in 0..LANES.min(lse.len() / shape.heads - first) {
        let at = (first + lane) * shape.heads + head;
        let columns = at * hd..(at + 1) * hd;
        log_sums[lane] = lse[at];
        deltas[lane] = row::dot(&out[columns.clone()], &d_out[columns]);
    }
    (log_sums, deltas)
}

/// Rows of `hd` values at a column of wider rows; zero for what is beyond them.
fn gather(to: &mut [f32], wide: usize, from: &[f32], width: usize, column: usize, hd: usize) {
    let real = from.len() / width;
    for (to, from) in to.chunks_exact_mut(wide).zip(from.chunks_exact(width)) {
        to[..hd].copy_from_slice(&from[column..column + hd]);
    }
    to[real * wide..].fill(0.0);
}

fn scatter(to: &mut [f32], width: usize, column: usize, from: &[f32], wide: usize, hd: usize) {
    for (to, from) in to.chunks_exact_mut(width).zip(from.chunks_exact(wide)) {
        to[column..column + hd].copy_from_slice(&from[..hd]);
    }
}

/// `[hd][lane]` from the rows that begin at `first`, times `scale`; zero beyond the last.
fn gather_lanes(
    to: &mut [[f32; LANES]],
    from: &[f32],
    width: usize,
    first: usize,
    column: usize,
    scale: f32,
) {
    let rows = from[first * width..].chunks_exact(width).take(LANES);
    let real = rows.len();
    for (lane, row) in rows.enumerate() {
        for (to, value) in to.iter_mut().zip(&row[column..]) {
            to[lane] = value * scale;
        }
    }
    for to in to {
        to[real..].fill(0.0);
    }
}

fn scatter_lanes(
    to: &mut [f32],
    from: &[[f32; LANES]],
    width: usize,
    first: usize,
    column: usize,
    scale: f32,
) {
    let rows = to[first * width..].chunks_exact_mut(width).take(LANES);
    for (lane, row) in rows.enumerate() {
        for (value, from) in row[column..].iter_mut().zip(from) {
            *value = from[lane] * scale;
        }
    }
}

/// `[lane][wide]` from `[hd][lane]`, padded with zeros.
fn rows_of(to: &mut [f32], wide: usize, from: &[[f32; LANES]]) {
    for (lane, row) in to.chunks_exact_mut(wide).enumerate() {
        for (value, from) in row.iter_mut().zip(from) {
            *value = from[lane];
        }
        row[from.len()..].fill(0.0);
    }
}
