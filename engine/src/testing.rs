//! Small kinds, a loader and a generator, for the tests of this crate.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::artifact::Shape;
use crate::facts::{Facts, Prediction};
use crate::kananafile::{Kananafile, Options, Problem, load};
use crate::kind::{
    Arity, Complaint, CompositeKind, Expansion, Format, Kind, Kinds, Known, Ports, Step, StepInput,
    TaskKind,
};
use crate::runner::{Context, Failure};

/// A small counter-based generator: the world is a function of its seed.
pub struct Seeded(pub u64);

impl Seeded {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % n as u64).unwrap()
    }

    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}

/// Declares a kind that is planned and never run.
macro_rules! kind {
    ($kind:ident, $name:literal, $params:ty, $ports:expr $(, $predict:expr)?) => {
        pub struct $kind;

        impl TaskKind for $kind {
            const NAME: &'static str = $name;
            const VERSION: u32 = 1;
            const SUMMARY: &'static str = "for tests";
            type Params = $params;

            fn ports() -> Ports {
                $ports
            }

            $(fn predict(
                params: &Self::Params,
                known: &Known<'_>,
            ) -> Result<Prediction, Vec<Complaint>> {
                $predict(params, known)
            })?

            fn run(_: Self::Params, _: &mut Context) -> Result<(), Failure> {
                Ok(())
            }
        }
    };
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CleanParams {
    /// Language of the documents.
    pub language: Language,
    /// Shortest document that is kept, words.
    pub min_words: u32,
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Language {
    Korean,
    English,
}

impl Default for CleanParams {
    fn default() -> Self {
        Self {
            language: Language::English,
            min_words: 50,
        }
    }
}

kind!(
    Clean,
    "clean",
    CleanParams,
    Ports::new()
        .input("documents", "documents", Arity::One, "raw text")
        .output("documents", "documents", "clean text")
        .output("ledger", "report", "what was dropped")
        .mapped(&["documents", "ledger"])
);

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrainParams {
    /// Width of the model.
    pub hidden: u64,
    #[serde(default = "one_percent")]
    pub lr: f64,
    /// Share of each input.
    #[serde(default)]
    pub mixture: Vec<f64>,
    #[serde(default)]
    pub optimizer: Optimizer,
}

fn one_percent() -> f64 {
    0.01
}

#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Optimizer {
    pub beta1: f64,
    pub beta2: f64,
}

kind!(
    Train,
    "train",
    TrainParams,
    Ports::new()
        .input("init", "model", Arity::Optional, "model to start from")
        .input("documents", "documents", Arity::Many, "text to learn")
        .output("model", "model", "the trained model")
        .output("metrics", "report", "losses")
        .per_input("mixture", "documents"),
    |params: &TrainParams, known: &Known<'_>| {
        let parent = known.one("init").and_then(|facts| facts.u64("hidden"));
        if let Some(parent) = parent.filter(|parent| *parent != params.hidden) {
            return Err(vec![Complaint::new(
                "params.hidden",
                format!("`init` is {parent} wide, asked for {}", params.hidden),
                format!("write `hidden = {parent}`"),
            )]);
        }
        let mut facts = Facts::default();
        facts.set("hidden", params.hidden);
        Ok(Prediction::default().output("model", facts))
    }
);

#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NoParams {}

kind!(
    Report,
    "report",
    NoParams,
    Ports::new()
        .input("curves", "report", Arity::Many, "curves to draw")
        .output("report", "report", "all of them")
        .labelled("curves")
);

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RoundsParams {
    pub rounds: usize,
    pub hidden: u64,
}

/// Trains in rounds, each from the model of the one before.
pub struct Rounds;

impl CompositeKind for Rounds {
    const NAME: &'static str = "rounds";
    const SUMMARY: &'static str = "for tests";
    type Params = RoundsParams;

    fn ports() -> Ports {
        Ports::new()
            .input("init", "model", Arity::One, "the first model")
            .input("documents", "documents", Arity::Many, "text")
            .output("model", "model", "the last model")
    }

    fn expand(
        params: RoundsParams,
        inputs: &BTreeMap<String, usize>,
    ) -> Result<Expansion, Vec<Complaint>> {
        if params.rounds == 0 {
            return Err(vec![Complaint::new(
                "params.rounds",
                "no rounds",
                "at least one",
            )]);
        }
        let texts = inputs["documents"];
        let step = |round: usize| Step {
            name: format!("round-{round}"),
            kind: "train".to_owned(),
            params: object(json!({ "hidden": params.hidden })),
            inputs: BTreeMap::from([
                ("init".to_owned(), vec![init(round)]),
                (
                    "documents".to_owned(),
                    vec![StepInput::OuterNth("documents".to_owned(), round % texts)],
                ),
            ]),
        };
        let last = format!("round-{}", params.rounds - 1);
        Ok(Expansion {
            steps: (0..params.rounds).map(step).collect(),
            outputs: BTreeMap::from([("model".to_owned(), (last, "model".to_owned()))]),
        })
    }
}

fn init(round: usize) -> StepInput {
    match round {
        0 => StepInput::Outer("init".to_owned()),
        n => StepInput::Step(format!("round-{}", n - 1), "model".to_owned()),
    }
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

pub fn kinds() -> Kinds {
    let format = |name, shape, extension| Format {
        name,
        shape,
        extension,
        doc: "",
    };
    Kinds::new(
        vec![
            Kind::task::<Clean>(),
            Kind::task::<Train>(),
            Kind::task::<Report>(),
            Kind::composite::<Rounds>(),
        ],
        vec![
            format("documents", Shape::Shards, "jsonl"),
            format("model", Shape::Directory, ""),
            format("report", Shape::File, "json"),
        ],
    )
}

/// Files in memory: `Kananafile` is `text`.
pub fn load_with(
    text: &str,
    others: &[(&str, &str)],
    options: &Options<'_>,
) -> Result<Kananafile, Vec<Problem>> {
    let read = |path: &str| {
        let text = match path {
            "Kananafile" => Some(text),
            path => others.iter().find(|(name, _)| *name == path).map(|o| o.1),
        };
        text.map(str::to_owned)
            .ok_or_else(|| "no such file".to_owned())
    };
    let options = Options {
        file: "Kananafile",
        reserved: &["plan", "build"],
        ..options.clone()
    };
    load(&read, &kinds(), &options)
}

/// A Kananafile that is right.
pub fn loaded(text: &str) -> Kananafile {
    let text = format!("kananafile = 1\n{text}");
    load_with(&text, &[], &Options::default()).unwrap_or_else(|problems| {
        let shown: Vec<String> = problems.iter().map(ToString::to_string).collect();
        panic!("{}", shown.join("\n"))
    })
}
