//! Recall on planted personal data, and what is hit besides: text with known spans and decoys.
//!
//! The ground truth `seed_pii` lies outside the repository: this runs where `KBUILD_DATA` names its directory.

use std::collections::BTreeMap;
use std::path::PathBuf;

use kbuild_tasks::data::pii::find;
use kbuild_tasks::formats::documents::Records;
use serde::Deserialize;

#[derive(Deserialize)]
struct Record {
    text: String,
    pii: Vec<Span>,
    not_pii: Vec<Span>,
}

#[derive(Deserialize)]
struct Span {
    start: usize,
    end: usize,
    #[serde(rename = "type")]
    sort: String,
}

#[test]
fn planted_data_is_found_and_decoys_are_not() {
    let Some(root) = std::env::var_os("KBUILD_DATA") else {
        return;
    };
    let path = PathBuf::from(root).join("seed_pii.jsonl.zst");
    let mut counts: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    let (mut n_decoys, mut n_hit, mut n_elsewhere) = (0, 0, 0);
    for record in Records::<Record>::open(&path).unwrap() {
        let record = record.unwrap();
        let bytes: Vec<usize> = record
            .text
            .char_indices()
            .map(|(at, _)| at)
            .chain([record.text.len()])
            .collect();
        let found = find(&record.text);
        let covered = |span: &Span| {
            let (start, end) = (bytes[span.start], bytes[span.end]);
            found
                .iter()
                .any(|f| f.span.start <= start && f.span.end >= end)
        };
        for span in &record.pii {
            let count = counts.entry(span.sort.clone()).or_default();
            count.0 += usize::from(covered(span));
            count.1 += 1;
        }
        n_decoys += record.not_pii.len();
        let touches = |span: &Span, f: &std::ops::Range<usize>| {
            f.start < bytes[span.end] && bytes[span.start] < f.end
        };
        for f in &found {
            let hit = |spans: &[Span]| spans.iter().any(|span| touches(span, &f.span));
            n_hit += usize::from(hit(&record.not_pii));
            n_elsewhere += usize::from(!hit(&record.not_pii) && !hit(&record.pii));
        }
    }
    println!("{counts:?}; {n_hit} of {n_decoys} decoys hit, {n_elsewhere} spans elsewhere");
    assert_eq!(n_hit, 0, "decoys");
    for (sort, (n_found, n)) in counts {
        assert_eq!(n_found, n, "recall of {sort}");
    }
}
