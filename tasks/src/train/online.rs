//! `online-dpo`: rounds of sample → score → make-pairs → log-probabilities → dpo, as one task each (recipe 10.5).
//!
//! Which model samples and which is the reference are edges of the expansion, so both can be read in `kbuild graph`.
//! With `staleness = 1` round r samples from the policy that round r − 1 *started* from: sampling of a round and
//! training of the round before do not wait for one another.

use std::collections::BTreeMap;

use kbuild_engine::kind::{Arity, Complaint, CompositeKind, Expansion, Ports, Step, StepInput};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{dpo, log_probabilities, make_pairs, sample, score};

pub struct OnlineDpo;

/// Which model the policy is held to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reference {
    /// The `reference` input, or the start where there is none, in every round (Kanana).
    Fixed,
    /// The policy before the round: nothing anchors the length of responses.
    Previous,
}

/// Rounds and what happens in each.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Params {
    /// Number of rounds (Online-RLHF: 3).
    pub rounds: usize,
    /// The model that the policy is held to.
    pub reference: Reference,
    /// 0: a round samples from its own policy. 1: from the policy one round back.
    pub staleness: usize,
    /// Prompts of each round; rounds use disjoint ranges in the order of the input. Required.
    pub prompts_per_round: Option<usize>,
    /// Params of `sample`; `first` counts from the first round, `count` is `prompts_per_round`.
    pub sample: sample::Params,
    /// Params of `score`.
    pub score: score::Params,
    /// Params of `make-pairs`.
    pub pairs: make_pairs::Params,
    /// Params of `log-probabilities`.
    pub log_probabilities: log_probabilities::Params,
    /// Params of `dpo`.
    pub dpo: dpo::Params,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            rounds: 3,
            reference: Reference::Fixed,
            staleness: 1,
            prompts_per_round: None,
            sample: sample::Params::default(),
            score: score::Params::default(),
            pairs: make_pairs::Params::default(),
            log_probabilities: log_probabilities::Params::default(),
            dpo: dpo::Params::default(),
        }
    }
}

impl CompositeKind for OnlineDpo {
    const NAME: &'static str = "online-dpo";
    const SUMMARY: &'static str = "rounds of sampling, scoring and preference training";
    type Params = Params;

    fn ports() -> Ports {
        Ports::new()
            .input("model", "model", Arity::One, "the policy to start from")
            .input(
                "reference",
                "model",
                Arity::Optional,
                "the fixed reference; the start where absent",
            )
            .input(
                "reward-model",
                "reward-model",
                Arity::Optional,
                "scores responses; none with `scorer = \"gold\"`",
            )
            .input("prompts", "prompts", Arity::Many, "prompts, read in order")
            .output("model", "model", "the policy after the last round")
            .output("metrics", "metrics", "training metrics of the last round")
            .output("samples", "samples", "samples of the last round")
            .output("scores", "scores", "scores of the last round")
            .output(
                "report",
                "report",
                "pairs, ties and lengths of the last round",
            )
    }

    fn expand(
        params: Params,
        inputs: &BTreeMap<String, usize>,
    ) -> Result<Expansion, Vec<Complaint>> {
        let bound = |port: &str| inputs.get(port).is_some_and(|&count| count > 0);
        let per_round = check(&params, bound("reference"))?;
        let mut expansion = Expansion::default();
        for round in 1..=params.rounds {
            let rounds = Round {
                params: &params,
                round,
                per_round,
                has_reference: bound("reference"),
                has_reward_model: bound("reward-model"),
            };
            expansion.steps.extend(rounds.steps());
        }
        let last = params.rounds;
        for (output, step, port) in [
            ("model", "train", "model"),
            ("metrics", "train", "metrics"),
            ("samples", "sample", "samples"),
            ("scores", "score", "scores"),
            ("report", "pairs", "report"),
        ] {
            let from = (format!("{step}-{last}"), port.to_owned());
            expansion.outputs.insert(output.to_owned(), from);
        }
        Ok(expansion)
    }
}

