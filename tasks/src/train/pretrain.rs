//! `pretrain`: a fresh model, or one that is continued, on token shards (recipe 4).
//!
//! A stage is one task: broad training, a second stage with another mixture, an annealing run, continued training of an
//! up-scaled model differ in params and inputs alone.

use kbuild_engine::facts::{Facts, Prediction};
use kbuild_engine::kind::{Arity, Complaint, Known, Ports, TaskKind};
use kbuild_engine::runner::{Context, Failure};

use super::corpus::{Corpus, Reading, mixture};
use super::fresh::Shape;
use super::mixture::{MixtureProblem, check_shares, check_weights};
use super::model_files;
use super::params::{ScheduleName, Training, training_params};
use super::steps::{self, write_metrics};
use super::token_objective::{TokenLoss, TokenObjective};
use crate::facts;
use crate::formats::tokenizer::Tokenizer;
use crate::model::{AdamW, Config, Core, Head, Model};

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
        const VOCABULARIES: [&str; 3] = ["init", "tokenizer", "tokens"];
        let reading = params.reading(params.mixture.clone());
        let mut complaints = params.training().complaints();
        complaints.extend(corpus_complaints(&reading, known));
        complaints.extend(facts::vocab_complaints(known, &VOCABULARIES));
        complaints.extend(facts::length_complaint(
            known,
            "init",
            "seq_len",
            params.seq_len,
        ));
        complaints.extend(state_complaints(known));
        let model = match known.one("init") {
            Some(facts) => {
                complaints.extend(params.shape().complaints_beside_init());
                Some(facts.clone())
            }
            None => fresh_facts(params, known, &mut complaints),
        };
        facts::answer(complaints, || {
            let mut model = model.unwrap_or_default();
            if let Some(vocab) = facts::vocab(known, &VOCABULARIES) {
                model.set_fact("vocab", vocab);
            }
            let tokens = Some(tokens_read(&reading));
            let memory = facts::memory(
                Some(&model),
                Head::Language,
                facts::training_work(known),
                reading.micro_batch(),
                facts::backend(known, params.numerics),
            );
            let mut cost = facts::training(&model, tokens, None, memory);
            if params.save_state {
                // The model, and both moments of it.
                cost.disk_bytes = cost.disk_bytes.map(|bytes| 3 * bytes);
            }
            let state = state_facts(&model, params.save_state);
            let metrics = steps(&reading);
            let outputs = [("model", model), ("metrics", metrics), ("state", state)];
            facts::prediction(cost, outputs)
        })
    }

    fn run(params: Params, context: &mut Context) -> Result<(), Failure> {
        let (model, tokenizer) = starting_model(&params, context)?;
        for tokens in context.many("tokens") {
            model_files::check_tokenizer(tokens, &tokenizer)?;
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
        model_files::save(context, "model", &trained.core, &tokenizer)?;
        write_metrics(context, &trained.metrics)?;
        let model = facts::of_config(trained.core.config());
        facts::state(context, "state", &state_facts(&model, params.save_state));
        write_state(context, params.save_state, &trained.core)
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

/// Facts of the optimiser's state beside a model.
fn state_facts(model: &Facts, saved: bool) -> Facts {
    let mut state = match saved {
        true => facts::carried(Some(model), &facts::SHAPE),
        false => Facts::default(),
    };
    state.set("saved", saved);
    state
}

/// A state that is known to be empty, or of another model.
fn state_complaints(known: &Known<'_>) -> Vec<Complaint> {
    let saved = known.one("state").and_then(|state| state.known("saved"));
    let empty = saved.and_then(|saved| saved.as_bool()) == Some(false);
    let empty = empty.then(|| {
        Complaint::new(
            "inputs.state",
            "the task that it comes from saves no state",
            "set `save_state = true` there, or leave `state` out",
        )
    });
    let fresh = known.many("init").is_empty() && !known.many("state").is_empty();
    let fresh = fresh.then(|| {
        Complaint::new(
            "inputs.state",
            "fresh weights have no optimiser state to go on with",
            "bind `inputs.init` to the model beside that state, or leave `state` out",
        )
    });
    let other = facts::shape_complaint(known, "init", "state");
    empty.into_iter().chain(fresh).chain(other).collect()
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
        let place = match params.shape().above_limit() {
            Some((name, ..)) => format!("params.{name}"),
            None => "params".to_owned(),
        };
        complaints.push(Complaint::new(
            &place,
            failure.message.clone(),
            failure.help.clone(),
        ));
    }
    let mut facts = facts::of_config(&config.ok()?);
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
    complaints.extend(mixture_complaint(reading, known));
    complaints
}

/// Shares that are none, or a source that would be read too often.
fn mixture_complaint(reading: &Reading, known: &Known<'_>) -> Option<Complaint> {
    // A mixture that is chosen upstream is not known before the choice.
    if !known.many("mixture").is_empty() || reading.seq_len == 0 {
        return None;
    }
    let sources = known.many("tokens");
    let shares = reading.mixture.as_ref();
    if let Some(Err(problem)) = shares.map(|shares| check_shares(shares, sources.len())) {
        let help = match problem {
            MixtureProblem::Sum { .. } => "each input of `tokens` has a share of the whole",
            _ => "give each input of `tokens` a share",
        };
        return Some(Complaint::new(
            "params.mixture",
            named(&problem, sources),
            help,
        ));
    }
    let problem = too_many_epochs(reading, sources)?;
    let at = if shares.is_some() {
        "mixture"
    } else {
        "tokens"
    };
    Some(Complaint::new(
        &format!("params.{at}"),
        named(&problem, sources),
        "change the shares, lower `tokens`, or raise `max_epochs`",
    ))
}

/// A source that would be read too often, where it is known how much all sources hold at most.
fn too_many_epochs(reading: &Reading, sources: &[(String, Facts)]) -> Option<MixtureProblem> {
    let held = sources
        .iter()
        .map(|(_, facts)| facts::at_most(facts, "tokens"));
    let held: Vec<u64> = held.collect::<Option<_>>()?;
    let by_size = || held.iter().map(|&tokens| tokens as f64).collect();
    let weights: Vec<f64> = reading.mixture.clone().unwrap_or_else(by_size);
    check_weights(&weights, held.len()).err().or_else(|| {
        let rows = super::mixture::apportion(reading.rows(), &weights);
        let row_length = reading.seq_len as u64;
        super::mixture::check_epochs(&rows, &weights, &held, row_length, reading.max_epochs).err()
    })
}

/// The problem, with the name of the source that it is about.
fn named(problem: &MixtureProblem, sources: &[(String, Facts)]) -> String {
    let index = match problem {
        MixtureProblem::Weight { source_index, .. }
        | MixtureProblem::Empty { source_index, .. }
        | MixtureProblem::Epochs { source_index, .. } => *source_index,
        MixtureProblem::Count { .. } | MixtureProblem::Nothing | MixtureProblem::Sum { .. } => {
            return problem.to_string();
        }
    };
    let label = sources.get(index).map_or("", |(label, _)| label.as_str());
    let (number, name) = (format!("source {index}"), format!("source `{label}`"));
    problem.to_string().replacen(&number, &name, 1)
}

/// Tokens of a run: whole rows.
pub fn tokens_read(reading: &Reading) -> u64 {
    reading.rows() * reading.seq_len as u64
}

/// Facts of the metrics of a run.
pub fn steps(reading: &Reading) -> Facts {
    let mut facts = Facts::default();
    facts.set("steps", reading.steps());
    facts
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

fn write_state(context: &Context, wanted: bool, core: &Core) -> Result<(), Failure> {
    let path = context.output("state");
    if let Some(moments) = core.moments()?.filter(|_| wanted) {
        return Ok(moments.save(path)?);
    }
    let empty: [(&str, safetensors::tensor::TensorView<'_>); 0] = [];
    safetensors::serialize_to_file(empty, None, path)
        .map_err(|error| Failure::input(format!("`{}`: {error}", path.display())))
}
