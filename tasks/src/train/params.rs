//! The params that every training kind has: learning rate, schedule, optimiser, micro-batches.
//!
//! `training_params!` adds them to a kind's own params with the defaults of that kind, so that each kind's reference
//! shows them all; [`Training`] is the same as one value.

use kbuild_engine::kind::Complaint;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use crate::model::Numerics;
use crate::model::schedule::Ramp;
use crate::model::{AdamWOptions, Decay, Schedule};

/// Shape of the learning rate over a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleName {
    /// Flat after the warm-up.
    Constant,
    /// Straight down to 0.
    Linear,
    /// Half a cosine period down to `min_ratio`.
    Cosine,
    /// 1/√step after the warm-up.
    InverseSqrt,
    /// Warm-up, stable, decay over the share `decay` to `min_ratio`.
    Wsd,
    /// nanochat: warm-up from 1/w, flat, straight down over the share `decay` to `min_ratio`.
    Trapezoid,
    /// DeepSeek: √0.1 from 80 % of the run, 0.1 from 90 %.
    MultiStep,
}

/// The common params as one value.
#[derive(Debug, Clone, PartialEq)]
pub struct Training {
    pub lr: Option<f64>,
    pub schedule: ScheduleName,
    pub warmup: f64,
    pub decay: f64,
    pub decay_shape: Ramp,
    pub min_ratio: f64,
    pub betas: [f64; 2],
    pub eps: f64,
    pub weight_decay: f64,
    pub weight_decay_kind: Decay,
    pub decay_embeddings: bool,
    pub clip_norm: f64,
    pub micro_batch_tokens: usize,
    pub numerics: Numerics,
    pub seed: u64,
}

impl Default for Training {
    /// Post-training: torch's AdamW without decay, linear to 0.
    fn default() -> Self {
        Self {
            lr: None,
            schedule: ScheduleName::Linear,
            warmup: 0.03,
            decay: 0.2,
            decay_shape: Ramp::Linear,
            min_ratio: 0.0,
            betas: [0.9, 0.999],
            eps: 1e-8,
            weight_decay: 0.0,
            weight_decay_kind: Decay::Coupled,
            decay_embeddings: true,
            clip_norm: 1.0,
            micro_batch_tokens: 8192,
            numerics: Numerics::F32,
            seed: 0,
        }
    }
}

