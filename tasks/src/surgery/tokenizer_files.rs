//! The tokenizer files of a model directory, carried along unchanged. A model without a tokenizer stays without.

use std::path::Path;

use kbuild_engine::runner::{AtPath, Context, Failure};

use crate::facts;
use crate::formats::tokenizer::FILES;
use crate::model::Config;

/// Copies what there is of a tokenizer from one model directory to another.
pub fn copy(from: &Path, to: &Path) -> Result<(), Failure> {
    for name in FILES {
        let source = from.join(name);
        if source.exists() {
            let bytes = std::fs::read(&source).at(&source)?;
            let target = to.join(name);
            std::fs::write(&target, bytes).at(&target)?;
        }
    }
    Ok(())
}

/// States the shape and vocabulary of the model that was written to an output port.
pub fn state(context: &mut Context, port: &str, config: &Config) -> Result<(), Failure> {
    facts::state(context, port, &facts::of_config(config));
    if let Some(digest) = facts::vocabulary(context.output(port))? {
        context.fact(port, "vocab", digest);
    }
    Ok(())
}
