//! Everything that has a loss: pre-training, distillation, fine-tuning, preference optimisation.

mod chat_rows;
mod checkpoint;
mod corpus;
pub mod dialogue;
mod distill;
pub mod divergence;
pub mod dpo;
mod fresh;
pub mod log_probabilities;
pub mod make_pairs;
pub mod mixture;
pub(crate) mod model_files;
pub mod online;
pub mod order;
pub mod overflow;
pub mod packing;
pub mod pair_batch;
pub mod pairs;
pub mod params;
pub mod preference;
mod pretrain;
pub mod records;
pub mod reward_loss;
pub mod reward_model;
pub mod sample;
pub mod score;
mod sft;
pub mod steps;
pub mod token_batch;
pub mod token_objective;
pub mod tokenize_preferences;

use kbuild_engine::kind::Kind;

/// The kinds of this module.
pub fn kinds() -> Vec<Kind> {
    vec![
        Kind::task::<pretrain::Pretrain>(),
        Kind::task::<distill::Distill>(),
        Kind::task::<sft::Sft>(),
        Kind::task::<tokenize_preferences::TokenizePreferences>(),
        Kind::task::<reward_model::RewardModel>(),
        Kind::task::<log_probabilities::LogProbabilities>(),
        Kind::task::<dpo::Dpo>(),
        Kind::task::<sample::Sample>(),
        Kind::task::<score::Score>(),
        Kind::task::<make_pairs::MakePairs>(),
        Kind::composite::<online::OnlineDpo>(),
    ]
}
