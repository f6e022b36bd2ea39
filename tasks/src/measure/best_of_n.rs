//! Best-of-N: how good is the response that a reward model picks among n?
//!
//! The estimator is unbiased: the mean over all n-subsets of the N samples that exist, in closed form (recipe 9).

/// Mean quality of the highest-scored of `n` samples, over every n-subset of the samples of one prompt.
///
/// `scores` and `qualities` are aligned; equal scores: the lower index wins. None when `n` is 0 or exceeds the samples.
pub fn best_of_n(scores: &[f64], qualities: &[f64], n: usize) -> Option<f64> {
    let total = scores.len().min(qualities.len());
    if n == 0 || n > total {
        return None;
    }
    let mut ascending: Vec<usize> = (0..total).collect();
    ascending.sort_by(|&a, &b| scores[a].total_cmp(&scores[b]).then(b.cmp(&a)));
    // C(k, n−1) / C(N, n) for k = N−1 is n/N; going down, C(k−1, n−1) = C(k, n−1) · (k−n+1)/k.
    let mut weight = n as f64 / total as f64;
    let mut sum = 0.0;
    for k in (n - 1..total).rev() {
        sum += weight * qualities[ascending[k]];
        if k > 0 {
            weight *= (k + 1 - n) as f64 / k as f64;
        }
    }
    Some(sum)
}

/// KL divergence of best-of-n from the sampler, nats: `ln n − (n−1)/n` (an upper bound when scores tie).
pub fn kl(n: usize) -> f64 {
    let n = n.max(1) as f64;
    n.ln() - (n - 1.0) / n
}

/// Powers of two up to the number of samples.
pub fn ladder(samples: usize) -> Vec<usize> {
    std::iter::successors(Some(1), |n| Some(2 * n))
        .take_while(|n| *n <= samples)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_the_mean_and_all_is_the_maximum() {
        let (scores, quality) = ([0.3, -1.0, 2.0, 0.1], [1.0, 2.0, 3.0, 6.0]);
        assert!((best_of_n(&scores, &quality, 1).unwrap() - 3.0).abs() < 1e-12);
        assert!((best_of_n(&scores, &quality, 4).unwrap() - 3.0).abs() < 1e-12);
        assert_eq!(best_of_n(&scores, &quality, 5), None);
    }

    #[test]
    fn a_score_that_is_the_quality_never_gets_worse_with_n() {
        let scores: Vec<f64> = (0..9).map(|i| f64::from(i * 37 % 11)).collect();
        let curve: Vec<f64> = (1..=9).map(|n| best_of_n(&scores, &scores, n).unwrap()).collect();
        assert!(curve.windows(2).all(|pair| pair[0] <= pair[1] + 1e-12));
    }

    #[test]
    fn equal_scores_are_won_by_the_lower_index() {
        assert_eq!(best_of_n(&[1.0, 1.0], &[5.0, 7.0], 2), Some(5.0));
    }

    #[test]
    fn it_equals_brute_force() {
        let (scores, quality) = ([0.2, 0.9, 0.2, -0.5, 0.4], [1.0, 0.0, 3.0, 4.0, 2.5]);
        let (mut sum, mut count) = (0.0, 0.0);
        for i in 0..5 {
            for j in i + 1..5 {
                sum += quality[if scores[j] > scores[i] { j } else { i }];
                count += 1.0;
            }
        }
        assert!((best_of_n(&scores, &quality, 2).unwrap() - sum / count).abs() < 1e-12);
    }
}
