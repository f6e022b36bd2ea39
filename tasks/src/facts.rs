//! Facts by name, and what follows from them: the arithmetic of every `predict`.
//!
//! | of | facts |
//! |---|---|
//! | documents, chat | `documents`, `bytes` |
//! | tokenizer | `vocab` (its identity), `vocab_size` |
//! | tokens | `tokens`, `vocab`, `vocab_size` |
//! | model, reward-model | the sizes of `config.json`, `parameters`, `vocab` |
//! | optimizer-state | `saved`, and the sizes of its model |
//! | importance | the sizes of its model |
//! | pairs | `pairs`, `tokens`, `max_length`, `vocab` |
//! | prompts, samples, scores | `prompts`, `responses`, `vocab` |
//! | metrics | `steps` |
//!
//! What is not known has no entry: nothing is guessed.

use std::path::Path;

use kbuild_engine::digest::Digest;
use kbuild_engine::facts::{Cost, Fact, Facts, Prediction};
use kbuild_engine::kind::{Complaint, Known};
use kbuild_engine::runner::{AtPath, Context, Failure};
use serde_json::Value;

use crate::model::accounting::nominal_size;
use crate::model::memory::{self, Backend, Held, Work};
use crate::model::{Config, Head, Numerics};

/// The sizes of a model, by their names in `config.json`.
pub const SHAPE: [&str; 7] = [
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
];

/// Bytes that the program takes beside models: itself, and a tokenizer of some thousand tokens. By measurement.
pub const PROGRAM: u64 = 24 << 20;

/// Bytes of a weight on disk and in memory.
const FLOAT: u64 = 4;

/// A whole number that is known.
pub fn size(facts: &Facts, name: &str) -> Option<usize> {
    facts.u64(name).and_then(|n| usize::try_from(n).ok())
}

/// The most that a number can be: what is known of it, or its upper bound.
pub fn at_most(facts: &Facts, name: &str) -> Option<u64> {
    match facts.get(name)? {
        Fact::Known(value) => value.as_u64(),
        Fact::Bounded { max, .. } => Some(*max),
        Fact::Symbol(_) => None,
    }
}

/// The sum of a number over all artifacts of a port, where it is known of each.
pub fn sum(known: &Known<'_>, port: &str, name: &str) -> Option<u64> {
    let artifacts = known.many(port).iter();
    artifacts.map(|(_, facts)| facts.u64(name)).sum()
}

/// The sum of the most that a number can be over all artifacts of a port, where each has a bound.
pub fn sum_at_most(known: &Known<'_>, port: &str, name: &str) -> Option<u64> {
    let artifacts = known.many(port).iter();
    artifacts.map(|(_, facts)| at_most(facts, name)).sum()
}

/// Facts that are carried over as they are.
pub fn carried(from: Option<&Facts>, names: &[&str]) -> Facts {
    let fact = |name: &&str| Some(((*name).to_owned(), from?.get(name)?.clone()));
    Facts(names.iter().filter_map(fact).collect())
}

/// Counts of which an unknown part stays.
pub fn some_of(from: Option<&Facts>, names: &[&str]) -> Facts {
    let fact = |name: &&str| {
        let max = at_most(from?, name)?;
        Some(((*name).to_owned(), Fact::Bounded { min: 0, max }))
    };
    Facts(names.iter().filter_map(fact).collect())
}

/// What is known of a model by its configuration.
pub fn of_config(config: &Config) -> Facts {
    let sizes = [
        config.vocab_size,
        config.hidden_size,
        config.intermediate_size,
        config.num_hidden_layers,
        config.num_attention_heads,
        config.num_key_value_heads,
        config.head_dim,
    ];
    let mut facts = Facts::default();
    for (name, size) in SHAPE.iter().zip(sizes) {
        facts.set(name, size);
    }
    if config.head == Head::Language {
        facts.set("tie_word_embeddings", config.tie_word_embeddings);
    }
    facts.set("max_position_embeddings", config.max_position_embeddings);
    facts.set("parameters", config.parameter_count());
    facts
}

