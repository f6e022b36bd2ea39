//! Preference losses as functions of summed log-probabilities, with their derivatives (recipe 10.2).
//!
//! `a = log π(chosen) − log ref(chosen)`, `b` the same of the rejected, `Δ = a − b`, `|y|` tokens of a completion with
//! its stop token. Knows no model: the trainer turns the derivatives into weights of tokens.
//! Equal to TRL 1.16 (`dpo_trainer.py`) and, for `sigmoid`, `cdpo` and `ipo_sum`, to the original repository.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which function of the log-probabilities is minimised. A `beta` means nothing without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PreferenceLoss {
    /// DPO: −log σ(βΔ).
    Sigmoid,
    /// Conservative DPO: labels are wrong with probability ε.
    Cdpo,
    /// Robust DPO (TRL): the unbiased version of `cdpo`.
    Robust,
    /// Length-normalised DPO: −log σ(β(a/|y_c| − b/|y_r|)); Tulu 3 with β = 5.
    SigmoidNorm,
    /// (a/|y_c| − b/|y_r| − 1/(2β))².
    Ipo,
    /// (Δ − 1/(2β))², without length normalisation (original repository).
    IpoSum,
    /// max(0, 1 − βΔ).
    Hinge,
    /// Reference-free: −log σ(β(log π_c/|y_c| − log π_r/|y_r|) − γ).
    Simpo,
    /// Reverse-KL pair loss; needs ε > 0.
    ExoPair,
    NcaPair,
    SppoHard,
    ApoZero,
    ApoDown,
    /// Log-ratio-modulated loss, τ = 0.05.
    Discopop,
}

impl PreferenceLoss {
    /// False for losses that never look at a reference.
    pub fn uses_reference(self) -> bool {
        self != Self::Simpo
    }
}

/// The numbers beside the loss name.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Coefficients {
    pub beta: f64,
    /// ε: used by `cdpo`, `robust` and `exo_pair` alone.
    pub label_smoothing: f64,
    /// γ/β of `simpo`.
    pub gamma_beta_ratio: f64,
}

/// The log-probabilities of one pair.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct PairLogps {
    pub policy_chosen: f64,
    pub policy_rejected: f64,
    pub reference_chosen: f64,
    pub reference_rejected: f64,
    /// Tokens of the chosen completion, stop token included.
    pub chosen_length: f64,
    pub rejected_length: f64,
}

impl PairLogps {
    pub fn chosen_ratio(&self) -> f64 {
        self.policy_chosen - self.reference_chosen
    }

    pub fn rejected_ratio(&self) -> f64 {
        self.policy_rejected - self.reference_rejected
    }
}

/// The loss of one pair and its derivatives by the two log-probabilities of the policy.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct PairLoss {
    pub loss: f64,
    pub d_chosen: f64,
    pub d_rejected: f64,
}

/// The loss of one pair.
pub fn preference_loss(
    kind: PreferenceLoss,
    coefficients: &Coefficients,
    pair: &PairLogps,
) -> PairLoss {
    use PreferenceLoss::*;
    let Coefficients {
        beta,
        label_smoothing: eps,
        gamma_beta_ratio,
    } = *coefficients;
    let (a, b) = (pair.chosen_ratio(), pair.rejected_ratio());
    let (n_c, n_r) = (pair.chosen_length.max(1.0), pair.rejected_length.max(1.0));
    let delta = a - b;
    match kind {
        Sigmoid => of_margin(beta, negative_log_sigmoid(beta * delta)),
        Cdpo => of_margin(beta, smoothed(beta * delta, 1.0 - eps, eps)),
        Robust => {
            let scale = 1.0 - 2.0 * eps;
            of_margin(
                beta,
                smoothed(beta * delta, (1.0 - eps) / scale, -eps / scale),
            )
        }
        Hinge => of_margin(beta, hinge(beta * delta)),
        IpoSum => of_margin(1.0, square(delta - 0.5 / beta)),
        Ipo => of_mean_margin(1.0, n_c, n_r, square(a / n_c - b / n_r - 0.5 / beta)),
        SigmoidNorm => {
            let margin = beta * (a / n_c - b / n_r);
            of_mean_margin(beta, n_c, n_r, negative_log_sigmoid(margin))
        }
        Simpo => {
            let margin = pair.policy_chosen / n_c - pair.policy_rejected / n_r - gamma_beta_ratio;
            of_mean_margin(beta, n_c, n_r, negative_log_sigmoid(beta * margin))
        }
        ExoPair => of_margin(beta, exo(beta * delta, eps)),
        Discopop => of_margin(beta, discopop(beta * delta)),
        NcaPair => {
            let (c, r) = (beta * a, beta * b);
            let chosen = plus(
                negative_log_sigmoid(c),
                scaled(0.5, mirrored(negative_log_sigmoid(-c))),
            );
            apart(
                beta,
                chosen,
                scaled(0.5, mirrored(negative_log_sigmoid(-r))),
            )
        }
        SppoHard => apart(1.0, square(a - 0.5 / beta), square(b + 0.5 / beta)),
        ApoZero => apart(
            beta,
            mirrored(sigmoid_slope(-beta * a)),
            sigmoid_slope(beta * b),
        ),
        ApoDown => plus_pair(
            apart(beta, sigmoid_slope(beta * a), (0.0, 0.0)),
            of_margin(beta, mirrored(sigmoid_slope(-beta * delta))),
        ),
    }
}

