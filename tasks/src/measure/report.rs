//! `report`: everything that was measured, in one structured file.
//!
//! The file holds all that a page needs to be drawn from it, and nothing that a clock measured or a host named.
//!
//! ```text
//! { "kind": "report", "title", "order": [label…],
//!   "sections": { label: { "sort": "report|choice|metrics|ledger", "content": … } },
//!   "chain": { "stages": [{ name, parameters, tokens, flops, extra_flops }], "flops", "extra_flops" },
//!   "groups": { group: { measure: { values, n, mean, deviation, interval } } },
//!   "comparisons": { name: { measure: { n, mean, deviation, interval } } },
//!   "gates": [{ name, value, below, above, margin, pass, reason }], "passed", "failed" }
//! ```
//!
//! Pointers of gates begin with a label and go on inside its content; `/groups/…`, `/comparisons/…` and `/chain/…` reach
//! the parts of those names.

use std::collections::{BTreeMap, BTreeSet};

use kbuild_engine::facts::{Facts, Prediction};
use kbuild_engine::kind::{Arity, Complaint, Known, Ports, TaskKind};
use kbuild_engine::runner::{Context, Failure};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::chain::{self, Stage};
use super::entries::{self, Entry};
use super::gates::{Bound, Gate, Verdict};
use super::groups::{self, Comparison};
use super::json::write_report;
use crate::facts;

/// The `report` kind.
pub struct Report;

/// What the report says beyond its entries.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Params {
    /// Heading of the report.
    pub title: String,
    /// Points that each curve keeps.
    pub points: usize,
    /// The stages whose operations add up to the chain, with where their sizes are found.
    pub chain: Vec<ChainStage>,
    /// Numbers that must lie on the right side of a bound.
    pub gates: Vec<Gate>,
    /// A failed gate fails the task.
    pub strict: bool,
    /// Repetitions of an arm under several seeds: labels of entries.
    pub groups: BTreeMap<String, Vec<String>>,
    /// What is averaged over the members of a group: JSON pointers below each member.
    pub measures: BTreeMap<String, String>,
    /// Which groups are compared pair by pair.
    pub comparisons: Vec<Comparison>,
}

/// One stage of the chain: so many tokens through a model of this size, and perhaps past a teacher.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ChainStage {
    pub name: String,
    /// All weights of the trained model: a number, or a pointer such as `/evaluate-stage1/parameters`.
    pub parameters: Bound,
    /// Tokens that it was trained on: a number, or a pointer such as `/stage1-metrics/last/tokens`.
    pub tokens: Bound,
    /// All weights of a teacher or reference that read the same tokens: its forward passes are listed apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub teacher_parameters: Option<Bound>,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            title: String::new(),
            points: 200,
            chain: Vec::new(),
            gates: Vec::new(),
            strict: false,
            groups: BTreeMap::new(),
            measures: BTreeMap::new(),
            comparisons: Vec::new(),
        }
    }
}

const RESERVED: [&str; 3] = ["chain", "comparisons", "groups"];

impl TaskKind for Report {
    const NAME: &'static str = "report";
    const VERSION: u32 = 1;
    const SUMMARY: &'static str =
        "Merges reports, metrics, ledgers and choices into one, with gates and statistics";

    type Params = Params;

    fn ports() -> Ports {
        Ports::new()
            .input(
                "entries",
                "report|metrics|ledger|choice",
                Arity::Many,
                "what is reported, by label",
            )
            .labelled("entries")
            .output("report", "report", "all of it, and what follows from it")
    }

    fn predict(params: &Params, known: &Known<'_>) -> Result<Prediction, Vec<Complaint>> {
        let labels: BTreeSet<&str> = (known.many("entries").iter())
            .map(|(label, _)| label.as_str())
            .collect();
        let complaints = complaints(params, &labels);
        facts::answer(complaints, || {
            facts::prediction(facts::without_a_model(), [("report", Facts::default())])
        })
    }

    fn run(params: Params, context: &mut Context) -> Result<(), Failure> {
        let mut entries = Vec::new();
        for artifact in context.many("entries") {
            let entry = entries::read(artifact, params.points)?;
            entries.push((artifact.label.clone(), entry));
        }
        let (report, failed) = compose(&params, &entries)?;
        write_report(context.output("report"), &report)?;
        for verdict in &failed {
            context.note(format!("gate failed: {}: {}", verdict.name, verdict.reason));
        }
        match failed.first() {
            Some(first) if params.strict => Err(Failure::input(format!(
                "{} of {} gates failed, first `{}`: {}",
                failed.len(),
                params.gates.len(),
                first.name,
                first.reason
            ))
            .help("look at what the report names, or set `strict = false`")),
            _ => Ok(()),
        }
    }
}

