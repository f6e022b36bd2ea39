//! `sft`: a model learns to answer as in the given conversations (recipe 8).

use kbuild_engine::facts::{Facts, Prediction};
use kbuild_engine::kind::{Arity, Complaint, Known, Ports, TaskKind};
use kbuild_engine::runner::{Artifact, Context, Failure};
use serde::Serialize;

use super::chat_rows::{ChatRows, Plan};
use super::dialogue::{Boundary, LossMask, TokenizedChat, tokenize_chat};
use super::model_files;
use super::overflow::{Ledger, OnOverflow};
use super::packing::Packing;
use super::params::{Training, training_params};
use super::records::write_report;
use super::steps::{self, write_metrics};
use super::token_objective::{StepSource, TokenLoss, TokenObjective};
use super::tokenize_preferences::at_place;
use crate::facts;
use crate::formats::chat::Conversation;
use crate::formats::documents::Records;
use crate::formats::tokenizer::Tokenizer;
use crate::model::Head;

pub struct Sft;

training_params! {
    /// Supervised fine-tuning on conversations.
    pub struct Params {
        /// Tokens of a row, and of the longest conversation. Required; nothing is cut silently.
        pub max_length: Option<usize> = None,
        /// Which tokens are learned.
        pub loss_mask: LossMask = LossMask::AssistantOnly,
        /// What to do with longer conversations (`none` and `bfd` packing; the others split them).
        pub on_overflow: OnOverflow = OnOverflow::Error,
        /// What to do where a prompt's tokens are not the first tokens of prompt and answer.
        pub boundary: Boundary = Boundary::Error,
        /// How conversations share rows; they never see one another, except under `wrapped`.
        pub packing: Packing = Packing::Bfd,
        /// How often each input is read per epoch: 0.5 reads a random half, 0 leaves it out. 1 where absent.
        pub weights: Option<Vec<f64>> = None,
        /// Passes over the conversations.
        pub epochs: usize = 2,
        /// Rows of an optimiser step.
        pub rows_per_step: usize = 16,
    }
    training: Training {
        lr: Some(5e-6),
        ..Training::default()
    }
}

/// What became of the conversations.
#[derive(Debug, Serialize)]
struct Report {
    total: Ledger,
    /// By input, in the order of the port.
    inputs: Vec<Ledger>,
    target_share: f64,
    rows: usize,
    steps: u64,
    /// Tokens that end the assistant's turns.
    stop_tokens: Vec<String>,
}

impl TaskKind for Sft {
    const NAME: &'static str = "sft";
    const VERSION: u32 = 2;
    const SUMMARY: &'static str = "fine-tunes a model on conversations";
    type Params = Params;

    fn ports() -> Ports {
        Ports::new()
            .input(
                "model",
                "model",
                Arity::One,
                "the model that is trained; its tokenizer has the chat template",
            )
            .input("chat", "chat", Arity::Many, "conversations")
            .output(
                "model",
                "model",
                "the trained model; it stops at the template's stop token",
            )
            .output(
                "metrics",
                "metrics",
                "loss, accuracy and learning rate of every step",
            )
            .output("report", "report", "what was kept, cut, dropped and masked")
            .per_input("weights", "chat")
    }

    fn predict(params: &Params, known: &Known<'_>) -> Result<Prediction, Vec<Complaint>> {
        let mut complaints = params.training().complaints();
        let mut refuse = |wrong: bool, at: &str, message: &str, help: &str| {
            if wrong {
                complaints.push(Complaint::new(&format!("params.{at}"), message, help));
            }
        };
        refuse(
            params.max_length.is_none_or(|length| length < 2),
            "max_length",
            "`max_length` is required and is 2 or more",
            "set it to at most the model's context length; nothing is cut silently",
        );
        refuse(
            params.epochs == 0,
            "epochs",
            "`epochs` is 0",
            "use 1 or more",
        );
        refuse(
            params.rows_per_step == 0,
            "rows_per_step",
            "`rows_per_step` is 0",
            "use 1 or more",
        );
        if let Some(weights) = &params.weights
            && let Err(problem) = super::mixture::check_weights(weights, known.many("chat").len())
        {
            complaints.push(Complaint::new(
                "params.weights",
                problem.to_string(),
                "give each input of `chat` a weight",
            ));
        }
        let length = params.max_length.unwrap_or(0);
        complaints.extend(facts::length_complaint(
            known,
            "model",
            "max_length",
            length,
        ));
        facts::answer(complaints, || {
            let model = known.one("model").cloned().unwrap_or_default();
            // How many tokens conversations have is known to the tokenizer alone.
            let memory = facts::memory(
                Some(&model),
                Head::Language,
                facts::training_work(known),
                params.micro_batch(),
                facts::backend(known, params.numerics),
            );
            let cost = facts::training(&model, None, None, memory);
            let nothing = Facts::default();
            let outputs = [
                ("model", model),
                ("metrics", nothing.clone()),
                ("report", nothing),
            ];
            facts::prediction(cost, outputs)
        })
    }

