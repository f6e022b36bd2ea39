//! `score`: a number for every sampled response, from a reward model or from the program's own check of the answer.

use kbuild_engine::facts::{Cost, Prediction};
use kbuild_engine::kind::{Arity, Complaint, Known, Ports, TaskKind};
use kbuild_engine::runner::{Context, Failure};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::model_files;
use super::records::{self, FinishReason, SampledPrompt, Score as ScoreRecord, identity};
use super::reward_model::rewards;
use super::steps::{self, micro_batches};
use crate::facts;
use crate::measure::gold;
use crate::model::memory::Work;
use crate::model::{Batch, Core, Head, Numerics};

pub struct Score;

/// Who scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Scorer {
    /// The reward model on the port.
    RewardModel,
    /// The gold reward of the prompt's record: checks the answer itself, and its health where there is no answer.
    Gold,
}

/// How responses are scored.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Params {
    /// Who scores.
    pub scorer: Scorer,
    /// Subtracted from the reward model's score of a response without a stop token.
    pub missing_eos_penalty: f64,
    /// Tokens that go through the reward model at once.
    pub micro_batch_tokens: usize,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            scorer: Scorer::RewardModel,
            missing_eos_penalty: 1.0,
            micro_batch_tokens: 8192,
        }
    }
}

impl TaskKind for Score {
    const NAME: &'static str = "score";
    const VERSION: u32 = 3;
    const SUMMARY: &'static str = "scores sampled responses";
    type Params = Params;

    fn ports() -> Ports {
        Ports::new()
            .input("samples", "samples", Arity::One, "responses")
            .input(
                "reward-model",
                "reward-model",
                Arity::Optional,
                "scores them; none with `scorer = \"gold\"`",
            )
            .output("scores", "scores", "one score a response")
    }

    fn predict(params: &Params, known: &Known<'_>) -> Result<Prediction, Vec<Complaint>> {
        let mut complaints = facts::vocab_complaints(known, &["reward-model", "samples"]);
        let bound = !known.many("reward-model").is_empty();
        match params.scorer {
            Scorer::RewardModel if !bound => complaints.push(Complaint::new(
                "inputs.reward-model",
                "no reward model is bound",
                "bind one, or set `scorer = \"gold\"`",
            )),
            Scorer::Gold if bound => complaints.push(Complaint::new(
                "inputs.reward-model",
                "the gold reward needs no reward model",
                "remove the input, or the `scorer` param",
            )),
            _ => {}
        }
        if params.micro_batch_tokens == 0 {
            complaints.push(Complaint::new(
                "params.micro_batch_tokens",
                "`micro_batch_tokens` is 0",
                "8192 is the default",
            ));
        }
        facts::answer(complaints, || {
            let cost = match params.scorer {
                Scorer::RewardModel => reading(params, known),
                Scorer::Gold => facts::without_a_model(),
            };
            let scores = facts::carried(known.one("samples"), &["prompts", "responses"]);
            facts::prediction(cost, [("scores", scores)])
        })
    }

    fn run(params: Params, context: &mut Context) -> Result<(), Failure> {
        let samples: Vec<SampledPrompt> = records::read(&context.one("samples").path)?;
        let scores = match params.scorer {
            Scorer::Gold => gold_scores(&samples)?,
            Scorer::RewardModel => model_scores(&params, context, &samples)?,
        };
        let lines: Vec<ScoreRecord> = responses(&samples)
            .zip(&scores)
            .map(|((sampled, response), &score)| {
                let found = &sampled.responses[response];
                ScoreRecord {
                    prompt: sampled.prompt,
                    response,
                    score,
                    length: found.ids.len(),
                    stopped: found.finish == FinishReason::Stop,
                    prompt_digest: Some(identity(&sampled.record)),
                    response_digest: Some(identity(&found.ids)),
                }
            })
            .collect();
        if let Some(bad) = lines.iter().find(|line| !line.score.is_finite()) {
            return Err(Failure::input(format!(
                "the score of response {} to prompt {} is {}",
                bad.response, bad.prompt, bad.score
            ))
            .help("the reward model is broken: look at its training metrics"));
        }
        let mean = scores.iter().sum::<f64>() / scores.len().max(1) as f64;
        context.note(format!("{} responses, mean score {mean:.4}", lines.len()));
        records::write(context.output("scores"), &lines)?;
        context.fact("scores", "prompts", samples.len());
        context.fact("scores", "responses", lines.len());
        Ok(())
    }
}

