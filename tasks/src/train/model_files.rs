//! Models in and out of a task: weights, the tokenizer files beside them, and their facts.

use std::path::Path;

use kbuild_engine::facts::{Fact, Facts};
use kbuild_engine::kind::{Complaint, Known};
use kbuild_engine::runner::{Artifact, Context, Failure};
use serde_json::Value;

use crate::formats::tokenizer::Tokenizer;
use crate::model::{Config, Head, Model};

/// Loads a model and says where it came from if that fails.
pub fn load(artifact: &Artifact) -> Result<Model, Failure> {
    Ok(Model::load(&artifact.path)?)
}

/// The tokenizer in a directory, checked against the model that reads its ids.
pub fn tokenizer(directory: &Path, config: &Config) -> Result<Tokenizer, Failure> {
    let tokenizer = Tokenizer::open(directory)?;
    if tokenizer.vocab_size() > config.vocab_size {
        return Err(Failure::input(format!(
            "the tokenizer in `{}` has {} tokens, the model {}",
            directory.display(),
            tokenizer.vocab_size(),
            config.vocab_size
        ))
        .help("use the tokenizer that the model was trained with"));
    }
    Ok(tokenizer)
}

/// Fails where the measured vocabulary of an artifact is another than the model's tokenizer.
pub fn check_vocab(artifact: &Artifact, tokenizer: &Tokenizer) -> Result<(), Failure> {
    let expected = tokenizer.digest().to_hex();
    match artifact.facts.get("vocab").and_then(Value::as_str) {
        Some(found) if found != expected => Err(Failure::input(format!(
            "`{}` was made with another tokenizer than the model's",
            artifact.label
        ))
        .help("equal sizes are not equal vocabularies: make it with the model's tokenizer")),
        _ => Ok(()),
    }
}

/// Writes a model with its tokenizer to `port`, and states its facts.
pub fn save(
    context: &mut Context,
    port: &str,
    model: &Model,
    tokenizer: &Tokenizer,
) -> Result<(), Failure> {
    let directory = context.output(port).to_owned();
    model.save(&directory)?;
    tokenizer.copy_to(&directory)?;
    for (name, value) in facts_of(&model.config).0 {
        if let Fact::Known(value) = value {
            context.fact(port, &name, value);
        }
    }
    context.fact(port, "vocab", tokenizer.digest().to_hex());
    Ok(())
}

/// What is known of a model by its configuration: the names of `config.json`, and `parameters`.
pub fn facts_of(config: &Config) -> Facts {
    let mut facts = Facts::default();
    for (name, size) in SHAPE.iter().zip(sizes(config)) {
        facts.set(name, size);
    }
    if config.head == Head::Language {
        facts.set("tie_word_embeddings", config.tie_word_embeddings);
    }
    facts.set("max_position_embeddings", config.max_position_embeddings);
    facts.set("parameters", config.parameter_count());
    facts
}

const SHAPE: [&str; 7] = [
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
];

fn sizes(config: &Config) -> [usize; 7] {
    [
        config.vocab_size,
        config.hidden_size,
        config.intermediate_size,
        config.num_hidden_layers,
        config.num_attention_heads,
        config.num_key_value_heads,
        config.head_dim,
    ]
}

/// The facts of the reward model on the trunk that these are the facts of.
pub fn reward_facts(trunk: &Facts) -> Facts {
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

/// Complains where the vocabularies of the given ports are known to differ: by symbol or digest, never by size.
pub fn vocab_complaints(known: &Known<'_>, ports: &[&str]) -> Vec<Complaint> {
    let vocabularies: Vec<(&str, &str, &Fact)> = ports
        .iter()
        .flat_map(|port| {
            known
                .many(port)
                .iter()
                .map(move |(label, facts)| (*port, label, facts))
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

/// The vocabulary that any of the ports is known to have.
pub fn vocab_fact(known: &Known<'_>, ports: &[&str]) -> Option<Fact> {
    ports
        .iter()
        .flat_map(|port| known.many(port))
        .find_map(|(_, facts)| facts.get("vocab").cloned())
}

/// Fails where a sequence is longer than the model's context.
pub fn check_length(config: &Config, length: usize, name: &str) -> Result<(), Failure> {
    if length <= config.max_position_embeddings {
        return Ok(());
    }
    Err(Failure::input(format!(
        "{name} is {length} tokens, the model has {} positions",
        config.max_position_embeddings
    ))
    .help("use shorter sequences, or a model with more positions"))
}
