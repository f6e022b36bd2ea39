//! Params: from what is written to what is hashed, with every problem at its own param.

use serde_json::{Map, Value};

use super::command;
use super::draft::Draft;
use super::node::{Span, Val, listed};
use super::plugin;
use super::problem::{Report, did_you_mean, suggest};
use crate::graph::Executor;
use crate::kind::{Body, Kind};

/// Fills in the params of a draft (and, of a command, its program). `given` replaces what is written: the params of a
/// step.
pub fn resolve(draft: &mut Draft<'_>, given: Option<Map<String, Value>>, report: &Report) {
    let Some(kind) = draft.kind else { return };
    if matches!(kind.body, Body::Command) && given.is_none() {
        let resolved = command::resolve(draft, report);
        (draft.params, draft.executor) = match resolved {
            Some((params, executor)) => (Some(params), executor),
            None => (None, Executor::BuiltIn),
        };
        return;
    }
    let before = report.count();
    let params = given.or_else(|| written(draft));
    let Some(mut params) = params else { return };
    unknown(draft, kind, &params, report);
    missing(draft, kind, &params, report);
    per_input(draft, &mut params, report);
    if report.count() == before {
        draft.params = typed(draft, kind, params, report);
    } else {
        blame(draft, kind, &params, report);
    }
}

fn written(draft: &Draft<'_>) -> Option<Map<String, Value>> {
    match draft.written.as_ref().map(super::node::Node::to_json) {
        None => Some(Map::new()),
        Some(Some(Value::Object(params))) => Some(params),
        Some(_) => None,
    }
}

fn properties(kind: &Kind) -> Option<&Map<String, Value>> {
    kind.schema.get("properties")?.as_object()
}

fn unknown(draft: &Draft<'_>, kind: &Kind, params: &Map<String, Value>, report: &Report) {
    let none = Map::new();
    let known = match properties(kind) {
        Some(known) => known,
        // Params that are not a plain struct are left to their own deserialiser.
        None if kind.schema.get("type").is_none() => return,
        None => &none,
    };
    for name in params.keys().filter(|name| !known.contains_key(*name)) {
        let key = draft.written.as_ref().and_then(|node| node.find_key(name));
        let message = format!("{}`{}` has no param `{name}`", draft.prefix(), kind.name);
        let help = did_you_mean(name, known.keys().map(String::as_str));
        report.error(key.map_or(draft.span, |key| key.span), message, help);
    }
}

fn missing(draft: &Draft<'_>, kind: &Kind, params: &Map<String, Value>, report: &Report) {
    let required = kind.schema.get("required").and_then(Value::as_array);
    let required = required.into_iter().flatten().filter_map(Value::as_str);
    for name in required.filter(|name| !params.contains_key(*name)) {
        let message = format!(
            "{}task `{}` lacks the param `{name}`",
            draft.prefix(),
            draft.name
        );
        report.error(draft.span, message, doc(kind, name));
    }
}

/// The first line of a param's documentation.
fn doc(kind: &Kind, name: &str) -> String {
    let doc = properties(kind)
        .and_then(|known| known.get(name)?.get("description")?.as_str())
        .and_then(|doc| doc.lines().next());
    doc.filter(|doc| !doc.is_empty())
        .map_or_else(String::new, |doc| format!("`{name}`: {doc}"))
}

/// Turns params that are written as a table by label into arrays in the order of their port.
fn per_input(draft: &Draft<'_>, params: &mut Map<String, Value>, report: &Report) {
    for (param, port) in &draft.ports.per_input {
        let bindings = draft.port(port).map_or(&[][..], |port| &port.bindings);
        let labels: Vec<&str> = bindings.iter().map(|b| b.label.as_str()).collect();
        let span = draft.param_span(param);
        let value = match params.get_mut(param) {
            Some(Value::Object(table)) => by_label(draft, param, port, table, &labels, report),
            Some(Value::Array(items)) if items.len() != labels.len() => {
                let (found, expected) = (items.len(), labels.len());
                let message = format!(
                    "{}`{param}` needs one value for each input of `{port}`: expected {expected}, found {found}",
                    draft.prefix()
                );
                report.error(span, message, format!("the inputs are {}", listed(labels)));
                None
            }
            _ => None,
        };
        if let Some(value) = value {
            params.insert(param.clone(), value);
        }
    }
}

