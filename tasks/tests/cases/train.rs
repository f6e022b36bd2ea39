//! Cases of what trains: masks, packing, losses of SFT, distillation, reward model and DPO, pairs.

use super::Case;

pub const CASES: &[Case] = &[];
