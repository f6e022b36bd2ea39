//! `evaluate-reward-model`: how often a reward model prefers what people prefer, on pairs it has not seen.
//!
//! Accuracy counts strict wins: equal rewards are wrong (RewardBench). Lengths are reported beside it, and the accuracy
//! of always taking the longer answer: a reward that is not better than that has learned length.

use std::path::Path;

use kbuild_engine::facts::{Facts, Prediction};
use kbuild_engine::kind::{Arity, Complaint, Known, Ports, TaskKind};
use kbuild_engine::runner::{Context, Failure};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::json::write_report;
use super::statistics::{mean, standard_error};
use crate::facts;
use crate::formats::chat::Preference;
use crate::formats::documents::Records;
use crate::formats::tokenizer::Tokenizer;
use crate::model::memory::Work;
use crate::model::{Batch, Core, Device, Head, Model, Numerics};
use crate::train::dialogue::{Boundary, tokenize_preference};
use crate::train::model_files;
use crate::train::records::{self, TokenPair};
use crate::train::reward_model::rewards;

/// The `evaluate-reward-model` kind.
pub struct EvaluateRewardModel;

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Params {
    /// Pairs with a longer side are left out and counted.
    pub max_length: usize,
}

impl Default for Params {
    fn default() -> Self {
        Self { max_length: 1024 }
    }
}

/// A pair with its rewards.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Judged {
    pub chosen: f64,
    pub rejected: f64,
    /// Tokens of the completions.
    pub chosen_length: usize,
    pub rejected_length: usize,
}

impl Judged {
    /// A strict win: equal rewards are wrong.
    pub fn is_right(&self) -> bool {
        self.chosen > self.rejected
    }
}

impl TaskKind for EvaluateRewardModel {
    const NAME: &'static str = "evaluate-reward-model";
    const VERSION: u32 = 2;
    const SUMMARY: &'static str = "Measures the accuracy of a reward model on held-out preferences";

    type Params = Params;

    fn ports() -> Ports {
        Ports::new()
            .input(
                "model",
                "reward-model",
                Arity::One,
                "the reward model, with its tokenizer",
            )
            .input(
                "preferences",
                "preferences|pairs",
                Arity::Many,
                "held-out preferences, as text or as tokens",
            )
            .output("report", "report", "accuracy, margin and lengths")
    }

    fn predict(params: &Params, known: &Known<'_>) -> Result<Prediction, Vec<Complaint>> {
        let complaints = facts::vocab_complaints(known, &["model", "preferences"]);
        facts::answer(complaints, || {
            let tokens = facts::sum(known, "preferences", "tokens");
            let model = known.one("model");
            // Two sequences a pair, as long as they may be.
            let full = params.max_length.saturating_mul(2 * BATCH_PAIRS);
            let rows = tokens.map_or(full, |tokens| full.min(tokens as usize));
            let backend = facts::backend(known, Numerics::F32);
            let memory = facts::memory(model, Head::Score, Work::Read, rows, backend);
            let cost = facts::forward(model, tokens, memory);
            facts::prediction(cost, [("report", Facts::default())])
        })
    }

    fn run(params: Params, context: &mut Context) -> Result<(), Failure> {
        let path = context.one("model").path.clone();
        let model = Model::load(&path)?;
        if let Some(tokenizer) = model_files::tokenizer_beside(&path, &model.config)? {
            for preferences in context.many("preferences") {
                model_files::check_tokenizer(preferences, &tokenizer)?;
            }
        }
        let mut pairs = Vec::new();
        for file in context.files("preferences") {
            pairs.extend(read_pairs(&file, &path)?);
        }
        let there = pairs.len();
        let longest = params.max_length.min(model.config.max_position_embeddings);
        pairs.retain(|pair| pair.sequences().iter().all(|ids| ids.len() <= longest));
        let parameters = model.config.parameter_count();
        if there > pairs.len() {
            let long = there - pairs.len();
            context.note(format!(
                "{long} of {there} pairs are longer than {longest} tokens and left out"
            ));
        }
        let judged = judge(model, &pairs, context)?;
        if judged.is_empty() {
            return Err(Failure::input("no held-out pair is left to judge")
                .help("raise `max_length`, or check the preferences"));
        }
        let mut report = summary(&judged);
        report["kind"] = json!(Self::NAME);
        report["too_long"] = json!(there - pairs.len());
        report["parameters"] = json!(parameters);
        write_report(context.output("report"), &report)
    }
}

