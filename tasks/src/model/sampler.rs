//! From a row of logits to one token: greedy, or temperature, top-k, top-p and min-p in the order of transformers.
//!
//! Source: `transformers/generation/logits_process.py`. It draws no random numbers: the caller brings a uniform one.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::cpu::{log_sum_exp, row};

/// How a token is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Sampling {
    /// 0 takes the most likely token.
    pub temperature: f64,
    /// Keep the k most likely tokens; 0 keeps all.
    pub top_k: usize,
    /// Keep the smallest set of most likely tokens whose probability reaches this.
    pub top_p: f64,
    /// Keep tokens at least this likely relative to the most likely one.
    pub min_p: f64,
}

impl Default for Sampling {
    /// The model's own distribution.
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
        }
    }
}

impl Sampling {
    /// The most likely token, the lowest id on ties.
    pub const GREEDY: Self = Self {
        temperature: 0.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
    };
}

/// A token that was chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Choice {
    pub token: u32,
    /// `ln p` of it under the model itself: temperature 1, nothing cut.
    pub log_prob: f32,
}

/// Scratch of a sampler.
#[derive(Default)]
pub struct Sampler {
    weights: Vec<f32>,
    order: Vec<u32>,
}

impl Sampler {
    /// The token that `uniform` in [0, 1) picks.
    pub fn choose(&mut self, logits: &[f32], sampling: &Sampling, uniform: f64) -> u32 {
        if sampling.temperature <= 0.0 {
            return argmax(logits);
        }
        self.filter(logits, sampling);
        let total: f64 = self.weights.iter().map(|weight| f64::from(*weight)).sum();
        let mut left = uniform * total;
        let mut last = 0;
        for (token, weight) in self.weights.iter().enumerate() {
            if *weight > 0.0 {
                last = token;
                left -= f64::from(*weight);
                if left < 0.0 {
                    break;
                }
            }
        }
        last as u32
    }

    /// The same for every row of `logits [n, V]`, with its number of `uniform [n]`.
    pub fn choose_all(
        &mut self,
        logits: &[f32],
        sampling: &Sampling,
        uniform: &[f64],
    ) -> Vec<Choice> {
        let vocabulary = logits.len() / uniform.len().max(1);
        let rows = logits.chunks_exact(vocabulary.max(1));
        let choice = |(logits, uniform): (&[f32], &f64)| {
            let token = self.choose(logits, sampling, *uniform);
            let log_prob = f64::from(logits[token as usize]) - log_sum_exp(logits);
            Choice {
                token,
                log_prob: log_prob as f32,
            }
        };
        rows.zip(uniform).map(choice).collect()
    }

    /// The distribution that is drawn from.
    pub fn probabilities(&mut self, logits: &[f32], sampling: &Sampling) -> Vec<f64> {
        if sampling.temperature <= 0.0 {
            let mut all = vec![0.0; logits.len()];
            all[argmax(logits) as usize] = 1.0;
            return all;
        }
        self.filter(logits, sampling);
        let total: f64 = self.weights.iter().map(|weight| f64::from(*weight)).sum();
        (self.weights.iter())
            .map(|weight| f64::from(*weight) / total)
            .collect()
    }

    /// Leaves unnormalised probabilities in `weights`: 1 for the most likely token, 0 for what is cut.
    fn filter(&mut self, logits: &[f32], sampling: &Sampling) {
        let scale = (1.0 / sampling.temperature) as f32;
        self.weights.clear();
        self.weights.extend_from_slice(logits);
        row::exponentials(&mut self.weights, scale, row::maximum(logits) * scale);
        if sampling.top_k > 0 && sampling.top_k < logits.len() {
            self.cut_top_k(sampling.top_k);
        }
        if sampling.top_p < 1.0 {
            self.cut_top_p(sampling.top_p);
        }
        if sampling.min_p > 0.0 {
            let least = sampling.min_p as f32 * row::maximum(&self.weights);
            self.cut_below(least);
        }
    }

    fn cut_top_k(&mut self, k: usize) {
        self.sort();
        let least = self.weights[self.order[k - 1] as usize];
        self.cut_below(least);
    }

    fn cut_top_p(&mut self, p: f64) {
        self.sort();
        let total: f64 = self.weights.iter().map(|weight| f64::from(*weight)).sum();
        let mut mass = 0.0;
        let reached = self.order.iter().position(|token| {
            mass += f64::from(self.weights[*token as usize]);
            mass >= p * total
        });
        let kept = reached.map_or(self.order.len(), |at| at + 1);
        for token in &self.order[kept..] {
            self.weights[*token as usize] = 0.0;
        }
    }

    /// Tokens by falling probability, the lowest id first on ties.
    fn sort(&mut self) {
        self.order.clear();
        self.order.extend(0..self.weights.len() as u32);
        let weights = &self.weights;
        let weight = |token: &u32| weights[*token as usize];
        (self.order).sort_unstable_by(|a, b| weight(b).total_cmp(&weight(a)).then(a.cmp(b)));
    }

    fn cut_below(&mut self, least: f32) {
        for weight in &mut self.weights {
            if *weight < least {
                *weight = 0.0;
            }
        }
    }
}

/// The largest logit's token, the lowest on ties.
pub fn argmax(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (token, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = token;
        }
    }
    best as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_follow_the_distribution() {
        let logits = [0.0, 1.0, -1.0, 2.0];
        let sampling = Sampling::default();
        let mut sampler = Sampler::default();
        let expected = sampler.probabilities(&logits, &sampling);
        let n = 4000;
        let mut counts = [0.0; 4];
        for draw in 0..n {
            let token = sampler.choose(&logits, &sampling, (f64::from(draw) + 0.5) / f64::from(n));
            counts[token as usize] += 1.0 / f64::from(n);
        }
        for (count, expected) in counts.iter().zip(expected) {
            assert!((count - expected).abs() < 1e-3);
        }
    }

    #[test]
    fn ends_of_the_unit_interval_pick_possible_tokens() {
        let logits = [f32::NEG_INFINITY, 0.0, 0.0, f32::NEG_INFINITY];
        let mut sampler = Sampler::default();
        let sampling = Sampling::default();
        assert_eq!(sampler.choose(&logits, &sampling, 0.0), 1);
        assert_eq!(sampler.choose(&logits, &sampling, 1.0 - 1e-16), 2);
    }
}
