//! `mine`: the documents of a pool that a classifier finds best, as positives for its next round.
//!
//! Whatever was rated is left out, so that no held-out page is trained on.

use std::collections::HashSet;

use kbuild_engine::facts::{Fact, Facts, Prediction};
use kbuild_engine::kind::{Arity, Complaint, Known, Ports, TaskKind};
use kbuild_engine::runner::{AtPath, Context, Failure};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::fasttext::Classifier;
use super::parts::{map_in_order, pool};
use super::text::simplify;
use super::train_classifier::read_rated;
use crate::facts;
use crate::formats::documents::{self, Document, Writer};

pub struct Mine;

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Params {
    /// Share of the pool to take (0.1 is the best tenth).
    pub top: f64,
    /// Documents that score less are never taken.
    pub min_score: f64,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            top: 0.1,
            min_score: 0.0,
        }
    }
}

impl TaskKind for Mine {
    const NAME: &'static str = "mine";
    const VERSION: u32 = 1;
    const SUMMARY: &'static str = "takes the best-scored documents of a pool as further positives";

    type Params = Params;

    fn ports() -> Ports {
        Ports::new()
            .input("pool", "documents", Arity::Many, "where to look")
            .input(
                "classifier",
                "classifier",
                Arity::One,
                "of the round before",
            )
            .input(
                "labels",
                "labels",
                Arity::One,
                "rated pages, which are left out",
            )
            .output(
                "documents",
                "documents",
                "the best, in the order of their scores",
            )
    }

    fn predict(params: &Params, known: &Known<'_>) -> Result<Prediction, Vec<Complaint>> {
        let mut complaints = Vec::new();
        if !(0.0..=1.0).contains(&params.top) {
            complaints.push(Complaint::new(
                "params.top",
                format!("`top` is {}, expected a share between 0 and 1", params.top),
                "0.1 takes the best tenth",
            ));
        }
        facts::answer(complaints, || {
            let mut taken = Facts::default();
            if let Some(pool) = facts::sum_at_most(known, "pool", "documents") {
                let max = (params.top * pool as f64).round() as u64;
                taken.set_fact("documents", Fact::Bounded { min: 0, max });
            }
            facts::prediction(facts::without_a_model(), [("documents", taken)])
        })
    }

    fn run(params: Params, context: &mut Context) -> Result<(), Failure> {
        let classifier = Classifier::open(&context.one("classifier").path)?;
        let rated: HashSet<String> = read_rated(&context.one("labels").path)?
            .iter()
            .map(|page| simplify(&page.text))
            .collect();
        let scored = scored(context, &classifier, &rated)?;
        let n = (params.top * scored.len() as f64).round() as usize;
        let directory = context.output("documents");
        std::fs::create_dir_all(directory).at(directory)?;
        let mut writer = Writer::create(&directory.join("00000.jsonl.zst"))?;
        for (score, document) in scored.iter().take(n) {
            if *score >= params.min_score {
                writer.write(document)?;
            }
        }
        writer.finish()
    }
}

/// Documents that were not rated, the best first. Equal ones once.
fn scored(
    context: &Context,
    classifier: &Classifier,
    rated: &HashSet<String>,
) -> Result<Vec<(f64, Document)>, Failure> {
    let pool = pool(context)?;
    let mut seen = HashSet::new();
    let mut scored = Vec::new();
    for path in context.files("pool") {
        map_in_order(
            &pool,
            documents::read(&path)?,
            |document| {
                let score = f64::from(classifier.probability(&document.text));
                Ok((simplify(&document.text), score, document))
            },
            |(simplified, score, document)| {
                if !rated.contains(&simplified) && seen.insert(simplified) {
                    scored.push((score, document));
                }
                Ok(())
            },
        )?;
    }
    scored.sort_by(|(a, one), (b, two)| {
        b.total_cmp(a)
            .then_with(|| (&one.id, &one.text).cmp(&(&two.id, &two.text)))
    });
    Ok(scored)
}