    fn run(params: Params, context: &mut Context) -> Result<(), Failure> {
        let artifact = context.one("model");
        let mut model = model_files::load(artifact)?;
        let tokenizer = model_files::tokenizer(&artifact.path, &model.config)?;
        let max_length = params.max_length.unwrap_or(0);
        model_files::check_length(&model.config, max_length, "max_length")?;
        let (sources, ledgers) = read(&params, &tokenizer, context.many("chat"))?;
        let stops = stops_of(&sources);
        for stop in &stops {
            if !model.config.eos_token_id.contains(stop) {
                model.config.eos_token_id.push(*stop);
            }
        }
        let weights = params
            .weights
            .clone()
            .unwrap_or_else(|| vec![1.0; sources.len()]);
        let source = ChatRows::new(sources, &weights, params.plan(max_length));
        let report = report(ledgers, &source, &stops, &tokenizer);
        check(&params, &report)?;
        let loss = TokenLoss::CrossEntropy { z_loss: 0.0 };
        let mut objective = TokenObjective { source, loss };
        let device = steps::device(context, params.numerics)?;
        let training = params.training();
        let trained = steps::train(context, &training, &device, model, None, &mut objective)?;
        model_files::save(context, "model", &trained.core, &tokenizer)?;
        write_report(context.output("report"), &report)?;
        write_metrics(context, &trained.metrics)
    }
}

impl Params {
    fn plan(&self, row_length: usize) -> Plan {
        Plan {
            packing: self.packing,
            row_length,
            rows_per_step: self.rows_per_step,
            epochs: self.epochs,
            micro_batch_tokens: self.micro_batch_tokens,
            seed: self.seed,
        }
    }

    /// Tokens of the largest micro-batch, where there is much to read: packed rows are full, others end where they do.
    fn micro_batch(&self) -> usize {
        let (limit, row) = (self.micro_batch_tokens, self.max_length.unwrap_or(0).max(1));
        let fit = match self.packing {
            Packing::None => limit.max(row),
            _ => (limit / row).max(1) * row,
        };
        fit.min(self.rows_per_step.saturating_mul(row))
    }

    /// True where a row may hold a part of a conversation.
    fn splits(&self) -> bool {
        matches!(self.packing, Packing::BfdSplit | Packing::Wrapped)
    }
}

type Sources = (Vec<Vec<TokenizedChat>>, Vec<Ledger>);

fn read(params: &Params, tokenizer: &Tokenizer, inputs: &[Artifact]) -> Result<Sources, Failure> {
    let (mut sources, mut ledgers) = (Vec::new(), Vec::new());
    for input in inputs {
        let mut ledger = Ledger::default();
        let mut chats = Vec::new();
        for part in &input.parts {
            for (index, record) in Records::<Conversation>::open(part)?.enumerate() {
                let place = format!("`{}`, record {}", part.display(), index + 1);
                let chat = tokenize_chat(
                    tokenizer,
                    &record?.messages,
                    params.loss_mask,
                    params.boundary,
                )
                .map_err(|failure| at_place(failure, &place))?;
                chats.extend(fit(params, chat, &place, &mut ledger)?);
            }
        }
        sources.push(chats);
        ledgers.push(ledger);
    }
    Ok((sources, ledgers))
}

/// The conversation if it fits and has something to learn, cut as asked for.
fn fit(
    params: &Params,
    mut chat: TokenizedChat,
    place: &str,
    ledger: &mut Ledger,
) -> Result<Option<TokenizedChat>, Failure> {
    ledger.rows += 1;
    let (length, max_length) = (chat.ids.len(), params.max_length.unwrap_or(0));
    if length > max_length && !params.splits() {
        match params.on_overflow {
            OnOverflow::Error => {
                return Err(Failure::input(format!(
                    "{place}: the conversation is {length} tokens, `max_length` is {max_length}"
                ))
                .help("raise `max_length`, or set `on_overflow` to \"drop\" or \"truncate_keep_start\""));
            }
            OnOverflow::Drop => {
                ledger.dropped_too_long += 1;
                ledger.dropped_tokens += length;
                return Ok(None);
            }
            OnOverflow::TruncateKeepStart => {
                ledger.truncated += 1;
                ledger.lost_stop += usize::from(chat.targets[max_length..].contains(&true));
                ledger.dropped_tokens += length - max_length;
                chat.ids.truncate(max_length);
                chat.targets.truncate(max_length);
            }
        }
    }
    if chat.n_targets() == 0 {
        ledger.without_targets += 1;
        return Ok(None);
    }
    ledger.kept += 1;
    ledger.tokens += chat.ids.len();
    ledger.targets += chat.n_targets();
    Ok(Some(chat))
}

fn stops_of(sources: &[Vec<TokenizedChat>]) -> Vec<u32> {
    let mut stops: Vec<u32> = sources
        .iter()
        .flatten()
        .filter_map(|chat| chat.stop)
        .collect();
    stops.sort_unstable();
    stops.dedup();
    stops
}

fn report(ledgers: Vec<Ledger>, source: &ChatRows, stops: &[u32], tokenizer: &Tokenizer) -> Report {
    let total = ledgers
        .iter()
        .fold(Ledger::default(), |sum, ledger| sum.plus(ledger));
    Report {
        target_share: total.target_share(),
        total,
        inputs: ledgers,
        rows: source.n_rows(),
        steps: source.steps(),
        stop_tokens: stops
            .iter()
            .filter_map(|stop| tokenizer.token_of(*stop))
            .collect(),
    }
}

fn check(params: &Params, report: &Report) -> Result<(), Failure> {
    if report.total.kept == 0 || report.rows == 0 {
        return Err(Failure::input(format!(
            "nothing is left to learn: of {} conversations {} were too long and {} had no answer",
            report.total.rows, report.total.dropped_too_long, report.total.without_targets
        ))
        .help("raise `max_length`, or check the conversations"));
    }
    let masked = params.loss_mask != LossMask::All;
    if masked && report.total.targets == report.total.tokens {
        return Err(
            Failure::input("every token would be learned although a mask is asked for")
                .help("check the chat template and the roles of the messages"),
        );
    }
    Ok(())
}
