//! Mixtures: how many rows each source gives, and in which order their rows come.
//!
//! Pure arithmetic over counts. Weights become whole rows by largest remainder, so a source gets what was asked for
//! to one row; the interleave follows the shares as closely as whole rows can, so that every stretch of training has
//! the mixture and not only the sum.

/// A mixture that cannot be had.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum MixtureProblem {
    #[error("the mixture has {found} weights for {sources} sources")]
    Count { found: usize, sources: usize },
    #[error("weight {weight} of source {source_index} is not a number from 0 upwards")]
    Weight { source_index: usize, weight: f64 },
    #[error("the weights of the mixture sum to nothing")]
    Nothing,
    #[error("the shares of the mixture sum to {sum}, expected 1 or 100 percent")]
    Sum { sum: f64 },
    #[error("source {source_index} has weight {weight} but no tokens")]
    Empty { source_index: usize, weight: f64 },
    #[error(
        "source {source_index} would be read {epochs:.2} times ({wanted} tokens of {held}); at most {allowed} is allowed"
    )]
    Epochs {
        source_index: usize,
        epochs: f64,
        wanted: u64,
        held: u64,
        allowed: f64,
    },
}

/// Checks the weights of a mixture over `sources` sources.
pub fn check_weights(weights: &[f64], sources: usize) -> Result<(), MixtureProblem> {
    if weights.len() != sources {
        return Err(MixtureProblem::Count {
            found: weights.len(),
            sources,
        });
    }
    let bad = |weight: f64| !weight.is_finite() || weight < 0.0;
    if let Some(source_index) = weights.iter().position(|&weight| bad(weight)) {
        let weight = weights[source_index];
        return Err(MixtureProblem::Weight {
            source_index,
            weight,
        });
    }
    if weights.iter().sum::<f64>() <= 0.0 {
        return Err(MixtureProblem::Nothing);
    }
    Ok(())
}

/// How far the sum of shares may be from the whole: shares are written with three digits.
const ROUNDING: f64 = 0.005;

/// Checks shares of a whole over `sources` sources: weights that sum to 1, or to 100.
pub fn check_shares(shares: &[f64], sources: usize) -> Result<(), MixtureProblem> {
    check_weights(shares, sources)?;
    let sum: f64 = shares.iter().sum();
    let is_whole = |whole: f64| (sum / whole - 1.0).abs() <= ROUNDING;
    match is_whole(1.0) || is_whole(100.0) {
        true => Ok(()),
        false => {
            let sum = (sum * 1e6).round() / 1e6;
            Err(MixtureProblem::Sum { sum })
        }
    }
}

/// Splits `rows` by `weights` (checked before) into whole rows; the sum is exactly `rows`.
pub fn apportion(rows: u64, weights: &[f64]) -> Vec<u64> {
    let total: f64 = weights.iter().sum();
    let quotas: Vec<f64> = weights
        .iter()
        .map(|weight| rows as f64 * weight / total)
        .collect();
    let mut shares: Vec<u64> = quotas.iter().map(|quota| quota.floor() as u64).collect();
    let mut by_remainder: Vec<usize> = (0..weights.len()).filter(|&s| weights[s] > 0.0).collect();
    by_remainder.sort_by(|&a, &b| {
        let rest = |s: usize| quotas[s] - quotas[s].floor();
        rest(b).total_cmp(&rest(a)).then(a.cmp(&b))
    });
    let missing = rows.saturating_sub(shares.iter().sum());
    for &source in by_remainder.iter().cycle().take(missing as usize) {
        shares[source] += 1;
    }
    shares
}

/// Refuses a mixture that reads nothing from a weighted source, or a source more than `max_epochs` times.
pub fn check_epochs(
    rows: &[u64],
    weights: &[f64],
    held: &[u64],
    row_length: u64,
    max_epochs: f64,
) -> Result<(), MixtureProblem> {
    for (source_index, (&rows, &held)) in rows.iter().zip(held).enumerate() {
        let weight = weights[source_index];
        if weight > 0.0 && held == 0 {
            return Err(MixtureProblem::Empty {
                source_index,
                weight,
            });
        }
        let wanted = rows * row_length;
        let epochs = wanted as f64 / held.max(1) as f64;
        // One row more than asked for is rounding, not repetition.
        if wanted > row_length && (wanted - row_length) as f64 > max_epochs * held as f64 {
            return Err(MixtureProblem::Epochs {
                source_index,
                epochs,
                wanted,
                held,
                allowed: max_epochs,
            });
        }
    }
    Ok(())
}

