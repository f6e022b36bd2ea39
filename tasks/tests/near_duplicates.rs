//! Recall on clusters of known near-duplicates, by how many of their words were edited.
//!
//! The ground truth `seed_neardup` lies outside the repository: this runs where `KBUILD_DATA` names its directory.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use kbuild_tasks::data::cluster::cluster;
use kbuild_tasks::data::signatures::Entry;
use kbuild_tasks::formats::documents::{Document, read_all};

#[test]
fn copies_are_found_as_14_buckets_of_8_promise() {
    let Some(root) = std::env::var_os("KBUILD_DATA") else {
        return;
    };
    let documents = read_all(&PathBuf::from(root).join("seed_neardup.jsonl.zst")).unwrap();
    let entries: Vec<Entry> = documents.iter().map(Entry::of).collect();
    let (lists, report) = cluster(&[entries], true);
    let by_id: HashMap<&str, &Document> = documents.iter().map(|d| (d.id.as_str(), d)).collect();
    let of = |id: &str| by_id[id].meta["cluster"].as_u64();
    let joined_wrongly = lists[0]
        .drop
        .iter()
        .filter(|d| of(&d.id) != of(&d.kept))
        .count();
    // An edited copy counts as found when it is in a cluster with its original, whichever of them stays.
    let mut groups: HashMap<&str, &str> = HashMap::new();
    for dropped in &lists[0].drop {
        groups.insert(&dropped.id, &dropped.kept);
    }
    let root_of = |id: &str| {
        groups
            .get(id)
            .map_or(id.to_owned(), |kept| (*kept).to_owned())
    };
    let mut counts: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for document in &documents {
        let Some((stem, nth)) = document.id.rsplit_once(':') else {
            continue;
        };
        if nth != "0" {
            let original = format!("{stem}:0");
            let count = counts.entry(document.meta["edit"].to_string()).or_default();
            count.0 += usize::from(root_of(&document.id) == root_of(&original));
            count.1 += 1;
        }
    }
    println!("{counts:?}; {report:?}; {joined_wrongly} joined across clusters");
    let recall = |edit: &str| {
        let (found, n) = counts[edit];
        found as f64 / n as f64
    };
    assert_eq!((recall("0.0"), recall("0.01")), (1.0, 1.0));
    assert!(recall("0.03") > 0.7, "{counts:?}");
    // The set holds two petitions of different clusters that are copies indeed.
    assert!(joined_wrongly <= 4, "{joined_wrongly}");
}
