//! Reading a report's JSON: what is not there is shown as a dash, never guessed.

use serde_json::Value;

use crate::console::text;

/// Sections of one sort or kind, by label, in the order of the report.
pub fn entries<'a>(report: &'a Value, what: &str) -> Vec<(&'a str, &'a Value)> {
    all(report)
        .into_iter()
        .filter(|(_, sort, content)| *sort == what || content["kind"] == what)
        .map(|(label, _, content)| (label, content))
        .collect()
}

/// Every section as `(label, sort, content)`, in the order of the report.
pub fn all(report: &Value) -> Vec<(&str, &str, &Value)> {
    let Some(sections) = report["sections"].as_object() else {
        return Vec::new();
    };
    let order: Vec<&str> = match report["order"].as_array() {
        Some(order) => order.iter().filter_map(Value::as_str).collect(),
        None => sections.keys().map(String::as_str).collect(),
    };
    let section = |label: &str| sections.get_key_value(label);
    order
        .into_iter()
        .filter_map(section)
        .map(|(label, entry)| (label.as_str(), text_of(&entry["sort"]), &entry["content"]))
        .collect()
}

/// The variant alone, of a label such as `bpb@of=stage2`.
pub fn short(label: &str) -> &str {
    label.rsplit('=').next().unwrap_or(label)
}

pub fn number(value: &Value) -> Option<f64> {
    value.as_f64()
}

pub fn text_of(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The two ends of an interval: `[low, high]` or `{ "low", "high" }`.
pub fn interval(value: &Value) -> Option<(f64, f64)> {
    match value {
        Value::Array(ends) => Some((ends.first()?.as_f64()?, ends.get(1)?.as_f64()?)),
        _ => Some((value["low"].as_f64()?, value["high"].as_f64()?)),
    }
}

/// At least three significant digits: `1.55`, `0.0123`, `12 345`.
pub fn significant(value: Option<f64>) -> String {
    let Some(value) = value else {
        return "–".to_owned();
    };
    if value != 0.0 && value.abs() < 1e-4 {
        return format!("{value:.2e}");
    }
    match value.abs() {
        _ if value.fract() == 0.0 && value.abs() < 1e6 => format!("{value}"),
        10_000.0.. => text::count(value),
        100.0.. => format!("{value:.1}"),
        1.0.. => trimmed(&format!("{value:.3}")),
        _ => trimmed(&format!("{value:.4}")),
    }
}

pub fn percent(value: Option<f64>) -> String {
    value.map_or("–".to_owned(), |share| format!("{:.1}%", share * 100.0))
}

pub fn count(value: Option<f64>) -> String {
    value.map_or("–".to_owned(), text::count)
}

/// A scalar as text; nothing for tables and lists.
pub fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::Number(_) => Some(significant(value.as_f64())),
        Value::String(text) => Some(text.clone()),
        Value::Bool(flag) => Some(flag.to_string()),
        _ => None,
    }
}

/// Every scalar below a value: `(path, text)`, at most `limit` of them.
pub fn leaves(value: &Value, limit: usize) -> Vec<(String, String)> {
    let mut out = Vec::new();
    collect(value, String::new(), limit, &mut out);
    out
}

fn collect(value: &Value, path: String, limit: usize, out: &mut Vec<(String, String)>) {
    if out.len() >= limit {
        return;
    }
    if let Some(text) = scalar(value) {
        out.push((path, text));
        return;
    }
    let below = |name: &str| {
        if path.is_empty() {
            name.to_owned()
        } else {
            format!("{path} / {name}")
        }
    };
    match value {
        Value::Object(fields) => {
            fields
                .iter()
                .for_each(|(name, field)| collect(field, below(name), limit, out));
        }
        Value::Array(items) => {
            (0..).zip(items).for_each(|(at, item): (usize, _)| {
                collect(item, below(&at.to_string()), limit, out)
            });
        }
        _ => {}
    }
}

/// No more than one zero at the end.
fn trimmed(text: &str) -> String {
    let short = text.trim_end_matches('0');
    let decimals = short.len() - short.find('.').map_or(short.len(), |dot| dot + 1);
    match decimals {
        0 | 1 => text[..short.len() + 2 - decimals].to_owned(),
        _ => short.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn numbers_are_short_and_honest() {
        let shown = |value| significant(Some(value));
        assert_eq!(shown(1.5), "1.50");
        assert_eq!(shown(1.2345), "1.234");
        assert_eq!(shown(0.5), "0.50");
        assert_eq!(shown(0.000_012), "1.20e-5");
        assert_eq!(shown(40.0), "40");
        assert_eq!(shown(12_345.6), "12.3k");
        assert_eq!(significant(None), "–");
    }

    #[test]
    fn intervals_come_in_two_forms() {
        assert_eq!(interval(&json!([0.1, 0.2])), Some((0.1, 0.2)));
        assert_eq!(interval(&json!({ "low": 1, "high": 2 })), Some((1.0, 2.0)));
        assert_eq!(interval(&json!(null)), None);
    }

    #[test]
    fn leaves_have_their_path() {
        let value = json!({ "a": { "b": 1 }, "c": ["x", { "d": true }] });
        let shown: Vec<String> = leaves(&value, 9)
            .iter()
            .map(|(path, text)| format!("{path}={text}"))
            .collect();
        assert_eq!(shown, ["a / b=1", "c / 0=x", "c / 1 / d=true"]);
        assert_eq!(leaves(&value, 2).len(), 2);
    }
}
