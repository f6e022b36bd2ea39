//! Reports on disk: one JSON object with sorted keys, the same bytes for the same numbers.

use std::path::Path;

use kbuild_engine::runner::{AtPath, Failure};
use serde::Serialize;
use serde_json::{Map, Value};

/// Writes a report, indented for people, keys sorted whatever map it comes from.
pub fn write_report<T: Serialize>(path: &Path, report: &T) -> Result<(), Failure> {
    let cannot =
        |error: serde_json::Error| Failure::input(format!("`{}`: {error}", path.display()));
    let value = sorted(serde_json::to_value(report).map_err(cannot)?);
    let mut text = serde_json::to_string_pretty(&value).map_err(cannot)?;
    text.push('\n');
    std::fs::write(path, text).at(path)
}

/// Reads one JSON value.
pub fn read_value(path: &Path) -> Result<Value, Failure> {
    let text = std::fs::read_to_string(path).at(path)?;
    serde_json::from_str(&text)
        .map_err(|error| Failure::input(format!("`{}`: not JSON: {error}", path.display())))
}

/// Keys of every object in byte order (`serde_json/preserve_order` keeps the order of insertion otherwise).
fn sorted(value: Value) -> Value {
    match value {
        Value::Array(items) => Value::Array(items.into_iter().map(sorted).collect()),
        Value::Object(fields) => {
            let mut fields: Vec<(String, Value)> = fields.into_iter().collect();
            fields.sort_by(|a, b| a.0.cmp(&b.0));
            let fields = fields
                .into_iter()
                .map(|(name, value)| (name, sorted(value)));
            Value::Object(fields.collect::<Map<String, Value>>())
        }
        leaf => leaf,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn keys_are_sorted_at_every_depth() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("report.json");
        write_report(
            &path,
            &json!({"b": {"d": 1, "c": 0.1}, "a": [{"z": 1, "y": 2}]}),
        )
        .unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let order: Vec<usize> = ["\"a\"", "\"y\"", "\"z\"", "\"b\"", "\"c\"", "\"d\""]
            .iter()
            .map(|key| text.find(key).unwrap())
            .collect();
        assert!(order.is_sorted());
        assert_eq!(read_value(&path).unwrap()["b"]["c"], json!(0.1));
    }
}
