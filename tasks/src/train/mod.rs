//! Everything that has a loss: pre-training, distillation, fine-tuning, preference optimisation.

pub mod divergence;
pub mod mixture;
pub mod order;
pub mod packing;
pub mod pairs;
pub mod preference;
pub mod reward_loss;

use kbuild_engine::kind::Kind;

/// The kinds of this module.
pub fn kinds() -> Vec<Kind> {
    vec![]
}
