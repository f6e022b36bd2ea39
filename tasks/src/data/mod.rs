//! From raw text to tokens: extract, clean, classify, tokenize.

mod anonymize;
mod classify;
pub mod cluster;
mod decontaminate;
mod drop;
mod extract;
pub mod fasttext;
mod fasttext_file;
mod filter;
pub mod html;
mod iterative_classifier;
pub mod ledger;
mod mine;
pub mod minhash;
mod page;
mod parts;
pub mod pii;
pub mod quality_report;
pub mod rules;
pub mod signatures;
pub mod text;
mod tokenize;
pub mod train_classifier;
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
        Kind::task::<decontaminate::Decontaminate>(),
        Kind::task::<decontaminate::DecontaminateChat>(),
        Kind::task::<train_classifier::TrainClassifier>(),
        Kind::task::<mine::Mine>(),
        Kind::composite::<iterative_classifier::IterativeClassifier>(),
        Kind::task::<classify::Classify>(),
        Kind::task::<train_tokenizer::TrainTokenizer>(),
        Kind::task::<tokenize::Tokenize>(),
    ]
}
