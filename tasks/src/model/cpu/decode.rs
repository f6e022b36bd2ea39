//! Decoding steps of several sequences at once, on a key/value cache.
//!
//! A step takes rows: a token at a position of a slot. Rows of one slot follow one another, so that a prompt goes in as
//! fast as a batch. Every number of a row is a sum in a fixed order over its own values and its own prefix: what shares
//! a step with it, and how many, changes no bit.

use super::isa::kernels;
use super::packed::Panels;
use super::product::{Into, Left, Right, multiply_in_pieces};
use super::row::exp;
use super::{norm, rotate, row, swiglu};
use crate::model::batch::Row;
use crate::model::config::Config;
use crate::model::decode::{Steps, Weights};
use crate::model::error::ModelError;
use crate::model::layout::Layout;
use crate::model::ops::Heads;
use crate::model::rope::RopeTable;
use crate::model::sampler::{Choice, Sampler, Sampling};

/// Weights in the order in which decoding reads them.
pub struct DecodeWeights<'a> {
    config: Config,
    layers: Vec<LayerWeights<'a>>,
    embedding: &'a [f32],
    norm: &'a [f32],
    head: Panels,
    rope: RopeTable,
}

struct LayerWeights<'a> {
    input_norm: &'a [f32],
    qkv: Panels,
    o: Panels,
    post_norm: &'a [f32],
    gate_up: Panels,
    down: Panels,
}

impl<'a> DecodeWeights<'a> {
    pub fn new(config: &Config, layout: &Layout, weights: &'a [f32]) -> Self {
        let d = config.hidden_size;
        let layers = (0..config.num_hidden_layers).map(|layer| {
            let ranges = layout.layer(layer);
            LayerWeights {
                input_norm: &weights[ranges.input_norm.clone()],
                qkv: Panels::of(&weights[ranges.qkv.clone()], d),
                o: Panels::of(&weights[ranges.o.clone()], config.query_width()),
                post_norm: &weights[ranges.post_norm.clone()],
                gate_up: Panels::of(&weights[ranges.gate_up.clone()], d),
                down: Panels::of(&weights[ranges.down.clone()], config.intermediate_size),
            }
        });
        let mut rope = RopeTable::new(config);
        rope.extend_to(config.max_position_embeddings);
        Self {
            config: config.clone(),
            layers: layers.collect(),
            embedding: &weights[layout.embedding()],
            norm: &weights[layout.norm()],
            head: Panels::of(&weights[layout.head()], d),
            rope,
        }
    }
}

impl Weights for DecodeWeights<'_> {
    fn slots(&self, count: usize, capacity: usize) -> Box<dyn Steps + '_> {
        Box::new(Slots::new(self, count, capacity))
    }
}

/// Caches of some sequences, and the buffers of a step.
struct Slots<'a> {
    weights: &'a DecodeWeights<'a>,
    count: usize,
    /// Positions that a slot holds.
    capacity: usize,
    /// `[layer][slot][group][capacity, hd]`
    keys: Vec<f32>,
    values: Vec<f32>,
    /// A row each; they grow with the largest step.
    x: Vec<f32>,
    normed: Vec<f32>,
    scale: Vec<f32>,
    qkv: Vec<f32>,
    attended: Vec<f32>,
    gate_up: Vec<f32>,
    act: Vec<f32>,
    scores: Vec<f32>,
    logits: Vec<f32>,
    sampler: Sampler,
}

impl<'a> Slots<'a> {
    fn new(weights: &'a DecodeWeights<'a>, count: usize, capacity: usize) -> Self {
        let (config, zeros) = (&weights.config, |len: usize| vec![0.0; len]);
        let cache = config.num_hidden_layers * count * config.key_width() * capacity;
        Self {
            weights,
            count,
            capacity,
            keys: zeros(cache),
            values: zeros(cache),
            x: Vec::new(),
            normed: Vec::new(),
            scale: Vec::new(),
            qkv: Vec::new(),
            attended: Vec::new(),
            gate_up: Vec::new(),
            act: Vec::new(),
            scores: zeros(capacity),
            logits: Vec::new(),
            sampler: Sampler::default(),
        }
    }
}

