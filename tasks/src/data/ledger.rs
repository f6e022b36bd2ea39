//! The ledger of a cleaning step: what came in, what stayed, what was dropped and by which rule.
//!
//! One ledger per part; whoever reports on a step adds the parts up with [`Ledger::add`].

use std::collections::BTreeMap;
use std::path::Path;

use kbuild_engine::runner::{AtPath, Failure};
use serde::{Deserialize, Serialize};

/// Documents, and the UTF-8 bytes of their texts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amount {
    pub documents: u64,
    pub bytes: u64,
}

impl Amount {
    fn count(&mut self, text: &str) {
        self.documents += 1;
        self.bytes += text.len() as u64;
    }

    fn add(&mut self, other: Self) {
        // A ledger is read from a file, which may say anything.
        self.documents = self.documents.saturating_add(other.documents);
        self.bytes = self.bytes.saturating_add(other.bytes);
    }
}

/// What a step did to its documents.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ledger {
    #[serde(rename = "in")]
    pub input: Amount,
    /// As they came out, which may be shorter than they came in.
    pub kept: Amount,
    /// Documents that stayed with another text.
    pub changed: u64,
    /// Dropped documents as they came in, by the first rule that failed.
    pub dropped: BTreeMap<String, Amount>,
    /// Spans replaced inside documents, by kind.
    pub replaced: BTreeMap<String, u64>,
}

impl Ledger {
    /// A document that stays as `after`.
    pub fn keep(&mut self, before: &str, after: &str) {
        self.input.count(before);
        self.kept.count(after);
        self.changed += u64::from(before != after);
    }

    pub fn drop(&mut self, rule: &str, text: &str) {
        self.input.count(text);
        self.dropped.entry(rule.to_owned()).or_default().count(text);
    }

    pub fn replace(&mut self, kind: &str, n: u64) {
        if n > 0 {
            *self.replaced.entry(kind.to_owned()).or_default() += n;
        }
    }

    /// Adds the ledger of another part of the same step.
    pub fn add(&mut self, other: &Self) {
        self.input.add(other.input);
        self.kept.add(other.kept);
        self.changed = self.changed.saturating_add(other.changed);
        for (rule, amount) in &other.dropped {
            self.dropped.entry(rule.clone()).or_default().add(*amount);
        }
        for (kind, n) in &other.replaced {
            let sum = self.replaced.entry(kind.clone()).or_default();
            *sum = sum.saturating_add(*n);
        }
    }

    pub fn read(path: &Path) -> Result<Self, Failure> {
        let text = std::fs::read_to_string(path).at(path)?;
        serde_json::from_str(&text)
            .map_err(|error| Failure::input(format!("`{}`: {error}", path.display())))
    }

    pub fn write(&self, path: &Path) -> Result<(), Failure> {
        let mut text = serde_json::to_string_pretty(self).expect("counts by name are JSON");
        text.push('\n');
        std::fs::write(path, text).at(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_add_up() {
        let mut one = Ledger::default();
        one.keep("abcd", "ab");
        one.drop("short", "x");
        let mut two = Ledger::default();
        two.drop("short", "yy");
        two.replace("EMAIL", 2);
        one.add(&two);
        assert_eq!(
            one.input,
            Amount {
                documents: 3,
                bytes: 7
            }
        );
        assert_eq!(
            one.kept,
            Amount {
                documents: 1,
                bytes: 2
            }
        );
        assert_eq!(
            one.dropped["short"],
            Amount {
                documents: 2,
                bytes: 3
            }
        );
        assert_eq!((one.changed, one.replaced["EMAIL"]), (1, 2));
    }
}
