//! `reward-model`: a model with one score instead of a vocabulary, trained on preference pairs (recipe 9).
//!
//! The score is read at the last token of a sequence, found by length and never by id: where padding and end-of-text
//! are one token, other programs read it one token early.

use kbuild_engine::facts::Prediction;
use kbuild_engine::kind::{Arity, Complaint, Known, Ports, TaskKind};
use kbuild_engine::runner::{Context, Failure};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::model_files;
use super::pair_batch::{self, PairBatch, PairOrder, groups};
use super::params::{Training, training_params};
use super::records::TokenPair;
use super::reward_loss::bradley_terry;
use super::steps::{self, Objective, StepReport, write_metrics};
use crate::facts;
use crate::model::{Batch, Core, Head};

pub struct RewardModel;

/// Which function of the two rewards is minimised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RewardLossName {
    /// −log σ(chosen − rejected − margin).
    BradleyTerry,
}

/// By how much the chosen reward should be higher.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Margin {
    /// Any amount will do.
    None,
    /// The margin of the pair; 0 where it has none.
    Pair,
}

training_params! {
    /// Training of a reward model.
    pub struct Params {
        /// What is minimised.
        pub loss: RewardLossName = RewardLossName::BradleyTerry,
        /// By how much the chosen reward should be higher.
        pub margin: Margin = Margin::None,
        /// Strength of the pull of both rewards of a pair towards a sum of 0 (TRL suggests 0.01 when used).
        pub center_coefficient: f64 = 0.0,
        /// Passes over the pairs; more than one over-fits soon.
        pub epochs: usize = 1,
        /// Pairs of an optimiser step.
        pub pairs_per_step: usize = 64,
    }
    training: Training {
        lr: Some(3e-6),
        eps: 1e-5,
        ..Training::default()
    }
}

impl TaskKind for RewardModel {
    const NAME: &'static str = "reward-model";
    const VERSION: u32 = 2;
    const SUMMARY: &'static str = "trains a reward model on preference pairs";
    type Params = Params;

    fn ports() -> Ports {
        Ports::new()
            .input(
                "model",
                "model",
                Arity::One,
                "the model whose trunk it starts from",
            )
            .input("pairs", "pairs", Arity::Many, "pairs in token ids")
            .output(
                "model",
                "reward-model",
                "the reward model with its tokenizer",
            )
            .output(
                "metrics",
                "metrics",
                "loss, accuracy and margin of every step",
            )
    }

    fn predict(params: &Params, known: &Known<'_>) -> Result<Prediction, Vec<Complaint>> {
        let mut complaints = params.training().complaints();
        complaints.extend(facts::vocab_complaints(known, &["model", "pairs"]));
        if params.epochs == 0 || params.pairs_per_step == 0 {
            let at = if params.epochs == 0 {
                "epochs"
            } else {
                "pairs_per_step"
            };
            complaints.push(Complaint::new(
                &format!("params.{at}"),
                format!("`{at}` is 0"),
                "use 1 or more",
            ));
        }
        if !(params.center_coefficient.is_finite() && params.center_coefficient >= 0.0) {
            complaints.push(Complaint::new(
                "params.center_coefficient",
                format!("`center_coefficient` is {}", params.center_coefficient),
                "use 0 for none",
            ));
        }
        complaints.extend(facts::pairs_complaint(known, "model", "pairs"));
        facts::answer(complaints, || {
            let trunk = known.one("model").cloned().unwrap_or_default();
            let model = facts::of_reward_model(&trunk);
            let tokens = facts::sum(known, "pairs", "tokens");
            let tokens = tokens.map(|tokens| tokens * params.epochs as u64);
            let pairs = facts::sum(known, "pairs", "pairs");
            let steps = facts::steps(pairs, params.pairs_per_step, params.epochs);
            let rows = pair_batch::largest(
                known,
                params.micro_batch_tokens,
                Some(params.pairs_per_step),
            );
            let (head, work) = (Head::Score, facts::training_work(known));
            let memory = pair_batch::memory(known, Some(&model), head, work, rows, params.numerics);
            let cost = facts::training(&model, tokens, None, memory);
            facts::prediction(cost, [("model", model), ("metrics", steps)])
        })
    }

