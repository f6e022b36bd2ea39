//! What an LLM build does: the table of kinds, and the formats that travel between them.
//!
//! `program → tasks → engine`, never back. `model/` alone names candle or cudarc.

pub mod chat;
pub mod data;
pub mod facts;
pub mod formats;
pub mod guard;
pub mod machine;
pub mod measure;
pub mod model;
pub mod surgery;
pub mod train;

#[cfg(test)]
#[path = "../tests/common/mod.rs"]
pub(crate) mod testing;

use kbuild_engine::kind::{Kind, Kinds};

/// Every kind and format that this program offers. Adding a kind = one file and one line here.
pub fn kinds() -> Kinds {
    let kinds: Vec<Kind> = [
        data::kinds(),
        train::kinds(),
        surgery::kinds(),
        measure::kinds(),
    ]
    .into_iter()
    .flatten()
    .collect();
    formats::compare::comparisons(Kinds::new(kinds, formats::table()))
}
