//! Means with their uncertainty: t-intervals over seeds, paired differences, bootstrap intervals over prompts.
//!
//! Knows nothing of what is averaged.

use serde::{Deserialize, Serialize};

use crate::model::Rng;

/// A mean over independent repetitions, with its two-sided confidence interval.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    pub n: usize,
    pub mean: f64,
    /// Sample standard deviation (n − 1); absent for a single value.
    pub deviation: Option<f64>,
    /// Student's t-interval at [`LEVEL`]; absent for a single value.
    pub interval: Option<(f64, f64)>,
}

/// Confidence of every interval.
pub const LEVEL: f64 = 0.95;

/// The mean of `values` and its t-interval; none without values.
pub fn estimate(values: &[f64]) -> Option<Estimate> {
    let n = values.len();
    if n == 0 {
        return None;
    }
    let mean = mean(values);
    let deviation = deviation(values);
    let interval = deviation.map(|deviation| {
        let half = student_quantile(LEVEL, n - 1) * deviation / (n as f64).sqrt();
        (mean - half, mean + half)
    });
    Some(Estimate {
        n,
        mean,
        deviation,
        interval,
    })
}

/// The estimate of `a[i] − b[i]`: what two arms that share seeds differ by.
pub fn paired_difference(a: &[f64], b: &[f64]) -> Option<Estimate> {
    if a.len() != b.len() {
        return None;
    }
    let differences: Vec<f64> = a.iter().zip(b).map(|(a, b)| a - b).collect();
    estimate(&differences)
}

/// Arithmetic mean; 0 without values.
pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// Sample standard deviation (n − 1), from two values on.
pub fn deviation(values: &[f64]) -> Option<f64> {
    if values.len() < 2 {
        return None;
    }
    let centre = mean(values);
    let squares: f64 = values.iter().map(|x| (x - centre).powi(2)).sum();
    Some((squares / (values.len() - 1) as f64).sqrt())
}

/// Standard error of the mean: sample deviation over √n (as lm-eval prints it).
pub fn standard_error(values: &[f64]) -> Option<f64> {
    deviation(values).map(|deviation| deviation / (values.len() as f64).sqrt())
}

/// `t` with P(|T| < t) = `level` for `freedom` degrees of freedom (≥ 1), by bisection.
fn student_quantile(level: f64, freedom: usize) -> f64 {
    let (mut low, mut high) = (0.0, 1e4);
    for _ in 0..200 {
        let middle = 0.5 * (low + high);
        if student_coverage(middle, freedom) < level {
            low = middle;
        } else {
            high = middle;
        }
    }
    0.5 * (low + high)
}

/// P(|T| < t), exact for whole degrees of freedom (Abramowitz & Stegun 26.7.3 and 26.7.4).
fn student_coverage(t: f64, freedom: usize) -> f64 {
    let theta = (t / (freedom as f64).sqrt()).atan();
    let (sine, cosine) = (theta.sin(), theta.cos());
    let odd = freedom % 2 == 1;
    let mut term = if odd { cosine } else { 1.0 };
    let mut sum = 0.0;
    for j in 1..=freedom / 2 {
        sum += term;
        let j = j as f64;
        let ratio = if odd {
            2.0 * j / (2.0 * j + 1.0)
        } else {
            (2.0 * j - 1.0) / (2.0 * j)
        };
        term *= ratio * cosine * cosine;
    }
    if odd {
        std::f64::consts::FRAC_2_PI * (theta + sine * sum)
    } else {
        sine * sum
    }
}

/// Percentile bootstrap interval of the mean at [`LEVEL`], resampling items with a counter-based generator: the same
/// values and seed give the same interval wherever it runs. None without values.
pub fn bootstrap_interval(values: &[f64], resamples: usize, seed: u64) -> Option<(f64, f64)> {
    if values.is_empty() || resamples == 0 {
        return None;
    }
    let rng = Rng::new(seed, "bootstrap");
    let mut means: Vec<f64> = (0..resamples)
        .map(|resample| resampled_mean(values, &rng, resample as u64))
        .collect();
    means.sort_by(f64::total_cmp);
    let at = |share: f64| means[((share * (resamples - 1) as f64).round()) as usize];
    let tail = (1.0 - LEVEL) / 2.0;
    Some((at(tail), at(1.0 - tail)))
}

fn resampled_mean(values: &[f64], rng: &Rng, resample: u64) -> f64 {
    let n = values.len() as u64;
    let sum: f64 = (0..n)
        .map(|index| values[rng.below(resample, index, n) as usize])
        .sum();
    sum / n as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_the_tables() {
        for (freedom, t) in [
            (1, 12.706),
            (2, 4.303),
            (3, 3.182),
            (4, 2.776),
            (9, 2.262),
            (30, 2.042),
        ] {
            assert!(
                (student_quantile(LEVEL, freedom) - t).abs() < 1e-3,
                "{freedom}"
            );
        }
    }

    #[test]
    fn three_seeds_have_a_wide_interval_and_one_has_none() {
        let three = estimate(&[1.0, 2.0, 3.0]).unwrap();
        let (low, high) = three.interval.unwrap();
        assert_eq!((three.n, three.mean), (3, 2.0));
        assert!((high - low - 2.0 * 4.302_652_7 / 3.0_f64.sqrt()).abs() < 1e-5);
        assert_eq!(estimate(&[5.0]).unwrap().interval, None);
        assert_eq!(estimate(&[]), None);
    }

    #[test]
    fn pairing_removes_what_seeds_share() {
        let (a, b) = ([1.0, 5.0, 9.0], [0.9, 4.9, 8.9]);
        let paired = paired_difference(&a, &b).unwrap();
        assert!((paired.mean - 0.1).abs() < 1e-12);
        assert!(paired.interval.unwrap().0 > 0.0);
        assert_eq!(paired_difference(&a, &b[..2]), None);
    }

    #[test]
    fn the_bootstrap_covers_the_mean_and_repeats() {
        let values: Vec<f64> = (0..200).map(|i| f64::from(i % 2)).collect();
        let (low, high) = bootstrap_interval(&values, 1000, 7).unwrap();
        assert!(low < 0.5 && high > 0.5 && high - low < 0.2);
        assert!((high - low) > 0.08, "{low} {high}");
        assert_eq!(bootstrap_interval(&values, 1000, 7), Some((low, high)));
        assert_eq!(bootstrap_interval(&[], 1000, 7), None);
    }
}
