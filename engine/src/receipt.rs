//! Receipts: what a finished execution leaves, one per key.
//!
//! A receipt is data. Where it lies, and whether its content still exists, is `store`'s.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::artifact::{Blob, Content};
use crate::digest::Digest;

/// Version of the form of a receipt; a receipt of another form is ignored.
pub const SCHEMA: u32 = 1;

/// The proof that the work of a key was done, and what it gave.
///
/// A mapping task leaves one receipt for each part (its outputs are that part of each mapped output) and one for the
/// whole (all outputs, assembled).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Receipt {
    pub schema: u32,
    /// Digest of the canonical text of `manifest`.
    pub key: Digest,
    /// The text that was hashed, see [`crate::key::Manifest`].
    pub manifest: Value,
    /// Content by output port.
    pub outputs: BTreeMap<String, Content>,
    /// Measured facts by output port.
    pub facts: BTreeMap<String, BTreeMap<String, Value>>,
    /// Name that the task had then, for people alone.
    pub task: String,
    /// Time of the attempt that finished, milliseconds.
    pub elapsed_ms: u64,
    /// Attempts that it took.
    pub attempts: u32,
    /// The numeric environment: device kind, instruction set, kernel version. Recorded, never hashed.
    pub environment: BTreeMap<String, String>,
    /// Set when the outputs of another key were accepted for this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted: Option<Accepted>,
}

impl Receipt {
    /// Every blob of the outputs.
    pub fn blobs(&self) -> impl Iterator<Item = Blob> {
        self.outputs.values().flat_map(Content::blobs)
    }
}

/// The user's word that an old artifact stands for a new key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// The key whose execution made the outputs.
    pub from: Digest,
    pub reason: String,
}
