//! One layer forwards: rows up to q, k, v; attention by sequence; rows from there to the next layer.
//!
//! Rows are cut into chunks that one thread carries from one operation to the next while they are in its cache.

use std::ops::Range;

use rayon::prelude::*;

use super::attention;
use super::buffers::{Activations, Dims};
use super::chunks::{ROWS, by_sequence};
use super::matrix::linear;
use super::{norm, rotate, row, swiglu};
use crate::model::layout::LayerRanges;
use crate::model::rope::RopeTable;

/// Weights as a layer reads them forwards.
#[derive(Clone, Copy)]
pub(super) struct LayerWeights<'a> {
    pub weights: &'a [f32],
    /// The same arena with every matrix transposed.
    pub transposed: &'a [f32],
    pub ranges: &'a LayerRanges,
}

impl<'a> LayerWeights<'a> {
    fn norm(&self, range: &Range<usize>) -> &'a [f32] {
        &self.weights[range.clone()]
    }

    fn matrix(&self, range: &Range<usize>) -> &'a [f32] {
        &self.transposed[range.clone()]
    }
}

/// Where the tokens of a batch stand.
#[derive(Clone, Copy)]
pub(super) struct Places<'a> {
    /// Position of each row in its sequence.
    pub positions: &'a [u32],
    pub ends: &'a [usize],
    pub rope: &'a RopeTable,
}

/// `input_layernorm`, q, k, v, RoPE.
pub(super) fn before_attention(
    kept: &mut Activations,
    input: &[f32],
    weights: LayerWeights,
    places: Places,
    dims: &Dims,
) {
    let w_norm = weights.norm(&weights.ranges.input_norm);
    let w = weights.matrix(&weights.ranges.qkv);
    (
        kept.normed.par_chunks_mut(ROWS * dims.d),
        kept.normed_scale.par_chunks_mut(ROWS),
        kept.qkv.par_chunks_mut(ROWS * dims.qkv),
        input.par_chunks(ROWS * dims.d),
        places.positions.par_chunks(ROWS),
    )
        .into_par_iter()
        .for_each(|(normed, scale, qkv, input, positions)| {
            norm::forward(normed, scale, input, w_norm, dims.eps);
            linear(qkv, normed, w, dims.d, dims.qkv);
            for (row, position) in qkv.chunks_exact_mut(dims.qkv).zip(positions) {
                let (cos, sin) = places.rope.at(*position as usize);
                rotate::forward(&mut row[..dims.turned], cos, sin);
            }
        });
}

/// Attention, every sequence a task.
pub(super) fn attend(kept: &mut Activations, ends: &[usize], dims: &Dims) {
    let out = by_sequence(&mut kept.attended, ends, dims.queries);
    let lse = by_sequence(&mut kept.lse, ends, dims.shape.heads);
    let qkv = by_sequence(&mut kept.qkv, ends, dims.qkv);
    (out, lse, qkv)
        .into_par_iter()
        .for_each(|(out, lse, qkv)| attention::forward(out, lse, qkv, dims.shape));
}

/// `o_proj`, residual, `post_attention_layernorm`, SwiGLU, `down_proj`, residual.
pub(super) fn after_attention(
    output: &mut [f32],
    act: &mut [f32],
    kept: &mut Activations,
    input: &[f32],
    weights: LayerWeights,
    dims: &Dims,
) {
    let Dims { d, f, queries, .. } = *dims;
    let ranges = weights.ranges;
    (
        output.par_chunks_mut(ROWS * d),
        act.par_chunks_mut(ROWS * f),
        kept.middle.par_chunks_mut(ROWS * d),
        kept.post.par_chunks_mut(ROWS * d),
        kept.post_scale.par_chunks_mut(ROWS),
        kept.gate_up.par_chunks_mut(ROWS * 2 * f),
        kept.attended.par_chunks(ROWS * queries),
        input.par_chunks(ROWS * d),
    )
        .into_par_iter()
        .for_each(
            |(output, act, middle, post, scale, gate_up, attended, input)| {
                linear(middle, attended, weights.matrix(&ranges.o), queries, d);
                row::add(middle, input);
                norm::forward(
                    post,
                    scale,
                    middle,
                    weights.norm(&ranges.post_norm),
                    dims.eps,
                );
                linear(gate_up, post, weights.matrix(&ranges.gate_up), d, 2 * f);
                swiglu::forward(act, gate_up, f);
                linear(output, act, weights.matrix(&ranges.down), f, d);
                row::add(output, middle);
            },
        );
}
