//! The tokenizer files of a model directory, carried along unchanged. A model without a tokenizer stays without.

use std::path::Path;

use kbuild_engine::runner::{AtPath, Failure};

use crate::formats::tokenizer::FILES;

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
