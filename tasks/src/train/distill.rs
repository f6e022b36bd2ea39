//! `distill`: a student learns a teacher's distribution over tokens (recipe 7).
//!
//! The vocabularies must be the same, byte by byte of their tokenizers. The teacher is run forward beside the student;
//! its weights never change.

use kbuild_engine::facts::Prediction;
use kbuild_engine::kind::{Arity, Complaint, Known, Ports, TaskKind};
use kbuild_engine::runner::{Context, Failure};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::corpus::{Corpus, Reading, mixture};
use super::model_files;
use super::params::{ScheduleName, Training, training_params};
use super::pretrain::{corpus_complaints, note_epochs, steps, tokens_read};
use super::steps::{self, write_metrics};
use super::token_objective::{Teacher, TokenLoss, TokenObjective};
use crate::facts;
use crate::model::loss::Distillation;
use crate::model::memory::{Held, Work, held, kept_logits};
use crate::model::{Core, Head};

pub struct Distill;

/// How far the student is from the teacher.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DistillationLoss {
    /// Σ p (ln p − ln q) over the whole vocabulary (Minitron, Kanana).
    ForwardKl,
}

training_params! {
    /// Distillation on token shards.
    pub struct Params {
        /// Tokens of the whole run. Required; rounded up to whole rows.
        pub tokens: Option<u64> = None,
        /// Tokens of a row.
        pub seq_len: usize = 512,
        /// Tokens of an optimiser step; a multiple of `seq_len`.
        pub tokens_per_step: usize = 16_384,
        /// Share of each input of `tokens`; by their sizes where absent.
        pub mixture: Option<Vec<f64>> = None,
        /// A source may be read at most this many times.
        pub max_epochs: f64 = 4.0,
        /// How far the student is from the teacher.
        pub loss: DistillationLoss = DistillationLoss::ForwardKl,
        /// Temperature of both distributions.
        pub temperature: f64 = 1.0,
        /// Multiply the divergence by the square of the temperature.
        pub scale_by_squared_temperature: bool = false,
        /// Share of the divergence; the rest is cross entropy.
        pub kd_weight: f64 = 1.0,
    }
    training: Training {
        lr: Some(1.2e-4),
        schedule: ScheduleName::Cosine,
        warmup: 100.0,
        min_ratio: 0.1,
        betas: [0.9, 0.95],
        weight_decay: 0.1,
        ..Training::default()
    }
}

impl Params {
    fn reading(&self, mixture: Option<Vec<f64>>) -> Reading {
        Reading {
            tokens: self.tokens.unwrap_or(0),
            seq_len: self.seq_len,
            tokens_per_step: self.tokens_per_step,
            micro_batch_tokens: self.micro_batch_tokens,
            mixture,
            max_epochs: self.max_epochs,
            seed: self.seed,
        }
    }

    fn complaints(&self) -> Vec<Complaint> {
        let mut complaints = self.training().complaints();
        if !(self.temperature.is_finite() && self.temperature > 0.0) {
            complaints.push(Complaint::new(
                "params.temperature",
                format!(
                    "`temperature` is {}, expected a positive number",
                    self.temperature
                ),
                "1 is what Minitron found best",
            ));
        }
        if !(0.0..=1.0).contains(&self.kd_weight) {
            complaints.push(Complaint::new(
                "params.kd_weight",
                format!(
                    "`kd_weight` is {}, expected a share between 0 and 1",
                    self.kd_weight
                ),
                "1 is the divergence alone, 0.5 half cross entropy",
            ));
        }
        complaints
    }
}

/// A student that is trained, a teacher that is read, and the logits that it hands over.
fn memory(params: &Params, known: &Known<'_>, reading: &Reading) -> Option<Held> {
    let (rows, backend) = (
        reading.micro_batch(),
        facts::backend(known, params.numerics),
    );
    let config = |port| facts::to_config(known.one(port)?, Head::Language);
    let (student, teacher) = (config("student")?, config("teacher")?);
    Some(
        held(&student, facts::training_work(known), rows, backend)
            .beside(held(&teacher, Work::Read, rows, backend))
            .beside(kept_logits(&teacher, rows, backend)),
    )
}

impl TaskKind for Distill {
    const NAME: &'static str = "distill";
    const VERSION: u32 = 2;
    const SUMMARY: &'static str = "trains a student on a teacher's distributions";
    type Params = Params;

    fn ports() -> Ports {
        Ports::new()
            .input("student", "model", Arity::One, "the model that is trained")
            .input("teacher", "model", Arity::One, "the model that is imitated")
            .input(
                "tokens",
                "tokens",
                Arity::Many,
                "what is read, one source an input",
            )
            .input(
                "mixture",
                "choice",
                Arity::Optional,
                "shares of the sources, chosen upstream; wins over the param",
            )
            .output("model", "model", "the trained student with its tokenizer")
            .output(
                "metrics",
                "metrics",
                "divergence, cross entropy, learning rate and gradient norm of every step",
            )
            .per_input("mixture", "tokens")
    }

    fn predict(params: &Params, known: &Known<'_>) -> Result<Prediction, Vec<Complaint>> {
        let reading = params.reading(params.mixture.clone());
        let mut complaints = params.complaints();
        complaints.extend(corpus_complaints(&reading, known));
        complaints.extend(facts::vocab_complaints(
            known,
            &["student", "teacher", "tokens"],
        ));
        for port in ["student", "teacher"] {
            complaints.extend(facts::length_complaint(
                known,
                port,
                "seq_len",
                params.seq_len,
            ));
        }
        facts::answer(complaints, || {
            let student = known.one("student").cloned().unwrap_or_default();
            let tokens = Some(tokens_read(&reading));
            let teacher = known.one("teacher");
            let memory = memory(params, known, &reading);
            let cost = facts::training(&student, tokens, teacher, memory);
            let outputs = [("model", student), ("metrics", steps(&reading))];
            facts::prediction(cost, outputs)
        })
    }

    fn run(params: Params, context: &mut Context) -> Result<(), Failure> {
        let (student, teacher) = (context.one("student"), context.one("teacher"));
        let (model, taught) = (model_files::load(student)?, model_files::load(teacher)?);
        let tokenizer = model_files::tokenizer(&student.path, &model.config)?;
        let other = model_files::tokenizer(&teacher.path, &taught.config)?;
        if tokenizer.digest() != other.digest()
            || model.config.vocab_size != taught.config.vocab_size
        {
            return Err(Failure::input("student and teacher have different vocabularies")
                .help("a distribution over other tokens teaches nothing: use a teacher with the same tokenizer"));
        }
        for tokens in context.many("tokens") {
            model_files::check_tokenizer(tokens, &tokenizer)?;
        }
        let source = Corpus::open(
            context.many("tokens"),
            params.reading(mixture(context, &params.mixture)?),
        )?;
        note_epochs(context, &source);
        let device = steps::device(context, params.numerics)?;
        let loss = TokenLoss::Teacher(Box::new(Teacher {
            core: Core::new(taught, &device)?,
            options: Distillation {
                temperature: params.temperature,
                kd_weight: params.kd_weight,
                scale_by_squared_temperature: params.scale_by_squared_temperature,
            },
        }));
        let mut objective = TokenObjective { source, loss };
        let training = params.training();
        let trained = steps::train(context, &training, &device, model, None, &mut objective)?;
        model_files::save(context, "model", &trained.core, &tokenizer)?;
        write_metrics(context, &trained.metrics)
    }
}