fn complaints(params: &Params, labels: &BTreeSet<&str>) -> Vec<Complaint> {
    let mut found = Vec::new();
    for label in labels.iter().filter(|label| RESERVED.contains(label)) {
        found.push(Complaint::new(
            &format!("inputs.entries.{label}"),
            format!("`{label}` is the name of a part of the report"),
            "choose another label",
        ));
    }
    let mut unknown = |at: String, label: &str| {
        if !labels.contains(label) {
            found.push(Complaint::new(
                &at,
                format!("no entry is called `{label}`"),
                "use the labels of `inputs.entries`",
            ));
        }
    };
    for (group, members) in &params.groups {
        for label in members {
            unknown(format!("params.groups.{group}"), label);
        }
    }
    for (index, gate) in params.gates.iter().enumerate() {
        if let Some(problem) = gate.problem() {
            let help =
                "for example { name = \"…\", value = \"/label/loss\", below = \"/other/loss\" }";
            found.push(Complaint::new(
                &format!("params.gates[{index}]"),
                problem,
                help,
            ));
        }
    }
    for (index, comparison) in params.comparisons.iter().enumerate() {
        for group in [&comparison.a, &comparison.b] {
            if !params.groups.contains_key(group) {
                found.push(Complaint::new(
                    &format!("params.comparisons[{index}]"),
                    format!("no group is called `{group}`"),
                    "declare it in `groups`",
                ));
            }
        }
    }
    found
}

/// The report, and the gates that failed.
fn compose(params: &Params, entries: &[(String, Entry)]) -> Result<(Value, Vec<Verdict>), Failure> {
    let mut root: Map<String, Value> = entries
        .iter()
        .map(|(label, entry)| (label.clone(), entry.content.clone()))
        .collect();
    let stages = stages(&params.chain, &Value::Object(root.clone()))?;
    let chain = chain_value(&stages);
    let groups = groups::summarise(
        &Value::Object(root.clone()),
        &params.groups,
        &params.measures,
    );
    let comparisons = groups::compare(&groups, &params.comparisons);
    let (groups, comparisons) = (json!(groups), json!(comparisons));
    root.insert("chain".to_owned(), chain.clone());
    root.insert("groups".to_owned(), groups.clone());
    root.insert("comparisons".to_owned(), comparisons.clone());
    let root = Value::Object(root);
    let verdicts: Vec<Verdict> = params.gates.iter().map(|gate| gate.judge(&root)).collect();
    let failed: Vec<Verdict> = verdicts.iter().filter(|v| !v.pass).cloned().collect();
    let sections: BTreeMap<&String, &Entry> = entries
        .iter()
        .map(|(label, entry)| (label, entry))
        .collect();
    let order: Vec<&String> = entries.iter().map(|(label, _)| label).collect();
    let report = json!({
        "kind": Report::NAME,
        "title": params.title,
        "order": order,
        "sections": sections,
        "chain": chain,
        "groups": groups,
        "comparisons": comparisons,
        "gates": verdicts,
        "passed": verdicts.len() - failed.len(),
        "failed": failed.len(),
    });
    Ok((report, failed))
}

fn stages(stages: &[ChainStage], root: &Value) -> Result<Vec<Stage>, Failure> {
    stages
        .iter()
        .map(|stage| {
            let number = |bound: &Bound| {
                bound.resolve(root).map_err(|error| {
                    Failure::input(format!("stage `{}` of the chain: {error}", stage.name))
                        .help("point to `parameters` of an evaluation and `last/tokens` of metrics")
                })
            };
            let mut found = Stage::new(
                &stage.name,
                number(&stage.parameters)?,
                number(&stage.tokens)?,
            );
            if let Some(teacher) = &stage.teacher_parameters {
                found.extra_flops = 2.0 * number(teacher)? * found.tokens;
            }
            Ok(found)
        })
        .collect()
}

fn chain_value(stages: &[Stage]) -> Value {
    let listed: Vec<Value> = stages
        .iter()
        .map(|stage| {
            json!({
                "name": stage.name,
                "parameters": stage.parameters,
                "tokens": stage.tokens,
                "flops": stage.flops(),
                "extra_flops": stage.extra_flops,
            })
        })
        .collect();
    json!({
        "formula": "6 N D, N with embeddings, per stage; extra_flops: teachers and references",
        "stages": listed,
        "flops": chain::flops(stages),
        "extra_flops": chain::extra_flops(stages),
    })
}
