//! `classify`: scores documents with a classifier and keeps the better ones.
//!
//! A percentile is taken over a declared, frozen sample and never over the documents themselves, so that a part does
//! not depend on the others.

use kbuild_engine::facts::{Facts, Prediction};
use kbuild_engine::kind::{Arity, Complaint, Known, Ports, TaskKind};
use kbuild_engine::runner::{Context, Failure};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::fasttext::Classifier;
use super::parts::{Outcome, clean, map_in_order, pool};
use super::quality_report::threshold_of_top;
use crate::facts;
use crate::formats::documents;

pub struct Classify;

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Params {
    /// Keep what scores as the best share of the sample does (0.3 is the best 30 percent).
    pub top: Option<f64>,
    /// Keep what scores at least this.
    pub min_score: Option<f64>,
    /// Name of the score in `meta`.
    pub name: String,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            top: None,
            min_score: None,
            name: "score".to_owned(),
        }
    }
}

impl TaskKind for Classify {
    const NAME: &'static str = "classify";
    const VERSION: u32 = 1;
    const SUMMARY: &'static str = "scores documents and keeps those above a percentile or a score";

    type Params = Params;

    fn ports() -> Ports {
        Ports::new()
            .input("documents", "documents", Arity::One, "what to score")
            .input("classifier", "classifier", Arity::One, "with what")
            .input(
                "sample",
                "documents",
                Arity::Any,
                "frozen sample that `top` is a share of",
            )
            .output(
                "documents",
                "documents",
                "what stays, with its score in `meta`",
            )
            .output("ledger", "ledger", "how many were below the threshold")
            .mapped(&["documents", "ledger"])
    }

    fn predict(params: &Params, known: &Known<'_>) -> Result<Prediction, Vec<Complaint>> {
        let has_sample = !known.many("sample").is_empty();
        facts::answer(complaints(params, has_sample), || {
            // The score goes into `meta`, the text stays.
            let kept = facts::some_of(known.one("documents"), &["documents", "bytes"]);
            facts::prediction(
                facts::without_a_model(),
                [("documents", kept), ("ledger", Facts::default())],
            )
        })
    }

    fn run(params: Params, context: &mut Context) -> Result<(), Failure> {
        let has_sample = !context.many("sample").is_empty();
        if let Some(complaint) = complaints(&params, has_sample).first() {
            return Err(Failure::input(complaint.message.clone()).help(complaint.help.clone()));
        }
        let classifier = Classifier::open(&context.one("classifier").path)?;
        let threshold = threshold(&params, &classifier, context)?;
        if let Some(threshold) = threshold {
            context.note(format!("threshold {threshold:.5}"));
        }
        clean(context, |mut document, _| {
            let score = f64::from(classifier.probability(&document.text));
            if threshold.is_some_and(|threshold| score < threshold) {
                return Ok(Outcome::Drop(format!("{}_below_threshold", params.name)));
            }
            document.meta.insert(params.name.clone(), json!(score));
            Ok(Outcome::Keep(document))
        })
    }
}

fn complaints(params: &Params, has_sample: bool) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    if params.top.is_some() && params.min_score.is_some() {
        complaints.push(Complaint::new(
            "params.min_score",
            "`top` and `min_score` both set a threshold",
            "give one of them",
        ));
    }
    if params.top.is_some_and(|top| !(0.0..=1.0).contains(&top)) {
        complaints.push(Complaint::new(
            "params.top",
            "a share lies between 0 and 1",
            "0.3 is the best 30 percent",
        ));
    }
    if params.top.is_some() && !has_sample {
        complaints.push(Complaint::new(
            "inputs.sample",
            "`top` is a share of a sample, and there is none",
            "bind a frozen file of documents to `sample`",
        ));
    }
    complaints
}

fn threshold(
    params: &Params,
    classifier: &Classifier,
    context: &Context,
) -> Result<Option<f64>, Failure> {
    let Some(top) = params.top else {
        return Ok(params.min_score);
    };
    let pool = pool(context)?;
    let mut scores = Vec::new();
    for path in context.files("sample") {
        map_in_order(
            &pool,
            documents::read(&path)?,
            |document| Ok(f64::from(classifier.probability(&document.text))),
            |score| {
                scores.push(score);
                Ok(())
            },
        )?;
    }
    if scores.is_empty() {
        return Err(Failure::input("the sample holds no document")
            .help("a percentile needs documents to be a percentile of"));
    }
    Ok(Some(threshold_of_top(&scores, top)))
}
