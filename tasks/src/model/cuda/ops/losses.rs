//! What is made of logits: losses with their gradients in place, and tokens.

use super::{Cuda, LOSS_THREADS, Span, THREADS, width};
use crate::model::cuda::blas::Element;
use crate::model::cuda::driver::{Address, Argument};
use crate::model::cuda::kernels;
use crate::model::loss::Sums;
use crate::model::sampler::{Choice, Sampling};

impl Cuda {
    /// Losses of rows: sums over all of them.
    pub(super) fn sums(&self, stats: Address, rows: usize) -> Sums {
        let totals = self.gpu.scratch("totals", 4 * size_of::<f64>());
        let arguments = [totals.into(), stats.into(), (rows as u32).into()];
        self.gpu
            .launch(&kernels::ADD_STATS, (1, 1), THREADS, 0, &arguments);
        let totals = self.gpu.read::<f64>(totals, 4);
        Sums {
            cross_entropy: totals[0],
            z: totals[1],
            divergence: totals[2],
            correct: totals[3] as u64,
        }
    }

    /// Cross entropy of every row, into scratch memory `[n, 4]`.
    pub(super) fn cross_entropy_rows(
        &self,
        logits: Span,
        targets: &[u32],
        weights: Address,
        weight: f64,
        z_loss: f64,
        gradient: bool,
    ) -> Address {
        let rows = targets.len();
        let stats = self.gpu.scratch("stats", rows * 4 * size_of::<f32>());
        let targets = self.gpu.hand_over("targets", targets);
        let arguments = [
            logits.address.into(),
            stats.into(),
            targets.into(),
            weights.into(),
            (weight as f32).into(),
            (z_loss as f32).into(),
            u32::from(gradient).into(),
            width(logits.len, rows).into(),
        ];
        let kernel = kernels::CROSS_ENTROPY.of(logits.element);
        self.gpu
            .launch(kernel, (rows, 1), LOSS_THREADS, 0, &arguments);
        stats
    }

    /// A token for every row of `logits [n, V]`.
    pub(super) fn choose(&self, logits: Span, sampling: &Sampling, uniform: &[f64]) -> Vec<Choice> {
        assert_eq!(
            logits.element,
            Element::F32,
            "logits that are sampled are f32"
        );
        let rows = uniform.len();
        let tokens = self.gpu.scratch("tokens", rows * 4);
        let log_probs = self.gpu.scratch("log-probabilities", rows * 4);
        let weights = self.gpu.scratch("weights", logits.len * 4);
        let uniform = self.gpu.hand_over("uniform", uniform);
        let arguments = [
            tokens.into(),
            log_probs.into(),
            weights.into(),
            logits.address.into(),
            uniform.into(),
            width(logits.len, rows).into(),
            Argument::members([
                (sampling.temperature as f32).to_bits(),
                (sampling.top_p as f32).to_bits(),
                (sampling.min_p as f32).to_bits(),
                sampling.top_k as u32,
            ]),
        ];
        self.by_rows(&kernels::SAMPLE, rows, &arguments);
        let tokens = self.gpu.read::<u32>(tokens, rows).into_iter();
        let chosen = tokens.zip(self.gpu.read::<f32>(log_probs, rows));
        chosen
            .map(|(token, log_prob)| Choice { token, log_prob })
            .collect()
    }
}