impl Steps for Slots<'_> {
    fn step(&mut self, rows: &[Row]) {
        let weights = self.weights;
        let config = &weights.config;
        let (n, eps) = (rows.len(), config.rms_norm_eps as f32);
        let (d, f, queries) = (
            config.hidden_size,
            config.intermediate_size,
            config.query_width(),
        );
        let width = queries + 2 * config.key_width();
        self.scale.resize(n, 0.0);
        for (buffer, width) in [
            (&mut self.x, d),
            (&mut self.normed, d),
            (&mut self.qkv, width),
            (&mut self.attended, queries),
            (&mut self.gate_up, 2 * f),
            (&mut self.act, f),
        ] {
            buffer.resize(n * width, 0.0);
        }
        for (x, row) in self.x.chunks_exact_mut(d).zip(rows) {
            x.copy_from_slice(&weights.embedding[row.token as usize * d..][..d]);
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
            self.attend(layer, rows);
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

    fn choose(
        &mut self,
        rows: &[usize],
        sampling: &Sampling,
        uniform: &[f64],
    ) -> Result<Vec<Choice>, ModelError> {
        self.speak(rows);
        Ok((self.sampler).choose_all(&self.logits, sampling, uniform))
    }
}

impl Slots<'_> {
    /// Logits `[n, V]` of some rows of the last step.
    fn speak(&mut self, rows: &[usize]) {
        let weights = self.weights;
        let (d, v) = (weights.config.hidden_size, weights.config.vocab_size);
        let eps = weights.config.rms_norm_eps as f32;
        let chosen: Vec<f32> = (rows.iter())
            .flat_map(|row| &self.x[row * d..(row + 1) * d])
            .copied()
            .collect();
        self.normed.resize(rows.len() * d, 0.0);
        self.scale.resize(rows.len(), 0.0);
        self.logits.resize(rows.len() * v, 0.0);
        norm::forward(
            &mut self.normed,
            &mut self.scale,
            &chosen,
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
    }

    fn attend(&mut self, layer: usize, rows: &[Row]) {
        let weights = self.weights;
        let config = &weights.config;
        let (hd, per_group) = (config.head_dim, config.heads_per_group());
        let (queries, keys) = (config.query_width(), config.key_width());
        let all = self.qkv.chunks_exact_mut(queries + 2 * keys);
        let all = all.zip(self.attended.chunks_exact_mut(queries)).zip(rows);
        for ((qkv, attended), Row { slot, position, .. }) in all {
            let (cos, sin) = weights.rope.at(*position);
            rotate::forward(&mut qkv[..queries + keys], cos, sin);
            for group in 0..config.num_key_value_heads {
                let block = (layer * self.count + slot) * config.num_key_value_heads + group;
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

/// `y [n, out] (+)= x [n, in] · Wᵀ`, from the panels of `W [out, in]`.
fn product(y: &mut [f32], x: &[f32], panels: &Panels, inputs: usize, outputs: usize, into: Into) {
    multiply_in_pieces(
        y,
        outputs,
        into,
        Left::new(x, inputs),
        Right::Panels(panels),
        inputs,
    );
}

/// The queries `[H hd]` of one row against what a cache holds of its sequence, rows of `[2G hd]`.
pub fn attend(out: &mut [f32], queries: &[f32], cache: &[f32], heads: Heads) {
    let hd = heads.head_dim;
    let mut scores = vec![0.0; cache.len() / heads.kept()];
    let columns = |first: usize| -> Vec<f32> {
        let rows = cache.chunks_exact(heads.kept());
        rows.flat_map(|row| &row[first..first + hd])
            .copied()
            .collect()
    };
    for group in 0..heads.groups {
        let (keys, values) = (columns(group * hd), columns((heads.groups + group) * hd));
        let own = heads.queries_of(group);
        let all = out[own.clone()].chunks_exact_mut(hd);
        for (out, query) in all.zip(queries[own].chunks_exact(hd)) {
            attend_row(out, &mut scores, query, &keys, &values, heads.scale());
        }
    }
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

kernels! {
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
}

kernels! {
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
}