fn check(params: &Params, has_reference: bool) -> Result<usize, Vec<Complaint>> {
    let mut complaints = Vec::new();
    if has_reference && params.reference == Reference::Previous {
        complaints.push(Complaint::new(
            "inputs.reference",
            "nothing reads it: `reference` is \"previous\", the policy before each round",
            "leave the input out, or set `reference = \"fixed\"`",
        ));
    }
    if params.sample.count.is_some() {
        complaints.push(Complaint::new(
            "params.sample.count",
            "`count` is set in every round, to `prompts_per_round`",
            "leave it out",
        ));
    }
    if params.rounds == 0 {
        complaints.push(Complaint::new(
            "params.rounds",
            "`rounds` is 0",
            "use at least one round",
        ));
    }
    if params.staleness > 1 {
        complaints.push(Complaint::new(
            "params.staleness",
            format!("`staleness` is {}, expected 0 or 1", params.staleness),
            "1 lets sampling and training overlap; more makes the samples older for nothing",
        ));
    }
    let per_round = params.prompts_per_round.filter(|&count| count > 0);
    if per_round.is_none() {
        complaints.push(Complaint::new(
            "params.prompts_per_round",
            "`prompts_per_round` is required and is 1 or more",
            "the prompts must hold `rounds` times as many",
        ));
    }
    match per_round {
        Some(per_round) if complaints.is_empty() => Ok(per_round),
        _ => Err(complaints),
    }
}

/// One round, counted from 1.
struct Round<'a> {
    params: &'a Params,
    round: usize,
    per_round: usize,
    has_reference: bool,
    has_reward_model: bool,
}

impl Round<'_> {
    fn steps(&self) -> Vec<Step> {
        let policy = self.policy_after(self.round - 1);
        let sampler = self.policy_after((self.round - 1).saturating_sub(self.params.staleness));
        let reference = match self.params.reference {
            Reference::Previous => policy.clone(),
            Reference::Fixed if self.has_reference => outer("reference"),
            Reference::Fixed => outer("model"),
        };
        let samples = self.output("sample", "samples");
        let pairs = self.output("pairs", "pairs");
        vec![
            self.step(
                "sample",
                "sample",
                self.sample_params(),
                [("model", sampler), ("prompts", outer("prompts"))],
            ),
            self.score_step(&samples),
            self.step(
                "pairs",
                "make-pairs",
                object(&self.params.pairs),
                [
                    ("samples", samples),
                    ("scores", self.output("score", "scores")),
                ],
            ),
            self.step(
                "reference",
                "log-probabilities",
                object(&self.params.log_probabilities),
                [("model", reference), ("pairs", pairs.clone())],
            ),
            self.step(
                "train",
                "dpo",
                object(&self.params.dpo),
                [
                    ("model", policy),
                    ("pairs", pairs),
                    ("reference", self.output("reference", "log-probabilities")),
                ],
            ),
        ]
    }

    fn score_step(&self, samples: &StepInput) -> Step {
        let params = object(&self.params.score);
        let mut step = self.step("score", "score", params, [("samples", samples.clone())]);
        if self.has_reward_model {
            let scorer = vec![outer("reward-model")];
            step.inputs.insert("reward-model".to_owned(), scorer);
        }
        step
    }

    fn step<const N: usize>(
        &self,
        name: &str,
        kind: &str,
        params: Map<String, Value>,
        inputs: [(&str, StepInput); N],
    ) -> Step {
        Step {
            name: format!("{name}-{}", self.round),
            kind: kind.to_owned(),
            params,
            inputs: inputs
                .into_iter()
                .map(|(port, input)| (port.to_owned(), vec![input]))
                .collect(),
        }
    }

    fn output(&self, step: &str, port: &str) -> StepInput {
        StepInput::Step(format!("{step}-{}", self.round), port.to_owned())
    }

    /// The policy after `round` rounds; after none, the start.
    fn policy_after(&self, round: usize) -> StepInput {
        match round {
            0 => outer("model"),
            round => StepInput::Step(format!("train-{round}"), "model".to_owned()),
        }
    }

    fn sample_params(&self) -> Map<String, Value> {
        let mut params = object(&self.params.sample);
        let first = self.params.sample.first + (self.round - 1) * self.per_round;
        params.insert("first".to_owned(), json!(first));
        params.insert("count".to_owned(), json!(self.per_round));
        params
    }
}

