//! Cases of text: filters, simplified text, signatures, hashes, the tokenizer.

use super::Case;

pub const CASES: &[Case] = &[];
