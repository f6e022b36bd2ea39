//! Resources: `[resources]` says what the largest machine has that tasks of this file may run on. A task that no
//! machine could ever run is a problem of the file, long before a scheduler meets it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::draft::Draft;
use super::node::{Key, Node, Span, Val};
use super::problem::{Report, did_you_mean};
use super::settings::size;
use super::vars::Vars;
use crate::facts::Prediction;
use crate::graph::Device;

/// Resources that every machine has, whether or not they are declared.
const BUILT_IN: [&str; 2] = ["cpu", "gpu"];

/// What the largest machine has. Absent: not known, for `cpu`, `gpu` and memory; nobody has it, for pools.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// Slots by name.
    pub slots: BTreeMap<String, u32>,
    pub memory_bytes: Option<u64>,
}

impl Resources {
    /// Pools with names of the user's own, and their slots.
    pub fn pools(&self) -> BTreeMap<String, u32> {
        let mut pools = self.slots.clone();
        pools.retain(|name, _| !BUILT_IN.contains(&name.as_str()));
        pools
    }
}

/// Reads `[resources]`; entries of profiles come later and replace earlier ones.
pub fn read<'a>(
    declared: impl IntoIterator<Item = &'a (Key, Node)>,
    vars: &Vars,
    report: &Report,
) -> Resources {
    let mut resources = Resources::default();
    for (key, node) in declared {
        let node = vars.substitute(node, &[], report);
        if key.name == "memory" {
            resources.memory_bytes = memory(&node, report).or(resources.memory_bytes);
        } else if let Some(slots) = slots(key, &node, report) {
            resources.slots.insert(key.name.clone(), slots);
        }
    }
    resources
}

fn slots(key: &Key, node: &Node, report: &Report) -> Option<u32> {
    let slots = match node.value {
        Val::Int(number) => u32::try_from(number).ok(),
        Val::Broken => return None,
        _ => None,
    };
    if slots.is_none() {
        let message = format!(
            "`{}` must be a number of slots, found {}",
            key.name,
            node.type_name()
        );
        report.error(node.span, message, "write an integer of at least 0");
    }
    slots
}

fn memory(node: &Node, report: &Report) -> Option<u64> {
    let bytes = match &node.value {
        Val::Int(bytes) => u64::try_from(*bytes).ok(),
        Val::Text(text) => size(text),
        Val::Broken => return None,
        _ => None,
    };
    if bytes.is_none() {
        let help = "write a size such as `\"16GB\"`, `\"512GiB\"`, `\"2TB\"`, or bytes";
        report.error(node.span, "`memory` is not a size", help);
    }
    bytes
}

/// Reports every task that asks for more than any machine has.
pub fn check(
    resources: &Resources,
    drafts: &[Draft<'_>],
    predictions: &[Prediction],
    report: &Report,
) {
    for (draft, prediction) in drafts.iter().zip(predictions) {
        // Steps hold what their composite holds.
        if draft.parent.is_none() {
            check_slots(resources, draft, report);
        }
        check_memory(resources, draft, prediction, report);
    }
}

fn check_slots(resources: &Resources, draft: &Draft<'_>, report: &Report) {
    let mut wanted = draft.run.slots.clone();
    if draft.run.device == Device::Gpu {
        let gpus = wanted.entry("gpu".to_owned()).or_default();
        *gpus = (*gpus).max(1);
    }
    for (name, slots) in &wanted {
        let span = slot_span(draft, name);
        match resources.slots.get(name) {
            Some(most) if slots > most => {
                let plural = if *slots == 1 { "" } else { "s" };
                let message = format!(
                    "`{}` asks for {slots} slot{plural} of `{name}`, no machine has more than {most}",
                    draft.name
                );
                let help = format!("ask for at most {most}, or raise `{name}` in `[resources]`");
                report.error(span, message, help);
            }
            None if !BUILT_IN.contains(&name.as_str()) && *slots > 0 => {
                let message = format!("no machine has the resource `{name}`");
                let known = resources.slots.keys().map(String::as_str).chain(BUILT_IN);
                let near = did_you_mean(name, known);
                let help = match near.starts_with("did you mean") {
                    true => near,
                    false => {
                        format!("say how many there are: `[resources]` with `{name} = {slots}`")
                    }
                };
                report.error(span, message, help);
            }
            _ => {}
        }
    }
}

/// Where a task asks for a resource.
fn slot_span(draft: &Draft<'_>, name: &str) -> Span {
    let run = draft.written_run.as_ref();
    let slot = run.and_then(|run| run.get("slots")?.get(name));
    let device = run.and_then(|run| run.get("device"));
    slot.or(device).map_or(draft.span, |node| node.span)
}

fn check_memory(
    resources: &Resources,
    draft: &Draft<'_>,
    prediction: &Prediction,
    report: &Report,
) {
    let (Some(needed), Some(most)) = (prediction.cost.memory_bytes, resources.memory_bytes) else {
        return;
    };
    if needed > most {
        let message = format!(
            "{}`{}` needs {} of memory, no machine has more than {}",
            draft.prefix(),
            draft.name,
            gigabytes(needed),
            gigabytes(most)
        );
        let help = "make the model smaller, or raise `memory` in `[resources]`";
        report.error(draft.span, message, help);
    }
}

fn gigabytes(bytes: u64) -> String {
    format!("{:.2} GB", bytes as f64 / 1e9)
}
