//! Where work is cut: at places that depend on shapes alone, never on threads.

use rayon::prelude::*;

use super::matrix::{Mat, MatMut, multiply};
use crate::model::ops::Into;

/// Rows of tokens that one task treats.
pub(super) const ROWS: usize = 256;
/// Slabs that a weight gradient is cut into, at most.
const SLABS: usize = 8;
/// Elements of a flat arena that one task treats.
pub const REDUCTION_CHUNK: usize = 1 << 14;

/// `dw [out, in] += dyᵀ · x`, `dy [n, out]`, `x [n, in]`; each task a slab of rows of `dw`.
pub(super) fn add_weight_gradient_in_slabs(dw: &mut [f32], dy: &[f32], x: &[f32], inputs: usize) {
    let (n, outputs) = (x.len() / inputs, dw.len() / inputs);
    let slab = outputs.div_ceil(SLABS).next_multiple_of(16).max(64);
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
