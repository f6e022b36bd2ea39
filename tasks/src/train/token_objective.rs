//! Training on tokens: cross entropy, or a teacher, averaged over the loss tokens of the whole step.
//!
//! Shared by `pretrain`, `distill` and `sft`, which differ in where rows come from and in the loss. N, the number of
//! loss tokens, is counted over all micro-batches before the first gradient (recipe 0).

use kbuild_engine::runner::Failure;

use super::steps::{Objective, StepReport};
use super::token_batch::TokenBatch;
use crate::model::Core;
use crate::model::loss::{Distillation, Sums};

/// Where the micro-batches of each step come from.
pub trait StepSource {
    fn steps(&self) -> u64;

    /// Tokens of the steps before `step`.
    fn tokens_before(&self, step: u64) -> u64;

    /// The micro-batches of a step: a pure function of the step.
    fn step(&mut self, step: u64) -> Result<Vec<TokenBatch>, Failure>;
}

/// What is minimised.
pub enum TokenLoss {
    /// Cross entropy with `z_loss · (ln Z)²`.
    CrossEntropy { z_loss: f64 },
    /// Forward KL to a teacher, mixed with cross entropy.
    Teacher(Box<Teacher>),
}

/// A model that is imitated; it never changes.
pub struct Teacher {
    pub core: Core,
    pub options: Distillation,
}

/// Rows from a source under a loss.
pub struct TokenObjective<S> {
    pub source: S,
    pub loss: TokenLoss,
}

impl<S: StepSource> Objective for TokenObjective<S> {
    fn steps(&self) -> u64 {
        self.source.steps()
    }

    fn tokens_before(&self, step: u64) -> u64 {
        self.source.tokens_before(step)
    }

    fn step(&mut self, step: u64, core: &mut Core) -> Result<StepReport, Failure> {
        let batches = self.source.step(step)?;
        let counted: usize = batches.iter().map(TokenBatch::n_targets).sum();
        let mut sums = Sums::default();
        for batch in batches.iter().filter(|batch| batch.n_targets() > 0) {
            core.forward(&batch.batch)?;
            let weight = 1.0 / counted as f64;
            sums += self.loss.head(core, batch, weight, true)?;
            core.backward()?;
        }
        Ok(self.loss.report(&sums, counted))
    }
}

impl TokenLoss {
    /// The sums of a micro-batch that was run forward; with `gradient`, `weight` times the gradient goes on its way.
    pub fn head(
        &mut self,
        core: &mut Core,
        batch: &TokenBatch,
        weight: f64,
        gradient: bool,
    ) -> Result<Sums, Failure> {
        let mut sums = Sums::default();
        match self {
            Self::CrossEntropy { z_loss } => {
                let z_loss = *z_loss;
                core.lm_head(&batch.rows, gradient, &mut |rows, logits| {
                    let targets = &batch.targets[rows];
                    sums += logits.cross_entropy(targets, weight, z_loss, gradient);
                })?;
            }
            Self::Teacher(teacher) => {
                let Teacher {
                    core: taught,
                    options,
                } = &mut **teacher;
                taught.forward_only(&batch.batch, None)?;
                let mut failed = Ok(());
                core.lm_head(&batch.rows, gradient, &mut |rows, logits| {
                    let mut wisdom = None;
                    let seen =
                        taught.lm_head(&batch.rows[rows.clone()], false, &mut |_, logits| {
                            wisdom = Some(logits.keep());
                        });
                    let targets = &batch.targets[rows];
                    match (seen, wisdom) {
                        (Ok(()), Some(wisdom)) => {
                            sums +=
                                logits.distillation(&wisdom, targets, *options, weight, gradient);
                        }
                        (seen, _) => failed = seen,
                    }
                })?;
                failed?;
            }
        }
        Ok(sums)
    }

    /// Means over `counted` loss tokens.
    pub fn report(&self, sums: &Sums, counted: usize) -> StepReport {
        let mean = |sum: f64| {
            if counted == 0 {
                0.0
            } else {
                sum / counted as f64
            }
        };
        let mut report = StepReport {
            counted: counted as u64,
            ..StepReport::default()
        };
        let cross_entropy = mean(sums.cross_entropy);
        report.extra.insert("accuracy", mean(sums.correct as f64));
        match self {
            Self::CrossEntropy { z_loss } => {
                report.loss = cross_entropy + z_loss * mean(sums.z);
                if *z_loss > 0.0 {
                    report.extra.insert("cross_entropy", cross_entropy);
                }
            }
            Self::Teacher(teacher) => {
                let Distillation {
                    temperature,
                    kd_weight,
                    scale_by_squared_temperature,
                } = teacher.options;
                let divergence = mean(sums.divergence);
                let scale = if scale_by_squared_temperature {
                    temperature * temperature
                } else {
                    1.0
                };
                report.loss = kd_weight * scale * divergence + (1.0 - kd_weight) * cross_entropy;
                report.extra.insert("cross_entropy", cross_entropy);
                report.extra.insert("divergence", divergence);
            }
        }
        report
    }
}
