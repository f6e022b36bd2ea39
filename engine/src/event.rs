//! What a build says while it works: one typed stream for terminals, logs and reports.
//!
//! The engine never prints. Tasks are named, not numbered, so that a stream can be read without its graph.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;
use tokio::sync::mpsc::UnboundedSender;

use crate::digest::Digest;
use crate::plan::Reason;
use crate::runner::FailureClass;

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum BuildEvent {
    /// The build begins: how many tasks the goals need, by status of the plan.
    Started {
        build: String,
        tasks: usize,
        hits: usize,
        /// Those of the hits of which nothing more is said.
        beside: usize,
        misses: usize,
        unknown: usize,
    },
    /// Something that people should know and that changes no outcome.
    Warning { text: String },
    /// Done before.
    Hit { task: String, key: Digest },
    /// To be done, and why. Of mapping tasks: how many of the parts.
    Miss {
        task: String,
        key: Digest,
        reasons: Vec<Reason>,
        parts: Option<PartCount>,
    },
    /// Protected, and a rebuild is needed or may be: it and what follows wait for the user's word.
    Held { task: String, reasons: Vec<Reason> },
    /// Cannot be run as things are.
    Blocked { task: String, problems: Vec<String> },
    /// Another process works on the key; when it is done, this is a hit.
    Waiting { task: String, key: Digest },
    /// An attempt began.
    Running {
        task: String,
        attempt: u32,
        log: PathBuf,
        /// True when an earlier attempt left a checkpoint.
        resumed: bool,
    },
    /// `done` of `total` units.
    Progress {
        task: String,
        done: u64,
        total: u64,
        unit: String,
    },
    /// A point of a curve.
    Metric {
        task: String,
        step: u64,
        name: String,
        value: f64,
    },
    /// A sentence from the task.
    Note { task: String, text: String },
    /// A part is kept.
    Part {
        task: String,
        index: usize,
        done: usize,
        missing: usize,
    },
    /// State was saved.
    Checkpoint { task: String, step: u64 },
    /// Done now.
    Finished {
        task: String,
        key: Digest,
        elapsed_ms: u64,
        outputs: BTreeMap<String, Produced>,
        /// Measured facts by output port.
        facts: BTreeMap<String, BTreeMap<String, Value>>,
    },
    /// An attempt ended without a result.
    Failed {
        task: String,
        attempt: u32,
        class: FailureClass,
        message: String,
        help: String,
        log: PathBuf,
        /// The last lines of the log.
        tail: String,
        /// True when another attempt follows.
        retried: bool,
    },
    /// The content of these temporary tasks is not needed any more and was removed.
    Dropped { tasks: Vec<String>, bytes: u64 },
    /// Not run because of what happened to `because`.
    Skipped { task: String, because: String },
    /// Everything that could be done is done.
    Done(Totals),
}

/// Parts of a mapping task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct PartCount {
    pub missing: usize,
    pub total: usize,
}

/// An output as it was kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Produced {
    pub digest: Digest,
    pub bytes: u64,
}

/// How a build went: numbers of tasks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    pub hits: usize,
    pub built: usize,
    pub failed: usize,
    pub held: usize,
    pub blocked: usize,
    pub skipped: usize,
    pub cancelled: usize,
    pub elapsed_ms: u64,
}

/// Where events go. Cheap to clone.
#[derive(Clone)]
pub struct Events(Arc<dyn Fn(BuildEvent) + Send + Sync>);

impl Events {
    pub fn new(consumer: impl Fn(BuildEvent) + Send + Sync + 'static) -> Self {
        Self(Arc::new(consumer))
    }

    /// Into a channel; a receiver that is gone is no error.
    pub fn channel(sender: UnboundedSender<BuildEvent>) -> Self {
        Self::new(move |event| {
            let _ = sender.send(event);
        })
    }

    pub fn send(&self, event: BuildEvent) {
        (self.0)(event);
    }

    pub fn warn(&self, text: impl Into<String>) {
        self.send(BuildEvent::Warning { text: text.into() });
    }
}
