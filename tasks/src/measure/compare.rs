//! `compare`: which of two policies answers the same prompts better, by scores that neither was trained on.
//!
//! The win-rate is P(score of a > score of b) with ties counted half, over all pairs of responses to a prompt; its
//! interval is a bootstrap over prompts.

use kbuild_engine::facts::{Facts, Prediction};
use kbuild_engine::kind::{Arity, Complaint, Known, Ports, TaskKind};
use kbuild_engine::runner::{Context, Failure};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::json::write_report;
use super::scored::{self, ByPrompt, same_prompts};
use super::statistics::{bootstrap_interval, mean};
use crate::facts;
use crate::train::records::Score;

/// The `compare` kind.
pub struct Compare;

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Params {
    /// Resamples of the bootstrap interval over prompts.
    pub resamples: usize,
    /// Decides the resamples.
    pub seed: u64,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            resamples: 1000,
            seed: 0,
        }
    }
}

impl TaskKind for Compare {
    const NAME: &'static str = "compare";
    const VERSION: u32 = 1;
    const SUMMARY: &'static str =
        "Measures how often one policy's responses score higher than another's";

    type Params = Params;

    fn ports() -> Ports {
        Ports::new()
            .input(
                "a",
                "scores",
                Arity::One,
                "scores of the policy that is judged",
            )
            .input(
                "b",
                "scores",
                Arity::One,
                "scores of the policy that it is held against, on the same prompts",
            )
            .output(
                "report",
                "report",
                "win-rate of a over b, score means and lengths",
            )
    }

    fn predict(_params: &Params, known: &Known<'_>) -> Result<Prediction, Vec<Complaint>> {
        let complaint = facts::count_complaint(known, "a", "b", "prompts");
        facts::answer(complaint.into_iter().collect(), || {
            facts::prediction(facts::without_a_model(), [("report", Facts::default())])
        })
    }

    fn run(params: Params, context: &mut Context) -> Result<(), Failure> {
        let a = scored::load(&context.one("a").path)?;
        let b = scored::load(&context.one("b").path)?;
        same_prompts(&a, &b)?;
        write_report(context.output("report"), &report(&params, &a, &b))
    }
}

fn report(params: &Params, a: &ByPrompt, b: &ByPrompt) -> Value {
    let rates: Vec<f64> = a
        .values()
        .zip(b.values())
        .map(|(a, b)| win_rate(a, b))
        .collect();
    let gains: Vec<f64> = a
        .values()
        .zip(b.values())
        .map(|(a, b)| score(a) - score(b))
        .collect();
    let interval = |values: &[f64]| bootstrap_interval(values, params.resamples, params.seed);
    let difference = json!({"mean": mean(&gains), "interval": interval(&gains)});
    json!({
        "kind": Compare::NAME,
        "prompts": rates.len(),
        "win_rate": mean(&rates),
        "interval": interval(&rates),
        "ties": ties(a, b),
        "score_difference": difference,
        "a": side(a),
        "b": side(b),
    })
}

/// Over all pairs of responses, ties ½.
pub fn win_rate(a: &[Score], b: &[Score]) -> f64 {
    let points = a.iter().flat_map(|a| {
        b.iter().map(|b| match a.score.total_cmp(&b.score) {
            std::cmp::Ordering::Greater => 1.0,
            _ if a.score == b.score => 0.5,
            _ => 0.0,
        })
    });
    mean(&points.collect::<Vec<f64>>())
}

fn score(scores: &[Score]) -> f64 {
    mean(&scores.iter().map(|score| score.score).collect::<Vec<f64>>())
}

/// Share of response pairs with equal scores, prompt by prompt.
fn ties(a: &ByPrompt, b: &ByPrompt) -> f64 {
    let of_prompt = |(a, b): (&Vec<Score>, &Vec<Score>)| {
        let equal = a
            .iter()
            .flat_map(|a| b.iter().filter(move |b| a.score == b.score))
            .count();
        equal as f64 / (a.len() * b.len()).max(1) as f64
    };
    mean(
        &a.values()
            .zip(b.values())
            .map(of_prompt)
            .collect::<Vec<f64>>(),
    )
}

fn side(scores: &ByPrompt) -> Value {
    let over = |of: fn(&Score) -> f64| {
        let prompts = scores
            .values()
            .map(|scores| mean(&scores.iter().map(of).collect::<Vec<f64>>()));
        mean(&prompts.collect::<Vec<f64>>())
    };
    json!({
        "mean_score": over(|score| score.score),
        "mean_length": over(|score| score.length as f64),
        "stopped": over(|score| f64::from(u8::from(score.stopped))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scores(values: &[f64]) -> Vec<Score> {
        let score = |(response, score): (usize, &f64)| Score {
            prompt: 0,
            response,
            score: *score,
            length: 4,
            stopped: true,
            prompt_digest: None,
            response_digest: None,
        };
        values.iter().enumerate().map(score).collect()
    }

    #[test]
    fn ties_count_half_and_sides_add_up_to_one() {
        let (a, b) = (scores(&[1.0, 0.0, 2.0]), scores(&[1.0, -1.0]));
        let rate = win_rate(&a, &b);
        assert!((rate - 4.5 / 6.0).abs() < 1e-12);
        assert!((rate + win_rate(&b, &a) - 1.0).abs() < 1e-12);
        assert_eq!(win_rate(&a, &a), 0.5);
    }
}
