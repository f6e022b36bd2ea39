//! Truncation is a decision: what happens to what is longer than `max_length`, and the ledger of it (recipe 3.1).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What to do with a row that is too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnOverflow {
    /// Fail and name the first one.
    Error,
    /// Leave the row out.
    Drop,
    /// Keep the first `max_length` tokens; the stop token is lost.
    TruncateKeepStart,
}

/// What became of rows on their way to training.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    pub rows: usize,
    pub kept: usize,
    pub dropped_too_long: usize,
    pub truncated: usize,
    /// Rows that lost their stop token.
    pub lost_stop: usize,
    /// Rows left out because no target was left.
    pub without_targets: usize,
    pub tokens: usize,
    pub targets: usize,
    pub dropped_tokens: usize,
}

impl Ledger {
    /// Share of the kept tokens that are targets.
    pub fn target_share(&self) -> f64 {
        self.targets as f64 / self.tokens.max(1) as f64
    }
}

impl Ledger {
    /// Both together.
    pub fn plus(&self, other: &Self) -> Self {
        Self {
            rows: self.rows + other.rows,
            kept: self.kept + other.kept,
            dropped_too_long: self.dropped_too_long + other.dropped_too_long,
            truncated: self.truncated + other.truncated,
            lost_stop: self.lost_stop + other.lost_stop,
            without_targets: self.without_targets + other.without_targets,
            tokens: self.tokens + other.tokens,
            targets: self.targets + other.targets,
            dropped_tokens: self.dropped_tokens + other.dropped_tokens,
        }
    }
}
