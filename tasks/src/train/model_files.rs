//! Models in and out of a task: weights, and the tokenizer files beside them.

use std::path::Path;

use kbuild_engine::digest::Digest;
use kbuild_engine::runner::{Artifact, Context, Failure};
use serde_json::Value;

use crate::facts;
use crate::formats::tokenizer::{FILES, Tokenizer};
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

/// The same, where there is one: a model that never sees text may lack it.
pub fn tokenizer_beside(directory: &Path, config: &Config) -> Result<Option<Tokenizer>, Failure> {
    match directory.join(FILES[0]).exists() {
        true => tokenizer(directory, config).map(Some),
        false => Ok(None),
    }
}

/// Fails where an artifact is known to be made with another vocabulary or chat template than the model's tokenizer has.
pub fn check_tokenizer(artifact: &Artifact, tokenizer: &Tokenizer) -> Result<(), Failure> {
    let is_other = |name: &str, own: Option<Digest>| {
        let found = artifact.facts.get(name).and_then(Value::as_str);
        found.is_some() && found != own.map(|own| own.to_hex()).as_deref()
    };
    let label = &artifact.label;
    if is_other("vocab", Some(tokenizer.digest())) {
        let message = format!("`{label}` was made with another tokenizer than the model's");
        return Err(Failure::input(message)
            .help("equal sizes are not equal vocabularies: make it with the model's tokenizer"));
    }
    if is_other("template", tokenizer.template_digest()) {
        let message = format!("`{label}` was made with another chat template than the model's");
        return Err(Failure::input(message)
            .help("make it with the tokenizer files beside the model: chat_template.jinja decides what it reads"));
    }
    Ok(())
}

/// States which vocabulary and chat template conversations were made into tokens with.
pub fn state_tokenizer(context: &mut Context, port: &str, tokenizer: &Tokenizer) {
    context.fact(port, "vocab", tokenizer.digest().to_hex());
    if let Some(template) = tokenizer.template_digest() {
        context.fact(port, "template", template.to_hex());
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