/// A model of the known sizes; what decides no size is anything. None where a size is missing.
pub fn to_config(facts: &Facts, head: Head) -> Option<Config> {
    let size = |name| size(facts, name).filter(|size| *size > 0);
    let tied = || facts.known("tie_word_embeddings")?.as_bool();
    let config = Config {
        vocab_size: size("vocab_size")?,
        hidden_size: size("hidden_size")?,
        intermediate_size: size("intermediate_size")?,
        num_hidden_layers: size("num_hidden_layers")?,
        num_attention_heads: size("num_attention_heads")?,
        num_key_value_heads: size("num_key_value_heads")?,
        head_dim: size("head_dim")?,
        rms_norm_eps: 1e-5,
        rope_theta: 10_000.0,
        rope_scaling: None,
        max_position_embeddings: size("max_position_embeddings").unwrap_or(0),
        tie_word_embeddings: match head {
            Head::Language => tied()?,
            Head::Score => false,
        },
        head,
        initializer_range: 0.02,
        bos_token_id: None,
        eos_token_id: Vec::new(),
        pad_token_id: None,
    };
    // Nothing is computed with what no model can have.
    config.validate_limits().is_ok().then_some(config)
}

/// Where a task runs. Only a GPU computes in bf16, whatever the run settings say.
pub fn backend(known: &Known<'_>, numerics: Numerics) -> Backend {
    match (numerics, known.on_gpu) {
        (Numerics::F32, false) => Backend::Cpu,
        (numerics, _) => Backend::Gpu(numerics),
    }
}

/// Training, as the run settings have it.
pub fn training_work(known: &Known<'_>) -> Work {
    Work::Train {
        recompute: known.recompute,
    }
}

/// What a model takes with at most `rows` tokens going through it at once.
pub fn memory(
    model: Option<&Facts>,
    head: Head,
    work: Work,
    rows: usize,
    backend: Backend,
) -> Option<Held> {
    let config = to_config(model?, head)?;
    Some(memory::held(&config, work, rows, backend))
}

/// What is known of the reward model on a trunk.
pub fn of_reward_model(trunk: &Facts) -> Facts {
    let mut facts = trunk.clone();
    facts.0.remove("parameters");
    facts.0.remove("tie_word_embeddings");
    let tied = trunk.known("tie_word_embeddings").and_then(Value::as_bool);
    let sizes = (
        trunk.u64("parameters"),
        trunk.u64("vocab_size"),
        trunk.u64("hidden_size"),
        tied,
    );
    if let (Some(parameters), Some(vocab), Some(hidden), Some(tied)) = sizes {
        let head = if tied { 0 } else { vocab * hidden };
        facts.set("parameters", parameters - head + hidden);
    }
    facts
}

/// Sets `parameters` from the shape, where all of it is known; takes it away where not.
pub fn set_parameters(facts: &mut Facts) {
    match parameters(facts) {
        Some(count) => facts.set("parameters", count),
        None => {
            facts.0.remove("parameters");
            facts
        }
    };
}

fn parameters(facts: &Facts) -> Option<u64> {
    let [vocab, hidden, ffn, layers, heads, groups, head_dim] = SHAPE.map(|name| facts.u64(name));
    let tied = facts.known("tie_word_embeddings")?.as_bool()?;
    let (vocab, hidden, ffn) = (vocab?, hidden?, ffn?);
    let attention = 2 * hidden * head_dim? * (heads? + groups?);
    let layers = layers? * (attention + 3 * hidden * ffn + 2 * hidden);
    let embeddings = if tied { 1 } else { 2 } * vocab * hidden;
    Some(layers + embeddings + hidden)
}

/// The identity of the vocabulary beside a model: the digest of its `tokenizer.json`.
pub fn vocabulary(directory: &Path) -> Result<Option<String>, Failure> {
    let path = directory.join("tokenizer.json");
    if !path.exists() {
        return Ok(None);
    }
    let bytes = std::fs::read(&path).at(&path)?;
    Ok(Some(Digest::of(&bytes).to_hex()))
}

