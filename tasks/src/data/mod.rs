//! From raw text to tokens: extract, clean, classify, tokenize.

pub mod minhash;
pub mod rules;
pub mod text;

use kbuild_engine::kind::Kind;

/// The kinds of this module.
pub fn kinds() -> Vec<Kind> {
    vec![]
}
