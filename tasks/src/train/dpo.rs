//! `dpo`: a policy learns to prefer the chosen completion of each pair over the rejected one (recipe 10.2).
//!
//! Log-probabilities come from the training forward pass, those of the reference from their own task. That
//! `logps_chosen` falls while the margin grows is expected; judge by a reward that did not train the policy.

use kbuild_engine::facts::Prediction;
use kbuild_engine::kind::{Arity, Complaint, Known, Ports, TaskKind};
use kbuild_engine::runner::{Context, Failure};
use serde_json::Value;

use super::log_probabilities::{PairLogProbabilities, pairs_digest};
use super::model_files;
use super::pair_batch::{self, PairBatch, PairOrder, groups};
use super::params::{Training, training_params, word};
use super::preference::{Coefficients, PairLogps, PairMetrics, PreferenceLoss, preference_loss};
use super::records::{TokenPair, differ};
use super::steps::{self, Objective, StepReport, write_metrics};
use crate::facts;
use crate::model::{Core, Head};

pub struct Dpo;

training_params! {
    /// Preference optimisation on pairs.
    pub struct Params {
        /// What is minimised. A `beta` means nothing without it.
        pub loss: PreferenceLoss = PreferenceLoss::Sigmoid,
        /// How strongly the policy is held to the reference (5 for `sigmoid_norm`, 2 for `simpo`).
        pub beta: f64 = 0.1,
        /// Share of wrong labels that `cdpo`, `robust` and `exo_pair` expect.
        pub label_smoothing: f64 = 0.0,
        /// Target margin of `simpo`, over beta.
        pub gamma_beta_ratio: f64 = 0.25,
        /// Strength of the mean negative log-likelihood of the chosen completions, added to the loss.
        pub sft_coefficient: f64 = 0.0,
        /// Passes over the pairs.
        pub epochs: usize = 1,
        /// Pairs of an optimiser step.
        pub pairs_per_step: usize = 128,
    }
    training: Training {
        lr: Some(5e-7),
        warmup: 0.1,
        ..Training::default()
    }
}

impl Params {
    fn complaints(&self) -> Vec<Complaint> {
        let mut complaints = self.training().complaints();
        let mut refuse = |wrong: bool, at: &str, message: String, help: &str| {
            if wrong {
                complaints.push(Complaint::new(&format!("params.{at}"), message, help));
            }
        };
        refuse(
            !(self.beta.is_finite() && self.beta > 0.0),
            "beta",
            format!("`beta` is {}, expected a positive number", self.beta),
            "0.1 is usual for `sigmoid`",
        );
        let below_half = (0.0..0.5).contains(&self.label_smoothing);
        refuse(
            !below_half,
            "label_smoothing",
            format!(
                "`label_smoothing` is {}, expected 0 to below 0.5",
                self.label_smoothing
            ),
            "it is the share of labels that are wrong",
        );
        let smooth = [
            PreferenceLoss::Cdpo,
            PreferenceLoss::Robust,
            PreferenceLoss::ExoPair,
        ];
        refuse(
            self.label_smoothing > 0.0 && !smooth.contains(&self.loss),
            "label_smoothing",
            format!("`{}` does not look at `label_smoothing`", word(&self.loss)),
            "use `cdpo`, `robust` or `exo_pair`, or remove it",
        );
        refuse(
            self.loss == PreferenceLoss::ExoPair && self.label_smoothing == 0.0,
            "label_smoothing",
            "`exo_pair` needs a `label_smoothing` above 0".to_owned(),
            "use 0.001 or more",
        );
        refuse(
            self.epochs == 0,
            "epochs",
            "`epochs` is 0".to_owned(),
            "use 1 or more",
        );
        refuse(
            self.pairs_per_step == 0,
            "pairs_per_step",
            "`pairs_per_step` is 0".to_owned(),
            "use 1 or more",
        );
        complaints
    }

    fn coefficients(&self) -> Coefficients {
        Coefficients {
            beta: self.beta,
            label_smoothing: self.label_smoothing,
            gamma_beta_ratio: self.gamma_beta_ratio,
        }
    }
}

impl TaskKind for Dpo {
    const NAME: &'static str = "dpo";
    const VERSION: u32 = 2;
    const SUMMARY: &'static str = "trains a policy on preference pairs";
    type Params = Params;

    fn ports() -> Ports {
        Ports::new()
            .input("model", "model", Arity::One, "the policy that is trained")
            .input("pairs", "pairs", Arity::One, "pairs in token ids")
            .input(
                "reference",
                "log-probabilities",
                Arity::Optional,
                "log-probabilities of these pairs under the reference; not needed by `simpo`",
            )
            .output("model", "model", "the trained policy with its tokenizer")
            .output(
                "metrics",
                "metrics",
                "loss, rewards, margin, accuracy and lengths of every step",
            )
    }

