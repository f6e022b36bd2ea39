//! Facts of a model before it exists: the names of `config.json`, and `parameters`.

use kbuild_engine::facts::Facts;
use kbuild_engine::runner::Context;

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

/// States the measured shape of the model on an output port.
pub fn state(context: &mut Context, port: &str, config: &Config) {
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
    context.fact(port, "max_position_embeddings", config.max_position_embeddings as u64);
    context.fact(port, "parameters", config.parameter_count());
}
