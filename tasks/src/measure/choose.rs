//! `choose`: reads the reports of several candidates and says which wins, by how much and why.
//!
//! The choice is an artifact like any other: what comes after takes its value (`pretrain` a mixture) or its winner
//! (`pick` a model) from it, so that nobody copies a result by hand. Knows nothing of what is compared.

use std::collections::BTreeMap;
use std::path::Path;

use kbuild_engine::facts::{Facts, Prediction};
use kbuild_engine::kind::{Arity, Complaint, Known, Ports, TaskKind};
use kbuild_engine::runner::{Context, Failure};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::json::{read_value, write_report};
use crate::facts;

/// The `choose` kind.
pub struct Choose;

/// How the winner is found.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Params {
    /// JSON pointer (RFC 6901) to the number that is compared in each report, such as `/mean/bits_per_byte`.
    pub metric: String,
    /// Whether a lower or a higher number is better.
    pub direction: Direction,
    /// What each candidate stands for, by its label: the winner's goes into the choice as `value`.
    pub values: BTreeMap<String, Value>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    #[default]
    #[serde(alias = "min")]
    Lower,
    #[serde(alias = "max")]
    Higher,
}

impl Direction {
    fn beats(self, score: f64, best: f64) -> bool {
        match self {
            Self::Lower => score < best,
            Self::Higher => score > best,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Lower => "lowest",
            Self::Higher => "highest",
        }
    }
}

/// The content of a `choice` artifact.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    /// Label of the winner.
    pub winner: String,
    /// Position of the winner among the candidates.
    pub index: usize,
    /// What the winner stands for; `null` where nothing was said.
    pub value: Value,
    /// The metric of every candidate.
    pub scores: BTreeMap<String, f64>,
    /// The candidates in order.
    pub candidates: Vec<String>,
    pub metric: String,
    pub reason: String,
}

impl Choice {
    /// Reads a `choice` artifact.
    pub fn load(path: &Path) -> Result<Self, Failure> {
        let value = read_value(path)?;
        Self::deserialize(&value).map_err(|error| {
            Failure::input(format!("`{}`: not a choice: {error}", path.display()))
                .help("expected the output of `choose`")
        })
    }
}

/// The best of the scored candidates; equal scores: the earlier one.
pub fn choose(scores: &[(String, f64)], params: &Params) -> Result<Choice, String> {
    let mut best: Option<usize> = None;
    for (index, (label, score)) in scores.iter().enumerate() {
        if !score.is_finite() {
            return Err(format!("`{}` of `{label}` is {score}", params.metric));
        }
        if best.is_none_or(|best| params.direction.beats(*score, scores[best].1)) {
            best = Some(index);
        }
    }
    let index = best.ok_or("there is nothing to choose from")?;
    let (winner, score) = &scores[index];
    Ok(Choice {
        winner: winner.clone(),
        index,
        value: params.values.get(winner).cloned().unwrap_or(Value::Null),
        scores: scores.iter().cloned().collect(),
        candidates: scores.iter().map(|(label, _)| label.clone()).collect(),
        metric: params.metric.clone(),
        reason: reason(winner, *score, scores, index, params),
    })
}

fn reason(
    winner: &str,
    score: f64,
    scores: &[(String, f64)],
    index: usize,
    params: &Params,
) -> String {
    let word = params.direction.word();
    let mut runner_up: Option<&(String, f64)> = None;
    for (_, other) in scores.iter().enumerate().filter(|(at, _)| *at != index) {
        if runner_up.is_none_or(|best| params.direction.beats(other.1, best.1)) {
            runner_up = Some(other);
        }
    }
    let Some((second, second_score)) = runner_up else {
        return format!(
            "`{winner}` is the only candidate ({} = {score})",
            params.metric
        );
    };
    let margin = (score - second_score).abs();
    let lead = if margin == 0.0 {
        format!("equal to `{second}`, the earlier one is taken")
    } else {
        format!("{margin:.6} from `{second}` ({second_score:.6})")
    };
    format!(
        "`{winner}` has the {word} {} of {} candidates: {score:.6}, {lead}",
        params.metric,
        scores.len()
    )
}

