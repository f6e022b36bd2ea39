//! `pick` and `pick-model`: the candidate that a choice names, passed on unchanged.

use std::path::Path;

use kbuild_engine::facts::{Facts, Prediction};
use kbuild_engine::kind::{Arity, Complaint, Known, Ports, TaskKind};
use kbuild_engine::runner::{AtPath, Context, Failure};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::choose::Choice;
use crate::facts;

/// The `pick` kind: reward models.
pub struct Pick;

/// The `pick-model` kind: language models.
pub struct PickModel;

/// Nothing to set: the choice decides.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Params {}

impl TaskKind for Pick {
    const NAME: &'static str = "pick";
    const VERSION: u32 = 1;
    const SUMMARY: &'static str = "Passes on the reward model that a choice names";

    type Params = Params;

    fn ports() -> Ports {
        ports("reward-model")
    }

    fn predict(_params: &Params, known: &Known<'_>) -> Result<Prediction, Vec<Complaint>> {
        Ok(predict(known))
    }

    fn run(_params: Params, context: &mut Context) -> Result<(), Failure> {
        run(context)
    }
}

impl TaskKind for PickModel {
    const NAME: &'static str = "pick-model";
    const VERSION: u32 = 1;
    const SUMMARY: &'static str = "Passes on the model that a choice names";

    type Params = Params;

    fn ports() -> Ports {
        ports("model")
    }

    fn predict(_params: &Params, known: &Known<'_>) -> Result<Prediction, Vec<Complaint>> {
        Ok(predict(known))
    }

    fn run(_params: Params, context: &mut Context) -> Result<(), Failure> {
        run(context)
    }
}

fn ports(format: &str) -> Ports {
    Ports::new()
        .input(
            "models",
            format,
            Arity::Many,
            "the candidates, by the labels of the choice",
        )
        .labelled("models")
        .input("choice", "choice", Arity::One, "says which candidate wins")
        .output("model", format, "the winner")
}

/// What all candidates have in common.
fn predict(known: &Known<'_>) -> Prediction {
    let mut common = known.one("models").cloned().unwrap_or_default();
    for (_, facts) in known.many("models") {
        common.0.retain(|name, fact| facts.get(name) == Some(fact));
    }
    let cost = facts::surgery(&Facts::default(), &common);
    facts::prediction(cost, [("model", common)])
}

fn run(context: &mut Context) -> Result<(), Failure> {
    let choice = Choice::load(&context.one("choice").path)?;
    let candidates = context.many("models");
    let winner = candidates
        .iter()
        .find(|candidate| candidate.label == choice.winner)
        .ok_or_else(|| {
            let labels: Vec<&str> = candidates.iter().map(|c| c.label.as_str()).collect();
            Failure::input(format!(
                "the choice fell on `{}`, the models are {}",
                choice.winner,
                labels.join(", ")
            ))
            .help("give the models the labels that the reports have in `choose`")
        })?;
    let (source, facts) = (winner.path.clone(), winner.facts.clone());
    copy_files(&source, context.output("model"))?;
    for (name, value) in facts {
        context.fact("model", &name, value);
    }
    context.note(choice.reason);
    Ok(())
}

/// Copies the files of a flat directory.
fn copy_files(from: &Path, to: &Path) -> Result<(), Failure> {
    for entry in std::fs::read_dir(from).at(from)? {
        let path = entry.at(from)?.path();
        let Some(name) = path.file_name().filter(|_| path.is_file()) else {
            continue;
        };
        let target = to.join(name);
        let mut source = std::fs::File::open(&path).at(&path)?;
        let mut copy = std::fs::File::create(&target).at(&target)?;
        std::io::copy(&mut source, &mut copy).at(&target)?;
    }
    Ok(())
}
