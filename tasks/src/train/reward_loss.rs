//! The Bradley–Terry loss of a reward model, with its derivatives (recipe 9; TRL `RewardTrainer`).

use super::preference::negative_log_sigmoid;

/// The loss of one pair and its derivatives by the two rewards.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RewardLoss {
    pub loss: f64,
    pub d_chosen: f64,
    pub d_rejected: f64,
}

/// `−log σ(chosen − rejected − margin) + centring·(chosen + rejected)²`.
pub fn bradley_terry(chosen: f64, rejected: f64, margin: f64, centring: f64) -> RewardLoss {
    let (loss, slope) = negative_log_sigmoid(chosen - rejected - margin);
    let sum = chosen + rejected;
    RewardLoss {
        loss: loss + centring * sum * sum,
        d_chosen: slope + 2.0 * centring * sum,
        d_rejected: -slope + 2.0 * centring * sum,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_rewards_cost_ln_2_and_a_constant_nothing() {
        let loss = |c, r| bradley_terry(c, r, 0.0, 0.0).loss;
        assert!((loss(0.7, 0.7) - 2f64.ln()).abs() < 1e-15);
        assert!((loss(0.7, -0.2) - loss(10.7, 9.8)).abs() < 1e-12);
    }

    #[test]
    fn derivatives_are_the_slopes() {
        let (c, r, h) = (0.4, 1.1, 1e-6);
        let at = |c, r| bradley_terry(c, r, 0.5, 0.01);
        let found = at(c, r);
        let by_c = (at(c + h, r).loss - at(c - h, r).loss) / (2.0 * h);
        let by_r = (at(c, r + h).loss - at(c, r - h).loss) / (2.0 * h);
        assert!((found.d_chosen - by_c).abs() < 1e-8);
        assert!((found.d_rejected - by_r).abs() < 1e-8);
    }
}
