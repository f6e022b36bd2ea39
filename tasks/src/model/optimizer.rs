//! AdamW with clipping by global norm: constants of an update, and the state of a run. The arithmetic is the
//! backend's (`ops`).
//!
//! Source: `torch.optim.AdamW` and `clip_grad_norm_` of torch 2.x; independent decay after Loshchilov and Hutter 2019
//! in the form that Wortsman et al. 2024 use. It knows no schedule: the learning rate is an argument.

use std::borrow::Cow;
use std::ops::Range;
use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::error::ModelError;
use super::layout::Layout;
use super::ops::AdamWStep;
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

impl AdamWOptions {
    /// The constants of update `step` (from 1) of a gradient with this norm.
    pub(super) fn at(&self, step: u64, rate: Rate, norm: f64) -> AdamWStep {
        let exponent = step as f64;
        let decay = match self.decay {
            Decay::Coupled => rate.now * self.weight_decay,
            Decay::Independent if rate.peak == 0.0 => 0.0,
            Decay::Independent => rate.now / rate.peak * self.weight_decay,
        };
        AdamWStep {
            clip: (self.max_grad_norm / (norm + 1e-6)).min(1.0) as f32,
            keep: (1.0 - decay) as f32,
            beta1: self.beta1 as f32,
            rest1: (1.0 - self.beta1) as f32,
            beta2: self.beta2 as f32,
            rest2: (1.0 - self.beta2) as f32,
            rate: (rate.now / (1.0 - self.beta1.powf(exponent))) as f32,
            root: (1.0 / (1.0 - self.beta2.powf(exponent)).sqrt()) as f32,
            eps: self.eps as f32,
        }
    }

    /// What decays of an arena, ascending: matrices, and the embedding if it is to.
    pub(super) fn decayed(&self, layout: &Layout) -> Vec<Range<usize>> {
        let embedding = layout.embedding();
        (layout.tensors().iter())
            .filter(|tensor| tensor.decays())
            .map(|tensor| tensor.range.clone())
            .filter(|range| self.decay_embeddings || *range != embedding)
            .collect()
    }
}

/// Moments and step count, away from any device.
#[derive(Debug, Clone, PartialEq)]
pub struct AdamW {
    pub(super) options: AdamWOptions,
    /// Updates done.
    pub(super) step: u64,
    pub(super) first: Vec<f32>,
    pub(super) second: Vec<f32>,
}

/// Moments and step count where they are, to be written.
pub struct Moments<'a> {
    /// Updates done.
    pub(super) step: u64,
    pub(super) first: Cow<'a, [f32]>,
    pub(super) second: Cow<'a, [f32]>,
}

impl Moments<'_> {
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

    /// Reads what [`Moments::save`] wrote for the same model.
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