fn by_label(
    draft: &Draft<'_>,
    param: &str,
    port: &str,
    table: &Map<String, Value>,
    labels: &[&str],
    report: &Report,
) -> Option<Value> {
    let written = draft.written.as_ref().and_then(|node| node.get(param));
    let mut fits = true;
    for name in table.keys().filter(|name| !labels.contains(&name.as_str())) {
        let key = written.and_then(|node| node.find_key(name));
        let message = format!("{}no input of `{port}` is called `{name}`", draft.prefix());
        let span = key.map_or_else(|| draft.param_span(param), |key| key.span);
        report.error(span, message, did_you_mean(name, labels.iter().copied()));
        fits = false;
    }
    for label in labels.iter().filter(|label| !table.contains_key(**label)) {
        let message = format!(
            "{}`{param}` has no value for the input `{label}`",
            draft.prefix()
        );
        let help = format!("one value for each of {}", listed(labels.iter().copied()));
        report.error(draft.param_span(param), message, help);
        fits = false;
    }
    let values = labels.iter().map(|label| table.get(*label).cloned());
    values
        .collect::<Option<Vec<Value>>>()
        .filter(|_| fits)
        .map(Value::Array)
}

fn typed(
    draft: &Draft<'_>,
    kind: &Kind,
    params: Map<String, Value>,
    report: &Report,
) -> Option<Value> {
    match try_resolve(kind, params.clone()) {
        Ok(params) => Some(params),
        Err(message) => {
            if !blame(draft, kind, &params, report) {
                tell(draft, kind, None, &message, report);
            }
            None
        }
    }
}

/// Tries each param on its own and reports those that cannot be used; true if there is one.
fn blame(draft: &Draft<'_>, kind: &Kind, params: &Map<String, Value>, report: &Report) -> bool {
    let known = properties(kind);
    let mut found = false;
    for (name, value) in params {
        let is_known = known.is_none_or(|known| known.contains_key(name));
        let is_per_input = draft.ports.per_input.iter().any(|(param, _)| param == name);
        if !is_known || (is_per_input && value.is_object()) {
            continue;
        }
        let alone = Map::from_iter([(name.clone(), value.clone())]);
        match try_resolve(kind, alone) {
            Err(message) if !message.starts_with("missing field") => {
                tell(draft, kind, Some(name), &message, report);
                found = true;
            }
            _ => {}
        }
    }
    found
}

fn try_resolve(kind: &Kind, params: Map<String, Value>) -> Result<Value, String> {
    match &kind.body {
        Body::BuiltIn { resolve, .. } | Body::Composite { resolve, .. } => {
            resolve(Value::Object(params))
        }
        Body::Plugin(_) => plugin::resolve(&kind.schema, params).map_err(|wrong| {
            let (_, message) = wrong.into_iter().next().unwrap_or_default();
            message
        }),
        Body::Command => Err("a composite cannot expand into a command".to_owned()),
    }
}

/// Reports what a deserialiser said of a param, at the word that it is about.
fn tell(draft: &Draft<'_>, kind: &Kind, param: Option<&str>, message: &str, report: &Report) {
    let mut quoted = message.split('`').skip(1).step_by(2);
    let word = quoted.next().unwrap_or_default();
    let others: Vec<&str> = quoted.collect();
    let help = match message.starts_with("unknown ") {
        true => suggest(word, others).map(|close| format!("did you mean `{close}`?")),
        false => None,
    };
    let help = help.or_else(|| param.map(|param| doc(kind, param)));
    let message = match param {
        Some(param) => format!("{}param `{param}`: {message}", draft.prefix()),
        None => format!("{}params: {message}", draft.prefix()),
    };
    let span = place(draft, param, word);
    report.error(span, in_toml_terms(&message), help.unwrap_or_default());
}

/// Types by the names that TOML has for them.
fn in_toml_terms(message: &str) -> String {
    const TERMS: [(&str, &str); 10] = [
        ("invalid type: sequence", "invalid type: array"),
        ("invalid type: map", "invalid type: table"),
        ("expected a sequence", "expected an array"),
        ("expected a map", "expected a table"),
        ("expected u64", "expected an integer of at least 0"),
        ("expected u32", "expected an integer of at least 0"),
        ("expected usize", "expected an integer of at least 0"),
        ("expected i64", "expected an integer"),
        ("expected f64", "expected a number"),
        ("expected f32", "expected a number"),
    ];
    let replace = |text: String, (from, to): &(&str, &str)| text.replace(from, to);
    TERMS.iter().fold(message.to_owned(), replace)
}

/// The key or string `word` inside a param, or else the param.
fn place(draft: &Draft<'_>, param: Option<&str>, word: &str) -> Span {
    let Some(param) = param else {
        return draft.params_span();
    };
    let node = draft.written.as_ref().and_then(|node| node.get(param));
    let inner = node.filter(|node| matches!(node.value, Val::Table(_) | Val::List(_)));
    let key = inner.and_then(|node| node.find_key(word));
    key.map_or_else(|| draft.param_span(param), |key| key.span)
}
