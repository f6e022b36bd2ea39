//! From raw text to tokens: extract, clean, classify, tokenize.

mod anonymize;
pub mod cluster;
mod drop;
mod extract;
mod filter;
pub mod html;
pub mod ledger;
pub mod minhash;
mod parts;
pub mod pii;
pub mod rules;
pub mod signatures;
pub mod text;
mod tokenize;
mod train_tokenizer;

use kbuild_engine::kind::Kind;

/// The kinds of this module.
pub fn kinds() -> Vec<Kind> {
    vec![
        Kind::task::<extract::Extract>(),
        Kind::task::<filter::Filter>(),
        Kind::task::<anonymize::Anonymize>(),
        Kind::task::<signatures::Signatures>(),
        Kind::task::<cluster::Cluster>(),
        Kind::task::<drop::Drop>(),
        Kind::task::<train_tokenizer::TrainTokenizer>(),
        Kind::task::<tokenize::Tokenize>(),
    ]
}