/// Cost of a reward model that reads; how long responses are is not known.
fn reading(params: &Params, known: &Known<'_>) -> Cost {
    let model = known.one("reward-model");
    let positions = model.and_then(|model| facts::size(model, "max_position_embeddings"));
    let responses = known
        .one("samples")
        .and_then(|facts| facts::size(facts, "responses"));
    let most = positions
        .zip(responses)
        .map(|(length, n)| length.saturating_mul(n));
    let rows = params.micro_batch_tokens.min(most.unwrap_or(usize::MAX));
    let backend = facts::backend(known, Numerics::F32);
    let memory = facts::memory(model, Head::Score, Work::Read, rows, backend);
    facts::forward(model, None, memory)
}

/// Every response in order, as `(prompt, number)`.
fn responses(samples: &[SampledPrompt]) -> impl Iterator<Item = (&SampledPrompt, usize)> {
    samples
        .iter()
        .flat_map(|sampled| (0..sampled.responses.len()).map(move |response| (sampled, response)))
}

fn gold_scores(samples: &[SampledPrompt]) -> Result<Vec<f64>, Failure> {
    responses(samples)
        .map(|(sampled, response)| {
            let record = serde_json::to_value(&sampled.record)
                .map_err(|error| Failure::input(format!("prompt {}: {error}", sampled.prompt)))?;
            let response = &sampled.responses[response];
            let stopped = response.finish == FinishReason::Stop;
            let reward = gold::reward(&record, &response.text, stopped);
            reward.map_err(|error| Failure::input(format!("prompt {}: {error}", sampled.prompt)))
        })
        .collect()
}

fn model_scores(
    params: &Params,
    context: &mut Context,
    samples: &[SampledPrompt],
) -> Result<Vec<f64>, Failure> {
    let artifact = context.optional("reward-model").ok_or_else(|| {
        Failure::input("no reward model is bound").help("bind one, or set `scorer = \"gold\"`")
    })?;
    let model = model_files::load(artifact)?;
    let tokenizer = model_files::tokenizer(&artifact.path, &model.config)?;
    model_files::check_tokenizer(context.one("samples"), &tokenizer)?;
    let sequences: Vec<Vec<u32>> = responses(samples)
        .map(|(sampled, response)| {
            [sampled.ids.as_slice(), &sampled.responses[response].ids].concat()
        })
        .collect();
    let lengths: Vec<usize> = sequences.iter().map(Vec::len).collect();
    let longest = lengths.iter().copied().max().unwrap_or(0);
    model_files::check_length(
        &model.config,
        longest,
        "the longest response with its prompt",
    )?;
    let mut core = Core::new(model, &steps::device(context, Numerics::F32)?)?;
    let mut scores = Vec::with_capacity(sequences.len());
    for group in micro_batches(&lengths, params.micro_batch_tokens) {
        if context.should_stop() {
            return Err(Failure::interrupted());
        }
        let batch = Batch::of(&sequences[group]);
        scores.extend(rewards(&mut core, &batch)?);
        context.progress(scores.len() as u64, sequences.len() as u64, "responses");
    }
    let penalised =
        responses(samples)
            .zip(scores)
            .map(
                |((sampled, response), score)| match sampled.responses[response].finish {
                    FinishReason::Stop => score,
                    FinishReason::Length => score - params.missing_eos_penalty,
                },
            );
    Ok(penalised.collect())
}