    fn run(params: Params, context: &mut Context) -> Result<(), Failure> {
        let artifact = context.one("model");
        let trunk = model_files::load(artifact)?;
        let tokenizer = model_files::tokenizer(&artifact.path, &trunk.config)?;
        for pairs in context.many("pairs") {
            model_files::check_tokenizer(pairs, &tokenizer)?;
        }
        let paths = context.many("pairs").iter().map(|artifact| &artifact.path);
        let pairs = pair_batch::read(paths, &trunk.config)?;
        if pairs.is_empty() {
            return Err(Failure::input("there are no pairs to learn from"));
        }
        let model = trunk.with_score_head(params.seed)?;
        drop(trunk);
        let mut objective = Rewards::new(&params, pairs);
        let device = steps::device(context, params.numerics)?;
        let training = params.training();
        let trained = steps::train(context, &training, &device, model, None, &mut objective)?;
        model_files::save(context, "model", &trained.core, &tokenizer)?;
        write_metrics(context, &trained.metrics)
    }
}

/// The row of the last token of every sequence.
pub fn last_rows(batch: &Batch) -> Vec<usize> {
    batch.ends.iter().map(|end| end - 1).collect()
}

/// The rewards of sequences under a reward model.
pub fn rewards(core: &mut Core, batch: &Batch) -> Result<Vec<f64>, Failure> {
    core.forward_only(batch, None)?;
    let mut found = Vec::new();
    core.score_head(&last_rows(batch), false, &mut |scores| {
        found.extend(scores.iter().map(|score| f64::from(*score)));
    })?;
    Ok(found)
}

/// Pairs under the Bradley–Terry loss.
pub struct Rewards {
    pairs: Vec<TokenPair>,
    margin: Margin,
    centring: f64,
    micro_batch_tokens: usize,
    order: PairOrder,
    tokens: Vec<u64>,
}

impl Rewards {
    pub fn new(params: &Params, pairs: Vec<TokenPair>) -> Self {
        let mut order = PairOrder::new(
            pairs.len(),
            params.pairs_per_step,
            params.epochs,
            params.seed,
        );
        Self {
            tokens: order.tokens(&pairs),
            pairs,
            margin: params.margin,
            centring: params.center_coefficient,
            micro_batch_tokens: params.micro_batch_tokens,
            order,
        }
    }

    fn margin_of(&self, pair: usize) -> f64 {
        match self.margin {
            Margin::None => 0.0,
            Margin::Pair => self.pairs[pair].margin.unwrap_or(0.0),
        }
    }
}

impl Objective for Rewards {
    fn steps(&self) -> u64 {
        self.order.steps()
    }

    fn tokens_before(&self, step: u64) -> u64 {
        self.tokens[step as usize]
    }

    fn step(&mut self, step: u64, core: &mut Core) -> Result<StepReport, Failure> {
        let chosen = self.order.step(step);
        let n = chosen.len() as f64;
        let mut report = StepReport {
            counted: chosen.len() as u64,
            ..StepReport::default()
        };
        let (mut accuracy, mut margin, mut reward) = (0.0, 0.0, 0.0);
        for group in groups(&self.pairs, &chosen, self.micro_batch_tokens) {
            let batch = PairBatch::of(group.iter().map(|&pair| &self.pairs[pair]));
            core.forward(&batch.batch)?;
            core.score_head(&last_rows(&batch.batch), true, &mut |scores| {
                for (scores, &pair) in scores.chunks_exact_mut(2).zip(&group) {
                    let (c, r) = (f64::from(scores[0]), f64::from(scores[1]));
                    let value = bradley_terry(c, r, self.margin_of(pair), self.centring);
                    report.loss += value.loss / n;
                    accuracy += if c > r { 1.0 / n } else { 0.0 };
                    margin += (c - r) / n;
                    reward += (c + r) / (2.0 * n);
                    scores[0] = (value.d_chosen / n) as f32;
                    scores[1] = (value.d_rejected / n) as f32;
                }
            })?;
            core.backward()?;
        }
        report.extra.insert("accuracy", accuracy);
        report.extra.insert("margin", margin);
        report.extra.insert("mean_reward", reward);
        Ok(report)
    }
}
