//! `pretrain`: a fresh model, or one that is continued, on token shards (recipe 4).
//!
//! A stage is one task: broad training, a second stage with another mixture, an annealing run, continued training of an
//! up-scaled model differ in params and inputs alone.

use kbuild_engine::facts::{Cost, Facts, Prediction};
use kbuild_engine::kind::{Arity, Complaint, Known, Ports, TaskKind};
use kbuild_engine::runner::{Context, Failure};

use super::corpus::{Corpus, Reading, mixture};
use super::fresh::Shape;
use super::mixture::{MixtureProblem, check_weights};
use super::model_files;
use super::params::{ScheduleName, Training, training_params};
use super::steps::{self, write_metrics};
use super::token_objective::{TokenLoss, TokenObjective};
use crate::formats::tokenizer::Tokenizer;
use crate::model::{AdamW, Config, Model};

pub struct Pretrain;

training_params! {
    /// Pre-training, fresh or continued. The shape of a fresh model is given by `hidden`, `layers` and `heads`; with
    /// `init` the shape is the model's.
    pub struct Params {
        /// Tokens of the whole run. Required; rounded up to whole rows.
        pub tokens: Option<u64> = None,
        /// Tokens of a row. Documents are cut at the borders of rows and never see one another.
        pub seq_len: usize = 512,
        /// Tokens of an optimiser step; a multiple of `seq_len`.
        pub tokens_per_step: usize = 16_384,
        /// Share of each input of `tokens`; by their sizes where absent.
        pub mixture: Option<Vec<f64>> = None,
        /// A source may be read at most this many times.
        pub max_epochs: f64 = 4.0,
        /// Strength of z-loss: times the square of the log-partition function (Kanana: 5e-6).
        pub z_loss: f64 = 0.0,
        /// Whether the optimiser's state is written, for a next stage to continue.
        pub save_state: bool = false,
        /// Width of a fresh model.
        pub hidden: Option<usize> = None,
        /// Layers of a fresh model.
        pub layers: Option<usize> = None,
        /// Query heads of a fresh model.
        pub heads: Option<usize> = None,
        /// Key/value heads of a fresh model; as many as query heads where absent.
        pub kv_heads: Option<usize> = None,
        /// Width of a head; `hidden / heads` where absent.
        pub head_dim: Option<usize> = None,
        /// Width of the feed-forward layer; 8/3 of `hidden`, rounded up to a multiple of 16, where absent.
        pub ffn: Option<usize> = None,
        /// Whether a fresh model's output matrix is its embedding matrix.
        pub tie_embeddings: Option<bool> = None,
        /// Base of the rotary position embedding of a fresh model; 10000 where absent.
        pub rope_theta: Option<f64> = None,
        /// Positions of a fresh model; `seq_len` where absent.
        pub max_positions: Option<usize> = None,
        /// Standard deviation of fresh weights; 0.02 where absent.
        pub init_std: Option<f64> = None,
    }
    training: Training {
        schedule: ScheduleName::Wsd,
        warmup: 0.02,
        betas: [0.9, 0.95],
        weight_decay: 0.1,
        ..Training::default()
    }
}

impl Params {
    fn shape(&self) -> Shape {
        Shape {
            hidden: self.hidden,
            layers: self.layers,
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            ffn: self.ffn,
            tie_embeddings: self.tie_embeddings,
            rope_theta: self.rope_theta,
            max_positions: self.max_positions,
            init_std: self.init_std,
        }
    }

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
}

impl TaskKind for Pretrain {
    const NAME: &'static str = "pretrain";
    const VERSION: u32 = 2;
    const SUMMARY: &'static str = "trains a fresh or given model on tokens";
    type Params = Params;

    fn ports() -> Ports {
        Ports::new()
            .input(
                "init",
                "model",
                Arity::Optional,
                "the model to continue; fresh where absent",
            )
            .input(
                "tokenizer",
                "tokenizer|model",
                Arity::Optional,
                "the tokenizer of a fresh model",
            )
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
            .input(
                "state",
                "optimizer-state",
                Arity::Optional,
                "optimiser state to continue; fresh where absent",
            )
            .output("model", "model", "the trained model with its tokenizer")
            .output(
                "metrics",
                "metrics",
                "loss, learning rate and gradient norm of every step",
            )
            .output(
                "state",
                "optimizer-state",
                "optimiser state; empty unless `save_state`",
            )
            .per_input("mixture", "tokens")
    }

