//! Which parts of an artifact are not what they were.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::artifact::Content;
use crate::digest::Digest;

/// One part of an artifact: a file of a source by its path, a shard that a task made by its position.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedPart {
    pub name: String,
    pub digest: Digest,
}

impl NamedPart {
    /// The parts of an artifact that a task made: shards by position, files of a directory by name.
    pub fn all(content: &Content) -> Vec<Self> {
        match content {
            Content::Directory(files) => files
                .iter()
                .map(|(name, blob)| Self {
                    name: name.clone(),
                    digest: blob.digest,
                })
                .collect(),
            _ => content
                .parts()
                .iter()
                .enumerate()
                .map(|(index, part)| Self {
                    name: position(index),
                    digest: part.digest(),
                })
                .collect(),
        }
    }
}

/// The name of a shard that has none.
pub fn position(index: usize) -> String {
    format!("{index:05}")
}

/// The parts of an artifact that differ, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct PartsDifference {
    /// Parts that there were, and are.
    pub before: usize,
    pub after: usize,
    pub changed: Vec<String>,
    pub added: Vec<String>,
    pub dropped: Vec<String>,
}

impl PartsDifference {
    /// Parts of the same name are compared; a part that merely goes by another name is not named.
    pub fn of(old: &[NamedPart], new: &[NamedPart]) -> Self {
        let by_name = |parts: &[NamedPart]| -> BTreeMap<String, Digest> {
            let pairs = parts.iter().map(|part| (part.name.clone(), part.digest));
            pairs.collect()
        };
        let contents = |parts: &[NamedPart]| {
            parts
                .iter()
                .map(|part| part.digest)
                .collect::<BTreeSet<_>>()
        };
        let (old_names, new_names) = (by_name(old), by_name(new));
        let (old_contents, new_contents) = (contents(old), contents(new));
        // Where the numbers differ, positions have moved: only what is new, and what is gone, says something.
        let is_shifted = old.len() != new.len();
        let is_new = |part: &&NamedPart| !old_contents.contains(&part.digest);
        let is_gone = |part: &&NamedPart| !new_contents.contains(&part.digest);
        let is_changed = |part: &NamedPart, others: &BTreeMap<String, Digest>| {
            others.contains_key(&part.name) && !(is_shifted && is_numbered(&part.name))
        };
        let names =
            |parts: Vec<&NamedPart>| parts.into_iter().map(|part| part.name.clone()).collect();
        let (changed, added): (Vec<_>, Vec<_>) = new
            .iter()
            .filter(is_new)
            .partition(|part| is_changed(part, &old_names));
        let dropped = old
            .iter()
            .filter(is_gone)
            .filter(|part| !is_changed(part, &new_names));
        Self {
            before: old.len(),
            after: new.len(),
            changed: names(changed),
            added: names(added),
            dropped: names(dropped.collect()),
        }
    }

    /// The share of the parts that differ, from 0 to 1.
    pub fn share(&self) -> f64 {
        let differing = self.changed.len() + self.added.len() + self.dropped.len();
        let all = self.before.max(self.after).max(1);
        (differing as f64 / all as f64).min(1.0)
    }
}

fn is_numbered(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(pairs: &[(&str, &str)]) -> Vec<NamedPart> {
        let part = |(name, text): &(&str, &str)| NamedPart {
            name: (*name).to_owned(),
            digest: Digest::of(text.as_bytes()),
        };
        pairs.iter().map(part).collect()
    }

    fn difference(old: &[(&str, &str)], new: &[(&str, &str)]) -> PartsDifference {
        PartsDifference::of(&parts(old), &parts(new))
    }

    #[test]
    fn files_are_compared_by_name() {
        let old = [("a", "1"), ("b", "2"), ("c", "3")];
        let found = difference(&old, &[("a", "1"), ("b", "x"), ("d", "4"), ("e", "3")]);
        assert_eq!(found.changed, ["b"]);
        assert_eq!(found.added, ["d"]);
        assert_eq!(found.dropped, [""; 0], "c goes by the name of e");
        assert_eq!((found.before, found.after), (3, 4));
    }

    #[test]
    fn positions_are_compared_unless_they_moved() {
        let old = [("00000", "1"), ("00001", "2")];
        let found = difference(&old, &[("00000", "1"), ("00001", "x")]);
        assert_eq!(found.changed, ["00001"]);
        let found = difference(&old, &[("00000", "x"), ("00001", "1"), ("00002", "2")]);
        assert_eq!(
            (found.added, found.changed.len()),
            (vec!["00000".to_owned()], 0)
        );
    }
}
