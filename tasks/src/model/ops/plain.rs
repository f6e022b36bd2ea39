//! The list as plainly as it can be written: one thread, one loop a sum, sums in f64. The specification of every
//! other backend, and far too slow for anything but tests.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use super::{AdamWStep, Heads, Matrix, Ops};
use crate::model::batch::{Batch, Row};
use crate::model::error::ModelError;
use crate::model::loss::{Distillation, Sums};
use crate::model::rope::RopeTable;
use crate::model::sampler::{Choice, Sampler, Sampling};

/// The reference backend.
#[derive(Clone)]
pub struct Plain;

/// Tokens with their sequences.
pub struct Places {
    tokens: Vec<u32>,
    positions: Vec<usize>,
    /// First row of the sequence of every token, in a batch or in a cache.
    starts: Vec<usize>,
    rope: Arc<RopeTable>,
}

impl Ops for Plain {
    type Buffer = Vec<f32>;
    type View<'a> = &'a [f32];
    type ViewMut<'a> = &'a mut [f32];
    type Weights = Vec<f32>;
    type Places = Places;
    type Indices = Vec<u32>;

    fn zeros(&self, len: usize) -> Vec<f32> {
        vec![0.0; len]
    }

    fn upload(&self, values: Vec<f32>) -> Vec<f32> {
        values
    }

    fn len(buffer: &Vec<f32>) -> usize {
        buffer.len()
    }

    fn view(buffer: &Vec<f32>, range: Range<usize>) -> &[f32] {
        &buffer[range]
    }

    fn view_mut(buffer: &mut Vec<f32>, range: Range<usize>) -> &mut [f32] {
        &mut buffer[range]
    }