    fn predict(params: &Params, known: &Known<'_>) -> Result<Prediction, Vec<Complaint>> {
        let mut complaints = params.training().complaints();
        complaints.extend(corpus_complaints(
            &params.reading(params.mixture.clone()),
            known,
        ));
        complaints.extend(model_files::vocab_complaints(
            known,
            &["init", "tokenizer", "tokens"],
        ));
        complaints.extend(model_files::length_complaint(
            known,
            "init",
            "seq_len",
            params.seq_len,
        ));
        let facts = match known.one("init") {
            Some(facts) => {
                complaints.extend(params.shape().complaints_beside_init());
                Some(facts.clone())
            }
            None => fresh_facts(params, known, &mut complaints),
        };
        if !complaints.is_empty() {
            return Err(complaints);
        }
        let mut facts = facts.unwrap_or_default();
        if let Some(vocab) = model_files::vocab_fact(known, &["init", "tokenizer", "tokens"]) {
            facts.set_fact("vocab", vocab);
        }
        let cost = cost(&facts, &params.reading(None), None);
        Ok(Prediction {
            cost,
            ..Prediction::default()
        }
        .output("model", facts))
    }

    fn run(params: Params, context: &mut Context) -> Result<(), Failure> {
        let (model, tokenizer) = starting_model(&params, context)?;
        for tokens in context.many("tokens") {
            model_files::check_vocab(tokens, &tokenizer)?;
        }
        let source = Corpus::open(
            context.many("tokens"),
            params.reading(mixture(context, &params.mixture)?),
        )?;
        note_epochs(context, &source);
        let training = params.training();
        let optimizer = match context.optional("state") {
            Some(state) => Some(AdamW::load(&state.path, &model.layout, training.adamw())?),
            None => None,
        };
        let loss = TokenLoss::CrossEntropy {
            z_loss: params.z_loss,
        };
        let mut objective = TokenObjective { source, loss };
        let device = steps::device(context, params.numerics)?;
        let trained = steps::train(
            context,
            &training,
            &device,
            model,
            optimizer,
            &mut objective,
        )?;
        model_files::save(context, "model", &trained.model, &tokenizer)?;
        write_metrics(context, &trained.metrics)?;
        write_state(context, params.save_state, &trained.optimizer)
    }
}

/// The model that training starts from, with its tokenizer.
fn starting_model(params: &Params, context: &Context) -> Result<(Model, Tokenizer), Failure> {
    if let Some(init) = context.optional("init") {
        let model = model_files::load(init)?;
        let tokenizer = model_files::tokenizer(&init.path, &model.config)?;
        return Ok((model, tokenizer));
    }
    let artifact = context.optional("tokenizer").ok_or_else(|| {
        Failure::input("a fresh model needs a tokenizer")
            .help("bind `inputs.tokenizer`, or `inputs.init`")
    })?;
    let tokenizer = Tokenizer::open(&artifact.path)?;
    let config = params
        .shape()
        .config(tokenizer.vocab_size(), params.seq_len)?;
    let config = Config {
        bos_token_id: tokenizer.bos(),
        eos_token_id: tokenizer.eos().into_iter().collect(),
        pad_token_id: tokenizer.pad(),
        ..config
    };
    Ok((Model::init(&config, params.seed)?, tokenizer))
}

fn fresh_facts(
    params: &Params,
    known: &Known<'_>,
    complaints: &mut Vec<Complaint>,
) -> Option<Facts> {
    if known.many("tokenizer").is_empty() {
        complaints.push(Complaint::new(
            "inputs.tokenizer",
            "a fresh model needs a tokenizer",
            "bind `inputs.tokenizer` to the tokenizer that made the tokens, or `inputs.init` to a model",
        ));
    }
    // Every problem of the shape shows with any vocabulary.
    let vocab_size = known
        .one("tokenizer")
        .and_then(|facts| facts.u64("vocab_size"));
    let any = vocab_size.unwrap_or(1 << 10) as usize;
    let config = params.shape().config(any, params.seq_len);
    if let Err(failure) = &config {
        complaints.push(Complaint::new(
            "params",
            failure.message.clone(),
            failure.help.clone(),
        ));
    }
    let mut facts = model_files::facts_of(&config.ok()?);
    if vocab_size.is_none() {
        facts.0.remove("vocab_size");
        facts.0.remove("parameters");
    }
    Some(facts)
}