fn outer(port: &str) -> StepInput {
    StepInput::Outer(port.to_owned())
}

/// Params as they are written in a Kananafile: what is absent stays absent.
fn object<P: Serialize>(params: &P) -> Map<String, Value> {
    match serde_json::to_value(params) {
        Ok(Value::Object(fields)) => fields
            .into_iter()
            .filter(|(_, value)| !value.is_null())
            .collect(),
        _ => Map::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expand(params: Value, inputs: &[(&str, usize)]) -> Result<Expansion, Vec<Complaint>> {
        let params = serde_json::from_value(params).unwrap();
        let inputs = inputs
            .iter()
            .map(|(port, n)| ((*port).to_owned(), *n))
            .collect();
        OnlineDpo::expand(params, &inputs)
    }

    fn input<'a>(expansion: &'a Expansion, step: &str, port: &str) -> &'a StepInput {
        let step = expansion
            .steps
            .iter()
            .find(|found| found.name == step)
            .unwrap();
        &step.inputs[port][0]
    }

    fn model_of(step: &str) -> StepInput {
        StepInput::Step(step.to_owned(), "model".to_owned())
    }

    #[test]
    fn the_reference_is_fixed_unless_told() {
        let fixed = expand(json!({"prompts_per_round": 8}), &[]).unwrap();
        assert_eq!(fixed.steps.len(), 15);
        assert_eq!(input(&fixed, "reference-3", "model"), &outer("model"));
        let given = expand(json!({"prompts_per_round": 8}), &[("reference", 1)]).unwrap();
        assert_eq!(input(&given, "reference-3", "model"), &outer("reference"));
        let moving = json!({"prompts_per_round": 8, "reference": "previous"});
        let moving = expand(moving, &[]).unwrap();
        assert_eq!(input(&moving, "reference-1", "model"), &outer("model"));
        assert_eq!(input(&moving, "reference-3", "model"), &model_of("train-2"));
    }

    #[test]
    fn staleness_moves_the_sampling_edge_alone() {
        for (staleness, sampler) in [(0, "train-2"), (1, "train-1")] {
            let params = json!({"prompts_per_round": 8, "staleness": staleness});
            let expansion = expand(params, &[]).unwrap();
            assert_eq!(input(&expansion, "sample-3", "model"), &model_of(sampler));
            assert_eq!(input(&expansion, "train-3", "model"), &model_of("train-2"));
            assert_eq!(input(&expansion, "sample-1", "model"), &outer("model"));
        }
    }

    #[test]
    fn rounds_use_disjoint_prompts() {
        let expansion = expand(json!({"prompts_per_round": 8, "rounds": 2}), &[]).unwrap();
        let ranges: Vec<_> = (expansion.steps.iter())
            .filter(|step| step.kind == "sample")
            .map(|step| (step.params["first"].clone(), step.params["count"].clone()))
            .collect();
        assert_eq!(ranges, [(json!(0), json!(8)), (json!(8), json!(8))]);
        let model = &expansion.outputs["model"];
        assert_eq!(model, &("train-2".to_owned(), "model".to_owned()));
    }

    #[test]
    fn every_problem_is_told() {
        let complaints = expand(json!({"rounds": 0, "staleness": 2}), &[]).unwrap_err();
        let places: Vec<_> = complaints
            .iter()
            .map(|complaint| complaint.at.as_str())
            .collect();
        assert_eq!(
            places,
            [
                "params.rounds",
                "params.staleness",
                "params.prompts_per_round"
            ]
        );
    }
}
