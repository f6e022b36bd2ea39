//! Keys: the readable text that names a piece of work, and its digest.
//!
//! A manifest holds what decides the result and nothing else: no names, paths, times, hosts, devices or threads. The
//! same text is hashed, stored in the receipt and shown by `why`.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::canonical::{self, NotCanonical};
use crate::digest::Digest;
use crate::graph::{Binding, InputPort, Task};

/// Version of the form of a manifest.
pub const SCHEMA: u32 = 1;

/// What decides the result of a task, or of one of its parts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    pub schema: u32,
    pub kind: String,
    pub version: u32,
    /// After defaults are filled in.
    pub params: Value,
    /// Content by input port, in order. Ports without inputs are absent.
    pub inputs: BTreeMap<String, Vec<InputEntry>>,
    /// Of commands and plugins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<ProgramEntry>,
    /// True for one part of a mapping task: its mapped ports hold that part alone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub part: bool,
}

/// One artifact of an input port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputEntry {
    pub digest: Digest,
    /// On labelled ports alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
}

impl InputEntry {
    fn write(&self, out: &mut String) -> Result<(), NotCanonical> {
        let _ = write!(out, "{{\"digest\":\"{}\"", self.digest);
        if let Some(label) = &self.label {
            out.push_str(",\"label\":");
            canonical::write_text(label, out)?;
        }
        out.push('}');
        Ok(())
    }
}

/// The program of a command or plugin, by content.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramEntry {
    pub argv: Vec<String>,
    /// Digests of the declared files, in declared order.
    pub files: Vec<Digest>,
    /// Value of each declared environment variable; `None` where it is not set.
    pub env: BTreeMap<String, Option<String>>,
}

impl Manifest {
    /// The manifest of a task, given the digest of what each binding holds.
    pub fn of(
        task: &Task,
        digest: impl Fn(&Binding) -> Digest,
        program: Option<ProgramEntry>,
    ) -> Self {
        let entry = |port: &InputPort, binding: &Binding| InputEntry {
            digest: digest(binding),
            label: port.labelled.then(|| binding.label.clone()),
        };
        let inputs = task.inputs.iter().map(|port| {
            let entries = port.bindings.iter().map(|b| entry(port, b)).collect();
            (port.name.clone(), entries)
        });
        Self {
            schema: SCHEMA,
            kind: task.kind.clone(),
            version: task.version,
            params: task.params.clone(),
            inputs: inputs.collect(),
            program,
            part: false,
        }
    }

    /// The manifest of one part: the same work over that part of each mapped port.
    pub fn part(&self, parts: &[(String, InputEntry)]) -> Self {
        Self {
            inputs: self.inputs_of_part(parts),
            part: true,
            ..self.clone()
        }
    }

    /// The key of that manifest, without making it.
    pub fn part_key(&self, parts: &[(String, InputEntry)]) -> Digest {
        Digest::of(self.text_of(&self.inputs_of_part(parts), true).as_bytes())
    }

    fn inputs_of_part(&self, parts: &[(String, InputEntry)]) -> BTreeMap<String, Vec<InputEntry>> {
        let is_whole = |port: &String| parts.iter().all(|(mapped, _)| mapped != port);
        let whole = self.inputs.iter().filter(|(port, _)| is_whole(port));
        let whole = whole.map(|(port, entries)| (port.clone(), entries.clone()));
        let parts = parts.iter();
        let parts = parts.map(|(port, entry)| (port.clone(), vec![entry.clone()]));
        whole.chain(parts).collect()
    }

    /// The digest of the canonical text.
    ///
    /// # Panics
    /// Never: what a manifest holds has passed through JSON, which has no NaN and no infinities.
    pub fn key(&self) -> Digest {
        Digest::of(self.text().as_bytes())
    }

    /// The canonical text: what [`canonical::to_string`] gives, without a detour through a JSON value.
    ///
    /// # Panics
    /// Never, see [`Manifest::key`].
    pub fn text(&self) -> String {
        self.text_of(&self.inputs, self.part)
    }

    fn text_of(&self, inputs: &BTreeMap<String, Vec<InputEntry>>, is_part: bool) -> String {
        let mut out = String::with_capacity(512);
        self.write(inputs, is_part, &mut out)
            .expect("a manifest has a canonical form");
        out
    }

    /// Fields in the order of their names.
    fn write(
        &self,
        inputs: &BTreeMap<String, Vec<InputEntry>>,
        is_part: bool,
        out: &mut String,
    ) -> Result<(), NotCanonical> {
        out.push_str("{\"inputs\":{");
        for (index, (port, entries)) in inputs.iter().enumerate() {
            out.push_str(if index > 0 { "," } else { "" });
            canonical::write_text(port, out)?;
            out.push_str(":[");
            for (index, entry) in entries.iter().enumerate() {
                out.push_str(if index > 0 { "," } else { "" });
                entry.write(out)?;
            }
            out.push(']');
        }
        out.push_str("},\"kind\":");
        canonical::write_text(&self.kind, out)?;
        out.push_str(",\"params\":");
        canonical::write_value(&self.params, out)?;
        if is_part {
            out.push_str(",\"part\":true");
        }
        if let Some(program) = &self.program {
            out.push_str(",\"program\":");
            out.push_str(&canonical::to_string(program)?);
        }
        let _ = write!(
            out,
            ",\"schema\":{},\"version\":{}}}",
            self.schema, self.version
        );
        Ok(())
    }

    /// The manifest as a JSON value, as receipts hold it.
    pub fn to_value(&self) -> Value {
        serde_json::to_value(self).expect("a manifest is JSON")
    }
}
