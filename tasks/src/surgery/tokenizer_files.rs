//! The tokenizer files of a model directory, carried along unchanged.

use std::path::Path;

use kbuild_engine::runner::{AtPath, Failure};

/// Files that belong to a tokenizer; configuration and weights are written anew by whoever changes them.
const NAMES: &[&str] = &[
    "added_tokens.json",
    "chat_template.jinja",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
];

/// Copies what there is of a tokenizer from one model directory to another.
pub fn copy(from: &Path, to: &Path) -> Result<(), Failure> {
    for name in NAMES {
        let source = from.join(name);
        if source.exists() {
            let bytes = std::fs::read(&source).at(&source)?;
            let target = to.join(name);
            std::fs::write(&target, bytes).at(&target)?;
        }
    }
    Ok(())
}
