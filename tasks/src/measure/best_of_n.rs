//! Best-of-N: how good is the response that a reward model picks among n?
//!
//! The estimator is unbiased: the mean over all n-subsets of the N samples that exist, in closed form (recipe 9).

use std::collections::BTreeMap;

use kbuild_engine::facts::{Facts, Prediction};
use kbuild_engine::kind::{Arity, Complaint, Known, Ports, TaskKind};
use kbuild_engine::runner::{Context, Failure};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::json::write_report;
use super::scored::{self, ByPrompt, same_samples};
use super::statistics::{bootstrap_interval, mean};
use crate::facts;
use crate::train::records::Score;

/// The `best-of-n` kind.
pub struct BestOfN;

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Params {
    /// The sizes of the curve; powers of two up to the number of samples where empty.
    pub n: Vec<usize>,
    /// Resamples of the bootstrap interval over prompts.
    pub resamples: usize,
    /// Decides the resamples.
    pub seed: u64,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            n: Vec::new(),
            resamples: 1000,
            seed: 0,
        }
    }
}

impl TaskKind for BestOfN {
    const NAME: &'static str = "best-of-n";
    const VERSION: u32 = 1;
    const SUMMARY: &'static str =
        "Measures how good the responses are that a reward model picks among n";

    type Params = Params;

    fn ports() -> Ports {
        Ports::new()
            .input(
                "scores",
                "scores",
                Arity::One,
                "what the reward model thinks of each sample",
            )
            .input(
                "gold",
                "scores",
                Arity::One,
                "how good each sample is, by a judge of its own",
            )
            .output(
                "report",
                "report",
                "curve over n, and the quality at the largest n",
            )
    }

    fn predict(_params: &Params, known: &Known<'_>) -> Result<Prediction, Vec<Complaint>> {
        let complaint = facts::count_complaint(known, "scores", "gold", "responses");
        facts::answer(complaint.into_iter().collect(), || {
            facts::prediction(facts::without_a_model(), [("report", Facts::default())])
        })
    }

    fn run(params: Params, context: &mut Context) -> Result<(), Failure> {
        let scores = scored::load(&context.one("scores").path)?;
        let gold = scored::load(&context.one("gold").path)?;
        same_samples(&scores, &gold)?;
        let report = report(&params, &scores, &gold)?;
        write_report(context.output("report"), &report)
    }
}

fn report(params: &Params, scores: &ByPrompt, gold: &ByPrompt) -> Result<Value, Failure> {
    let samples = scores.values().map(Vec::len).min().unwrap_or(0);
    let sizes = if params.n.is_empty() {
        ladder(samples)
    } else {
        params.n.clone()
    };
    let mut curve = Vec::new();
    let mut quality = BTreeMap::new();
    for n in sizes {
        let values = per_prompt(scores, gold, n)?;
        let interval = bootstrap_interval(&values, params.resamples, params.seed);
        quality.insert(n, mean(&values));
        curve.push(json!({"n": n, "quality": mean(&values), "interval": interval, "kl": kl(n)}));
    }
    let lengths = |pick: bool| -> f64 {
        let of = |scores: &Vec<Score>| -> f64 {
            let all: Vec<f64> = scores.iter().map(|score| score.length as f64).collect();
            let values: Vec<f64> = scores.iter().map(|score| score.score).collect();
            let best = if pick {
                best_of_n(&values, &all, all.len())
            } else {
                best_of_n(&values, &all, 1)
            };
            best.unwrap_or(0.0)
        };
        mean(&scores.values().map(of).collect::<Vec<f64>>())
    };
    let first = quality.first_key_value().map(|(_, quality)| *quality);
    let last = quality.last_key_value();
    Ok(json!({
        "kind": BestOfN::NAME,
        "prompts": scores.len(),
        "samples": samples,
        "curve": curve,
        "best": {
            "n": last.map(|(n, _)| *n),
            "quality": last.map(|(_, quality)| *quality),
            "gain": last.zip(first).map(|((_, last), first)| last - first),
        },
        "mean_length": {"all": lengths(false), "picked": lengths(true)},
    }))
}

fn per_prompt(scores: &ByPrompt, gold: &ByPrompt, n: usize) -> Result<Vec<f64>, Failure> {
    scores
        .iter()
        .zip(gold.values())
        .map(|((prompt, scores), gold)| {
            let numbers = |scores: &[Score]| -> Vec<f64> {
                scores.iter().map(|score| score.score).collect()
            };
            if scores.len() != gold.len() {
                return Err(Failure::input(format!(
                    "prompt {prompt} has {} scores and {} gold scores",
                    scores.len(),
                    gold.len()
                ))
                .help("score the same samples twice: once by the reward model, once by the gold reward"));
            }
            best_of_n(&numbers(scores), &numbers(gold), n).ok_or_else(|| {
                Failure::input(format!("prompt {prompt} has {} samples, best of {n} needs more", scores.len()))
                    .help("ask for smaller `n`, or sample more responses")
            })
        })
        .collect()
}

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
        let curve: Vec<f64> = (1..=9)
            .map(|n| best_of_n(&scores, &scores, n).unwrap())
            .collect();
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
