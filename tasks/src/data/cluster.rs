//! `cluster`: which documents are copies of another, over all parts at once.
//!
//! Documents with the same content, or with one equal bucket of the MinHash signature, are joined (union-find); of a
//! cluster the longest text stays, of equally long ones that with the smallest id. The answer depends on the order of
//! parts only among documents that are equal in content and id. Memory: about 1 KB per document.

use std::cmp::Reverse;
use std::path::Path;

use kbuild_engine::facts::{Facts, Prediction};
use kbuild_engine::kind::{Arity, Complaint, Known, Ports, TaskKind};
use kbuild_engine::runner::{AtPath, Context, Failure};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::minhash::BUCKETS;
use super::signatures::{self, Entry};
use crate::facts;

pub struct Cluster;

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Params {
    /// Find near-duplicates; off, only texts that are equal.
    pub near: bool,
}

impl Default for Params {
    fn default() -> Self {
        Self { near: true }
    }
}

/// Why a document goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    ExactDuplicate,
    NearDuplicate,
}

impl Reason {
    /// The rule in a ledger.
    pub fn rule(self) -> &'static str {
        match self {
            Self::ExactDuplicate => "exact_duplicate",
            Self::NearDuplicate => "near_duplicate",
        }
    }
}

/// A document to drop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropped {
    /// Position in the part, from 0: ids may repeat.
    pub at: u64,
    pub id: String,
    pub reason: Reason,
    /// Id of the document that stays.
    pub kept: String,
}

/// What to drop of one part, in the order of its documents.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropList {
    /// Documents of the part that the list was made for.
    pub documents: u64,
    pub drop: Vec<Dropped>,
}

impl DropList {
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let text = std::fs::read_to_string(path).at(path)?;
        serde_json::from_str(&text)
            .map_err(|error| Failure::input(format!("`{}`: {error}", path.display())))
    }

    fn write(&self, path: &Path) -> Result<(), Failure> {
        let mut text = serde_json::to_string_pretty(self).expect("a list of ids is JSON");
        text.push('\n');
        std::fs::write(path, text).at(path)
    }
}

/// Numbers of a clustering.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    pub documents: u64,
    /// Clusters of at least two documents.
    pub clusters: u64,
    pub largest_cluster: u64,
    pub exact_duplicates: u64,
    pub near_duplicates: u64,
}

/// The drop list of each part, and what was found.
pub fn cluster(parts: &[Vec<Entry>], near: bool) -> (Vec<DropList>, Report) {
    let entries: Vec<&Entry> = parts.iter().flatten().collect();
    let mut sets = Sets::new(entries.len());
    join_equal(&entries, &mut sets, |entry| Some(&entry.content));
    if near {
        for bucket in 0..BUCKETS {
            let key = |entry: &Entry| entry.signature.as_ref().map(|signature| signature[bucket]);
            join_equal(&entries, &mut sets, key);
        }
    }
    drop_lists(parts, &entries, &mut sets)
}