    fn predict(params: &Params, known: &Known<'_>) -> Result<Prediction, Vec<Complaint>> {
        let mut complaints = params.complaints();
        complaints.extend(facts::vocab_complaints(known, &["model", "pairs"]));
        if params.loss.uses_reference() && known.many("reference").is_empty() {
            complaints.push(Complaint::new(
                "inputs.reference",
                format!(
                    "`{}` compares with a reference, and none is bound",
                    word(&params.loss)
                ),
                "bind it to a `log-probabilities` task over the same pairs",
            ));
        }
        complaints.extend(facts::count_complaint(known, "pairs", "reference", "pairs"));
        complaints.extend(facts::pairs_complaint(known, "model", "pairs"));
        let reference = known.one("reference");
        let numerics = reference.and_then(|facts| facts.known("numerics"));
        complaints.extend(numerics_complaint(params, numerics));
        facts::answer(complaints, || {
            let model = known.one("model").cloned().unwrap_or_default();
            let tokens = facts::sum(known, "pairs", "tokens");
            let tokens = tokens.map(|tokens| tokens * params.epochs as u64);
            let pairs = facts::sum(known, "pairs", "pairs");
            let steps = facts::steps(pairs, params.pairs_per_step, params.epochs);
            let rows = pair_batch::largest(
                known,
                params.micro_batch_tokens,
                Some(params.pairs_per_step),
            );
            let (head, work) = (Head::Language, facts::training_work(known));
            let memory = pair_batch::memory(known, Some(&model), head, work, rows, params.numerics);
            let cost = facts::training(&model, tokens, None, memory);
            facts::prediction(cost, [("model", model), ("metrics", steps)])
        })
    }

    fn run(params: Params, context: &mut Context) -> Result<(), Failure> {
        let artifact = context.one("model");
        let model = model_files::load(artifact)?;
        let tokenizer = model_files::tokenizer(&artifact.path, &model.config)?;
        model_files::check_tokenizer(context.one("pairs"), &tokenizer)?;
        let pairs = pair_batch::read([&context.one("pairs").path], &model.config)?;
        let reference = match context.optional("reference") {
            Some(reference) => {
                if let Some(wrong) = numerics_complaint(&params, reference.facts.get("numerics")) {
                    return Err(Failure::input(wrong.message).help(wrong.help));
                }
                PairLogProbabilities::load(&reference.path)?
            }
            None if params.loss.uses_reference() => {
                return Err(Failure::input(
                    "this loss needs the reference's log-probabilities",
                ));
            }
            None => zeros(pairs.len()),
        };
        if reference.chosen.len() != pairs.len() || reference.rejected.len() != pairs.len() {
            return Err(Failure::input(format!(
                "{} pairs, and log-probabilities of {}",
                pairs.len(),
                reference.chosen.len()
            ))
            .help("make the log-probabilities of these pairs"));
        }
        if differ(reference.pairs.as_ref(), Some(&pairs_digest(&pairs))) {
            return Err(Failure::input("the log-probabilities are of other pairs")
                .help("make the log-probabilities of these pairs"));
        }
        if pairs.is_empty() {
            context.note("there are no pairs: the policy stays as it is");
        }
        let mut objective = Preferences::new(&params, pairs, reference);
        let device = steps::device(context, params.numerics)?;
        let training = params.training();
        let trained = steps::train(context, &training, &device, model, None, &mut objective)?;
        model_files::save(context, "model", &trained.core, &tokenizer)?;
        write_metrics(context, &trained.metrics)
    }
}

/// Rounding must be the same on both sides: at the first step policy and reference are equal.
fn numerics_complaint(params: &Params, of_reference: Option<&Value>) -> Option<Complaint> {
    let (own, other) = (params.numerics.name(), of_reference?.as_str()?);
    (own != other).then(|| {
        Complaint::new(
            "params.numerics",
            format!("the policy is trained in `{own}`, and the reference was read in `{other}`"),
            "give `log-probabilities` and `dpo` the same `numerics`",
        )
    })
}

fn zeros(n: usize) -> PairLogProbabilities {
    PairLogProbabilities {
        pairs: None,
        chosen: vec![0.0; n],
        rejected: vec![0.0; n],
    }
}

