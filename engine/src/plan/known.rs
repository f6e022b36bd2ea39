//! What is known of content while tasks are resolved one after the other.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::Snapshot;
use crate::artifact::Content;
use crate::digest::Digest;
use crate::graph::{Graph, Origin, SourceId, TaskId};
use crate::receipt::Receipt;

/// Content of what tasks read, as far as it is known: sources from the snapshot, outputs as tasks are resolved.
#[derive(Debug, Clone)]
pub struct Known {
    sources: BTreeMap<SourceId, (Arc<Content>, Digest)>,
    outputs: BTreeMap<TaskId, Delivery>,
}

/// What a task gave, with the digest of each output in the order of [`Task::outputs`].
#[derive(Debug, Clone)]
struct Delivery {
    receipt: Arc<Receipt>,
    digests: Vec<Digest>,
}

impl Known {
    pub fn new(snapshot: &Snapshot) -> Self {
        let sources = snapshot.sources.iter().filter_map(|(id, content)| {
            let content = content.as_ref().ok()?;
            Some((*id, (Arc::clone(content), content.digest())))
        });
        Self {
            sources: sources.collect(),
            outputs: BTreeMap::new(),
        }
    }

    /// States what a task gave: the receipt of a hit, or of a finished execution.
    ///
    /// # Panics
    /// If the receipt lacks an output of the task; [`super::decide`] never calls such a receipt a hit.
    pub fn insert(&mut self, graph: &Graph, task: TaskId, receipt: Arc<Receipt>) {
        let digests = graph
            .task(task)
            .outputs
            .iter()
            .map(|port| receipt.outputs[&port.name].digest())
            .collect();
        self.outputs.insert(task, Delivery { receipt, digests });
    }

    /// The receipt of a task that is resolved.
    pub fn receipt(&self, task: TaskId) -> Option<&Arc<Receipt>> {
        self.outputs.get(&task).map(|delivery| &delivery.receipt)
    }

    /// Content and digest of an input.
    pub fn content(&self, graph: &Graph, from: Origin) -> Option<(&Content, Digest)> {
        match from {
            Origin::Source(id) => {
                let (content, digest) = self.sources.get(&id)?;
                Some((content, *digest))
            }
            Origin::Task { task, port } => {
                let delivery = self.outputs.get(&task)?;
                let name = &graph.task(task).outputs[port as usize].name;
                let digest = delivery.digests[port as usize];
                Some((&delivery.receipt.outputs[name], digest))
            }
        }
    }

    /// Measured facts of an input; none for sources.
    pub fn facts(&self, graph: &Graph, from: Origin) -> Option<&BTreeMap<String, Value>> {
        let Origin::Task { task, port } = from else {
            return None;
        };
        let name = &graph.task(task).outputs[port as usize].name;
        self.outputs.get(&task)?.receipt.facts.get(name)
    }
}
