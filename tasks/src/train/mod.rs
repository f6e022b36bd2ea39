//! Everything that has a loss: pre-training, distillation, fine-tuning, preference optimisation.

pub mod dialogue;
pub mod divergence;
mod make_pairs;
pub mod mixture;
pub mod order;
pub mod overflow;
pub mod packing;
pub mod pairs;
pub mod preference;
pub mod records;
pub mod reward_loss;
mod tokenize_preferences;

use kbuild_engine::kind::Kind;

/// The kinds of this module.
pub fn kinds() -> Vec<Kind> {
    vec![
        Kind::task::<make_pairs::MakePairs>(),
        Kind::task::<tokenize_preferences::TokenizePreferences>(),
    ]
}
