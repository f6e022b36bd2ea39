//! Facts of a model before it exists: the names of `config.json`, and `parameters`.

use std::path::Path;

use kbuild_engine::digest::Digest;
use kbuild_engine::facts::{Fact, Facts};
use kbuild_engine::kind::{Complaint, Known};
use kbuild_engine::runner::{AtPath, Context, Failure};

use crate::model::{Config, Head};

const SHAPE: &[&str] = &[
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
];

/// A whole number that is known of a model.
pub fn size(facts: &Facts, name: &str) -> Option<usize> {
    facts.u64(name).and_then(|n| usize::try_from(n).ok())
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
    let [vocab, hidden, ffn, layers, heads, groups, head_dim] =
        std::array::from_fn(|at| size(facts, SHAPE[at]));
    let tied = facts.known("tie_word_embeddings")?.as_bool()?;
    let (vocab, hidden, ffn) = (vocab?, hidden?, ffn?);
    let attention = 2 * hidden * head_dim? * (heads? + groups?);
    let layers = layers? * (attention + 3 * hidden * ffn + 2 * hidden);
    let embeddings = if tied { 1 } else { 2 } * vocab * hidden;
    Some((layers + embeddings + hidden) as u64)
}

/// States the measured shape and vocabulary of the model that was written to an output port.
pub fn state(context: &mut Context, port: &str, config: &Config) -> Result<(), Failure> {
    let vocabulary = vocabulary(context.output(port))?;
    let sizes = [
        config.vocab_size,
        config.hidden_size,
        config.intermediate_size,
        config.num_hidden_layers,
        config.num_attention_heads,
        config.num_key_value_heads,
        config.head_dim,
    ];
    for (name, size) in SHAPE.iter().zip(sizes) {
        context.fact(port, name, size as u64);
    }
    if config.head == Head::Language {
        context.fact(port, "tie_word_embeddings", config.tie_word_embeddings);
    }
    context.fact(
        port,
        "max_position_embeddings",
        config.max_position_embeddings as u64,
    );
    context.fact(port, "parameters", config.parameter_count());
    if let Some(digest) = vocabulary {
        context.fact(port, "vocab", digest);
    }
    Ok(())
}

/// Complaints for every artifact of a port whose vocabulary is known to be another than the model's. Sizes are never
/// compared: two vocabularies of one size are still two.
pub fn same_vocabulary(known: &Known<'_>, model: &str, port: &str) -> Vec<Complaint> {
    let Some(own) = known.one(model).and_then(|facts| facts.get("vocab")) else {
        return Vec::new();
    };
    let differs = |facts: &Facts| facts.get("vocab").is_some_and(|other| differ(own, other));
    known
        .many(port)
        .iter()
        .filter(|(_, facts)| differs(facts))
        .map(|(label, _)| {
            Complaint::new(
                &format!("inputs.{port}"),
                format!("`{label}` is written in another vocabulary than the model's"),
                "tokenize it with the tokenizer that the model was trained with",
            )
        })
        .collect()
}

/// Two facts of the same sort that are not equal; a symbol and a value may still turn out to be the same.
fn differ(a: &Fact, b: &Fact) -> bool {
    match (a, b) {
        (Fact::Known(a), Fact::Known(b)) => a != b,
        (Fact::Symbol(a), Fact::Symbol(b)) => a != b,
        _ => false,
    }
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
