//! Cases of the training core: forward, gradients, AdamW, rope, generation, schedules.

use super::Case;

pub const CASES: &[Case] = &[];