    fn read<'a>(&self, view: Self::View<'a>) -> Cow<'a, [f32]> {
        view.into()
    }

    fn write(&self, view: &mut [f32], values: &[f32]) {
        view.copy_from_slice(values);
    }

    fn clear(&self, y: &mut [f32]) {
        y.fill(0.0);
    }

    fn copy(&self, y: &mut [f32], x: &[f32]) {
        y.copy_from_slice(x);
    }

    fn weights(&self, _: &[Matrix], values: Vec<f32>) -> Vec<f32> {
        values
    }

    fn values(weights: &Vec<f32>) -> &Vec<f32> {
        weights
    }

    fn indices(&self, values: &[u32]) -> Vec<u32> {
        values.to_vec()
    }

    fn places(&self, batch: &Batch, rope: &Arc<RopeTable>) -> Places {
        let starts = |rows: Range<usize>| std::iter::repeat_n(rows.start, rows.len());
        Places {
            tokens: batch.tokens.clone(),
            positions: batch.sequences().flat_map(|rows| 0..rows.len()).collect(),
            starts: batch.sequences().flat_map(starts).collect(),
            rope: Arc::clone(rope),
        }
    }

    fn places_in_cache(&self, rows: &[Row], capacity: usize, rope: &Arc<RopeTable>) -> Places {
        Places {
            tokens: rows.iter().map(|row| row.token).collect(),
            positions: rows.iter().map(|row| row.position).collect(),
            starts: rows.iter().map(|row| row.slot * capacity).collect(),
            rope: Arc::clone(rope),
        }
    }

    fn sync(&self) -> Result<(), ModelError> {
        Ok(())
    }

    fn embed(&self, x: &mut [f32], table: &[f32], places: &Places) {
        self.gather(x, table, &places.tokens);
    }

    fn embed_backward(&self, d_table: &mut [f32], dx: &[f32], places: &Places) {
        self.gather_backward(d_table, dx, &places.tokens);
    }

    fn gather(&self, y: &mut [f32], x: &[f32], rows: &Vec<u32>) {
        let d = y.len() / rows.len().max(1);
        for (i, row) in rows.iter().enumerate() {
            for c in 0..d {
                y[i * d + c] = x[*row as usize * d + c];
            }
        }
    }

    fn gather_backward(&self, dx: &mut [f32], dy: &[f32], rows: &Vec<u32>) {
        let d = dy.len() / rows.len().max(1);
        for (i, row) in rows.iter().enumerate() {
            for c in 0..d {
                dx[*row as usize * d + c] += dy[i * d + c];
            }
        }
    }

    fn rms_norm(&self, y: &mut [f32], scale: &mut [f32], x: &[f32], w: &[f32], eps: f32) {
        let d = w.len();
        for i in 0..scale.len() {
            let mean = sum(d, |c| square(x[i * d + c])) / d as f64;
            let s = 1.0 / (mean + f64::from(eps)).sqrt();
            scale[i] = s as f32;
            for c in 0..d {
                y[i * d + c] = (f64::from(x[i * d + c]) * s * f64::from(w[c])) as f32;
            }
        }
    }

    fn rms_norm_backward(
        &self,
        dx: &mut [f32],
        dw: &mut [f32],
        dy: &[f32],
        x: &[f32],
        w: &[f32],
        scale: &[f32],
    ) {
        let d = w.len();
        let normed = |i: usize, c: usize| f64::from(x[i * d + c]) * f64::from(scale[i]);
        let pulled = |i: usize, c: usize| f64::from(dy[i * d + c]) * f64::from(w[c]);
        for i in 0..scale.len() {
            let mean = sum(d, |c| pulled(i, c) * normed(i, c)) / d as f64;
            for c in 0..d {
                let slope = f64::from(scale[i]) * (pulled(i, c) - normed(i, c) * mean);
                dx[i * d + c] += slope as f32;
            }
        }
        for c in 0..d {
            let all = sum(scale.len(), |i| f64::from(dy[i * d + c]) * normed(i, c));
            dw[c] += all as f32;
        }
    }

    fn swiglu(&self, act: &mut [f32], gate_up: &[f32], f: usize) {
        for i in 0..act.len() / f {
            for c in 0..f {
                let (gate, up) = (gate_up[2 * i * f + c], gate_up[(2 * i + 1) * f + c]);
                act[i * f + c] = (silu(gate) * f64::from(up)) as f32;
            }
        }
    }

    fn swiglu_backward(&self, gate_up: &mut [f32], act: &mut [f32], d_act: &[f32], f: usize) {
        self.swiglu(act, gate_up, f);
        for i in 0..act.len() / f {
            for c in 0..f {
                let (g, u) = (2 * i * f + c, (2 * i + 1) * f + c);
                let (gate, up) = (f64::from(gate_up[g]), f64::from(gate_up[u]));
                let s = 1.0 / (1.0 + (-gate).exp());
                let d = f64::from(d_act[i * f + c]);
                gate_up[g] = (d * up * s * (1.0 + gate * (1.0 - s))) as f32;
                gate_up[u] = (d * gate * s) as f32;
            }
        }
    }

    fn linear(
        &self,
        y: &mut [f32],
        base: Option<&[f32]>,
        x: &[f32],
        weights: &Vec<f32>,
        matrix: &Matrix,
    ) {
        let w = &weights[matrix.range.clone()];
        let (inputs, outputs) = (matrix.inputs, matrix.outputs);
        for i in 0..y.len() / outputs {
            for j in 0..outputs {
                let all = sum(inputs, |k| product(x[i * inputs + k], w[j * inputs + k]));
                let at = i * outputs + j;
                y[at] = (base.map_or(0.0, |base| f64::from(base[at])) + all) as f32;
            }
        }
    }

    fn linear_dx(&self, dx: &mut [f32], dy: &[f32], weights: &Vec<f32>, matrix: &Matrix) {
        let w = &weights[matrix.range.clone()];
        let (inputs, outputs) = (matrix.inputs, matrix.outputs);
        for i in 0..dx.len() / inputs {
            for k in 0..inputs {
                let all = sum(outputs, |j| product(dy[i * outputs + j], w[j * inputs + k]));
                dx[i * inputs + k] = all as f32;
            }
        }
    }

    fn linear_dw(&self, dw: &mut [f32], dy: &[f32], x: &[f32], inputs: usize) {
        let (outputs, n) = (dw.len() / inputs, x.len() / inputs);
        for j in 0..outputs {
            for k in 0..inputs {
                let all = sum(n, |i| product(dy[i * outputs + j], x[i * inputs + k]));
                dw[j * inputs + k] += all as f32;
            }
        }
    }

    fn rope(&self, qkv: &mut [f32], heads: Heads, places: &Places) {
        turn(qkv, heads, places, 1.0);
    }

    fn rope_backward(&self, d_qkv: &mut [f32], heads: Heads, places: &Places) {
        turn(d_qkv, heads, places, -1.0);
    }

    fn attention(
        &self,
        out: &mut [f32],
        lse: &mut [f32],
        qkv: &[f32],
        heads: Heads,
        places: &Places,
    ) {
        let at = At { qkv, heads };
        let rows = out.chunks_exact_mut(heads.queries());
        for (i, (out, lse)) in rows.zip(lse.chunks_exact_mut(heads.heads)).enumerate() {
            at.attend(out, lse, i, places.starts[i]);
        }
    }

    fn attention_backward(
        &self,
        d_qkv: &mut [f32],
        d_out: &[f32],
        out: &[f32],
        lse: &[f32],
        qkv: &[f32],
        heads: Heads,
        places: &Places,
    ) {
        let at = At { qkv, heads };
        let (hd, width, scale) = (heads.head_dim, heads.width(), f64::from(heads.scale()));
        let mut total = vec![0.0f64; d_qkv.len()];
        for i in 0..places.tokens.len() {
            for h in 0..heads.heads {
                let column = i * heads.queries() + h * hd;
                let pull = |c: usize| f64::from(d_out[column + c]);
                let delta = sum(hd, |c| pull(c) * f64::from(out[column + c]));
                for j in places.starts[i]..=i {
                    let p = (at.score(i, j, h) - f64::from(lse[i * heads.heads + h])).exp();
                    let d_p = sum(hd, |c| pull(c) * at.value(j, h, c));
                    let d_score = p * (d_p - delta) * scale;
                    for c in 0..hd {
                        let (q, k, v) = (at.query(h), at.key(h), at.value_column(h));
                        total[i * width + q + c] += d_score * f64::from(qkv[j * width + k + c]);
                        total[j * width + k + c] += d_score * f64::from(qkv[i * width + q + c]);
                        total[j * width + v + c] += p * pull(c);
                    }
                }
            }
        }
        for (to, from) in d_qkv.iter_mut().zip(total) {
            *to = from as f32;
        }
    }

    fn append(&self, cache: &mut [f32], qkv: &[f32], heads: Heads, places: &Places) {
        for (i, row) in qkv.chunks_exact(heads.width()).enumerate() {
            let at = places.starts[i] + places.positions[i];
            let keys_and_values = &row[heads.queries()..];
            cache[at * heads.kept()..(at + 1) * heads.kept()].copy_from_slice(keys_and_values);
        }
    }

    fn attention_in_cache(
        &self,
        out: &mut [f32],
        qkv: &[f32],
        cache: &[f32],
        heads: Heads,
        places: &Places,
    ) {
        for (i, out) in out.chunks_exact_mut(heads.queries()).enumerate() {
            // The sequence as a batch would have it, but that all of its rows ask what the last does.
            let query = &qkv[i * heads.width()..][..heads.queries()];
            let rows = cache.chunks_exact(heads.kept()).skip(places.starts[i]);
            let rows = rows.take(places.positions[i] + 1);
            let qkv: Vec<f32> = rows.flat_map(|row| [query, row].concat()).collect();
            let mut lse = vec![0.0; heads.heads];
            At { qkv: &qkv, heads }.attend(out, &mut lse, places.positions[i], 0);
        }
    }

    fn cross_entropy(
        &self,
        logits: &mut [f32],
        targets: &[u32],
        weight: f64,
        z_loss: f64,
        gradient: bool,
    ) -> Sums {
        let mut sums = Sums::default();
        for (row, target) in rows_mut(logits, targets).zip(targets) {
            let target = *target as usize;
            let log_z = log_sum_exp(row, 1.0);
            sums.cross_entropy += log_z - f64::from(row[target]);
            sums.z += log_z * log_z;
            sums.correct += u64::from(row.iter().all(|logit| *logit <= row[target]));
            for (token, logit) in row.iter_mut().enumerate().filter(|_| gradient) {
                let p = (f64::from(*logit) - log_z).exp();
                let hit = if token == target { 1.0 } else { 0.0 };
                *logit = (weight * (p * (1.0 + 2.0 * z_loss * log_z) - hit)) as f32;
            }
        }
        sums
    }

    fn distillation(
        &self,
        logits: &mut [f32],
        teacher: &[f32],
        targets: &[u32],
        options: Distillation,
        weight: f64,
        gradient: bool,
    ) -> Sums {
        let Distillation {
            temperature,
            kd_weight,
            scale_by_squared_temperature,
        } = options;
        let cold = 1.0 / temperature;
        let squared = if scale_by_squared_temperature {
            temperature * temperature
        } else {
            1.0
        };
        let mut sums = self.cross_entropy(logits, targets, weight, 0.0, false);
        let vocabulary = logits.len() / targets.len().max(1);
        let rows = rows_mut(logits, targets).zip(teacher.chunks_exact(vocabulary.max(1)));
        for ((row, taught), target) in rows.zip(targets) {
            let (z, z_cold, z_taught) = (
                log_sum_exp(row, 1.0),
                log_sum_exp(row, cold),
                log_sum_exp(taught, cold),
            );
            for (token, (logit, taught)) in row.iter_mut().zip(taught).enumerate() {
                let log_t = cold * f64::from(*taught) - z_taught;
                let log_s = cold * f64::from(*logit) - z_cold;
                sums.divergence += log_t.exp() * (log_t - log_s);
                if gradient {
                    let hit = if token == *target as usize { 1.0 } else { 0.0 };
                    let of_kd = kd_weight * squared * cold * (log_s.exp() - log_t.exp());
                    let of_ce = (1.0 - kd_weight) * ((f64::from(*logit) - z).exp() - hit);
                    *logit = (weight * (of_kd + of_ce)) as f32;
                }
            }
        }
        sums
    }

    fn log_probabilities(&self, logits: &[f32], targets: &[u32]) -> Vec<f64> {
        let vocabulary = logits.len() / targets.len().max(1);
        (logits.chunks_exact(vocabulary.max(1)).zip(targets))
            .map(|(row, target)| f64::from(row[*target as usize]) - log_sum_exp(row, 1.0))
            .collect()
    }

    fn log_probability_gradient(&self, logits: &mut [f32], targets: &[u32], coefficients: &[f64]) {
        for ((row, target), coefficient) in rows_mut(logits, targets).zip(targets).zip(coefficients)
        {
            let log_z = log_sum_exp(row, 1.0);
            for (token, logit) in row.iter_mut().enumerate() {
                let hit = if token == *target as usize { 1.0 } else { 0.0 };
                *logit = (coefficient * (hit - (f64::from(*logit) - log_z).exp())) as f32;
            }
        }
    }

    fn sample(&self, logits: &[f32], sampling: &Sampling, uniform: &[f64]) -> Vec<Choice> {
        Sampler::default().choose_all(logits, sampling, uniform)
    }

    fn sum_of_squares(&self, x: &[f32]) -> f64 {
        sum(x.len(), |i| square(x[i]))
    }

    fn adamw(
        &self,
        weights: &mut Vec<f32>,
        m: &mut Vec<f32>,
        v: &mut Vec<f32>,
        g: &Vec<f32>,
        step: AdamWStep,
        decayed: &[Range<usize>],
    ) {
        for i in 0..weights.len() {
            let decays = decayed.iter().any(|range| range.contains(&i));
            let keep = if decays { step.keep } else { 1.0 };
            let g = step.clip * g[i];
            m[i] = step.beta1 * m[i] + step.rest1 * g;
            v[i] = step.beta2 * v[i] + step.rest2 * g * g;
            weights[i] =
                weights[i] * keep - step.rate * m[i] / (v[i].sqrt() * step.root + step.eps);
        }
    }
}