/// Joins all documents whose key is equal.
fn join_equal<'a, K: Ord>(
    entries: &[&'a Entry],
    sets: &mut Sets,
    key: impl Fn(&'a Entry) -> Option<K>,
) {
    let mut keyed: Vec<(K, usize)> = entries
        .iter()
        .enumerate()
        .filter_map(|(index, entry)| Some((key(entry)?, index)))
        .collect();
    keyed.sort_unstable();
    for pair in keyed.windows(2) {
        if pair[0].0 == pair[1].0 {
            sets.join(pair[0].1, pair[1].1);
        }
    }
}

fn drop_lists(
    parts: &[Vec<Entry>],
    entries: &[&Entry],
    sets: &mut Sets,
) -> (Vec<DropList>, Report) {
    let roots: Vec<usize> = (0..entries.len()).map(|index| sets.root(index)).collect();
    // The best document of each cluster, and how many there are.
    let mut best: Vec<Option<usize>> = vec![None; entries.len()];
    let mut sizes = vec![0u64; entries.len()];
    let rank = |index: usize| {
        let entry = entries[index];
        (Reverse(entry.length), &entry.id, entry.content, index)
    };
    for (index, root) in roots.iter().enumerate() {
        sizes[*root] += 1;
        let better = best[*root].is_none_or(|other| rank(index) < rank(other));
        if better {
            best[*root] = Some(index);
        }
    }
    let mut report = Report {
        documents: entries.len() as u64,
        clusters: sizes.iter().filter(|size| **size > 1).count() as u64,
        largest_cluster: sizes.iter().copied().max().unwrap_or(0),
        ..Report::default()
    };
    let mut index = 0;
    let lists = parts
        .iter()
        .map(|part| {
            let mut list = DropList {
                documents: part.len() as u64,
                drop: Vec::new(),
            };
            for (at, entry) in part.iter().enumerate() {
                let kept = best[roots[index]].unwrap_or(index);
                if kept != index {
                    let reason = reason(entry, entries[kept]);
                    match reason {
                        Reason::ExactDuplicate => report.exact_duplicates += 1,
                        Reason::NearDuplicate => report.near_duplicates += 1,
                    }
                    list.drop.push(Dropped {
                        at: at as u64,
                        id: entry.id.clone(),
                        reason,
                        kept: entries[kept].id.clone(),
                    });
                }
                index += 1;
            }
            list
        })
        .collect();
    (lists, report)
}

fn reason(entry: &Entry, kept: &Entry) -> Reason {
    if entry.content == kept.content {
        Reason::ExactDuplicate
    } else {
        Reason::NearDuplicate
    }
}

/// Disjoint sets, with path halving.
struct Sets(Vec<usize>);

impl Sets {
    fn new(n: usize) -> Self {
        Self((0..n).collect())
    }

    fn root(&mut self, mut index: usize) -> usize {
        while self.0[index] != index {
            self.0[index] = self.0[self.0[index]];
            index = self.0[index];
        }
        index
    }

    fn join(&mut self, a: usize, b: usize) {
        let (a, b) = (self.root(a), self.root(b));
        self.0[a.max(b)] = a.min(b);
    }
}

impl TaskKind for Cluster {
    const NAME: &'static str = "cluster";
    const VERSION: u32 = 1;
    const SUMMARY: &'static str =
        "joins exact and near-duplicates and lists, per part, which documents to drop";

    type Params = Params;

    fn ports() -> Ports {
        Ports::new()
            .input("signatures", "signatures", Arity::One, "of all documents")
            .output(
                "drop-list",
                "drop-list",
                "one list per part of the signatures",
            )
            .output(
                "report",
                "report",
                "documents, clusters, exact and near-duplicates",
            )
    }

    fn predict(_params: &Params, _known: &Known<'_>) -> Result<Prediction, Vec<Complaint>> {
        Ok(facts::prediction(
            facts::without_a_model(),
            [
                ("drop-list", Facts::default()),
                ("report", Facts::default()),
            ],
        ))
    }

    fn run(params: Params, context: &mut Context) -> Result<(), Failure> {
        let parts: Result<Vec<Vec<Entry>>, Failure> = context
            .one("signatures")
            .parts
            .iter()
            .map(|path| signatures::read(path))
            .collect();
        let (lists, report) = cluster(&parts?, params.near);
        let directory = context.output("drop-list");
        std::fs::create_dir_all(directory).at(directory)?;
        for (index, list) in lists.iter().enumerate() {
            list.write(&directory.join(format!("{index:05}.json")))?;
        }
        let path = context.output("report");
        let text = serde_json::to_string_pretty(&report).expect("numbers are JSON");
        std::fs::write(path, text + "\n").at(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::documents::Document;

    fn entries(texts: &[&str]) -> Vec<Entry> {
        texts
            .iter()
            .map(|text| Entry::of(&Document::new(*text)))
            .collect()
    }

    const LONG: &str =
        "the quick brown fox jumps over the lazy dog and then walks home through the wood";

    #[test]
    fn the_longest_stays_wherever_it_lies() {
        let longer = format!("{LONG} !!!");
        let parts = vec![
            entries(&[
                LONG,
                "short",
                "another text that has nothing to do with the others",
            ]),
            entries(&[&longer, "short", LONG]),
        ];
        let (lists, report) = cluster(&parts, true);
        let dropped = |list: &DropList| -> Vec<(u64, Reason)> {
            list.drop
                .iter()
                .map(|dropped| (dropped.at, dropped.reason))
                .collect()
        };
        assert_eq!(dropped(&lists[0]), [(0, Reason::NearDuplicate)]);
        let second = [(1, Reason::ExactDuplicate), (2, Reason::NearDuplicate)];
        assert_eq!(dropped(&lists[1]), second);
        assert_eq!((report.clusters, report.largest_cluster), (2, 3));
        // The other order of parts keeps the same texts.
        let swapped = vec![parts[1].clone(), parts[0].clone()];
        let (lists, _) = cluster(&swapped, true);
        assert_eq!(dropped(&lists[0]), [(2, Reason::NearDuplicate)]);
        let first = [(0, Reason::NearDuplicate), (1, Reason::ExactDuplicate)];
        assert_eq!(dropped(&lists[1]), first);
    }

    #[test]
    fn without_near_only_equal_texts_go() {
        let longer = format!("{LONG} !!!");
        let parts = vec![entries(&[LONG, &longer, LONG]), Vec::new()];
        let (lists, report) = cluster(&parts, false);
        assert_eq!(lists[0].drop.len(), 1);
        assert_eq!((report.exact_duplicates, report.near_duplicates), (1, 0));
        assert_eq!(lists[1], DropList::default());
    }

    proptest::proptest! {
        #[test]
        fn one_document_of_every_cluster_stays(picks in proptest::collection::vec(0usize..5, 0..40)) {
            let texts = [LONG, "a b", "c d", "one two three four five", "one two three four five six"];
            let part = entries(&picks.iter().map(|pick| texts[*pick]).collect::<Vec<_>>());
            let different = picks.iter().collect::<std::collections::BTreeSet<_>>().len();
            let (lists, _) = cluster(&[part], false);
            proptest::prop_assert_eq!(picks.len() - lists[0].drop.len(), different);
        }
    }
}
