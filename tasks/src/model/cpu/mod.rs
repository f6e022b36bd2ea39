//! The training core on CPUs: f32, `gemm` for matrix products, rayon over fixed chunks of rows.
//!
//! Results do not depend on the number of threads: work is cut at fixed places, every piece is computed by one thread
//! alone, and partial sums are added in the order of the pieces.

mod attention;
mod attention_kernels;
mod backward;
mod buffers;
mod chunks;
pub(super) mod decode;
mod layer;
mod matrix;
mod norm;
mod rotate;
pub(super) mod row;
mod scratch;
mod stack;
mod swiglu;

pub(super) use chunks::{REDUCTION_CHUNK, ordered_sum};
pub use stack::{LossFn, Stack};
