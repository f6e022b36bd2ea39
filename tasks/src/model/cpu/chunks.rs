//! Where work is cut: at places that depend on shapes alone, never on threads.

use std::ops::Range;

use rayon::prelude::*;

use super::matrix::{Into, Mat, MatMut, multiply};
use super::row;

/// Rows of tokens that one task carries through a group of operations.
pub(super) const ROWS: usize = 256;
/// Shares of a batch that sum weight gradients on their own, at most.
const LANES: usize = 8;
/// Elements of a flat arena that one task treats.
pub const REDUCTION_CHUNK: usize = 1 << 14;

/// Rows of one lane: whole chunks, so that there are at most [`LANES`] lanes.
pub(super) fn lane_rows(n: usize) -> usize {
    n.div_ceil(LANES).next_multiple_of(ROWS).max(ROWS)
}

/// Chunks of rows of a lane that has `n`.
pub(super) fn chunks(n: usize) -> impl Iterator<Item = Range<usize>> {
    (0..n)
        .step_by(ROWS)
        .map(move |first| first..(first + ROWS).min(n))
}

/// Elements of some rows of a width.
pub(super) fn span(rows: &Range<usize>, width: usize) -> Range<usize> {
    rows.start * width..rows.end * width
}

/// `dw [out, in] += dyᵀ · x`, `dy [n, out]`, `x [n, in]`
pub(super) fn add_weight_gradient(dw: &mut [f32], dy: &[f32], x: &[f32], inputs: usize) {
    let (n, outputs) = (x.len() / inputs, dw.len() / inputs);
    multiply(
        MatMut::new(dw, outputs, inputs),
        Into::Add,
        Mat::new(dy, n, outputs).t(),
        Mat::new(x, n, inputs),
    );
}

/// The same with threads: each task a slab of rows of `dw`.
pub(super) fn add_weight_gradient_in_slabs(dw: &mut [f32], dy: &[f32], x: &[f32], inputs: usize) {
    let (n, outputs) = (x.len() / inputs, dw.len() / inputs);
    let slab = outputs.div_ceil(LANES).next_multiple_of(16).max(64);
    (dw.par_chunks_mut(slab * inputs).enumerate()).for_each(|(index, dw)| {
        let (first, rows) = (index * slab, dw.len() / inputs);
        multiply(
            MatMut::new(dw, rows, inputs),
            Into::Add,
            Mat::strided(&dy[first.min(dy.len())..], n, rows, outputs).t(),
            Mat::new(x, n, inputs),
        );
    });
}

/// `total += Σ parts`, each part as long as `total`, in order.
pub(super) fn add_parts(total: &mut [f32], parts: &[f32]) {
    let len = total.len();
    (total.par_chunks_mut(REDUCTION_CHUNK).enumerate()).for_each(|(index, total)| {
        let first = index * REDUCTION_CHUNK;
        for part in parts.chunks_exact(len) {
            row::add(total, &part[first..first + total.len()]);
        }
    });
}

/// Sum of a function over chunks of a slice, in f64, added in order.
pub fn ordered_sum(values: &[f32], chunk: impl Fn(&[f32]) -> f64 + Send + Sync) -> f64 {
    let parts: Vec<f64> = values.par_chunks(REDUCTION_CHUNK).map(chunk).collect();
    parts.iter().sum()
}

/// The pieces of rows of width `width` that belong to each sequence.
pub(super) fn by_sequence<'a>(
    mut data: &'a mut [f32],
    ends: &[usize],
    width: usize,
) -> Vec<&'a mut [f32]> {
    let mut start = 0;
    let mut pieces = Vec::with_capacity(ends.len());
    for end in ends {
        let (piece, rest) = data.split_at_mut((end - start) * width);
        pieces.push(piece);
        (data, start) = (rest, *end);
    }
    pieces
}
