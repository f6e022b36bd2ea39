//! One layer backwards.
//!
//! A batch is cut into a few lanes, each of whole chunks of rows. A lane carries a chunk through all its operations
//! while it is in the cache, weight gradients included; those it sums on its own, and lanes are added in order. The
//! first lane adds to the gradients that are already there.

use std::ops::Range;

use rayon::prelude::*;

use super::attention;
use super::buffers::{Activations, Dims, Gradients};
use super::chunks::{ROWS, add_parts, add_weight_gradient, by_sequence, chunks, lane_rows, span};
use super::layer::Places;
use super::matrix::linear_dx;
use super::scratch::with_scratch;
use super::{norm, rotate, swiglu};
use crate::model::layout::LayerRanges;

/// Weights and their gradients, of the whole model.
pub(super) struct Arenas<'a> {
    pub weights: &'a [f32],
    pub grads: &'a mut [f32],
}

/// Gradients of some consecutive tensors, one copy for every lane: the first in place, the rest in `parts`.
fn copies<'a>(total: &'a mut [f32], parts: &'a mut [f32], n: usize) -> Vec<&'a mut [f32]> {
    let lanes = n.div_ceil(lane_rows(n)).max(1);
    let parts = &mut parts[..(lanes - 1) * total.len()];
    parts.fill(0.0);
    let others = parts.chunks_mut(total.len());
    std::iter::once(total).chain(others).collect()
}

fn add_copies(total: &mut [f32], parts: &[f32], n: usize) {
    let lanes = n.div_ceil(lane_rows(n)).max(1);
    add_parts(total, &parts[..(lanes - 1) * total.len()]);
}

/// The part of `gradients` (which begin at `base` of the arena) that is a tensor's.
fn tensor<'a>(gradients: &'a mut [f32], base: usize, range: &Range<usize>) -> &'a mut [f32] {
    &mut gradients[range.start - base..range.end - base]
}

/// From the gradient of the layer's output (`stream`) to `middle` and `attended`; gradients of `o_proj`,
/// `post_attention_layernorm` and the feed-forward matrices.
pub(super) fn after_attention(
    kept: &mut Activations,
    gradients: &mut Gradients,
    arenas: &mut Arenas,
    ranges: &LayerRanges,
    dims: &Dims,
) {
    let Dims { d, f, queries, .. } = *dims;
    let n = kept.post_scale.len();
    let per_lane = lane_rows(n);
    let all = ranges.after_attention();
    let w = |range: &Range<usize>| &arenas.weights[range.clone()];
    (
        copies(&mut arenas.grads[all.clone()], &mut gradients.parts, n),
        gradients.middle.par_chunks_mut(per_lane * d),
        gradients.attended.par_chunks_mut(per_lane * queries),
        kept.gate_up.par_chunks_mut(per_lane * 2 * f),
        gradients.stream.par_chunks(per_lane * d),
        kept.middle.par_chunks(per_lane * d),
        kept.post.par_chunks(per_lane * d),
        kept.post_scale.par_chunks(per_lane),
        kept.attended.par_chunks(per_lane * queries),
    )
        .into_par_iter()
        .for_each(
            |(dw, d_middle, d_attended, gate_up, d_out, middle, post, scale, attended)| {
                with_scratch([ROWS * f, ROWS * f, ROWS * d], |[act, d_act, d_post]| {
                    for rows in chunks(scale.len()) {
                        let d_middle = &mut d_middle[span(&rows, d)];
                        let gate_up = &mut gate_up[span(&rows, 2 * f)];
                        let (d_out, post) = (&d_out[span(&rows, d)], &post[span(&rows, d)]);
                        let act = &mut act[..rows.len() * f];
                        let d_act = &mut d_act[..rows.len() * f];
                        let d_post = &mut d_post[..rows.len() * d];
                        linear_dx(d_act, d_out, w(&ranges.down), f, d);
                        swiglu::backward(gate_up, act, d_act, f);
                        add_weight_gradient(tensor(dw, all.start, &ranges.down), d_out, act, f);
                        linear_dx(d_post, gate_up, w(&ranges.gate_up), d, 2 * f);
                        add_weight_gradient(
                            tensor(dw, all.start, &ranges.gate_up),
                            gate_up,
                            post,
                            d,
                        );
                        d_middle.copy_from_slice(d_out);
                        norm::backward(
                            d_middle,
                            tensor(dw, all.start, &ranges.post_norm),
                            d_post,
                            &middle[span(&rows, d)],
                            w(&ranges.post_norm),
                            &scale[rows.clone()],
                        );
                        let d_attended = &mut d_attended[span(&rows, queries)];
                        linear_dx(d_attended, d_middle, w(&ranges.o), queries, d);
                        let attended = &attended[span(&rows, queries)];
                        add_weight_gradient(
                            tensor(dw, all.start, &ranges.o),
                            d_middle,
                            attended,
                            queries,
                        );
                    }
                });
            },
        );
    add_copies(&mut arenas.grads[all], &gradients.parts, n);
}

