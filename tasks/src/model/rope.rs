//! Rotary position embedding: frequencies, and cosines and sines by position.
//!
//! Source: Su et al. 2021 in the rotate-half layout of transformers; `_compute_llama3_parameters` of
//! transformers' `modeling_rope_utils.py`. Angles are taken in f64: an f32 angle near 1e5 is off by 1e-2.

use std::f64::consts::TAU;

use super::config::{Config, Llama3Scaling};

/// `head_dim / 2` inverse frequencies; channel `j` turns with channel `j + head_dim / 2`.
pub fn inverse_frequencies(
    head_dim: usize,
    theta: f64,
    scaling: Option<&Llama3Scaling>,
) -> Vec<f64> {
    (0..head_dim / 2)
        .map(|pair| theta.powf(-2.0 * pair as f64 / head_dim as f64))
        .map(|frequency| scaling.map_or(frequency, |scaling| scaled(frequency, scaling)))
        .collect()
}

fn scaled(frequency: f64, scaling: &Llama3Scaling) -> f64 {
    let original = scaling.original_max_position_embeddings as f64;
    let wavelength = TAU / frequency;
    if wavelength < original / scaling.high_freq_factor {
        return frequency;
    }
    if wavelength > original / scaling.low_freq_factor {
        return frequency / scaling.factor;
    }
    let smooth = (original / wavelength - scaling.low_freq_factor)
        / (scaling.high_freq_factor - scaling.low_freq_factor);
    (1.0 - smooth) * frequency / scaling.factor + smooth * frequency
}

/// Cosines and sines of every position so far asked for.
#[derive(Debug, Clone)]
pub struct RopeTable {
    frequencies: Vec<f64>,
    /// `[positions, head_dim / 2]`
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl RopeTable {
    pub fn new(config: &Config) -> Self {
        Self {
            frequencies: inverse_frequencies(
                config.head_dim,
                config.rope_theta,
                config.rope_scaling.as_ref(),
            ),
            cos: Vec::new(),
            sin: Vec::new(),
        }
    }

    /// Makes sure that positions `0..positions` are there.
    pub fn extend_to(&mut self, positions: usize) {
        let half = self.frequencies.len();
        for position in self.cos.len() / half..positions {
            for frequency in &self.frequencies {
                let (sin, cos) = (position as f64 * frequency).sin_cos();
                self.cos.push(cos as f32);
                self.sin.push(sin as f32);
            }
        }
    }

    /// `(cos, sin)` of the first positions, as far as they are there, each `[positions, head_dim / 2]`.
    pub fn tables(&self, positions: usize) -> (&[f32], &[f32]) {
        let range = ..(positions * self.frequencies.len()).min(self.cos.len());
        (&self.cos[range], &self.sin[range])
    }

    /// `(cos, sin)` of a position, each `[head_dim / 2]`.
    pub fn at(&self, position: usize) -> (&[f32], &[f32]) {
        let half = self.frequencies.len();
        let range = position * half..(position + 1) * half;
        (&self.cos[range.clone()], &self.sin[range])
    }
}
