//! One decoding step of several sequences at once, on a key/value cache.
//!
//! Every step multiplies the same number of rows, used or not, so that a sequence's numbers do not depend on what
//! shares the step with it. Weights are transposed once: products of few rows are several times faster that way.

use multiversion::multiversion;

use super::matrix::{Mat, MatMut, multiply, transpose};
use super::row::exp;
use super::{norm, rotate, row, swiglu};
use crate::model::config::Config;
use crate::model::layout::Layout;
use crate::model::ops::Into;
use crate::model::rope::RopeTable;

/// Rows of every step.
pub const SLOTS: usize = 16;

/// Weights in the order in which decoding reads them.
pub struct DecodeWeights<'a> {
    config: Config,
    layers: Vec<LayerWeights<'a>>,
    embedding: &'a [f32],
    norm: &'a [f32],
    /// `[d, V]`
    head: Vec<f32>,
    rope: RopeTable,
}

struct LayerWeights<'a> {
    input_norm: &'a [f32],
    qkv: Vec<f32>,
    o: Vec<f32>,
    post_norm: &'a [f32],
    gate_up: Vec<f32>,
    down: Vec<f32>,
}

impl<'a> DecodeWeights<'a> {
    pub fn new(config: &Config, layout: &Layout, weights: &'a [f32]) -> Self {
        let d = config.hidden_size;
        let layers = (0..config.num_hidden_layers).map(|layer| {
            let ranges = layout.layer(layer);
            LayerWeights {
                input_norm: &weights[ranges.input_norm.clone()],
                qkv: transposed(&weights[ranges.qkv.clone()], d),
                o: transposed(&weights[ranges.o.clone()], config.query_width()),
                post_norm: &weights[ranges.post_norm.clone()],
                gate_up: transposed(&weights[ranges.gate_up.clone()], d),
                down: transposed(&weights[ranges.down.clone()], config.intermediate_size),
            }
        });
        let mut rope = RopeTable::new(config);
        rope.extend_to(config.max_position_embeddings);
        Self {
            config: config.clone(),
            layers: layers.collect(),
            embedding: &weights[layout.embedding()],
            norm: &weights[layout.norm()],
            head: transposed(&weights[layout.head()], d),
            rope,
        }
    }
}

/// `[in, out]` of `[out, in]`
fn transposed(w: &[f32], inputs: usize) -> Vec<f32> {
    let mut result = vec![0.0; w.len()];
    transpose(&mut result, w, inputs);
    result
}

/// Caches and buffers of `SLOTS` sequences.
pub struct Slots {
    /// Positions that a slot holds.
    capacity: usize,
    /// `[layer][slot][group][capacity, hd]`
    keys: Vec<f32>,
    values: Vec<f32>,
    x: Vec<f32>,
    normed: Vec<f32>,
    scale: Vec<f32>,
    qkv: Vec<f32>,
    attended: Vec<f32>,
    gate_up: Vec<f32>,
    act: Vec<f32>,
    scores: Vec<f32>,
    logits: Vec<f32>,
}

impl Slots {
    /// Room for sequences of at most `capacity` tokens.
    pub fn new(config: &Config, capacity: usize) -> Self {
        let zeros = |len: usize| vec![0.0; len];
        let cache = config.num_hidden_layers * SLOTS * config.key_width() * capacity;
        let (d, f) = (config.hidden_size, config.intermediate_size);
        Self {
            capacity,
            keys: zeros(cache),
            values: zeros(cache),
            x: zeros(SLOTS * d),
            normed: zeros(SLOTS * d),
            scale: zeros(SLOTS),
            qkv: zeros(SLOTS * (config.query_width() + 2 * config.key_width())),
            attended: zeros(SLOTS * config.query_width()),
            gate_up: zeros(SLOTS * 2 * f),
            act: zeros(SLOTS * f),
            scores: zeros(capacity),
            logits: zeros(SLOTS * config.vocab_size),
        }
    }

    /// Feeds one token to every slot at its position; `None` leaves a slot idle.
    pub fn step(&mut self, weights: &DecodeWeights, inputs: &[Option<(u32, usize)>; SLOTS]) {
        let config = &weights.config;
        let (d, f, eps) = (
            config.hidden_size,
            config.intermediate_size,
            config.rms_norm_eps as f32,
        );
        let queries = config.query_width();
        let width = queries + 2 * config.key_width();
        for (x, input) in self.x.chunks_exact_mut(d).zip(inputs) {
            match input {
                Some((token, _)) => {
                    x.copy_from_slice(&weights.embedding[*token as usize * d..][..d]);
                }
                None => x.fill(0.0),
            }
        }
        for (layer, w) in weights.layers.iter().enumerate() {
            norm::forward(
                &mut self.normed,
                &mut self.scale,
                &self.x,
                w.input_norm,
                eps,
            );
            product(&mut self.qkv, &self.normed, &w.qkv, d, width, Into::Replace);
            self.attend(weights, layer, inputs);
            product(&mut self.x, &self.attended, &w.o, queries, d, Into::Add);
            norm::forward(&mut self.normed, &mut self.scale, &self.x, w.post_norm, eps);
            product(
                &mut self.gate_up,
                &self.normed,
                &w.gate_up,
                d,
                2 * f,
                Into::Replace,
            );
            swiglu::forward(&mut self.act, &self.gate_up, f);
            product(&mut self.x, &self.act, &w.down, f, d, Into::Add);
        }
    }