/// From `attended` to `qkv`, every sequence a task.
pub(super) fn attend(
    kept: &mut Activations,
    gradients: &mut Gradients,
    ends: &[usize],
    dims: &Dims,
) {
    (
        by_sequence(&mut gradients.qkv, ends, dims.qkv),
        by_sequence(&mut gradients.attended, ends, dims.queries),
        by_sequence(&mut kept.attended, ends, dims.queries),
        by_sequence(&mut kept.lse, ends, dims.shape.heads),
        by_sequence(&mut kept.qkv, ends, dims.qkv),
    )
        .into_par_iter()
        .for_each(|(d_qkv, d_out, out, lse, qkv)| {
            attention::backward(d_qkv, d_out, out, lse, qkv, dims.shape);
        });
}

/// From `qkv` and `middle` to the gradient of the layer's input (`stream`); gradients of q, k, v and
/// `input_layernorm`.
pub(super) fn before_attention(
    kept: &Activations,
    gradients: &mut Gradients,
    input: &[f32],
    arenas: &mut Arenas,
    ranges: &LayerRanges,
    places: Places,
    dims: &Dims,
) {
    let d = dims.d;
    let n = kept.normed_scale.len();
    let per_lane = lane_rows(n);
    let all = ranges.before_attention();
    let w = |range: &Range<usize>| &arenas.weights[range.clone()];
    (
        copies(&mut arenas.grads[all.clone()], &mut gradients.parts, n),
        gradients.stream.par_chunks_mut(per_lane * d),
        gradients.qkv.par_chunks_mut(per_lane * dims.qkv),
        gradients.middle.par_chunks(per_lane * d),
        kept.normed.par_chunks(per_lane * d),
        kept.normed_scale.par_chunks(per_lane),
        input.par_chunks(per_lane * d),
        places.positions.par_chunks(per_lane),
    )
        .into_par_iter()
        .for_each(
            |(dw, d_stream, d_qkv, d_middle, normed, scale, input, positions)| {
                with_scratch([ROWS * d], |[d_normed]| {
                    for rows in chunks(scale.len()) {
                        let d_qkv = &mut d_qkv[span(&rows, dims.qkv)];
                        for (row, position) in d_qkv
                            .chunks_exact_mut(dims.qkv)
                            .zip(&positions[rows.clone()])
                        {
                            let (cos, sin) = places.rope.at(*position as usize);
                            rotate::backward(&mut row[..dims.turned], cos, sin);
                        }
                        let d_normed = &mut d_normed[..rows.len() * d];
                        linear_dx(d_normed, d_qkv, w(&ranges.qkv), d, dims.qkv);
                        let normed = &normed[span(&rows, d)];
                        add_weight_gradient(tensor(dw, all.start, &ranges.qkv), d_qkv, normed, d);
                        let d_stream = &mut d_stream[span(&rows, d)];
                        d_stream.copy_from_slice(&d_middle[span(&rows, d)]);
                        norm::backward(
                            d_stream,
                            tensor(dw, all.start, &ranges.input_norm),
                            d_normed,
                            &input[span(&rows, d)],
                            w(&ranges.input_norm),
                            &scale[rows.clone()],
                        );
                    }
                });
            },
        );
    add_copies(&mut arenas.grads[all], &gradients.parts, n);
}

/// From `d_hidden` to the gradient of the last layer's output (`stream`); gradient of the final norm.
pub(super) fn final_norm(
    gradients: &mut Gradients,
    d_hidden: &[f32],
    stream: &[f32],
    scales: &[f32],
    arenas: &mut Arenas,
    range: Range<usize>,
) {
    let (d, n) = (range.len(), scales.len());
    let per_lane = lane_rows(n);
    let w = &arenas.weights[range.clone()];
    gradients.stream.fill(0.0);
    (
        copies(&mut arenas.grads[range.clone()], &mut gradients.parts, n),
        gradients.stream.par_chunks_mut(per_lane * d),
        d_hidden.par_chunks(per_lane * d),
        stream.par_chunks(per_lane * d),
        scales.par_chunks(per_lane),
    )
        .into_par_iter()
        .for_each(|(dw, dx, dy, x, scales)| norm::backward(dx, dw, dy, x, w, scales));
    add_copies(&mut arenas.grads[range], &gradients.parts, n);
}
