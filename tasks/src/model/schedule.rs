//! Learning-rate schedules: pure functions of the step, so that a resumed run continues where it was.
//!
//! Sources: `transformers/optimization.py`; nanochat `scripts/base_train.py` (trapezoid); DeepSeek LLM
//! (arXiv 2401.02954, multi-step).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Shape of a warm-up or a decay between 1 and 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Ramp {
    /// `1 − p`
    Linear,
    /// `½ (1 + cos πp)`
    Cosine,
    /// `1 − √p`
    OneMinusSqrt,
}

impl Ramp {
    /// From 1 at `progress` 0 to 0 at `progress` 1.
    fn falling(self, progress: f64) -> f64 {
        match self {
            Self::Linear => 1.0 - progress,
            Self::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()),
            Self::OneMinusSqrt => 1.0 - progress.sqrt(),
        }
    }

    /// From 0 at `progress` 0 to 1 at `progress` 1.
    fn rising(self, progress: f64) -> f64 {
        match self {
            Self::Linear => progress,
            Self::Cosine => 0.5 * (1.0 - (std::f64::consts::PI * progress).cos()),
            Self::OneMinusSqrt => 1.0 - (1.0 - progress).sqrt(),
        }
    }
}

/// Factor of the base learning rate by step; all counts are optimiser steps.
///
/// As in transformers, a warm-up starts at 0: the first update does nothing. `Trapezoid` starts at `1 / warmup`.
#[derive(Debug, Clone, PartialEq)]
pub enum Schedule {
    Constant {
        warmup: u64,
    },
    /// Linear to 0 at `total`.
    Linear {
        warmup: u64,
        total: u64,
    },
    /// Half a cosine period to `min_ratio` at `total`.
    Cosine {
        warmup: u64,
        total: u64,
        min_ratio: f64,
    },
    /// `sqrt(warmup / step)` after the warm-up (a scale of 10 000 without one).
    InverseSqrt {
        warmup: u64,
    },
    /// Warm-up, stable, decay to `min_ratio`.
    Wsd {
        warmup: u64,
        stable: u64,
        decay: u64,
        min_ratio: f64,
        warmup_ramp: Ramp,
        decay_ramp: Ramp,
    },
    /// nanochat: linear warm-up from `1 / warmup`, flat, linear down over `warmdown_ratio · total` to `final_ratio`.
    Trapezoid {
        warmup: u64,
        total: u64,
        warmdown_ratio: f64,
        final_ratio: f64,
    },
    /// DeepSeek: linear warm-up, 1 until `first · total`, then √0.1, from `second · total` on 0.1.
    MultiStep {
        warmup: u64,
        total: u64,
        /// 0.8 in the paper.
        first: f64,
        /// 0.9 in the paper.
        second: f64,
    },
}

impl Schedule {
    /// Factor of the base learning rate that update `step` (from 0) uses.
    pub fn factor(&self, step: u64) -> f64 {
        match *self {
            Self::Constant { warmup } => ramp_up(step, warmup).unwrap_or(1.0),
            Self::Linear { warmup, total } => ramp_up(step, warmup)
                .unwrap_or_else(|| ratio(total.saturating_sub(step), total.saturating_sub(warmup))),
            Self::Cosine {
                warmup,
                total,
                min_ratio,
            } => ramp_up(step, warmup).unwrap_or_else(|| {
                let progress = ratio(step - warmup, total.saturating_sub(warmup));
                above(Ramp::Cosine.falling(progress).max(0.0), min_ratio)
            }),
            Self::InverseSqrt { warmup } => ramp_up(step, warmup).unwrap_or_else(|| {
                let scale = if warmup == 0 { 10_000 } else { warmup } as f64;
                let shift = scale - warmup as f64;
                1.0 / ((step as f64 + shift) / scale).sqrt()
            }),
            Self::Wsd { .. } => self.wsd(step),
            Self::Trapezoid {
                warmup,
                total,
                warmdown_ratio,
                final_ratio,
            } => trapezoid(step, warmup, total, warmdown_ratio, final_ratio),
            Self::MultiStep {
                warmup,
                total,
                first,
                second,
            } => ramp_up(step, warmup).unwrap_or_else(|| {
                let progress = step as f64;
                match total as f64 {
                    total if progress >= second * total => 0.1,
                    total if progress >= first * total => 0.1f64.sqrt(),
                    _ => 1.0,
                }
            }),
        }
    }

    fn wsd(&self, step: u64) -> f64 {
        let Self::Wsd {
            warmup,
            stable,
            decay,
            min_ratio,
            warmup_ramp,
            decay_ramp,
        } = *self
        else {
            unreachable!("called for this schedule alone")
        };
        if step < warmup {
            return above(warmup_ramp.rising(ratio(step, warmup)), min_ratio);
        }
        let after = step - warmup;
        if after < stable {
            return 1.0;
        }
        if after < stable + decay {
            return above(decay_ramp.falling(ratio(after - stable, decay)), min_ratio);
        }
        min_ratio
    }
}

/// The linear warm-up, while it lasts.
fn ramp_up(step: u64, warmup: u64) -> Option<f64> {
    (step < warmup).then(|| ratio(step, warmup))
}

fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}

fn above(factor: f64, min_ratio: f64) -> f64 {
    factor * (1.0 - min_ratio) + min_ratio
}

fn trapezoid(step: u64, warmup: u64, total: u64, warmdown_ratio: f64, final_ratio: f64) -> f64 {
    let warmdown = (warmdown_ratio * total as f64).round();
    let left = total.saturating_sub(step) as f64;
    if step < warmup {
        (step + 1) as f64 / warmup as f64
    } else if left >= warmdown || warmdown == 0.0 {
        1.0
    } else {
        let progress = left / warmdown;
        progress + (1.0 - progress) * final_ratio
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn multi_step_follows_the_paper() {
        let schedule = Schedule::MultiStep {
            warmup: 10,
            total: 1000,
            first: 0.8,
            second: 0.9,
        };
        assert_eq!(schedule.factor(5), 0.5);
        assert_eq!(schedule.factor(799), 1.0);
        assert!((schedule.factor(800) - 0.316).abs() < 1e-3);
        assert_eq!(schedule.factor(900), 0.1);
        assert_eq!(schedule.factor(5000), 0.1);
    }

    #[test]
    fn degenerate_lengths_stay_finite() {
        for schedule in [
            Schedule::Linear {
                warmup: 5,
                total: 5,
            },
            Schedule::Cosine {
                warmup: 5,
                total: 3,
                min_ratio: 0.1,
            },
            Schedule::Trapezoid {
                warmup: 0,
                total: 0,
                warmdown_ratio: 0.0,
                final_ratio: 0.0,
            },
            Schedule::InverseSqrt { warmup: 0 },
        ] {
            for step in 0..20 {
                let factor = schedule.factor(step);
                assert!(
                    (0.0..=1.0).contains(&factor),
                    "{schedule:?} {step}: {factor}"
                );
            }
        }
    }
}