/// States what is known of an output: every fact that has a value.
pub fn state(context: &mut Context, port: &str, facts: &Facts) {
    for (name, fact) in &facts.0 {
        if let Fact::Known(value) = fact {
            context.fact(port, name, value.clone());
        }
    }
}

/// The vocabulary that any of the ports is known to have.
pub fn vocab(known: &Known<'_>, ports: &[&str]) -> Option<Fact> {
    ports
        .iter()
        .flat_map(|port| known.many(port))
        .find_map(|(_, facts)| facts.get("vocab").cloned())
}

/// Complains where the vocabularies of the given ports are known to differ: by symbol or digest, never by size.
pub fn vocab_complaints(known: &Known<'_>, ports: &[&str]) -> Vec<Complaint> {
    let vocabularies: Vec<(&str, &str, &Fact)> = ports
        .iter()
        .flat_map(|port| {
            let artifacts = known.many(port).iter();
            artifacts.map(move |(label, facts)| (*port, label, facts))
        })
        .filter_map(|(port, label, facts)| Some((port, label.as_str(), facts.get("vocab")?)))
        .collect();
    let Some((_, first_label, first)) = vocabularies.first().copied() else {
        return Vec::new();
    };
    vocabularies
        .iter()
        .filter(|(_, _, vocab)| differ(first, vocab))
        .map(|(port, label, _)| {
            Complaint::new(
                &format!("inputs.{port}"),
                format!("`{label}` and `{first_label}` have different vocabularies"),
                "make both with the same tokenizer; equal sizes are not enough",
            )
        })
        .collect()
}

/// Two facts of the same sort that are not equal. A digest and a symbol may turn out to be the same.
fn differ(one: &Fact, two: &Fact) -> bool {
    matches!(
        (one, two),
        (Fact::Known(_), Fact::Known(_)) | (Fact::Symbol(_), Fact::Symbol(_))
    ) && one != two
}

/// Complains where one port is known to belong to a model of other sizes than the one on `model`.
pub fn shape_complaint(known: &Known<'_>, model: &str, port: &str) -> Option<Complaint> {
    let (own, other) = (known.one(model)?, known.one(port)?);
    let differs = |name: &&&str| {
        let sizes = own.u64(name).zip(other.u64(name));
        sizes.is_some_and(|(own, other)| own != other)
    };
    let name = SHAPE.iter().find(differs)?;
    let (own, other) = (own.u64(name)?, other.u64(name)?);
    Some(Complaint::new(
        &format!("inputs.{port}"),
        format!("it belongs to a model whose `{name}` is {other}; that of `{model}` is {own}"),
        format!("bind what was made of the same model as `{model}`"),
    ))
}

/// Complains where a sequence is longer than the model's context is known to be.
pub fn length_complaint(
    known: &Known<'_>,
    port: &str,
    name: &str,
    length: usize,
) -> Option<Complaint> {
    let limit = known.one(port)?.u64("max_position_embeddings")?;
    (length as u64 > limit).then(|| {
        Complaint::new(
            &format!("params.{name}"),
            format!("`{name}` is {length}, the model has {limit} positions"),
            format!("use at most {limit}, or a model with more positions"),
        )
    })
}

/// Complains where pairs may be longer than the model's context.
pub fn pairs_complaint(known: &Known<'_>, model: &str, port: &str) -> Option<Complaint> {
    let limit = known.one(model)?.u64("max_position_embeddings")?;
    let too_long = |(label, facts): &(String, Facts)| {
        let length = facts.u64("max_length")?;
        (length > limit).then(|| (label.clone(), length))
    };
    let (label, length) = known.many(port).iter().find_map(too_long)?;
    Some(Complaint::new(
        &format!("inputs.{port}"),
        format!("pairs of `{label}` may have {length} tokens, the model has {limit} positions"),
        format!("make them with `max_length = {limit}`, or use a model with more positions"),
    ))
}

