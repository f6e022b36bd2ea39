//! What a report is made of: reports, choices, metrics and ledgers, told apart by their content.
//!
//! Everything becomes one JSON value. A curve is thinned out the same way every time.

use std::collections::BTreeMap;
use std::path::Path;

use kbuild_engine::artifact::Shape;
use kbuild_engine::runner::{Artifact, AtPath, Failure};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::json::read_value;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Sort {
    Report,
    Choice,
    Metrics,
    Ledger,
}

/// One entry of a report.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Entry {
    pub sort: Sort,
    pub content: Value,
}

/// Reads the artifact of an entry; curves keep at most `points` points.
pub fn read(artifact: &Artifact, points: usize) -> Result<Entry, Failure> {
    if artifact.shape == Shape::Shards {
        let content = ledger(&artifact.parts)?;
        let sort = Sort::Ledger;
        return Ok(Entry { sort, content });
    }
    let text = std::fs::read_to_string(&artifact.path).at(&artifact.path)?;
    if let Some(content) = whole_object(&text) {
        let is_choice = content.contains_key("winner") && content.contains_key("reason");
        let sort = if is_choice {
            Sort::Choice
        } else {
            Sort::Report
        };
        let content = Value::Object(content);
        return Ok(Entry { sort, content });
    }
    let content = metrics(&artifact.path, &text, points)?;
    let sort = Sort::Metrics;
    Ok(Entry { sort, content })
}

/// The text as one object, unless it is a log that happens to have one line.
fn whole_object(text: &str) -> Option<Map<String, Value>> {
    let fields: Map<String, Value> = serde_json::from_str(text).ok()?;
    let is_line = fields.contains_key("step") && !text.trim_end().contains('\n');
    (!is_line).then_some(fields)
}

/// The sum of all parts: numbers add up, objects are merged, the rest must agree or becomes a list.
fn ledger(parts: &[impl AsRef<Path>]) -> Result<Value, Failure> {
    let mut total = Value::Null;
    for part in parts {
        total = add(total, read_value(part.as_ref())?);
    }
    Ok(total)
}

fn add(a: Value, b: Value) -> Value {
    match (a, b) {
        (Value::Null, other) | (other, Value::Null) => other,
        (Value::Object(mut a), Value::Object(b)) => {
            for (name, value) in b {
                let sum = add(a.remove(&name).unwrap_or_default(), value);
                a.insert(name, sum);
            }
            Value::Object(a)
        }
        (Value::Number(a), Value::Number(b)) => match (a.as_u64(), b.as_u64()) {
            (Some(a), Some(b)) => json!(a.saturating_add(b)),
            _ => json!(a.as_f64().unwrap_or(0.0) + b.as_f64().unwrap_or(0.0)),
        },
        (Value::Array(mut a), Value::Array(b)) => {
            a.extend(b);
            Value::Array(a)
        }
        (a, b) if a == b => a,
        (a, b) => json!([a, b]),
    }
}

/// First and last step whole, and every named number as a curve of `[step, value]`.
fn metrics(path: &Path, text: &str, points: usize) -> Result<Value, Failure> {
    let mut steps = Vec::new();
    for (index, line) in text
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
    {
        let record: Map<String, Value> = serde_json::from_str(line).map_err(|error| {
            Failure::input(format!("`{}`, line {}: {error}", path.display(), index + 1))
                .help("expected a report, or metrics with one JSON object a line")
        })?;
        steps.push(record);
    }
    let mut curves: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
    for (index, record) in steps.iter().enumerate() {
        let step = record
            .get("step")
            .and_then(Value::as_f64)
            .unwrap_or(index as f64);
        for (name, value) in record.iter().filter(|(name, _)| *name != "step") {
            for (name, value) in numbers(name, value) {
                curves.entry(name).or_default().push((step, value));
            }
        }
    }
    let curves: BTreeMap<String, Vec<(f64, f64)>> = curves
        .into_iter()
        .map(|(name, curve)| (name, thin(&curve, points)))
        .collect();
    Ok(json!({
        "steps": steps.len(),
        "first": steps.first(),
        "last": steps.last(),
        "curves": curves,
    }))
}

/// The numbers below a field, named `field` or `field/below`.
fn numbers(name: &str, value: &Value) -> Vec<(String, f64)> {
    match value {
        Value::Number(number) => {
            let number = number.as_f64().map(|number| (name.to_owned(), number));
            number.into_iter().collect()
        }
        Value::Object(fields) => fields
            .iter()
            .flat_map(|(below, value)| numbers(&format!("{name}/{below}"), value))
            .collect(),
        _ => Vec::new(),
    }
}

/// At most `points` points: the first, the last, and means of equal stretches between them.
fn thin(curve: &[(f64, f64)], points: usize) -> Vec<(f64, f64)> {
    let points = points.max(3);
    if curve.len() <= points {
        return curve.to_vec();
    }
    let inner = &curve[1..curve.len() - 1];
    let stretches = points - 2;
    let mut kept = vec![curve[0]];
    for stretch in 0..stretches {
        let from = stretch * inner.len() / stretches;
        let to = (stretch + 1) * inner.len() / stretches;
        let part = &inner[from..to];
        let mean =
            |of: fn(&(f64, f64)) -> f64| part.iter().map(of).sum::<f64>() / part.len() as f64;
        kept.push((mean(|point| point.0), mean(|point| point.1)));
    }
    kept.push(curve[curve.len() - 1]);
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ledgers_add_up_over_parts() {
        let a = json!({"rules": {"short": {"documents": 2}}, "bytes": 10, "name": "filter"});
        let b = json!({"rules": {"short": {"documents": 3}, "url": {"documents": 1}}, "bytes": 5, "name": "filter"});
        let want = json!({"rules": {"short": {"documents": 5}, "url": {"documents": 1}}, "bytes": 15, "name": "filter"});
        assert_eq!(add(add(Value::Null, a), b), want);
    }

    #[test]
    fn a_thin_curve_keeps_its_ends_and_its_mean() {
        let curve: Vec<(f64, f64)> = (0..1000)
            .map(|i| (f64::from(i), f64::from(i % 7)))
            .collect();
        let thin = thin(&curve, 50);
        assert_eq!(thin.len(), 50);
        assert_eq!((thin[0], thin[49]), (curve[0], curve[999]));
        let mean: f64 = thin.iter().map(|point| point.1).sum::<f64>() / 50.0;
        assert!((mean - 3.0).abs() < 0.3);
        assert!(thin.is_sorted_by(|a, b| a.0 < b.0));
    }

    #[test]
    fn metrics_of_one_line_are_metrics() {
        let path = Path::new("m");
        assert!(whole_object("{\"step\":0,\"loss\":1.0}\n").is_none());
        assert!(whole_object("{\"loss\":1.0}\n").is_some());
        assert!(whole_object("{\"step\":0}\n{\"step\":1}\n").is_none());
        let value = metrics(
            path,
            "{\"step\":0,\"loss\":2.0,\"bpb\":{\"ko\":3}}\n{\"step\":9,\"loss\":1.0}\n",
            10,
        )
        .unwrap();
        assert_eq!(value["curves"]["loss"], json!([[0.0, 2.0], [9.0, 1.0]]));
        assert_eq!(value["curves"]["bpb/ko"], json!([[0.0, 3.0]]));
        assert_eq!(value["first"]["loss"], json!(2.0));
        let failure = metrics(path, "{\"step\":0}\nnonsense\n", 10).unwrap_err();
        assert!(failure.message.contains("line 2"), "{failure}");
    }
}
