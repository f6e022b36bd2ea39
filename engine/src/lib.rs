//! The engine of kbuild: builds DAGs of content-addressed tasks. It has never heard of a tensor.
//!
//! ```text
//! Kananafile ─parse─▶ declarations ─check─▶ tasks ─▶ Graph ─scan─▶ Snapshot ─plan─▶ Plan ─build─▶ Outcome
//!    pure                pure              pure      reads disk      pure      │  reads, runs, writes
//! ```

pub mod artifact;
pub mod build;
pub mod canonical;
pub mod digest;
pub mod error;
pub mod event;
pub mod explain;
pub mod facts;
pub mod graph;
pub mod kananafile;
pub mod key;
pub mod kind;
pub mod limits;
pub mod plan;
pub mod project;
pub mod read;
pub mod receipt;
pub mod runner;
pub mod schedule;
pub mod store;
#[cfg(test)]
mod testing;
pub mod workspace;