/// One row of training: which source, and which row of that source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowOf {
    pub source: usize,
    pub row: u64,
}

/// The rows of all sources in training order: at every place the source that is furthest behind its share, the
/// first of them on ties.
pub struct Interleave {
    shares: Vec<u64>,
    given: Vec<u64>,
    total: u64,
}

impl Interleave {
    pub fn new(shares: Vec<u64>) -> Self {
        let given = vec![0; shares.len()];
        let total = shares.iter().sum();
        Self {
            shares,
            given,
            total,
        }
    }
}

impl Iterator for Interleave {
    type Item = RowOf;

    fn next(&mut self) -> Option<RowOf> {
        let place = self.given.iter().sum::<u64>();
        if place == self.total {
            return None;
        }
        // Whole numbers, so that no rounding can decide: (place+1)·share − given·total, largest first.
        let lag = |source: usize| {
            i128::from(place + 1) * i128::from(self.shares[source])
                - i128::from(self.given[source]) * i128::from(self.total)
        };
        let source = (0..self.shares.len())
            .max_by_key(|&source| (lag(source), std::cmp::Reverse(source)))?;
        let row = self.given[source];
        self.given[source] += 1;
        Some(RowOf { source, row })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_exact_to_one_row_and_sum_up() {
        let weights = [0.4, 0.4, 0.2, 0.0];
        for rows in [1, 2, 7, 99, 1000] {
            let shares = apportion(rows, &weights);
            assert_eq!(shares.iter().sum::<u64>(), rows);
            assert_eq!(shares[3], 0, "no weight, no rows");
            for (share, weight) in shares.iter().zip(weights) {
                assert!((*share as f64 - rows as f64 * weight).abs() <= 1.0);
            }
        }
    }

    #[test]
    fn every_stretch_has_the_mixture() {
        let shares = apportion(1000, &[0.678, 0.096, 0.087, 0.129, 0.01]);
        let mut given = [0u64; 5];
        for (place, row) in Interleave::new(shares.clone()).enumerate() {
            assert_eq!(row.row, given[row.source], "rows of a source come in order");
            given[row.source] += 1;
            for source in 0..5 {
                let due = (place + 1) as f64 * shares[source] as f64 / 1000.0;
                assert!((given[source] as f64 - due).abs() < 2.0);
            }
        }
        assert_eq!(given.to_vec(), shares);
    }

    #[test]
    fn weights_that_mean_nothing_are_refused() {
        assert!(check_weights(&[1.0], 2).is_err());
        assert!(check_weights(&[1.0, -0.1], 2).is_err());
        assert!(check_weights(&[f64::NAN], 1).is_err());
        assert_eq!(check_weights(&[0.0, 0.0], 2), Err(MixtureProblem::Nothing));
        assert_eq!(check_weights(&[3.0, 1.0], 2), Ok(()));
    }

    #[test]
    fn shares_sum_to_a_whole() {
        assert_eq!(check_shares(&[0.678, 0.096, 0.087, 0.128, 0.01], 5), Ok(()));
        assert_eq!(check_shares(&[5.3, 20.5, 35.8, 34.3, 2.4, 1.8], 6), Ok(()));
        assert_eq!(
            check_shares(&[0.4, 0.4], 2),
            Err(MixtureProblem::Sum { sum: 0.8 })
        );
    }

    #[test]
    fn reading_a_source_too_often_is_refused() {
        let rows = [10, 10];
        assert!(check_epochs(&rows, &[1.0, 1.0], &[100, 40], 10, 1.0).is_err());
        assert!(check_epochs(&rows, &[1.0, 1.0], &[100, 40], 10, 4.0).is_ok());
        assert!(matches!(
            check_epochs(&rows, &[1.0, 1.0], &[100, 0], 10, 4.0),
            Err(MixtureProblem::Empty { .. })
        ));
        // 10 rows of 10 over 95 tokens is one epoch and half a row: rounding.
        assert!(check_epochs(&[10], &[1.0], &[95], 10, 1.0).is_ok());
    }
}