fn sum(n: usize, term: impl Fn(usize) -> f64) -> f64 {
    (0..n).map(term).sum()
}

fn product(a: f32, b: f32) -> f64 {
    f64::from(a) * f64::from(b)
}

fn square(x: f32) -> f64 {
    product(x, x)
}

fn silu(x: f32) -> f64 {
    f64::from(x) / (1.0 + (-f64::from(x)).exp())
}

fn rows_mut<'a>(logits: &'a mut [f32], targets: &[u32]) -> std::slice::ChunksExactMut<'a, f32> {
    let vocabulary = logits.len() / targets.len().max(1);
    logits.chunks_exact_mut(vocabulary.max(1))
}

/// `ln Σ e^(cold x)`
fn log_sum_exp(row: &[f32], cold: f64) -> f64 {
    let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let shift = cold * f64::from(largest);
    shift + sum(row.len(), |i| (cold * f64::from(row[i]) - shift).exp()).ln()
}

fn turn(qkv: &mut [f32], heads: Heads, places: &Places, direction: f32) {
    let (hd, half) = (heads.head_dim, heads.head_dim / 2);
    for i in 0..places.tokens.len() {
        let (cos, sin) = places.rope.at(places.positions[i]);
        for head in 0..heads.heads + heads.groups {
            let first = i * heads.width() + head * hd;
            for c in 0..half {
                let (a, b) = (qkv[first + c], qkv[first + half + c]);
                let sin = direction * sin[c];
                qkv[first + c] = a * cos[c] - b * sin;
                qkv[first + half + c] = b * cos[c] + a * sin;
            }
        }
    }
}