/// What is wrong with how token shards are read.
pub fn corpus_complaints(reading: &Reading, known: &Known<'_>) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    let mut refuse = |at: &str, message: String, help: &str| {
        complaints.push(Complaint::new(&format!("params.{at}"), message, help));
    };
    if reading.tokens == 0 {
        refuse(
            "tokens",
            "`tokens` is required and is 1 or more".to_owned(),
            "12 tokens per parameter is a usual least for a fresh model",
        );
    }
    if reading.seq_len < 2 {
        refuse(
            "seq_len",
            format!("`seq_len` is {}", reading.seq_len),
            "use 2 or more",
        );
    } else if !reading.tokens_per_step.is_multiple_of(reading.seq_len)
        || reading.tokens_per_step == 0
    {
        refuse(
            "tokens_per_step",
            format!(
                "`tokens_per_step` is {}, no multiple of `seq_len` = {}",
                reading.tokens_per_step, reading.seq_len
            ),
            "a step is made of whole rows",
        );
    }
    let sources = known.many("tokens");
    if let Some(Err(problem)) = (reading.mixture.as_ref())
        .map(|weights| check_weights(weights, sources.len()))
        .filter(|_| known.many("mixture").is_empty())
    {
        refuse(
            "mixture",
            problem.to_string(),
            "give each input of `tokens` a share",
        );
    } else if let Some(problem) = too_many_epochs(reading, known) {
        refuse(
            "mixture",
            problem.to_string(),
            "change the shares, lower `tokens`, or raise `max_epochs`",
        );
    }
    complaints
}

/// A source that would be read too often, where the sizes of all sources are known.
fn too_many_epochs(reading: &Reading, known: &Known<'_>) -> Option<MixtureProblem> {
    if !known.many("mixture").is_empty() || reading.seq_len == 0 {
        return None;
    }
    let held: Option<Vec<u64>> = known
        .many("tokens")
        .iter()
        .map(|(_, facts)| facts.u64("tokens"))
        .collect();
    let held = held.filter(|held| !held.is_empty())?;
    let weights = match &reading.mixture {
        Some(weights) => weights.clone(),
        None => held.iter().map(|&tokens| tokens as f64).collect(),
    };
    check_weights(&weights, held.len()).err().or_else(|| {
        let rows = super::mixture::apportion(reading.rows(), &weights);
        let row_length = reading.seq_len as u64;
        super::mixture::check_epochs(&rows, &weights, &held, row_length, reading.max_epochs).err()
    })
}

/// 6·N per token, and a teacher's forward passes beside it.
pub fn cost(facts: &Facts, reading: &Reading, teacher: Option<&Facts>) -> Cost {
    let tokens = reading.rows() * reading.seq_len as u64;
    let parameters = facts.u64("parameters");
    Cost {
        flops: parameters.map(|n| 6.0 * n as f64 * tokens as f64),
        extra_flops: teacher
            .and_then(|teacher| teacher.u64("parameters"))
            .map(|n| 2.0 * n as f64 * tokens as f64),
        tokens: Some(tokens),
        disk_bytes: parameters.map(|n| 4 * n),
        memory_bytes: None,
    }
}

pub fn note_epochs(context: &mut Context, corpus: &Corpus) {
    let labels: Vec<String> = context
        .many("tokens")
        .iter()
        .map(|artifact| artifact.label.clone())
        .collect();
    for (label, (tokens, epochs)) in labels.iter().zip(corpus.epochs()) {
        context.note(format!("{label}: {tokens} tokens, read {epochs:.2} times"));
    }
}

fn write_state(context: &Context, wanted: bool, optimizer: &AdamW) -> Result<(), Failure> {
    let path = context.output("state");
    if wanted {
        return Ok(optimizer.save(path)?);
    }
    let empty: [(&str, safetensors::tensor::TensorView<'_>); 0] = [];
    safetensors::serialize_to_file(empty, None, path)
        .map_err(|error| Failure::input(format!("`{}`: {error}", path.display())))
}
