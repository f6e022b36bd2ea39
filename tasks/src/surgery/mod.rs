//! Weights in, weights out, without a gradient: depth up-scaling, importance, pruning.
//!
//! ```text
//! upscale:     model ─ layer_map ─▶ model
//! importance:  model + tokens ─ observe ─▶ scores
//! prune:       model + scores ─ selection ─▶ kept ─ cut ─▶ model
//! ```

mod baseline;
pub mod cut;
pub mod importance;
pub mod layer_map;
pub mod observe;
pub mod prune;
pub mod scores;
pub mod selection;
mod tokenizer_files;
pub mod upscale;

use kbuild_engine::kind::Kind;

/// The kinds of this module.
pub fn kinds() -> Vec<Kind> {
    vec![
        Kind::task::<upscale::Upscale>(),
        Kind::task::<importance::Importance>(),
        Kind::task::<prune::Prune>(),
    ]
}
