//! Why a key is not the one it was: the difference of two manifests, typed.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::Reason;
use crate::digest::Digest;
use crate::graph::Task;
use crate::key::{InputEntry, Manifest, ProgramEntry};

/// Why the manifest of a task is not the one it had before. Never empty.
pub fn reasons(task: &Task, old: Option<&Manifest>, new: &Manifest) -> Vec<Reason> {
    let Some(old) = old else {
        return vec![Reason::NeverBuilt];
    };
    if old.kind != new.kind {
        return vec![Reason::KindChanged {
            old: old.kind.clone(),
            new: new.kind.clone(),
        }];
    }
    let mut reasons = Vec::new();
    if old.version != new.version {
        reasons.push(Reason::VersionChanged {
            old: old.version,
            new: new.version,
        });
    }
    params(
        String::new(),
        Some(&old.params),
        Some(&new.params),
        &mut reasons,
    );
    inputs(task, old, new, &mut reasons);
    program(
        task,
        old.program.as_ref(),
        new.program.as_ref(),
        &mut reasons,
    );
    if reasons.is_empty() {
        reasons.push(Reason::NoReceipt);
    }
    reasons
}

fn params(path: String, old: Option<&Value>, new: Option<&Value>, reasons: &mut Vec<Reason>) {
    match (old, new) {
        (old, new) if old == new => {}
        (Some(Value::Object(old)), Some(Value::Object(new))) => {
            let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
            for name in names {
                let path = match path.as_str() {
                    "" => name.clone(),
                    path => format!("{path}.{name}"),
                };
                params(path, old.get(name), new.get(name), reasons);
            }
        }
        (Some(Value::Array(old)), Some(Value::Array(new))) if old.len() == new.len() => {
            for (index, (old, new)) in old.iter().zip(new).enumerate() {
                params(format!("{path}[{index}]"), Some(old), Some(new), reasons);
            }
        }
        (old, new) => reasons.push(Reason::ParamChanged {
            path,
            old: old.cloned(),
            new: new.cloned(),
        }),
    }
}

fn inputs(task: &Task, old: &Manifest, new: &Manifest, reasons: &mut Vec<Reason>) {
    let ports: BTreeSet<&String> = old.inputs.keys().chain(new.inputs.keys()).collect();
    for port in ports {
        let entries = |manifest: &Manifest| manifest.inputs.get(port).cloned().unwrap_or_default();
        input(task, port, &entries(old), &entries(new), reasons);
    }
}

fn input(
    task: &Task,
    port: &str,
    old: &[InputEntry],
    new: &[InputEntry],
    reasons: &mut Vec<Reason>,
) {
    if old == new {
        return;
    }
    let changes = if old.len() == new.len() {
        replaced(old, new)
    } else {
        added_and_dropped(old, new)
    };
    if sorted(old) == sorted(new) || changes.is_empty() {
        let port = port.to_owned();
        return reasons.push(Reason::InputsRearranged { port });
    }
    for (index, old, new) in changes {
        let label = task
            .input(port)
            .filter(|_| new.is_some())
            .and_then(|port| port.bindings.get(index))
            .map(|binding| binding.label.clone());
        reasons.push(Reason::InputChanged {
            port: port.to_owned(),
            index,
            label: label.unwrap_or_default(),
            old,
            new,
        });
    }
}

type Change = (usize, Option<Digest>, Option<Digest>);

fn replaced(old: &[InputEntry], new: &[InputEntry]) -> Vec<Change> {
    old.iter()
        .zip(new)
        .enumerate()
        .filter(|(_, (old, new))| old.digest != new.digest)
        .map(|(index, (old, new))| (index, Some(old.digest), Some(new.digest)))
        .collect()
}

fn added_and_dropped(old: &[InputEntry], new: &[InputEntry]) -> Vec<Change> {
    let digests =
        |entries: &[InputEntry]| entries.iter().map(|e| e.digest).collect::<BTreeSet<_>>();
    let (before, after) = (digests(old), digests(new));
    let dropped = old
        .iter()
        .enumerate()
        .filter(|(_, entry)| !after.contains(&entry.digest))
        .map(|(index, entry)| (index, Some(entry.digest), None));
    let added = new
        .iter()
        .enumerate()
        .filter(|(_, entry)| !before.contains(&entry.digest))
        .map(|(index, entry)| (index, None, Some(entry.digest)));
    dropped.chain(added).collect()
}

fn sorted(entries: &[InputEntry]) -> Vec<Digest> {
    let mut digests: Vec<Digest> = entries.iter().map(|entry| entry.digest).collect();
    digests.sort_unstable();
    digests
}

fn program(
    task: &Task,
    old: Option<&ProgramEntry>,
    new: Option<&ProgramEntry>,
    reasons: &mut Vec<Reason>,
) {
    if old == new {
        return;
    }
    let none = ProgramEntry::default();
    let (old, new) = (old.unwrap_or(&none), new.unwrap_or(&none));
    if old.argv != new.argv {
        reasons.push(Reason::ArgumentsChanged {
            old: old.argv.clone(),
            new: new.argv.clone(),
        });
    }
    let declared = task.executor.program().map_or(&[][..], |p| &p.files);
    for index in 0..old.files.len().max(new.files.len()) {
        let (old, new) = (old.files.get(index), new.files.get(index));
        if old != new {
            let file = declared.get(index).cloned();
            reasons.push(Reason::ProgramChanged {
                file: file.unwrap_or_else(|| format!("file {}", index + 1)),
                old: old.copied(),
                new: new.copied(),
            });
        }
    }
    environment(&old.env, &new.env, reasons);
}

fn environment(
    old: &BTreeMap<String, Option<String>>,
    new: &BTreeMap<String, Option<String>>,
    reasons: &mut Vec<Reason>,
) {
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    for name in names {
        let (old, new) = (old.get(name), new.get(name));
        if old != new {
            reasons.push(Reason::EnvironmentChanged {
                name: name.clone(),
                old: old.cloned().flatten(),
                new: new.cloned().flatten(),
            });
        }
    }
}
