//! Llama: one architecture, one training core. The only place that names candle or cudarc.
//!
//! ```text
//! Config ─▶ Layout (names → ranges of one flat arena) ─▶ Model (config + weights) ⇄ Hugging Face directory
//!                                                             │
//!                    Batch (packed sequences) ─▶ Core: forward ─▶ head + loss ─▶ backward ─▶ AdamW
//!                                     Stack over Ops, the list of operations: Cpu | Plain (reference)
//!                                                             └▶ decode (KV cache)
//! ```
//!
//! It knows nothing of documents, tokenizers, templates or tasks: tokens go in, numbers come out.

pub mod accounting;
pub mod batch;
pub mod config;
pub mod core;
mod cpu;
pub mod cuda;
pub mod decode;
mod error;
pub mod layout;
pub mod loss;
pub mod memory;
pub mod ops;
pub mod optimizer;
pub mod reference;
pub mod rng;
pub mod rope;
pub mod sampler;
pub mod schedule;
mod stack;
pub mod weights;

pub use batch::Batch;
pub use config::{Config, Head, Llama3Scaling};
pub use core::{Core, Device, Kept, Logits, Numerics, Observer, Site};
pub use cpu::Cpu;
pub use cpu::isa::Isa as InstructionSet;
pub use decode::{Decoder, Finish, GenerateOptions, Generated, generate};
pub use error::ModelError;
pub use layout::Layout;
pub use optimizer::{AdamW, AdamWOptions, Decay};
pub use rng::Rng;
pub use sampler::Sampling;
pub use schedule::Schedule;
pub use weights::Model;

#[cfg(test)]
mod tests;
