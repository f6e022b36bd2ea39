//! Numbers of the reference libraries, and which of them this program hits.
//!
//! `tests/vectors/` holds the cases (its README says how each was made), `tests/vectors/COVERAGE.toml` the word for
//! every one of them: *run*, *later* or *negative*. `KBUILD_VECTORS=dir` points the same tests at another directory of
//! the same layout. A case without a word fails, a case that is said to run and has no code fails, and so does a
//! directory of which nothing runs.

mod cases;
mod common;

use std::collections::BTreeMap;

use cases::{Case, Vectors};

/// Every case of every part, in one list.
fn all() -> Vec<Case> {
    [
        cases::data::CASES,
        cases::model::CASES,
        cases::train::CASES,
        cases::surgery::CASES,
        cases::measure::CASES,
    ]
    .concat()
}

fn run(name: &str, cases: &[Case]) {
    let vectors = Vectors::open();
    let coverage = vectors.coverage();
    let mut counts = BTreeMap::new();
    for case in cases {
        let ids = vectors.ids();
        let mut words = ids
            .iter()
            .filter(|id| case.covers(id))
            .map(|id| coverage.word(id));
        if words.any(|word| matches!(word, Some("run" | "negative"))) {
            (case.run)(&vectors);
            *counts.entry(case.id).or_insert(0) += 1;
        }
    }
    println!("{name}: {counts:?}");
}

#[test]
fn every_case_has_a_word_and_code_where_it_runs() {
    let vectors = Vectors::open();
    let coverage = vectors.coverage();
    let cases = all();
    let mut counts = BTreeMap::new();
    let mut problems = Vec::new();
    for id in vectors.ids() {
        let Some(word) = coverage.word(&id) else {
            problems.push(format!("`{id}` is not listed"));
            continue;
        };
        *counts.entry(word.to_owned()).or_insert(0) += 1;
        let has_code = cases.iter().any(|case| case.covers(&id));
        if word == "run" && !has_code {
            problems.push(format!("`{id}` is listed as run and no code runs it"));
        }
    }
    println!("{counts:?}");
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    assert!(counts.contains_key("run"), "nothing runs");
}

#[test]
fn every_line_of_the_list_names_a_case() {
    // Another directory may hold fewer cases.
    if std::env::var_os("KBUILD_VECTORS").is_some() {
        return;
    }
    let vectors = Vectors::open();
    let coverage = vectors.coverage();
    let unused = coverage.unused(&vectors.ids());
    assert!(unused.is_empty(), "listed, but not there: {unused:?}");
}

#[test]
fn data() {
    run("data", cases::data::CASES);
}

#[test]
fn model() {
    run("model", cases::model::CASES);
}

#[test]
fn train() {
    run("train", cases::train::CASES);
}

#[test]
fn surgery() {
    run("surgery", cases::surgery::CASES);
}

#[test]
fn measure() {
    run("measure", cases::measure::CASES);
}

/// The same numbers from the same code, with every core on a card.
#[test]
fn cuda_models_and_training() {
    if let Err(cause) = kbuild_tasks::model::Device::gpu(1) {
        return eprintln!("not run on a GPU: {cause}");
    }
    cases::on_gpu(|| {
        run("model on the GPU", cases::model::CASES);
        run("train on the GPU", cases::train::CASES);
    });
}
