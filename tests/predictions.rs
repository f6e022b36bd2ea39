//! What every kind says of a task before it runs: facts of each output, and cost.
//!
//! `predictions.txt` has a case for every built-in kind: its params as JSON, and under `>>>` what it predicts where
//! everything is known of its inputs, and where nothing is. `UPDATE=1` writes it anew.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use kbuild_engine::facts::{Cost, Fact, Facts, Prediction};
use kbuild_engine::kind::{Arity, Body, Kind, Known};
use serde_json::Value;

fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/predictions.txt")
}

/// Name of a kind → its params, and what it predicts.
fn table() -> BTreeMap<String, (String, String)> {
    let text = std::fs::read_to_string(path()).expect("the table is there");
    let case = |piece: &str| {
        let (name, rest) = piece.split_once('\n').expect("a case has a name");
        let (params, said) = rest.split_once(">>>\n").unwrap_or((rest, ""));
        (name.to_owned(), (params.trim().to_owned(), said.to_owned()))
    };
    text.split("--- ").skip(1).map(case).collect()
}

/// Everything that can be known of an artifact of a format.
fn facts_of(format: &str) -> Facts {
    let numbers: &[(&str, u64)] = match format {
        "documents" | "raw" | "chat" => &[("documents", 1_000), ("bytes", 500_000)],
        "signatures" => &[("documents", 1_000)],
        "tokenizer" => &[("vocab_size", 1_000)],
        "tokens" => &[("tokens", 1_000_000), ("vocab_size", 1_000)],
        "model" | "reward-model" => &[
            ("vocab_size", 1_000),
            ("hidden_size", 64),
            ("intermediate_size", 256),
            ("num_hidden_layers", 4),
            ("num_attention_heads", 8),
            ("num_key_value_heads", 4),
            ("head_dim", 8),
            ("max_position_embeddings", 128),
            ("parameters", 374_336),
        ],
        "pairs" => &[("pairs", 100), ("tokens", 10_000), ("max_length", 128)],
        "prompts" => &[("prompts", 100)],
        "samples" | "scores" => &[("prompts", 100), ("responses", 400)],
        "log-probabilities" => &[("pairs", 100)],
        _ => &[],
    };
    let mut facts = Facts::default();
    for (name, number) in numbers {
        facts.set(name, *number);
    }
    if format == "model" {
        facts.set("tie_word_embeddings", false);
    }
    if [
        "tokenizer",
        "tokens",
        "model",
        "reward-model",
        "pairs",
        "samples",
    ]
    .contains(&format)
    {
        facts.set_fact("vocab", Fact::Symbol("tok".to_owned()));
    }
    facts
}

/// Every port that must be bound, and those that are named, bound once.
fn world<'a>(kind: &Kind, bound: &[&str], of: &dyn Fn(&str) -> Facts) -> Known<'a> {
    let mut known = Known {
        task: "t",
        inputs: BTreeMap::new(),
        on_gpu: false,
        recompute: false,
    };
    for port in &kind.ports.inputs {
        let must = matches!(port.arity, Arity::One | Arity::Many);
        if must || bound.contains(&port.name.as_str()) {
            let format = port.formats.first().map_or("", String::as_str);
            let artifact = (port.name.clone(), of(format));
            known.inputs.insert(port.name.clone(), vec![artifact]);
        }
    }
    known
}

fn predicted(kind: &Kind, params: &str) -> String {
    let Body::BuiltIn {
        resolve, predict, ..
    } = &kind.body
    else {
        panic!("`{}` is not built in", kind.name);
    };
    // `"with": [...]` names optional ports that are bound.
    let mut params: Value = serde_json::from_str(params).expect("params are JSON");
    let with = params
        .as_object_mut()
        .and_then(|params| params.remove("with"));
    let bound: Vec<&str> = with
        .iter()
        .flat_map(|with| with.as_array())
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let params = resolve(params).unwrap_or_else(|error| panic!("{}: {error}", kind.name));
    let say = |of: &dyn Fn(&str) -> Facts| {
        let known = world(kind, &bound, of);
        let prediction =
            predict(&params, &known).unwrap_or_else(|wrong| panic!("{}: {wrong:?}", kind.name));
        for port in &kind.ports.outputs {
            let is_there = prediction.outputs.contains_key(&port.name);
            assert!(
                is_there,
                "{}: nothing is said of `{}`",
                kind.name, port.name
            );
        }
        written(&prediction)
    };
    format!(
        "{}nothing known\n{}",
        say(&facts_of),
        say(&|_| Facts::default())
    )
}

fn written(prediction: &Prediction) -> String {
    let outputs = prediction.outputs.iter();
    let outputs: String = outputs
        .map(|(port, facts)| format!("  {port}: {}\n", line(facts)))
        .collect();
    format!("{outputs}  cost: {}\n", cost(&prediction.cost))
}

fn line(facts: &Facts) -> String {
    let fact = |(name, fact): (&String, &Fact)| match fact {
        Fact::Known(value) => format!("{name} {value}"),
        Fact::Bounded { min, max } => format!("{name} {min}..{max}"),
        Fact::Symbol(symbol) => format!("{name} of {symbol}"),
    };
    match facts.0.is_empty() {
        true => "?".to_owned(),
        false => facts.0.iter().map(fact).collect::<Vec<_>>().join(", "),
    }
}

fn cost(cost: &Cost) -> String {
    let Value::Object(fields) = serde_json::to_value(cost).expect("costs are JSON") else {
        unreachable!("a struct is an object");
    };
    let field = |(name, value): (&String, &Value)| match value {
        Value::Null => format!("{name} ?"),
        value => format!("{name} {value}"),
    };
    fields.iter().map(field).collect::<Vec<_>>().join(", ")
}

#[test]
fn every_kind_says_what_it_knows_and_nothing_else() {
    let kinds = kbuild_tasks::kinds();
    let table = table();
    let mut text = "Params, and what follows from them before anything runs.\n\n".to_owned();
    let mut different = Vec::new();
    for kind in kinds
        .iter()
        .filter(|kind| matches!(kind.body, Body::BuiltIn { .. }))
    {
        let Some((params, said)) = table.get(&kind.name) else {
            panic!("`{}` is not in tests/predictions.txt", kind.name);
        };
        let found = predicted(kind, params);
        if found != *said {
            different.push(format!("--- {}\n{found}", kind.name));
        }
        text += &format!("--- {}\n{params}\n>>>\n{found}", kind.name);
    }
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(path(), text).expect("the table is written");
    } else {
        assert!(different.is_empty(), "{}", different.join("\n"));
    }
}
