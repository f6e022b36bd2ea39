//! What came out: evaluation, choice between candidates, reports.
//!
//! ```text
//! evaluate, evaluate-reward-model, best-of-n, compare:  models or scores ─▶ report
//! choose, pick:                                         reports ─▶ choice ─▶ the winner
//! report:                                               everything ─▶ one report, gates and statistics
//! ```

pub mod best_of_n;
pub mod chain;
pub mod choose;
pub mod compare;
pub mod domain_weights;
mod entries;
pub mod evaluate;
pub mod gates;
pub mod gold;
mod groups;
mod json;
pub mod likelihood;
pub mod multiple_choice;
pub mod pick;
pub mod report;
pub mod reward_accuracy;
mod scored;
pub mod statistics;

pub use json::{read_value, write_report};

use kbuild_engine::kind::Kind;

/// The kinds of this module.
pub fn kinds() -> Vec<Kind> {
    vec![
        Kind::task::<evaluate::Evaluate>(),
        Kind::task::<reward_accuracy::EvaluateRewardModel>(),
        Kind::task::<best_of_n::BestOfN>(),
        Kind::task::<compare::Compare>(),
        Kind::task::<choose::Choose>(),
        Kind::task::<pick::Pick>(),
        Kind::task::<pick::PickModel>(),
        Kind::task::<report::Report>(),
    ]
}