/// `(value, derivative)` of a function of one number.
type Slope = (f64, f64);

/// A loss of the margin `scale·(chosen − rejected)`.
fn of_margin(scale: f64, (loss, slope): Slope) -> PairLoss {
    PairLoss {
        loss,
        d_chosen: scale * slope,
        d_rejected: -scale * slope,
    }
}

/// A loss of the margin `scale·(chosen/n_c − rejected/n_r)`.
fn of_mean_margin(scale: f64, n_c: f64, n_r: f64, (loss, slope): Slope) -> PairLoss {
    PairLoss {
        loss,
        d_chosen: scale * slope / n_c,
        d_rejected: -scale * slope / n_r,
    }
}

/// A sum of a loss of `scale·chosen` and one of `scale·rejected`.
fn apart(scale: f64, chosen: Slope, rejected: Slope) -> PairLoss {
    PairLoss {
        loss: chosen.0 + rejected.0,
        d_chosen: scale * chosen.1,
        d_rejected: scale * rejected.1,
    }
}

fn plus_pair(one: PairLoss, two: PairLoss) -> PairLoss {
    PairLoss {
        loss: one.loss + two.loss,
        d_chosen: one.d_chosen + two.d_chosen,
        d_rejected: one.d_rejected + two.d_rejected,
    }
}

fn plus(one: Slope, two: Slope) -> Slope {
    (one.0 + two.0, one.1 + two.1)
}

fn scaled(factor: f64, (value, slope): Slope) -> Slope {
    (factor * value, factor * slope)
}

/// A function that was evaluated at `−z`, as a function of `z`.
fn mirrored((value, slope): Slope) -> Slope {
    (value, -slope)
}

fn square(x: f64) -> Slope {
    (x * x, 2.0 * x)
}

fn hinge(z: f64) -> Slope {
    if z < 1.0 { (1.0 - z, -1.0) } else { (0.0, 0.0) }
}

fn smoothed(z: f64, right: f64, wrong: f64) -> Slope {
    plus(
        scaled(right, negative_log_sigmoid(z)),
        scaled(wrong, mirrored(negative_log_sigmoid(-z))),
    )
}

/// σ(z) and its derivative.
fn sigmoid_slope(z: f64) -> Slope {
    let p = sigmoid(z);
    (p, p * (1.0 - p))
}

fn exo(z: f64, eps: f64) -> Slope {
    let side = |z: f64, label: f64| {
        let (p, dp) = sigmoid_slope(z);
        let (nls, dnls) = negative_log_sigmoid(z);
        let gap = -nls - label.ln();
        (p * gap, dp * gap - p * dnls)
    };
    plus(side(z, 1.0 - eps), mirrored(side(-z, eps)))
}

fn discopop(z: f64) -> Slope {
    const TAU: f64 = 0.05;
    let (mix, d_mix) = sigmoid_slope(z / TAU);
    let (logistic, d_logistic) = negative_log_sigmoid(z);
    let (exp, d_exp) = ((-z).exp(), -(-z).exp());
    (
        logistic * (1.0 - mix) + exp * mix,
        d_logistic * (1.0 - mix) + d_exp * mix + (exp - logistic) * d_mix / TAU,
    )
}

