//! Models in and out of a task: weights, and the tokenizer files beside them.

use std::path::Path;

use kbuild_engine::runner::{Artifact, Context, Failure};
use serde_json::Value;

use crate::facts;
use crate::formats::tokenizer::Tokenizer;
use crate::model::{Config, Core, Model};

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

/// Writes a trained model with its tokenizer to `port`, and states its facts.
pub fn save(
    context: &mut Context,
    port: &str,
    core: &Core,
    tokenizer: &Tokenizer,
) -> Result<(), Failure> {
    let directory = context.output(port).to_owned();
    core.save(&directory)?;
    tokenizer.copy_to(&directory)?;
    facts::state(context, port, &facts::of_config(core.config()));
    context.fact(port, "vocab", tokenizer.digest().to_hex());
    Ok(())
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