/// Rows of `qkv` by head.
struct At<'a> {
    qkv: &'a [f32],
    heads: Heads,
}

impl At<'_> {
    /// `out [H hd]` and `lse [H]` of row `i`, over the rows from `first` to its own.
    fn attend(&self, out: &mut [f32], lse: &mut [f32], i: usize, first: usize) {
        let hd = self.heads.head_dim;
        for (h, (out, lse)) in out.chunks_exact_mut(hd).zip(lse).enumerate() {
            let scores: Vec<f64> = (first..=i).map(|j| self.score(i, j, h)).collect();
            let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let total: f64 = scores.iter().map(|score| (score - largest).exp()).sum();
            let log_sum = largest + total.ln();
            *lse = log_sum as f32;
            for (c, out) in out.iter_mut().enumerate() {
                let weighted = (first..=i).zip(&scores);
                let all: f64 = weighted
                    .map(|(j, score)| (score - log_sum).exp() * self.value(j, h, c))
                    .sum();
                *out = all as f32;
            }
        }
    }

    fn group(&self, head: usize) -> usize {
        head / (self.heads.heads / self.heads.groups)
    }

    fn query(&self, head: usize) -> usize {
        head * self.heads.head_dim
    }

    fn key(&self, head: usize) -> usize {
        (self.heads.heads + self.group(head)) * self.heads.head_dim
    }

    fn value_column(&self, head: usize) -> usize {
        self.key(head) + self.heads.groups * self.heads.head_dim
    }

    fn value(&self, row: usize, head: usize, c: usize) -> f64 {
        f64::from(self.qkv[row * self.heads.width() + self.value_column(head) + c])
    }

    fn score(&self, row: usize, key_row: usize, head: usize) -> f64 {
        let (q, k) = (
            row * self.heads.width() + self.query(head),
            key_row * self.heads.width() + self.key(head),
        );
        let dot = sum(self.heads.head_dim, |c| {
            product(self.qkv[q + c], self.qkv[k + c])
        });
        dot * f64::from(self.heads.scale())
    }
}