/// Optimiser steps over some items, so many at a time, so many times; the last step of an epoch takes what is left.
pub fn steps(items: Option<u64>, per_step: usize, epochs: usize) -> Facts {
    let mut facts = Facts::default();
    if let Some(items) = items {
        facts.set(
            "steps",
            items.div_ceil(per_step.max(1) as u64) * epochs as u64,
        );
    }
    facts
}

/// Complains where two ports are known to hold different numbers of the same things.
pub fn count_complaint(known: &Known<'_>, a: &str, b: &str, name: &str) -> Option<Complaint> {
    let (ours, theirs) = (known.one(a)?.u64(name)?, known.one(b)?.u64(name)?);
    (ours != theirs).then(|| {
        Complaint::new(
            &format!("inputs.{b}"),
            format!("`{b}` has {theirs} {name}, `{a}` has {ours}"),
            format!("make both from the same {name}"),
        )
    })
}

/// Facts and cost, or everything that is wrong.
pub fn answer(
    complaints: Vec<Complaint>,
    prediction: impl FnOnce() -> Prediction,
) -> Result<Prediction, Vec<Complaint>> {
    match complaints.is_empty() {
        true => Ok(prediction()),
        false => Err(complaints),
    }
}

/// Facts and cost of a task with these outputs.
pub fn prediction<const N: usize>(cost: Cost, outputs: [(&str, Facts); N]) -> Prediction {
    let start = Prediction {
        cost,
        ..Prediction::default()
    };
    let add = |prediction: Prediction, (port, facts)| prediction.output(port, facts);
    outputs.into_iter().fold(start, add)
}

/// Cost of a task that no model takes part in.
pub fn without_a_model() -> Cost {
    Cost {
        tokens: Some(0),
        ..forward(None, Some(0), None)
    }
}

/// Cost of running a model forward over some tokens: 2·N each.
pub fn forward(model: Option<&Facts>, tokens: Option<u64>, memory: Option<Held>) -> Cost {
    let parameters = model.and_then(|model| model.u64("parameters"));
    Cost {
        parameters: None,
        flops: Some(0.0),
        nominal_flops: Some(0.0),
        extra_flops: match tokens {
            Some(0) => Some(0.0),
            tokens => forward_flops(parameters, tokens),
        },
        tokens,
        disk_bytes: None,
        memory_bytes: memory.map(|held| held.peak().saturating_add(PROGRAM)),
    }
}

/// Cost of training on some tokens: 6·N each; a teacher is run forward beside it.
pub fn training(
    model: &Facts,
    tokens: Option<u64>,
    teacher: Option<&Facts>,
    memory: Option<Held>,
) -> Cost {
    let parameters = model.u64("parameters");
    let flops = |n: Option<f64>| Some(6.0 * n? * tokens? as f64);
    let taught = teacher.map(|teacher| teacher.u64("parameters"));
    Cost {
        parameters,
        flops: flops(parameters.map(|n| n as f64)),
        nominal_flops: flops(parameters.map(nominal_size)),
        extra_flops: taught.map_or(Some(0.0), |taught| forward_flops(taught, tokens)),
        tokens,
        disk_bytes: parameters.map(|n| FLOAT * n),
        memory_bytes: memory.map(|held| held.peak().saturating_add(PROGRAM)),
    }
}

/// Cost of making one model out of another without training it.
pub fn surgery(from: &Facts, to: &Facts) -> Cost {
    let (before, after) = (from.u64("parameters"), to.u64("parameters"));
    // A tensor is made before it finds its place.
    let wide = to.u64("vocab_size").max(to.u64("intermediate_size"));
    let tensor = wide.zip(to.u64("hidden_size")).map(|(n, d)| n * d);
    let held = || Some(before? + after? + tensor?);
    Cost {
        disk_bytes: after.map(|n| FLOAT * n),
        memory_bytes: held().map(|values| PROGRAM + FLOAT * values),
        ..without_a_model()
    }
}

fn forward_flops(parameters: Option<u64>, tokens: Option<u64>) -> Option<f64> {
    Some(2.0 * parameters? as f64 * tokens? as f64)
}
