//! Weights of data sources, moved towards the sources whose loss lags (DoReMi, Sheared LLaMA).
//!
//! `w ← (1 − c)·softmax(ln w + η·excess) + c/k`

/// What counts as lagging behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Excess {
    /// `max(loss − reference, 0)`: DoReMi.
    Clipped,
    /// `loss − target`: Sheared LLaMA (`llmshearing/callbacks/dynamic_loading_callback.py`).
    Signed,
}

/// The weights after one update; they sum to one. `eta` is the step, `smoothing` (c) the uniform share that keeps
/// every source alive.
pub fn update(
    weights: &[f64],
    loss: &[f64],
    reference: &[f64],
    excess: Excess,
    eta: f64,
    smoothing: f64,
) -> Vec<f64> {
    let logits: Vec<f64> = weights
        .iter()
        .zip(loss.iter().zip(reference))
        .map(|(weight, (loss, reference))| {
            let lag = match excess {
                Excess::Clipped => (loss - reference).max(0.0),
                Excess::Signed => loss - reference,
            };
            weight.ln() + eta * lag
        })
        .collect();
    let top = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let powers: Vec<f64> = logits.iter().map(|logit| (logit - top).exp()).collect();
    let total: f64 = powers.iter().sum();
    let uniform = smoothing / weights.len().max(1) as f64;
    powers
        .iter()
        .map(|power| (1.0 - smoothing) * power / total + uniform)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lagging_source_gains_and_the_sum_stays_one() {
        let new = update(
            &[0.5, 0.5],
            &[3.0, 2.0],
            &[2.0, 2.5],
            Excess::Clipped,
            1.0,
            0.01,
        );
        assert!(new[0] > 0.5 && (new.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        let even = update(
            &[0.3, 0.7],
            &[2.0, 2.0],
            &[2.0, 2.0],
            Excess::Signed,
            1.0,
            0.0,
        );
        assert!((even[0] - 0.3).abs() < 1e-12);
    }
}
