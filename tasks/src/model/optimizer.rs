//! AdamW over a flat arena, in place, with clipping by global norm.
//!
//! Source: `torch.optim.AdamW` and `clip_grad_norm_` of torch 2.x; independent decay after Loshchilov and Hutter 2019
//! in the form that Wortsman et al. 2024 use. It knows no schedule: the learning rate is an argument.

use std::path::Path;

use rayon::ThreadPool;
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::cpu::{REDUCTION_CHUNK, ordered_sum, row};
use super::error::ModelError;
use super::layout::Layout;
use super::weights::{F32View, convert, map, parse, write_safetensors};

/// How weights decay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Decay {
    /// torch: `p ← p − lr · λ · p`
    Coupled,
    /// `p ← p − (lr / peak lr) · λ · p`: the strength does not change with the peak learning rate.
    Independent,
}

/// Constants of one run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWOptions {
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    pub weight_decay: f64,
    pub decay: Decay,
    /// The embedding matrix decays like other matrices.
    pub decay_embeddings: bool,
    /// Largest norm of the whole gradient; infinite for none.
    pub max_grad_norm: f64,
}

impl Default for AdamWOptions {
    /// torch's constants, no decay, clip at 1.
    fn default() -> Self {
        Self {
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.0,
            decay: Decay::Coupled,
            decay_embeddings: true,
            max_grad_norm: 1.0,
        }
    }
}

/// Moments and step count.
#[derive(Debug, Clone, PartialEq)]
pub struct AdamW {
    options: AdamWOptions,
    /// Updates done.
    step: u64,
    first: Vec<f32>,
    second: Vec<f32>,
}

/// Learning rate of one update, and the peak of its schedule (for independent decay).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    pub now: f64,
    pub peak: f64,
}

impl AdamW {
    pub fn new(layout: &Layout, options: AdamWOptions) -> Self {
        Self {
            options,
            step: 0,
            first: vec![0.0; layout.len()],
            second: vec![0.0; layout.len()],
        }
    }

    /// Updates done so far.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// Clips the gradient and updates the weights; the norm before clipping.
    ///
    /// A norm that is not finite changes nothing: the caller sees it and decides.
    pub fn update(
        &mut self,
        pool: &ThreadPool,
        layout: &Layout,
        weights: &mut [f32],
        grads: &[f32],
        rate: Rate,
    ) -> f64 {
        pool.install(|| {
            let norm = global_norm(grads);
            if norm.is_finite() {
                self.apply(layout, weights, grads, rate, norm);
            }
            norm
        })
    }

    fn apply(
        &mut self,
        layout: &Layout,
        weights: &mut [f32],
        grads: &[f32],
        rate: Rate,
        norm: f64,
    ) {
        self.step += 1;
        let options = self.options;
        let exponent = self.step as f64;
        let decay = match options.decay {
            Decay::Coupled => rate.now * options.weight_decay,
            Decay::Independent if rate.peak == 0.0 => 0.0,
            Decay::Independent => rate.now / rate.peak * options.weight_decay,
        };
        let update = Update {
            clip: (options.max_grad_norm / (norm + 1e-6)).min(1.0) as f32,
            keep: (1.0 - decay) as f32,
            beta1: options.beta1 as f32,
            rest1: (1.0 - options.beta1) as f32,
            beta2: options.beta2 as f32,
            rest2: (1.0 - options.beta2) as f32,
            rate: (rate.now / (1.0 - options.beta1.powf(exponent))) as f32,
            root: (1.0 / (1.0 - options.beta2.powf(exponent)).sqrt()) as f32,
            eps: options.eps as f32,
        };
        for tensor in layout.tensors() {
            let embedding = tensor.range == layout.embedding();
            let decays = tensor.decays() && (options.decay_embeddings || !embedding);
            let update = if decays {
                update
            } else {
                Update {
                    keep: 1.0,
                    ..update
                }
            };
            let range = tensor.range.clone();
            (
                weights[range.clone()].par_chunks_mut(REDUCTION_CHUNK),
                self.first[range.clone()].par_chunks_mut(REDUCTION_CHUNK),
                self.second[range.clone()].par_chunks_mut(REDUCTION_CHUNK),
                grads[range].par_chunks(REDUCTION_CHUNK),
            )
                .into_par_iter()
                .for_each(|(w, m, v, g)| update_row(w, m, v, g, update));
        }
    }

    /// Writes moments and step as safetensors (`m`, `v`, `step`).
    pub fn save(&self, path: &Path) -> Result<(), ModelError> {
        let n = [self.first.len()];
        // A step count as two halves: each is exact in f32.
        let step = [(self.step >> 20) as f32, (self.step & 0xF_FFFF) as f32];
        let views = [
            ("m", F32View::new(&n, &self.first)),
            ("step", F32View::new(&[2], &step)),
            ("v", F32View::new(&n, &self.second)),
        ];
        write_safetensors(path, views.into_iter())
    }

    /// Reads what [`AdamW::save`] wrote for the same model.
    pub fn load(path: &Path, layout: &Layout, options: AdamWOptions) -> Result<Self, ModelError> {
        let bytes = map(path)?;
        let file = parse(path, &bytes)?;
        let read = |name: &str, len: usize| {
            let wrong = |message: String| {
                ModelError::file(
                    path,
                    message,
                    "the state belongs to another model; start over",
                )
            };
            let view = file
                .tensor(name)
                .map_err(|error| wrong(format!("`{name}`: {error}")))?;
            if view.shape() != [len] {
                return Err(wrong(format!(
                    "`{name}` has shape {:?}, expected [{len}]",
                    view.shape()
                )));
            }
            let mut values = vec![0.0; len];
            convert(view.dtype(), view.data(), &mut values).map_err(wrong)?;
            Ok(values)
        };
        let step = read("step", 2)?;
        Ok(Self {
            options,
            step: (step[0] as u64) << 20 | step[1] as u64,
            first: read("m", layout.len())?,
            second: read("v", layout.len())?,
        })
    }
}

/// L2 norm of a whole gradient, summed in f64 in fixed chunks.
pub fn global_norm(grads: &[f32]) -> f64 {
    ordered_sum(grads, row::sum_of_squares).sqrt()
}

#[derive(Clone, Copy)]
struct Update {
    clip: f32,
    keep: f32,
    beta1: f32,
    rest1: f32,
    beta2: f32,
    rest2: f32,
    rate: f32,
    root: f32,
    eps: f32,
}

#[multiversion::multiversion(targets(
    "x86_64+avx512f+avx512vl+avx512dq+avx2+fma",
    "x86_64+avx2+fma"
))]
fn update_row(w: &mut [f32], m: &mut [f32], v: &mut [f32], g: &[f32], update: Update) {
    let n = w.len();
    let (m, v, g) = (&mut m[..n], &mut v[..n], &g[..n]);
    for i in 0..n {
        let g = g[i] * update.clip;
        let first = update.beta1 * m[i] + update.rest1 * g;
        let second = update.beta2 * v[i] + update.rest2 * g * g;
        m[i] = first;
        v[i] = second;
        w[i] =
            w[i] * update.keep - update.rate * first / (second.sqrt() * update.root + update.eps);
    }
}
