//! `evaluate`: how well a model predicts held-out text, in bits per byte, which no tokenizer can flatter.
//!
//! A document is read in windows that overlap by one token, so that every token but the first is predicted exactly
//! once, and never across documents. Only targets that stand for bytes count, in both sums; special tokens have none
//! (nanochat `loss_eval`).

use std::collections::BTreeMap;

use kbuild_engine::facts::{Facts, Prediction};
use kbuild_engine::kind::{Arity, Complaint, Known, Ports, TaskKind};
use kbuild_engine::runner::{Context, Failure};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::json::write_report;
use super::likelihood::Reader;
use super::multiple_choice::bits_per_byte;
use crate::facts;
use crate::formats::tokenizer::Tokenizer;
use crate::formats::tokens::TokenShards;
use crate::model::memory::Work;
use crate::model::{Batch, Head, Model, Numerics};
use crate::train::model_files;

/// The `evaluate` kind.
pub struct Evaluate;

/// How much is read, and how.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Params {
    /// Tokens that the model sees at once; at most its context.
    pub seq_len: usize,
    /// Tokens to predict under each label: the first so many. Everything where absent.
    pub max_tokens: Option<u64>,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            seq_len: 512,
            max_tokens: None,
        }
    }
}

/// What was read under one label.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Sums {
    documents: u64,
    /// Predicted tokens that stand for bytes.
    tokens: u64,
    bytes: u64,
    nats: f64,
}

impl Sums {
    fn add(&mut self, other: &Self) {
        self.documents += other.documents;
        self.tokens += other.tokens;
        self.bytes += other.bytes;
        self.nats += other.nats;
    }

    fn bits_per_byte(&self) -> f64 {
        bits_per_byte(self.nats, self.bytes as usize)
    }

    fn loss(&self) -> f64 {
        self.nats / self.tokens.max(1) as f64
    }

    fn to_json(self) -> serde_json::Value {
        json!({
            "bits_per_byte": self.bits_per_byte(),
            "loss": self.loss(),
            "documents": self.documents,
            "tokens": self.tokens,
            "bytes": self.bytes,
        })
    }
}

/// Tokens read at a time: a bound on memory, without influence on the numbers.
const BATCH_TOKENS: usize = 4096;

impl TaskKind for Evaluate {
    const NAME: &'static str = "evaluate";
    const VERSION: u32 = 2;
    const SUMMARY: &'static str =
        "Measures the bits per byte of a model on held-out text, source by source";

    type Params = Params;

    fn ports() -> Ports {
        Ports::new()
            .input(
                "model",
                "model",
                Arity::One,
                "the model, with its tokenizer",
            )
            .input(
                "tokens",
                "tokens",
                Arity::Many,
                "held-out text by label, in that tokenizer's tokens",
            )
            .labelled("tokens")
            .output(
                "report",
                "report",
                "bits per byte and loss, by label and over all",
            )
    }

    fn predict(params: &Params, known: &Known<'_>) -> Result<Prediction, Vec<Complaint>> {
        let model = known.one("model");
        let mut complaints = facts::vocab_complaints(known, &["model", "tokens"]);
        let context = model.and_then(|model| model.u64("max_position_embeddings"));
        complaints.extend(window_complaint(params.seq_len, context));
        facts::answer(complaints, || {
            let tokens = known.many("tokens").iter();
            let tokens: Option<u64> = tokens.map(|(_, facts)| read_of(facts, params)).sum();
            // A window may begin just before a batch is full.
            let full = params.seq_len.saturating_add(BATCH_TOKENS);
            let rows = tokens.map_or(full, |tokens| full.min(tokens as usize));
            let backend = facts::backend(known, Numerics::F32);
            let memory = facts::memory(model, Head::Language, Work::Read, rows, backend);
            let cost = facts::forward(model, tokens, memory);
            facts::prediction(cost, [("report", Facts::default())])
        })
    }

    fn run(params: Params, context: &mut Context) -> Result<(), Failure> {
        let path = context.one("model").path.clone();
        let tokenizer = Tokenizer::open(&path)?;
        let model = Model::load(&path)?;
        let positions = model.config.max_position_embeddings as u64;
        if let Some(complaint) = window_complaint(params.seq_len, Some(positions)) {
            return Err(Failure::input(complaint.message).help(complaint.help));
        }
        let bytes = byte_lengths(&tokenizer, model.config.vocab_size);
        let config = model.config.clone();
        let mut reader = Reader::new(model, context.device(), context.threads())?;
        let mut labels = BTreeMap::new();
        for tokens in context.many("tokens").to_vec() {
            model_files::check_tokenizer(&tokens, &tokenizer)?;
            let shards = TokenShards::open(&tokens.parts)?;
            let sums = read(
                &mut reader,
                &shards,
                &bytes,
                &params,
                context,
                &tokens.label,
            )?;
            labels.insert(tokens.label.clone(), sums);
        }
        let mut all = Sums::default();
        labels.values().for_each(|sums| all.add(sums));
        let n = labels.len().max(1) as f64;
        let mean = |of: fn(&Sums) -> f64| labels.values().map(of).sum::<f64>() / n;
        let by_label: BTreeMap<&String, serde_json::Value> = labels
            .iter()
            .map(|(label, sums)| (label, sums.to_json()))
            .collect();
        let report = json!({
            "kind": Self::NAME,
            "labels": by_label,
            "mean": {"bits_per_byte": mean(Sums::bits_per_byte), "loss": mean(Sums::loss)},
            "all": all.to_json(),
            "parameters": config.parameter_count(),
            "non_embedding_parameters": config.non_embedding_parameter_count(),
            "seq_len": params.seq_len,
            "evaluated_tokens": all.tokens,
        });
        write_report(context.output("report"), &report)
    }
}