/// Pairs under a preference loss.
pub struct Preferences {
    pairs: Vec<TokenPair>,
    reference: PairLogProbabilities,
    loss: PreferenceLoss,
    coefficients: Coefficients,
    sft_coefficient: f64,
    micro_batch_tokens: usize,
    order: PairOrder,
    tokens: Vec<u64>,
}

impl Preferences {
    pub fn new(params: &Params, pairs: Vec<TokenPair>, reference: PairLogProbabilities) -> Self {
        let mut order = PairOrder::new(
            pairs.len(),
            params.pairs_per_step,
            params.epochs,
            params.seed,
        );
        Self {
            tokens: order.tokens(&pairs),
            pairs,
            reference,
            loss: params.loss,
            coefficients: params.coefficients(),
            sft_coefficient: params.sft_coefficient,
            micro_batch_tokens: params.micro_batch_tokens,
            order,
        }
    }

    /// Means over pairs, and over the tokens of all chosen completions, of one step.
    fn step_size(&self, chosen: &[usize]) -> StepSize {
        StepSize {
            pairs: chosen.len(),
            chosen_tokens: chosen
                .iter()
                .map(|&pair| self.pairs[pair].chosen.len())
                .sum(),
        }
    }

    /// Adds the pairs of one micro-batch: their numbers to `metrics`, their gradient to `core`.
    fn micro_batch(
        &self,
        group: &[usize],
        size: StepSize,
        core: &mut Core,
        metrics: &mut PairMetrics,
    ) -> Result<(), Failure> {
        let batch = PairBatch::of(group.iter().map(|&pair| &self.pairs[pair]));
        let found = batch.log_probabilities(core, true)?;
        let sums = batch.sums(&found);
        let mut slopes = vec![0.0; batch.rows.len()];
        for (place, &pair) in group.iter().enumerate() {
            let logps = self.logps(pair, &batch, &sums, place);
            let value = preference_loss(self.loss, &self.coefficients, &logps);
            let sft = self.sft_coefficient / size.chosen_tokens.max(1) as f64;
            let (chosen, rejected) = (2 * place, 2 * place + 1);
            let n = size.pairs as f64;
            slopes[batch.completions[chosen].clone()].fill(value.d_chosen / n - sft);
            slopes[batch.completions[rejected].clone()].fill(value.d_rejected / n);
            let likelihood = -sft * logps.policy_chosen * n;
            metrics.add(
                self.coefficients.beta,
                &logps,
                value.loss + likelihood,
                size.pairs,
            );
        }
        core.lm_head(&batch.rows, true, &mut |rows, logits| {
            logits.log_probability_gradient(&batch.targets[rows.clone()], &slopes[rows]);
        })?;
        Ok(core.backward()?)
    }

    fn logps(&self, pair: usize, batch: &PairBatch, sums: &[f64], place: usize) -> PairLogps {
        let (chosen, rejected) = (2 * place, 2 * place + 1);
        PairLogps {
            policy_chosen: sums[chosen],
            policy_rejected: sums[rejected],
            reference_chosen: self.reference.chosen[pair],
            reference_rejected: self.reference.rejected[pair],
            chosen_length: batch.completions[chosen].len() as f64,
            rejected_length: batch.completions[rejected].len() as f64,
        }
    }
}

#[derive(Clone, Copy)]
struct StepSize {
    pairs: usize,
    chosen_tokens: usize,
}

impl Objective for Preferences {
    fn steps(&self) -> u64 {
        self.order.steps()
    }

    fn tokens_before(&self, step: u64) -> u64 {
        self.tokens[step as usize]
    }

    fn step(&mut self, step: u64, core: &mut Core) -> Result<StepReport, Failure> {
        let chosen = self.order.step(step);
        let size = self.step_size(&chosen);
        let mut metrics = PairMetrics::default();
        for group in groups(&self.pairs, &chosen, self.micro_batch_tokens) {
            self.micro_batch(&group, size, core, &mut metrics)?;
        }
        Ok(report(&metrics, size.pairs))
    }
}

fn report(metrics: &PairMetrics, pairs: usize) -> StepReport {
    let extra = [
        ("rewards_chosen", metrics.rewards_chosen),
        ("rewards_rejected", metrics.rewards_rejected),
        ("margin", metrics.margin),
        ("accuracy", metrics.accuracy),
        ("logps_chosen", metrics.logps_chosen),
        ("logps_rejected", metrics.logps_rejected),
        ("chosen_length", metrics.chosen_length),
        ("rejected_length", metrics.rejected_length),
    ];
    StepReport {
        loss: metrics.loss,
        counted: pairs as u64,
        extra: extra.into_iter().collect(),
    }
}
