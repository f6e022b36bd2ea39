//! `iterative-classifier`: train, take the best of a pool as further positives, train again.
//!
//! Kanana (arXiv 2502.18934, section 2.1) retrains its Korean educational filter "by augmenting educational documents
//! from the previous iteration". Every round is a task of its own.

use std::collections::BTreeMap;

use kbuild_engine::kind::{Arity, Complaint, CompositeKind, Expansion, Ports, Step, StepInput};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::train_classifier;

pub struct IterativeClassifier;

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Params {
    /// Rounds of training; 1 mines nothing.
    pub rounds: u64,
    /// Share of the pool that becomes positive after each round.
    pub top: f64,
    /// How each round trains.
    pub train: train_classifier::Params,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            rounds: 3,
            top: 0.1,
            train: train_classifier::Params::default(),
        }
    }
}

impl CompositeKind for IterativeClassifier {
    const NAME: &'static str = "iterative-classifier";
    const SUMMARY: &'static str =
        "trains a quality classifier in rounds, each with the positives that the one before found";

    type Params = Params;

    fn ports() -> Ports {
        Ports::new()
            .input("labels", "labels", Arity::One, "rated pages")
            .input(
                "pool",
                "documents",
                Arity::Many,
                "where positives are looked for: a frozen sample",
            )
            .output("classifier", "classifier", "of the last round")
            .output("report", "report", "numbers of every round")
    }

    fn expand(
        params: Params,
        _inputs: &BTreeMap<String, usize>,
    ) -> Result<Expansion, Vec<Complaint>> {
        if params.rounds == 0 {
            let message = "no round trains no classifier";
            return Err(vec![Complaint::new(
                "params.rounds",
                message,
                "give at least 1",
            )]);
        }
        let mut steps = Vec::new();
        for round in 1..=params.rounds {
            steps.push(train_step(&params, round));
            if round < params.rounds {
                steps.push(mine_step(&params, round));
            }
        }
        let last = train_name(params.rounds);
        let outputs =
            ["classifier", "report"].map(|port| (port.to_owned(), (last.clone(), port.to_owned())));
        Ok(Expansion {
            steps,
            outputs: outputs.into(),
        })
    }
}

fn train_name(round: u64) -> String {
    format!("train-{round}")
}

fn mine_name(round: u64) -> String {
    format!("mine-{round}")
}

fn outer(port: &str) -> (String, Vec<StepInput>) {
    (port.to_owned(), vec![StepInput::Outer(port.to_owned())])
}

fn from(input: &str, step: String, port: &str) -> (String, Vec<StepInput>) {
    (
        input.to_owned(),
        vec![StepInput::Step(step, port.to_owned())],
    )
}

fn train_step(params: &Params, round: u64) -> Step {
    let mut inputs = BTreeMap::from([outer("labels")]);
    if round > 1 {
        inputs.extend([
            from("positives", mine_name(round - 1), "documents"),
            from("previous", train_name(round - 1), "report"),
        ]);
    }
    Step {
        name: train_name(round),
        kind: "train-classifier".to_owned(),
        params: object(json!(params.train)),
        inputs,
    }
}

fn mine_step(params: &Params, round: u64) -> Step {
    let classifier = from("classifier", train_name(round), "classifier");
    Step {
        name: mine_name(round),
        kind: "mine".to_owned(),
        params: object(json!({ "top": params.top })),
        inputs: BTreeMap::from([outer("labels"), outer("pool"), classifier]),
    }
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kbuild_engine::kind::Body;

    #[test]
    fn rounds_are_chained_and_every_step_is_a_kind_with_good_params() {
        let kinds = crate::kinds();
        let params = Params {
            rounds: 3,
            ..Params::default()
        };
        let expansion = IterativeClassifier::expand(params, &BTreeMap::new()).unwrap();
        let names: Vec<&str> = expansion
            .steps
            .iter()
            .map(|step| step.name.as_str())
            .collect();
        assert_eq!(names, ["train-1", "mine-1", "train-2", "mine-2", "train-3"]);
        assert_eq!(expansion.outputs["report"].0, "train-3");
        let mined = StepInput::Step("mine-2".to_owned(), "documents".to_owned());
        assert_eq!(expansion.steps[4].inputs["positives"], vec![mined]);
        for step in &expansion.steps {
            let kind = kinds.get(&step.kind).unwrap();
            let Body::BuiltIn { resolve, .. } = &kind.body else {
                panic!("`{}` is not built in", step.kind);
            };
            resolve(Value::Object(step.params.clone())).unwrap();
            for port in step.inputs.keys() {
                assert!(kind.ports.find_input(port).is_some(), "{port}");
            }
        }
        let none = Params {
            rounds: 0,
            ..Params::default()
        };
        assert!(IterativeClassifier::expand(none, &BTreeMap::new()).is_err());
    }
}
