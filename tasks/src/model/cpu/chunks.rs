//! Where work is cut: at places that depend on shapes alone, never on threads.

use rayon::prelude::*;

use super::matrix::{Into, Mat, MatMut, multiply};

/// Rows of tokens that one task carries through a group of operations.
pub(super) const ROWS: usize = 256;
/// Rows of a weight gradient that one task sums over all tokens.
const GRADIENT_ROWS: usize = 64;
/// Elements of a flat arena that one task treats.
pub const REDUCTION_CHUNK: usize = 1 << 14;

/// One weight gradient `dw [out, in] += dyᵀ · x`, `dy [n, out]`, `x [n, in]`.
pub(super) struct WeightGradient<'a> {
    pub dw: &'a mut [f32],
    pub dy: &'a [f32],
    pub x: &'a [f32],
    pub inputs: usize,
    pub outputs: usize,
}

/// Computes several weight gradients at once, each task a slab of rows of one of them.
pub(super) fn weight_gradients<'a>(gradients: impl IntoIterator<Item = WeightGradient<'a>>) {
    let slabs: Vec<_> = gradients
        .into_iter()
        .flat_map(|gradient| {
            let WeightGradient {
                dw,
                dy,
                x,
                inputs,
                outputs,
            } = gradient;
            (dw.chunks_mut(GRADIENT_ROWS * inputs).enumerate()).map(move |(slab, dw)| {
                let first = slab * GRADIENT_ROWS;
                (dw, &dy[first.min(dy.len())..], x, inputs, outputs)
            })
        })
        .collect();
    slabs
        .into_par_iter()
        .for_each(|(dw, dy, x, inputs, outputs)| {
            let (n, rows) = (x.len() / inputs, dw.len() / inputs);
            multiply(
                MatMut::new(dw, rows, inputs),
                Into::Add,
                Mat::strided(dy, n, rows, outputs).t(),
                Mat::new(x, n, inputs),
            );
        });
}

/// Sum of a function over chunks of a slice, in f64, added in order.
pub fn ordered_sum(values: &[f32], chunk: impl Fn(&[f32]) -> f64 + Send + Sync) -> f64 {
    let parts: Vec<f64> = values.par_chunks(REDUCTION_CHUNK).map(chunk).collect();
    parts.iter().sum()
}

/// `total += Σ parts`, each part as long as `total`, in order.
pub(super) fn add_parts(total: &mut [f32], parts: &[f32]) {
    for part in parts.chunks_exact(total.len()) {
        for (sum, value) in total.iter_mut().zip(part) {
            *sum += value;
        }
    }
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
