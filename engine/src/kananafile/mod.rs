//! The Kananafile: from text to tasks.

/// A kind described by a `kind.toml`.
#[derive(Debug, Clone)]
pub struct Plugin {}
