//! `make-pairs`: scored samples → preference pairs of token ids.

use std::collections::{BTreeMap, BTreeSet};

use kbuild_engine::facts::{Fact, Facts, Prediction};
use kbuild_engine::kind::{Arity, Complaint, Known, Ports, TaskKind};
use kbuild_engine::runner::{Context, Failure};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::pairs::{NoPair, Scored, Select, choose_pair, prompt_word};
use super::records::{
    self, FinishReason, Response, SampledPrompt, Score, TokenPair, differ, identity,
};
use crate::facts;

pub struct MakePairs;

/// How pairs are chosen.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Params {
    /// Which two responses of a prompt are paired. Equal rewards never are.
    pub select: Select,
    /// Subtracted from a reward for each token of the response.
    pub length_penalty: f64,
    /// Pairs whose rewards differ by less are dropped.
    pub min_margin: f64,
    /// Responses with the same tokens count once.
    pub deduplicate: bool,
    /// Seed of `max_random`.
    pub seed: u64,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            select: Select::MaxMin,
            length_penalty: 0.0,
            min_margin: 0.0,
            deduplicate: true,
            seed: 0,
        }
    }
}

/// What became of the prompts.
#[derive(Debug, Default, PartialEq, Serialize)]
struct Report {
    prompts: usize,
    responses: usize,
    duplicates: usize,
    pairs: usize,
    ties: usize,
    below_margin: usize,
    too_few_responses: usize,
    /// Responses without a stop token.
    truncated_responses: usize,
    mean_score: f64,
    mean_length: f64,
    mean_chosen_length: f64,
    mean_rejected_length: f64,
}

impl TaskKind for MakePairs {
    const NAME: &'static str = "make-pairs";
    const VERSION: u32 = 2;
    const SUMMARY: &'static str = "builds preference pairs from scored samples";
    type Params = Params;

    fn ports() -> Ports {
        Ports::new()
            .input("samples", "samples", Arity::One, "responses of a policy")
            .input("scores", "scores", Arity::One, "their scores")
            .output("pairs", "pairs", "at most one pair a prompt")
            .output("report", "report", "pairs, ties, truncation and lengths")
    }

    fn predict(params: &Params, known: &Known<'_>) -> Result<Prediction, Vec<Complaint>> {
        let mut complaints = Vec::new();
        if params.min_margin < 0.0 {
            complaints.push(Complaint::new(
                "params.min_margin",
                format!("`min_margin` is {}, expected 0 or more", params.min_margin),
                "use 0 to keep every pair that is not a tie",
            ));
        }
        complaints.extend(facts::count_complaint(
            known,
            "samples",
            "scores",
            "responses",
        ));
        facts::answer(complaints, || {
            let samples = known.one("samples");
            let mut pairs = facts::carried(samples, &["vocab"]);
            if let Some(max) = samples.and_then(|samples| facts::at_most(samples, "prompts")) {
                pairs.set_fact("pairs", Fact::Bounded { min: 0, max });
            }
            facts::prediction(
                facts::without_a_model(),
                [("pairs", pairs), ("report", Facts::default())],
            )
        })
    }

    fn run(params: Params, context: &mut Context) -> Result<(), Failure> {
        let samples: Vec<SampledPrompt> = records::read(&context.one("samples").path)?;
        let scores: Vec<Score> = records::read(&context.one("scores").path)?;
        let scores = by_response(scores);
        let mut report = Report {
            prompts: samples.len(),
            ..Report::default()
        };
        let mut pairs = Vec::new();
        for sampled in &samples {
            pairs.extend(pair_of(&params, sampled, &scores, &mut report)?);
        }
        report.pairs = pairs.len();
        finish_means(&mut report, &pairs);
        if pairs.is_empty() {
            context.note("no prompt gave a pair: every reward was a tie, or responses were equal");
        }
        records::write(context.output("pairs"), &pairs)?;
        records::write_report(context.output("report"), &report)?;
        context.fact("pairs", "pairs", pairs.len());
        let tokens: usize = pairs.iter().map(TokenPair::n_tokens).sum();
        context.fact("pairs", "tokens", tokens);
        for name in ["vocab", "template"] {
            if let Some(value) = context.one("samples").facts.get(name).cloned() {
                context.fact("pairs", name, value);
            }
        }
        Ok(())
    }
}

type Scores = BTreeMap<(usize, usize), Score>;

fn by_response(scores: Vec<Score>) -> Scores {
    let entry = |score: Score| ((score.prompt, score.response), score);
    scores.into_iter().map(entry).collect()
}

fn pair_of(
    params: &Params,
    sampled: &SampledPrompt,
    scores: &Scores,
    report: &mut Report,
) -> Result<Option<TokenPair>, Failure> {
    let kept = kept_responses(params, sampled, report);
    let mut scored = Vec::with_capacity(kept.len());
    for &(index, response) in &kept {
        let others = |what: &str| {
            Failure::input(format!(
                "response {index} of prompt {} {what}",
                sampled.prompt
            ))
            .help("the scores belong to other samples; score these samples")
        };
        let score = scores
            .get(&(sampled.prompt, index))
            .ok_or_else(|| others("has no score"))?;
        let own = [identity(&sampled.record), identity(&response.ids)];
        if differ(Some(&own[0]), score.prompt_digest.as_ref())
            || differ(Some(&own[1]), score.response_digest.as_ref())
        {
            return Err(others("is not the one that was scored"));
        }
        let reward = score.score;
        let length = response.ids.len();
        report.mean_score += reward;
        report.mean_length += length as f64;
        scored.push(Scored { reward, length });
    }
    let word = prompt_word(params.seed, &sampled.ids);
    let choice = choose_pair(
        params.select,
        &scored,
        params.length_penalty,
        params.min_margin,
        word,
    );
    match choice {
        Ok(choice) => Ok(Some(TokenPair {
            prompt: sampled.ids.clone(),
            chosen: kept[choice.chosen].1.ids.clone(),
            rejected: kept[choice.rejected].1.ids.clone(),
            margin: Some(choice.margin),
            domain: sampled.record.domain.clone(),
        })),
        Err(reason) => {
            match reason {
                NoPair::Single => report.too_few_responses += 1,
                NoPair::Tie => report.ties += 1,
                NoPair::Margin => report.below_margin += 1,
            }
            Ok(None)
        }
    }
}

/// The responses that count, with their positions; of equal ones the first.
fn kept_responses<'a>(
    params: &Params,
    sampled: &'a SampledPrompt,
    report: &mut Report,
) -> Vec<(usize, &'a Response)> {
    let mut seen = BTreeSet::new();
    report.responses += sampled.responses.len();
    let truncated = |response: &&Response| response.finish == FinishReason::Length;
    report.truncated_responses += sampled.responses.iter().filter(truncated).count();
    let kept: Vec<_> = (sampled.responses.iter().enumerate())
        .filter(|(_, response)| !params.deduplicate || seen.insert(&response.ids))
        .filter(|(_, response)| !response.ids.is_empty())
        .collect();
    report.duplicates += sampled.responses.len() - kept.len();
    kept
}

fn finish_means(report: &mut Report, pairs: &[TokenPair]) {
    let counted = (report.responses - report.duplicates).max(1) as f64;
    report.mean_score /= counted;
    report.mean_length /= counted;
    let mean = |length: fn(&TokenPair) -> usize| {
        pairs.iter().map(length).sum::<usize>() as f64 / pairs.len().max(1) as f64
    };
    report.mean_chosen_length = mean(|pair| pair.chosen.len());
    report.mean_rejected_length = mean(|pair| pair.rejected.len());
}
