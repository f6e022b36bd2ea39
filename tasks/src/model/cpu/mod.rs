//! The training core on CPUs: f32, `gemm` for matrix products, rayon over fixed chunks of rows.
//!
//! Results do not depend on the number of threads: work is cut at fixed places, every piece is computed by one thread
//! alone, and partial sums are added in the order of the pieces.

pub(super) mod attention;
mod chunks;
pub(super) mod decode;
pub(super) mod matrix;
pub(super) mod norm;
pub(super) mod rotate;
pub(super) mod row;
mod scratch;
mod stack;
pub(super) mod swiglu;

pub(super) use chunks::{REDUCTION_CHUNK, ordered_sum};
pub use stack::{LossFn, Stack};
