//! Cases of weights without gradients and measurement: pruning, up-scaling, evaluation, accounting.

use super::Case;

pub const CASES: &[Case] = &[];
