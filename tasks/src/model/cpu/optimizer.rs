//! AdamW over flat arenas, in fixed chunks.

use std::ops::Range;

use super::isa::kernels;
use rayon::prelude::*;

use super::chunks::REDUCTION_CHUNK;
use crate::model::ops::AdamWStep;

/// See [`Ops::adamw`](crate::model::ops::Ops::adamw).
pub fn update(
    w: &mut [f32],
    m: &mut [f32],
    v: &mut [f32],
    g: &[f32],
    step: AdamWStep,
    decayed: &[Range<usize>],
) {
    let steady = AdamWStep { keep: 1.0, ..step };
    let mut at = 0;
    for range in decayed {
        segment(w, m, v, g, steady, at..range.start);
        segment(w, m, v, g, step, range.clone());
        at = range.end;
    }
    segment(w, m, v, g, steady, at..g.len());
}

fn segment(
    w: &mut [f32],
    m: &mut [f32],
    v: &mut [f32],
    g: &[f32],
    step: AdamWStep,
    range: Range<usize>,
) {
    (w[range.clone()].par_chunks_mut(REDUCTION_CHUNK))
        .zip(m[range.clone()].par_chunks_mut(REDUCTION_CHUNK))
        .zip(v[range.clone()].par_chunks_mut(REDUCTION_CHUNK))
        .zip(g[range].par_chunks(REDUCTION_CHUNK))
        .for_each(|(((w, m), v), g)| update_chunk(w, m, v, g, step));
}

kernels! {
    fn update_chunk(w: &mut [f32], m: &mut [f32], v: &mut [f32], g: &[f32], step: AdamWStep) {
        let n = w.len();
        let (m, v, g) = (&mut m[..n], &mut v[..n], &g[..n]);
        for i in 0..n {
            let g = g[i] * step.clip;
            let first = step.beta1 * m[i] + step.rest1 * g;
            let second = step.beta2 * v[i] + step.rest2 * g * g;
            m[i] = first;
            v[i] = second;
            w[i] = w[i] * step.keep - step.rate * first / (second.sqrt() * step.root + step.eps);
        }
    }
}
