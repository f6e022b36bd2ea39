//! `train-classifier`: a quality classifier from rated pages, with numbers on the pages that were held out.

use std::path::Path;

use kbuild_engine::facts::{Facts, Prediction};
use kbuild_engine::kind::{Arity, Complaint, Known, Ports, TaskKind};
use kbuild_engine::runner::{AtPath, Context, Failure};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::fasttext::{Classifier, Example, Settings};
use super::quality_report::{Judged, Round, judge};
use super::text::length;
use crate::facts;
use crate::formats::documents::{self, Records};

pub struct TrainClassifier;

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Params {
    /// A page rated at least this is positive.
    pub positive_score: f64,
    /// How often each positive example is repeated: makes up for a rare class.
    pub repeat_positives: u64,
    /// How the model is trained.
    pub model: Settings,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            positive_score: 3.0,
            repeat_positives: 1,
            model: Settings::default(),
        }
    }
}

impl Params {
    fn complaints(&self) -> Vec<Complaint> {
        let of_model = self
            .model
            .problems()
            .into_iter()
            .map(|(name, message, help)| {
                Complaint::new(&format!("params.model.{name}"), message, help)
            });
        let repeated = (self.repeat_positives == 0).then(|| {
            Complaint::new(
                "params.repeat_positives",
                "positive pages that are repeated 0 times are no examples",
                "1 takes each once",
            )
        });
        of_model.chain(repeated).collect()
    }
}

/// A rated page.
#[derive(Debug, Clone, Deserialize)]
pub struct Rated {
    pub text: String,
    pub source: String,
    pub score: f64,
    pub split: Split,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Split {
    Train,
    #[serde(alias = "held_out", alias = "test")]
    HeldOut,
}

/// The report: one entry per round, this one last.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub rounds: Vec<Round>,
}

pub fn read_rated(path: &Path) -> Result<Vec<Rated>, Failure> {
    Records::<Rated>::open(path)?.collect()
}

impl TaskKind for TrainClassifier {
    const NAME: &'static str = "train-classifier";
    const VERSION: u32 = 1;
    const SUMMARY: &'static str =
        "trains a fastText quality classifier on rated pages and measures it on held-out ones";

    type Params = Params;

    fn ports() -> Ports {
        Ports::new()
            .input(
                "labels",
                "labels",
                Arity::One,
                "rated pages; those of the split `held-out` are only measured",
            )
            .input(
                "positives",
                "documents",
                Arity::Any,
                "more positive documents, as `mine` finds them",
            )
            .input(
                "previous",
                "report",
                Arity::Optional,
                "report of the round before, which this one continues",
            )
            .output(
                "classifier",
                "classifier",
                "fastText model with the labels hq and lq",
            )
            .output(
                "report",
                "report",
                "precision, recall, F1 overall and by source; a length-only baseline; thresholds",
            )
    }

    fn predict(params: &Params, _known: &Known<'_>) -> Result<Prediction, Vec<Complaint>> {
        facts::answer(params.complaints(), || {
            facts::prediction(
                facts::without_a_model(),
                [
                    ("classifier", Facts::default()),
                    ("report", Facts::default()),
                ],
            )
        })
    }

    fn run(params: Params, context: &mut Context) -> Result<(), Failure> {
        let rated = read_rated(&context.one("labels").path)?;
        let mined = mined(context)?;
        let is_positive = |page: &Rated| page.score >= params.positive_score;
        let (train, held_out): (Vec<Rated>, Vec<Rated>) = rated
            .into_iter()
            .partition(|page| page.split == Split::Train);
        let examples = examples(&train, &mined, &params);
        let scratch = context.partial().join("examples.txt");
        let classifier = Classifier::train(&examples, &params.model, &scratch)?;
        classifier.save(context.output("classifier"))?;
        let lengths: Vec<(u64, bool)> = train
            .iter()
            .map(|page| (length(&page.text) as u64, is_positive(page)))
            .collect();
        let judged: Vec<Judged> = held_out
            .iter()
            .map(|page| Judged {
                source: page.source.clone(),
                positive: is_positive(page),
                score: f64::from(classifier.probability(&page.text)),
                length: length(&page.text) as u64,
            })
            .collect();
        let mut report = previous(context)?;
        let round = judge(
            &lengths,
            &judged,
            mined.len() as u64,
            params.repeat_positives,
        );
        context.metric(report.rounds.len() as u64 + 1, "f1", round.held_out.f1);
        report.rounds.push(round);
        let path = context.output("report");
        let text = serde_json::to_string_pretty(&report).expect("finite numbers are JSON");
        std::fs::write(path, text + "\n").at(path)
    }
}

fn mined(context: &Context) -> Result<Vec<String>, Failure> {
    let mut texts = Vec::new();
    for path in context.files("positives") {
        for document in documents::read(&path)? {
            texts.push(document?.text);
        }
    }
    Ok(texts)
}

fn examples(train: &[Rated], mined: &[String], params: &Params) -> Vec<Example> {
    let rated = train.iter().map(|page| Example {
        text: page.text.clone(),
        high: page.score >= params.positive_score,
    });
    let mined = mined.iter().map(|text| Example {
        text: text.clone(),
        high: true,
    });
    rated
        .chain(mined)
        .flat_map(|example| {
            let n = if example.high {
                params.repeat_positives.max(1)
            } else {
                1
            };
            std::iter::repeat_n(example, n as usize)
        })
        .collect()
}

fn previous(context: &Context) -> Result<Report, Failure> {
    let Some(previous) = context.optional("previous") else {
        return Ok(Report::default());
    };
    let text = std::fs::read_to_string(&previous.path).at(&previous.path)?;
    serde_json::from_str(&text).map_err(|error| {
        Failure::input(format!("`{}`: {error}", previous.path.display()))
            .help("`previous` takes the report of another `train-classifier`")
    })
}
