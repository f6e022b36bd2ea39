//! What came out: evaluation, choice between candidates, reports.

pub mod gold;

use kbuild_engine::kind::Kind;

/// The kinds of this module.
pub fn kinds() -> Vec<Kind> {
    vec![]
}
