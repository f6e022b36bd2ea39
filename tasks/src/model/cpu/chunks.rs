//! Where work is cut: at places that depend on shapes alone, never on threads.

use rayon::prelude::*;

/// Rows of tokens that one task treats.
pub(super) const ROWS: usize = 256;
/// Elements of a flat arena that one task treats.
pub const REDUCTION_CHUNK: usize = 1 << 14;

/// Sum of a function over chunks of a slice, in f64, added in order.
pub fn ordered_sum(values: &[f32], chunk: impl Fn(&[f32]) -> f64 + Send + Sync) -> f64 {
    let parts: Vec<f64> = values.par_chunks(REDUCTION_CHUNK).map(chunk).collect();
    parts.iter().sum()
}
