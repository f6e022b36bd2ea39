//! Receipts: what a finished execution leaves, one per key.
//!
//! A receipt is data. Where it lies, and whether its content still exists, is `store`'s.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::artifact::{Blob, Content, is_component};
use crate::digest::Digest;
use crate::key::Manifest;

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
    /// What was hashed.
    pub manifest: Text,
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
    /// Set before content that nobody needs any more is removed: blobs that are missing were given up, not lost.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dropped: bool,
}

impl Receipt {
    /// Every blob of the outputs.
    pub fn blobs(&self) -> impl Iterator<Item = Blob> {
        self.outputs.values().flat_map(Content::blobs)
    }

    /// What no build ever writes: ports or files whose names lead out of where they belong.
    pub fn flaw(&self) -> Option<String> {
        self.outputs.iter().find_map(|(port, content)| {
            if !is_component(port) {
                return Some(format!("`{}` is no name of a port", port.escape_debug()));
            }
            let flaw = content.flaw()?;
            Some(format!("output `{port}`: {flaw}"))
        })
    }
}

/// The canonical text of a [`Manifest`], as it was written: of many receipts that are read, few are looked into.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Text(Box<RawValue>);

impl Text {
    /// # Panics
    /// Never: a manifest has a text, and it is JSON.
    pub fn of(manifest: &Manifest) -> Self {
        Self(RawValue::from_string(manifest.text()).expect("the text of a manifest is JSON"))
    }

    #[cfg(test)]
    pub fn any(json: &Value) -> Self {
        Self(serde_json::value::to_raw_value(json).unwrap())
    }

    /// The manifest; `None` if it is of another form.
    pub fn read(&self) -> Option<Manifest> {
        serde_json::from_str(self.0.get()).ok()
    }

    /// The same as JSON.
    pub fn to_value(&self) -> Value {
        serde_json::from_str(self.0.get()).unwrap_or_default()
    }
}

impl PartialEq for Text {
    fn eq(&self, other: &Self) -> bool {
        self.0.get() == other.0.get()
    }
}

/// The user's word that an old artifact stands for a new key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// The key whose execution made the outputs.
    pub from: Digest,
    pub reason: String,
}