/// Token ids as they are, or text, made into tokens of the model: the first record tells which.
fn read_pairs(file: &Path, model: &Path) -> Result<Vec<TokenPair>, Failure> {
    let first: Option<Value> = Records::open(file)?.next().transpose()?;
    if first.is_some_and(|record| record["chosen"][0].is_u64()) {
        return records::read(file);
    }
    let tokenizer = Tokenizer::open(model)?;
    Records::open(file)?
        .map(|preference| {
            let preference: Preference = preference?;
            let [prompt, chosen, rejected] =
                tokenize_preference(&tokenizer, &preference, Boundary::Error)?;
            Ok(TokenPair {
                prompt,
                chosen,
                rejected,
                ..TokenPair::default()
            })
        })
        .collect()
}

/// Pairs read at a time.
const BATCH_PAIRS: usize = 16;

/// Rewards of both sides, each read at its last token.
fn judge(model: Model, pairs: &[TokenPair], context: &mut Context) -> Result<Vec<Judged>, Failure> {
    if model.config.head != Head::Score {
        return Err(Failure::input("the model has no reward head")
            .help("bind the output of `reward-model`"));
    }
    let device = Device::open(context.device(), context.threads())?;
    let mut core = Core::new(model, &device)?;
    let mut judged = Vec::with_capacity(pairs.len());
    for chunk in pairs.chunks(BATCH_PAIRS) {
        let rewards = rewards(
            &mut core,
            &Batch::of(chunk.iter().flat_map(TokenPair::sequences)),
        )?;
        judged.extend(
            chunk
                .iter()
                .zip(rewards.chunks_exact(2))
                .map(|(pair, rewards)| Judged {
                    chosen: rewards[0],
                    rejected: rewards[1],
                    chosen_length: pair.chosen.len(),
                    rejected_length: pair.rejected.len(),
                }),
        );
        context.progress(judged.len() as u64, pairs.len() as u64, "pairs");
        if context.should_stop() {
            return Err(Failure::interrupted());
        }
    }
    Ok(judged)
}

/// Accuracy, margins and lengths of judged pairs.
pub fn summary(judged: &[Judged]) -> Value {
    let over = |of: fn(&Judged) -> f64| judged.iter().map(of).collect::<Vec<f64>>();
    let right = over(|pair| f64::from(u8::from(pair.is_right())));
    let picked = over(|pair| {
        let length = if pair.is_right() {
            pair.chosen_length
        } else {
            pair.rejected_length
        };
        length as f64
    });
    let longer = over(|pair| f64::from(u8::from(pair.chosen_length > pair.rejected_length)));
    json!({
        "pairs": judged.len(),
        "accuracy": mean(&right),
        "accuracy_standard_error": standard_error(&right),
        "mean_margin": mean(&over(|pair| pair.chosen - pair.rejected)),
        "ties": judged.iter().filter(|pair| pair.chosen == pair.rejected).count(),
        "mean_reward": {
            "chosen": mean(&over(|pair| pair.chosen)),
            "rejected": mean(&over(|pair| pair.rejected)),
        },
        "mean_length": {
            "chosen": mean(&over(|pair| pair.chosen_length as f64)),
            "rejected": mean(&over(|pair| pair.rejected_length as f64)),
            "preferred_by_model": mean(&picked),
        },
        "longer_is_chosen": mean(&longer),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(chosen: f64, rejected: f64) -> Judged {
        Judged {
            chosen,
            rejected,
            chosen_length: 3,
            rejected_length: 5,
        }
    }

    #[test]
    fn equal_rewards_are_wrong_and_swapping_flips_the_margin() {
        let pairs = [
            judged(1.0, 0.0),
            judged(0.5, 0.5),
            judged(-1.0, 2.0),
            judged(3.0, 2.0),
        ];
        let report = summary(&pairs);
        assert_eq!(report["accuracy"], json!(0.5));
        assert_eq!(report["ties"], json!(1));
        assert_eq!(report["longer_is_chosen"], json!(0.0));
        let swapped: Vec<Judged> = pairs.iter().map(|p| judged(p.rejected, p.chosen)).collect();
        let margin = |report: &Value| report["mean_margin"].as_f64().unwrap();
        assert_eq!(margin(&summary(&swapped)), -margin(&report));
    }
}