/// 1 / (1 + e^−z), without overflow.
pub fn sigmoid(z: f64) -> f64 {
    let small = (-z.abs()).exp();
    if z >= 0.0 {
        1.0 / (1.0 + small)
    } else {
        small / (1.0 + small)
    }
}

/// −log σ(z) = softplus(−z), and its derivative −σ(−z).
pub fn negative_log_sigmoid(z: f64) -> (f64, f64) {
    ((-z).max(0.0) + (-z.abs()).exp().ln_1p(), -sigmoid(-z))
}

/// What is worth watching of a set of pairs, means over pairs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct PairMetrics {
    pub loss: f64,
    /// β·a and β·b.
    pub rewards_chosen: f64,
    pub rewards_rejected: f64,
    pub margin: f64,
    /// Share of pairs with b < a.
    pub accuracy: f64,
    pub logps_chosen: f64,
    pub logps_rejected: f64,
    pub chosen_length: f64,
    pub rejected_length: f64,
}

impl PairMetrics {
    /// Adds one pair's share of a mean over `pairs`.
    pub fn add(&mut self, beta: f64, pair: &PairLogps, loss: f64, pairs: usize) {
        let share = 1.0 / pairs as f64;
        let (a, b) = (beta * pair.chosen_ratio(), beta * pair.rejected_ratio());
        self.loss += share * loss;
        self.rewards_chosen += share * a;
        self.rewards_rejected += share * b;
        self.margin += share * (a - b);
        self.accuracy += if b < a { share } else { 0.0 };
        self.logps_chosen += share * pair.policy_chosen;
        self.logps_rejected += share * pair.policy_rejected;
        self.chosen_length += share * pair.chosen_length;
        self.rejected_length += share * pair.rejected_length;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use PreferenceLoss::*;

    const ALL: [PreferenceLoss; 14] = [
        Sigmoid,
        Cdpo,
        Robust,
        SigmoidNorm,
        Ipo,
        IpoSum,
        Hinge,
        Simpo,
        ExoPair,
        NcaPair,
        SppoHard,
        ApoZero,
        ApoDown,
        Discopop,
    ];
    const COEFFICIENTS: Coefficients = Coefficients {
        beta: 0.3,
        label_smoothing: 0.1,
        gamma_beta_ratio: 0.25,
    };

    fn pair(chosen: f64, rejected: f64) -> PairLogps {
        PairLogps {
            policy_chosen: chosen,
            policy_rejected: rejected,
            reference_chosen: -31.0,
            reference_rejected: -18.5,
            chosen_length: 9.0,
            rejected_length: 6.0,
        }
    }

    #[test]
    fn derivatives_are_the_slopes_of_the_losses() {
        for kind in ALL {
            let at = |c, r| preference_loss(kind, &COEFFICIENTS, &pair(c, r));
            let (c, r, h) = (-30.2, -19.1, 1e-6);
            let found = at(c, r);
            let by_c = (at(c + h, r).loss - at(c - h, r).loss) / (2.0 * h);
            let by_r = (at(c, r + h).loss - at(c, r - h).loss) / (2.0 * h);
            assert!(
                (found.d_chosen - by_c).abs() < 1e-6,
                "{kind:?} {found:?} {by_c}"
            );
            assert!(
                (found.d_rejected - by_r).abs() < 1e-6,
                "{kind:?} {found:?} {by_r}"
            );
        }
    }

    #[test]
    fn a_far_margin_overflows_nothing() {
        for kind in ALL {
            for chosen in [-2000.0, 2000.0] {
                let found = preference_loss(kind, &COEFFICIENTS, &pair(chosen, 0.0));
                // `discopop` holds e^−z, which is infinite there for every implementation.
                assert!(kind == Discopop || found.loss.is_finite(), "{kind:?}");
            }
        }
    }

    #[test]
    fn constants_that_policy_and_reference_share_change_nothing() {
        let moved = |by: f64| PairLogps {
            policy_chosen: -30.0 + by,
            reference_chosen: -31.0 + by,
            ..pair(0.0, -19.0)
        };
        for kind in ALL.into_iter().filter(|kind| kind.uses_reference()) {
            let one = preference_loss(kind, &COEFFICIENTS, &moved(0.0));
            let two = preference_loss(kind, &COEFFICIENTS, &moved(5.0));
            assert!((one.loss - two.loss).abs() < 1e-9, "{kind:?}");
        }
    }
}
