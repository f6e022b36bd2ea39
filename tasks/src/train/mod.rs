//! Everything that has a loss: pre-training, distillation, fine-tuning, preference optimisation.

mod checkpoint;
mod corpus;
pub mod dialogue;
mod distill;
pub mod divergence;
mod fresh;
mod make_pairs;
pub mod mixture;
mod model_files;
pub mod order;
pub mod overflow;
pub mod packing;
pub mod pairs;
pub mod params;
pub mod preference;
mod pretrain;
pub mod records;
pub mod reward_loss;
pub mod steps;
pub mod token_batch;
pub mod token_objective;
mod tokenize_preferences;

use kbuild_engine::kind::Kind;

/// The kinds of this module.
pub fn kinds() -> Vec<Kind> {
    vec![
        Kind::task::<pretrain::Pretrain>(),
        Kind::task::<distill::Distill>(),
        Kind::task::<tokenize_preferences::TokenizePreferences>(),
        Kind::task::<make_pairs::MakePairs>(),
    ]
}
