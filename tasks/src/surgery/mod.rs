//! Weights in, weights out, without a gradient: depth up-scaling, importance, pruning.

use kbuild_engine::kind::Kind;

/// The kinds of this module.
pub fn kinds() -> Vec<Kind> {
    vec![]
}