macro_rules! training_params {
    (
        $(#[$meta:meta])*
        pub struct $name:ident {
            $($(#[$field_meta:meta])* pub $field:ident: $type:ty = $default:expr),* $(,)?
        }
        training: $training:expr
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
        #[serde(default, deny_unknown_fields)]
        pub struct $name {
            $($(#[$field_meta])* pub $field: $type,)*
            /// Peak learning rate. Required where it has no default.
            pub lr: Option<f64>,
            /// Shape of the learning rate over the run.
            pub schedule: $crate::train::params::ScheduleName,
            /// Warm-up: below 1 a share of all steps, from 1 upwards a number of steps.
            pub warmup: f64,
            /// Share of all steps that `wsd` and `trapezoid` decay over.
            pub decay: f64,
            /// Shape of the decay of `wsd`.
            pub decay_shape: $crate::model::schedule::Ramp,
            /// Learning rate at the end, as a share of the peak (`cosine`, `wsd`, `trapezoid`).
            pub min_ratio: f64,
            /// Decay rates of the moments of AdamW.
            pub betas: [f64; 2],
            /// Added to the root of the second moment.
            pub eps: f64,
            /// Strength of weight decay; norm weights never decay.
            pub weight_decay: f64,
            /// `coupled`: times the learning rate (torch). `independent`: times its share of the peak.
            pub weight_decay_kind: $crate::model::Decay,
            /// Whether embeddings decay.
            pub decay_embeddings: bool,
            /// Largest norm of a step's gradient; 0 for none.
            pub clip_norm: f64,
            /// Tokens that go through the model at once; changes rounding, nothing else.
            pub micro_batch_tokens: usize,
            /// Number format of the arithmetic.
            pub numerics: $crate::train::params::Numerics,
            /// Decides data order and fresh weights.
            pub seed: u64,
        }

        impl Default for $name {
            fn default() -> Self {
                let training: $crate::train::params::Training = $training;
                Self {
                    $($field: $default,)*
                    lr: training.lr,
                    schedule: training.schedule,
                    warmup: training.warmup,
                    decay: training.decay,
                    decay_shape: training.decay_shape,
                    min_ratio: training.min_ratio,
                    betas: training.betas,
                    eps: training.eps,
                    weight_decay: training.weight_decay,
                    weight_decay_kind: training.weight_decay_kind,
                    decay_embeddings: training.decay_embeddings,
                    clip_norm: training.clip_norm,
                    micro_batch_tokens: training.micro_batch_tokens,
                    numerics: training.numerics,
                    seed: training.seed,
                }
            }
        }

        impl $name {
            /// The params that every training kind has.
            pub fn training(&self) -> $crate::train::params::Training {
                $crate::train::params::Training {
                    lr: self.lr,
                    schedule: self.schedule,
                    warmup: self.warmup,
                    decay: self.decay,
                    decay_shape: self.decay_shape,
                    min_ratio: self.min_ratio,
                    betas: self.betas,
                    eps: self.eps,
                    weight_decay: self.weight_decay,
                    weight_decay_kind: self.weight_decay_kind,
                    decay_embeddings: self.decay_embeddings,
                    clip_norm: self.clip_norm,
                    micro_batch_tokens: self.micro_batch_tokens,
                    numerics: self.numerics,
                    seed: self.seed,
                }
            }
        }
    };
}
pub(crate) use training_params;

impl Training {
    /// What is wrong with the params.
    pub fn complaints(&self) -> Vec<Complaint> {
        let mut complaints = Vec::new();
        let mut refuse = |wrong: bool, name: &str, message: String, help: &str| {
            if wrong {
                complaints.push(Complaint::new(&format!("params.{name}"), message, help));
            }
        };
        let unit = |x: f64| (0.0..=1.0).contains(&x);
        let lr = self.lr.unwrap_or(f64::NAN);
        refuse(
            !(lr.is_finite() && lr >= 0.0),
            "lr",
            "`lr` is required and is a number from 0 upwards".to_owned(),
            "3e-3 suits up to 10 M parameters, 6e-4 about 100 M; post-training takes a tenth and less",
        );
        refuse(
            !(self.warmup.is_finite() && self.warmup >= 0.0),
            "warmup",
            format!("`warmup` is {}", self.warmup),
            "below 1 it is a share of all steps, from 1 upwards a number of steps",
        );
        refuse(
            !unit(self.decay),
            "decay",
            format!(
                "`decay` is {}, expected a share between 0 and 1",
                self.decay
            ),
            "0.2 decays over the last fifth",
        );
        refuse(
            !unit(self.min_ratio),
            "min_ratio",
            format!(
                "`min_ratio` is {}, expected a share between 0 and 1",
                self.min_ratio
            ),
            "0.1 ends at a tenth of the peak",
        );
        let ends_elsewhere = matches!(
            self.schedule,
            ScheduleName::Constant
                | ScheduleName::Linear
                | ScheduleName::InverseSqrt
                | ScheduleName::MultiStep
        );
        refuse(
            ends_elsewhere && self.min_ratio != 0.0,
            "min_ratio",
            format!("`{}` has no `min_ratio`", word(&self.schedule)),
            "use `cosine`, `wsd` or `trapezoid`",
        );
        let betas_fit = self.betas.iter().all(|beta| (0.0..1.0).contains(beta));
        refuse(
            !betas_fit,
            "betas",
            format!(
                "`betas` are {:?}, expected numbers from 0 to below 1",
                self.betas
            ),
            "pre-training uses [0.9, 0.95], post-training [0.9, 0.999]",
        );
        refuse(
            !(self.eps.is_finite() && self.eps > 0.0),
            "eps",
            format!("`eps` is {}, expected a positive number", self.eps),
            "1e-8 is usual",
        );
        refuse(
            !(self.weight_decay.is_finite() && self.weight_decay >= 0.0),
            "weight_decay",
            format!("`weight_decay` is {}", self.weight_decay),
            "use 0 for none",
        );
        refuse(
            !(self.clip_norm.is_finite() && self.clip_norm >= 0.0),
            "clip_norm",
            format!("`clip_norm` is {}", self.clip_norm),
            "use 0 for no clipping",
        );
        refuse(
            self.micro_batch_tokens == 0,
            "micro_batch_tokens",
            "`micro_batch_tokens` is 0".to_owned(),
            "8192 is the default",
        );
        complaints
    }

    /// Peak learning rate; checked by [`Training::complaints`].
    pub fn peak(&self) -> f64 {
        self.lr.unwrap_or(0.0)
    }

    /// The schedule of a run of `total` steps.
    pub fn schedule(&self, total: u64) -> Schedule {
        let warmup = self.warmup_steps(total);
        let min_ratio = self.min_ratio;
        match self.schedule {
            ScheduleName::Constant => Schedule::Constant { warmup },
            ScheduleName::Linear => Schedule::Linear { warmup, total },
            ScheduleName::Cosine => Schedule::Cosine {
                warmup,
                total,
                min_ratio,
            },
            ScheduleName::InverseSqrt => Schedule::InverseSqrt { warmup },
            ScheduleName::Wsd => {
                let room = total.saturating_sub(warmup);
                let decay = ((self.decay * total as f64).round() as u64).min(room);
                Schedule::Wsd {
                    warmup,
                    stable: room - decay,
                    decay,
                    min_ratio,
                    warmup_ramp: Ramp::Linear,
                    decay_ramp: self.decay_shape,
                }
            }
            ScheduleName::Trapezoid => Schedule::Trapezoid {
                warmup,
                total,
                warmdown_ratio: self.decay,
                final_ratio: min_ratio,
            },
            ScheduleName::MultiStep => Schedule::MultiStep {
                warmup,
                total,
                first: 0.8,
                second: 0.9,
            },
        }
    }

    fn warmup_steps(&self, total: u64) -> u64 {
        let steps = if self.warmup < 1.0 {
            (self.warmup * total as f64).round()
        } else {
            self.warmup.round()
        };
        (steps as u64).min(total)
    }

    /// Constants of the optimiser.
    pub fn adamw(&self) -> AdamWOptions {
        AdamWOptions {
            beta1: self.betas[0],
            beta2: self.betas[1],
            eps: self.eps,
            weight_decay: self.weight_decay,
            decay: self.weight_decay_kind,
            decay_embeddings: self.decay_embeddings,
            max_grad_norm: match self.clip_norm {
                0.0 => f64::INFINITY,
                norm => norm,
            },
        }
    }
}

/// A value of an enum as it is written in a Kananafile.
pub fn word(value: &impl Serialize) -> String {
    let value = serde_json::json!(value);
    value.as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warmup_is_a_share_or_a_count() {
        let steps = |warmup, total| {
            let training = Training {
                warmup,
                ..Training::default()
            };
            training.warmup_steps(total)
        };
        assert_eq!(steps(0.1, 200), 20);
        assert_eq!(steps(100.0, 200), 100);
        assert_eq!(steps(100.0, 20), 20, "never longer than the run");
        assert_eq!(steps(0.0, 20), 0);
    }

    #[test]
    fn wsd_ends_at_its_minimum_and_never_runs_over() {
        let training = Training {
            schedule: ScheduleName::Wsd,
            warmup: 0.1,
            decay: 0.2,
            ..Training::default()
        };
        let schedule = training.schedule(100);
        assert_eq!(schedule.factor(10), 1.0);
        assert_eq!(schedule.factor(79), 1.0);
        assert!(schedule.factor(99) > 0.0);
        assert_eq!(schedule.factor(100), 0.0);
    }

    #[test]
    fn a_missing_learning_rate_and_bad_numbers_are_all_told() {
        let training = Training {
            warmup: -1.0,
            betas: [0.9, 1.0],
            min_ratio: 0.1,
            ..Training::default()
        };
        let places: Vec<String> = training.complaints().into_iter().map(|c| c.at).collect();
        assert_eq!(
            places,
            [
                "params.lr",
                "params.warmup",
                "params.min_ratio",
                "params.betas"
            ]
        );
    }
}
