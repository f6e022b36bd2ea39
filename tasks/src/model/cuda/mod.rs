//! The training core on NVIDIA cards: own kernels, cuBLASLt for products, one stream.
//!
//! Everything is found and loaded at run time: a build needs cargo alone, and without a driver the same binary runs on
//! the CPU. `libraries` looks before anybody calls, `driver` and `blas` are the safe faces of what was found, `kernels`
//! names what `kernels/*.cu` define, and `ops` is the list of operations. It knows no model and no loss.

mod blas;
mod driver;
mod kernels;
pub mod libraries;
mod ops;
mod places;

pub use blas::{Element, WORKSPACE};
pub use driver::{Card, Gpu, cards, obstacle, version};
pub use ops::{Cuda, WIDEST_HEAD, WIDEST_STREAM};

#[cfg(test)]
pub(super) mod tests;