    /// Logits `[SLOTS, V]` after the last step.
    pub fn logits(&mut self, weights: &DecodeWeights) -> &[f32] {
        let (d, v) = (weights.config.hidden_size, weights.config.vocab_size);
        let eps = weights.config.rms_norm_eps as f32;
        norm::forward(
            &mut self.normed,
            &mut self.scale,
            &self.x,
            weights.norm,
            eps,
        );
        product(
            &mut self.logits,
            &self.normed,
            &weights.head,
            d,
            v,
            Into::Replace,
        );
        &self.logits
    }

    fn attend(
        &mut self,
        weights: &DecodeWeights,
        layer: usize,
        inputs: &[Option<(u32, usize)>; SLOTS],
    ) {
        let config = &weights.config;
        let (hd, per_group) = (config.head_dim, config.heads_per_group());
        let (queries, keys) = (config.query_width(), config.key_width());
        let width = queries + 2 * keys;
        let rows = self.qkv.chunks_exact_mut(width);
        let rows = rows.zip(self.attended.chunks_exact_mut(queries));
        for (slot, ((qkv, attended), input)) in rows.zip(inputs).enumerate() {
            let Some((_, position)) = *input else {
                attended.fill(0.0);
                continue;
            };
            let (cos, sin) = weights.rope.at(position);
            rotate::forward(&mut qkv[..queries + keys], cos, sin);
            for group in 0..config.num_key_value_heads {
                let block = (layer * SLOTS + slot) * config.num_key_value_heads + group;
                let cache = block * self.capacity * hd..(block + 1) * self.capacity * hd;
                let (k, v) = (&mut self.keys[cache.clone()], &mut self.values[cache]);
                let here = position * hd..(position + 1) * hd;
                let (key, value) = (queries + group * hd, queries + keys + group * hd);
                k[here.clone()].copy_from_slice(&qkv[key..key + hd]);
                v[here.clone()].copy_from_slice(&qkv[value..value + hd]);
                for head in group * per_group..(group + 1) * per_group {
                    let columns = head * hd..(head + 1) * hd;
                    attend_row(
                        &mut attended[columns.clone()],
                        &mut self.scores[..position + 1],
                        &qkv[columns],
                        &k[..here.end],
                        &v[..here.end],
                        1.0 / (hd as f32).sqrt(),
                    );
                }
            }
        }
    }
}

/// `y [SLOTS, out] (+)= x [SLOTS, in] · wt [in, out]`
fn product(y: &mut [f32], x: &[f32], wt: &[f32], inputs: usize, outputs: usize, into: Into) {
    multiply(
        MatMut::new(y, SLOTS, outputs),
        into,
        Mat::new(x, SLOTS, inputs),
        Mat::new(wt, inputs, outputs),
    );
}

/// One query against its whole prefix: `keys`, `values` `[t, hd]`, `scores [t]` is scratch.
fn attend_row(
    out: &mut [f32],
    scores: &mut [f32],
    query: &[f32],
    keys: &[f32],
    values: &[f32],
    scale: f32,
) {
    dots(scores, query, keys);
    let shift = row::maximum(scores) * scale;
    weighted_mean(out, scores, values, scale, shift);
}

#[multiversion(targets("x86_64+avx512f+avx512vl+avx512dq+avx2+fma", "x86_64+avx2+fma"))]
fn dots(scores: &mut [f32], query: &[f32], keys: &[f32]) {
    const LANES: usize = 8;
    let (q_chunks, q_rest) = query.as_chunks::<LANES>();
    for (score, key) in scores.iter_mut().zip(keys.chunks_exact(query.len())) {
        let (k_chunks, k_rest) = key.as_chunks::<LANES>();
        let mut sums = [0.0f32; LANES];
        for (q, k) in q_chunks.iter().zip(k_chunks) {
            for lane in 0..LANES {
                sums[lane] = q[lane].mul_add(k[lane], sums[lane]);
            }
        }
        let mut total = (sums[0] + sums[4]) + (sums[2] + sums[6]);
        total += (sums[1] + sums[5]) + (sums[3] + sums[7]);
        for (q, k) in q_rest.iter().zip(k_rest) {
            total = q.mul_add(*k, total);
        }
        *score = total;
    }
}

#[multiversion(targets("x86_64+avx512f+avx512vl+avx512dq+avx2+fma", "x86_64+avx2+fma"))]
fn weighted_mean(out: &mut [f32], scores: &[f32], values: &[f32], scale: f32, shift: f32) {
    let hd = out.len();
    let mut total = 0.0;
    for o in &mut *out {
        *o = 0.0;
    }
    for (score, value) in scores.iter().zip(values.chunks_exact(hd)) {
        let weight = exp(score.mul_add(scale, -shift));
        total += weight;
        for (o, v) in out.iter_mut().zip(value) {
            *o = v.mul_add(weight, *o);
        }
    }
    for o in &mut *out {
        *o /= total;
    }
}