fn window_complaint(seq_len: usize, context: Option<u64>) -> Option<Complaint> {
    if seq_len == 0 {
        return Some(Complaint::new(
            "params.seq_len",
            "a window of 0 tokens reads nothing",
            "use the length that the model was trained on",
        ));
    }
    let context = context.filter(|context| (seq_len as u64) > *context)?;
    Some(Complaint::new(
        "params.seq_len",
        format!("{seq_len} tokens are longer than the model's context of {context}"),
        format!("use at most {context}"),
    ))
}

fn read_of(facts: &Facts, params: &Params) -> Option<u64> {
    let there = facts.u64("tokens")?;
    Some(params.max_tokens.map_or(there, |limit| limit.min(there)))
}

/// Bytes of each id of the model; ids that the tokenizer does not have stand for none.
fn byte_lengths(tokenizer: &Tokenizer, vocab_size: usize) -> Vec<u32> {
    let mut lengths = tokenizer.byte_lengths();
    lengths.resize(vocab_size.max(lengths.len()), 0);
    lengths
}

fn read(
    reader: &mut Reader,
    shards: &TokenShards,
    bytes: &[u32],
    params: &Params,
    context: &mut Context,
    label: &str,
) -> Result<Sums, Failure> {
    let limit = params.max_tokens.unwrap_or(u64::MAX).min(shards.n_tokens());
    let mut sums = Sums::default();
    let mut batch = Batch::new();
    let mut taken = 0;
    for document in shards.documents() {
        let left = limit.saturating_sub(taken);
        if left == 0 {
            break;
        }
        sums.documents += 1;
        // The first token is read and not predicted: one more than what is left.
        let end = document.end.min(document.start + left + 1);
        let tokens = shards.tokens(document.start..end);
        taken += (tokens.len() as u64).saturating_sub(1);
        for window in windows(&tokens, params.seq_len) {
            batch.push(window);
            if batch.len() >= BATCH_TOKENS {
                count(reader, &batch, bytes, &mut sums)?;
                batch.clear();
                context.progress(taken, limit, "tokens");
            }
        }
        if context.should_stop() {
            return Err(Failure::interrupted());
        }
    }
    count(reader, &batch, bytes, &mut sums)?;
    if sums.bytes == 0 {
        return Err(
            Failure::input(format!("`{label}` holds no text to predict"))
                .help("check the source of these tokens; an empty set has no bits per byte"),
        );
    }
    Ok(sums)
}

/// Stretches of at most `length` + 1 tokens that overlap by one: every token but the first is a target once.
fn windows(tokens: &[u32], length: usize) -> impl Iterator<Item = &[u32]> {
    (0..tokens.len().saturating_sub(1))
        .step_by(length)
        .map(move |start| &tokens[start..tokens.len().min(start + length + 1)])
}

fn count(
    reader: &mut Reader,
    batch: &Batch,
    bytes: &[u32],
    sums: &mut Sums,
) -> Result<(), Failure> {
    if batch.is_empty() {
        return Ok(());
    }
    let log_probabilities = reader.log_probabilities(batch)?;
    let targets = batch
        .sequences()
        .flat_map(|range| &batch.tokens[range.start + 1..range.end]);
    for (target, log_probability) in targets.zip(log_probabilities) {
        let length = bytes[*target as usize];
        if length > 0 {
            sums.tokens += 1;
            sums.bytes += u64::from(length);
            sums.nats -= log_probability;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_but_the_first_is_a_target_once() {
        let tokens: Vec<u32> = (0..23).collect();
        for length in [1, 4, 11, 22, 100] {
            let targets: Vec<u32> = windows(&tokens, length)
                .flat_map(|w| w[1..].to_vec())
                .collect();
            assert_eq!(targets, tokens[1..], "{length}");
            assert!(windows(&tokens, length).all(|w| w.len() <= length + 1));
        }
        assert_eq!(windows(&tokens[..1], 4).count(), 0);
        assert_eq!(windows(&[], 4).count(), 0);
    }
}
