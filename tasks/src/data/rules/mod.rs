//! Rules that judge a text by counting: Gopher, C4, FineWeb, and their Korean and code counterparts.
//!
//! Each rule set is thresholds and one function: text in, the name of the first rule that fails out. The names are
//! datatrove's where datatrove has the rule. Knows nothing of files, ledgers or the order of sets (`chain` has that).

pub mod c4;
pub mod chain;
pub mod code;
pub mod fineweb;
pub mod korean;
pub mod quality;
pub mod repetition;

use std::borrow::Cow;

/// The name of a rule, as it stands in a ledger.
pub type Rule = Cow<'static, str>;

/// What a rule set says of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Keep,
    /// Keep it in this form (C4 removes lines).
    Change(String),
    Drop(Rule),
}

impl Verdict {
    fn drop(rule: &'static str) -> Self {
        Self::Drop(Cow::Borrowed(rule))
    }
}

/// `part / whole`, 0 where there is nothing.
fn share(part: usize, whole: usize) -> f64 {
    if whole == 0 {
        0.0
    } else {
        part as f64 / whole as f64
    }
}

/// A maximum that is switched on (0 is off) and exceeded.
fn above(value: f64, max: f64) -> bool {
    max != 0.0 && value > max
}

/// A minimum that is switched on (0 is off) and not reached.
fn below(value: f64, min: f64) -> bool {
    min != 0.0 && value < min
}