impl TaskKind for Choose {
    const NAME: &'static str = "choose";
    const VERSION: u32 = 1;
    const SUMMARY: &'static str =
        "Chooses the best of several candidates by a number in their reports";

    type Params = Params;

    fn ports() -> Ports {
        Ports::new()
            .input(
                "reports",
                "report",
                Arity::Many,
                "the report of each candidate, by label",
            )
            .labelled("reports")
            .output("choice", "choice", "winner, value, scores and reason")
    }

    fn predict(params: &Params, known: &Known<'_>) -> Result<Prediction, Vec<Complaint>> {
        let labels: Vec<&str> = known
            .many("reports")
            .iter()
            .map(|(label, _)| label.as_str())
            .collect();
        let mut complaints = Vec::new();
        if !params.metric.starts_with('/') {
            complaints.push(Complaint::new(
                "params.metric",
                format!("`{}` is not a JSON pointer", params.metric),
                "write the path to a number in the reports, such as `/mean/bits_per_byte`",
            ));
        }
        let unknown = params
            .values
            .keys()
            .filter(|label| !labels.contains(&label.as_str()));
        complaints.extend(unknown.map(|label| {
            Complaint::new(
                &format!("params.values.{label}"),
                format!("no candidate is called `{label}`"),
                format!("the candidates are {}", quoted(&labels)),
            )
        }));
        let valueless = labels
            .iter()
            .filter(|label| !params.values.is_empty() && !params.values.contains_key(**label));
        complaints.extend(valueless.map(|label| {
            Complaint::new(
                "params.values",
                format!("candidate `{label}` has no value"),
                "give every candidate a value, or none",
            )
        }));
        facts::answer(complaints, || {
            facts::prediction(facts::without_a_model(), [("choice", Facts::default())])
        })
    }

    fn run(params: Params, context: &mut Context) -> Result<(), Failure> {
        let mut scores = Vec::new();
        for report in context.many("reports") {
            let content = read_value(&report.path)?;
            let score = content
                .pointer(&params.metric)
                .and_then(Value::as_f64)
                .ok_or_else(|| {
                    Failure::input(format!(
                        "the report of `{}` has no number at `{}`",
                        report.label, params.metric
                    ))
                    .help(format!("at its top it has {}", keys_of(&content)))
                })?;
            scores.push((report.label.clone(), score));
        }
        let choice = choose(&scores, &params).map_err(Failure::input)?;
        context.note(choice.reason.clone());
        write_report(context.output("choice"), &choice)
    }
}

fn quoted(names: &[&str]) -> String {
    let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    names.join(", ")
}

fn keys_of(value: &Value) -> String {
    let keys: Vec<&str> = value
        .as_object()
        .map(|fields| fields.keys().map(String::as_str).collect())
        .unwrap_or_default();
    quoted(&keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scored(scores: &[(&str, f64)]) -> Vec<(String, f64)> {
        scores
            .iter()
            .map(|(label, score)| ((*label).to_owned(), *score))
            .collect()
    }

    #[test]
    fn lower_or_higher_wins_and_ties_go_to_the_earlier() {
        let scores = scored(&[("a", 2.0), ("b", 1.0), ("c", 1.0)]);
        let mut params = Params {
            metric: "/x".to_owned(),
            values: BTreeMap::from([("b".to_owned(), serde_json::json!({"ko": 0.5}))]),
            ..Params::default()
        };
        let choice = choose(&scores, &params).unwrap();
        assert_eq!((choice.winner.as_str(), choice.index), ("b", 1));
        assert_eq!(choice.value["ko"], 0.5);
        assert!(choice.reason.contains("equal to `c`"), "{}", choice.reason);
        params.direction = Direction::Higher;
        assert_eq!(choose(&scores, &params).unwrap().winner, "a");
    }

    #[test]
    fn nothing_and_not_a_number_are_refused() {
        assert!(choose(&[], &Params::default()).is_err());
        assert!(choose(&scored(&[("a", f64::NAN)]), &Params::default()).is_err());
    }
}
