//! Protocol v1: `PROGRAM ARGS… REQUEST.json`, events as JSON lines on stdout, log on stderr, exit status 0 when done.
//!
//! The same for built-in kinds, commands and plugins. See `docs/plugin-protocol.md`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::artifact::Shape;
use crate::digest::Digest;

/// Version of the protocol; a child that does not speak it refuses.
pub const PROTOCOL: u32 = 1;

/// What a child is asked to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Request {
    pub protocol: u32,
    pub kind: String,
    pub version: u32,
    /// Identity of the program that built the request; a built-in kind refuses another program's request.
    pub build_id: String,
    /// Name of the task, for messages alone.
    pub task: String,
    pub key: Digest,
    /// Params with every default filled in, exactly as in the manifest.
    pub params: Value,
    pub inputs: BTreeMap<String, Vec<RequestInput>>,
    /// Where each output port must be written: a file to create, or a directory that exists and is empty.
    pub outputs: BTreeMap<String, PathBuf>,
    /// For mapping kinds: the parts to make, and nothing else.
    pub parts: Vec<PartRequest>,
    /// A directory that survives an interrupted attempt: checkpoints.
    pub partial: PathBuf,
    /// `cpu` or `gpu`; never part of the result's identity.
    pub device: String,
    /// Threads that the attempt may use; never part of the result's identity.
    pub threads: usize,
    /// Rather compute something again than keep it: less memory for more time. Never part of the result's identity.
    #[serde(default)]
    pub recompute: bool,
    /// Device kind, instruction set and kernel version in one word: results agree bit for bit where it is equal, and
    /// a checkpoint is continued only there. Never part of the result's identity.
    #[serde(default)]
    pub numeric_environment: String,
}

/// One artifact of an input port.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RequestInput {
    /// Name of the input in the Kananafile (label, or the task it comes from).
    pub label: String,
    pub digest: Digest,
    pub shape: Shape,
    /// The file, or the directory that holds the files or shards.
    pub path: PathBuf,
    /// For shards: each part in order. On a mapped port only the parts that are to be made: [`PartRequest::inputs`]
    /// says which is which.
    pub parts: Vec<PathBuf>,
    /// Measured facts of the artifact.
    pub facts: BTreeMap<String, Value>,
}

/// One part of a mapping kind.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PartRequest {
    pub index: usize,
    /// The part of each mapped input port.
    pub inputs: BTreeMap<String, PathBuf>,
    /// Where the part of each mapped output port must be written: a file to create, or (formats without a file name
    /// extension) a directory that exists and is empty.
    pub outputs: BTreeMap<String, PathBuf>,
}

/// What a child says while it works: one JSON object a line on stdout.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Event {
    /// `done` of `total` units (`tokens`, `documents`, `steps`).
    Progress { done: u64, total: u64, unit: String },
    /// A named number at a step (`loss`, `lr`): a curve for whoever watches.
    Metric { step: u64, name: String, value: f64 },
    /// A sentence for people.
    Note { text: String },
    /// A measured fact of an output port (part facts are summed by the kind that reads them, not here).
    Fact {
        port: String,
        name: String,
        value: Value,
    },
    /// The part of this index is complete and may be kept whatever happens next.
    Part { index: usize },
    /// State was saved to `partial`; a later attempt continues from here.
    Checkpoint { step: u64 },
    /// The attempt ends without a result, and why.
    Failed {
        class: FailureClass,
        message: String,
        help: String,
    },
}

/// Why an attempt ended without a result: decides what a retry is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureClass {
    /// An input or a param is wrong: the same attempt fails again.
    Input,
    /// Memory, disk or device ran out.
    Resources,
    /// Something outside failed (I/O, a missing program).
    Environment,
    /// Asked to stop; saved what it could.
    Interrupted,
    /// Ran past its time limit.
    Timeout,
    /// A defect of the kind: a panic, a broken promise.
    Bug,
}
