//! Everything that has a loss: pre-training, distillation, fine-tuning, preference optimisation.

use kbuild_engine::kind::Kind;

/// The kinds of this module.
pub fn kinds() -> Vec<Kind> {
    vec![]
}
