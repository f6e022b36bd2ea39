//! A JSON value as a list of paths and what stands there: `optimizer.lr`, `inputs.tokens[0].digest`.

use serde_json::Value;

/// Every value that is no object and no array, with its path, in order.
pub fn scalars(value: &Value) -> Vec<(String, Value)> {
    let mut found = Vec::new();
    collect(String::new(), value, &mut found);
    found
}

/// `port.path`, or the port alone.
pub fn join(stem: &str, path: &str) -> String {
    match path {
        "" => stem.to_owned(),
        path if path.starts_with('[') => format!("{stem}{path}"),
        path => format!("{stem}.{path}"),
    }
}

fn collect(path: String, value: &Value, found: &mut Vec<(String, Value)>) {
    match value {
        Value::Object(fields) => fields.iter().for_each(|(name, value)| {
            let path = if path.is_empty() {
                name.clone()
            } else {
                join(&path, name)
            };
            collect(path, value, found);
        }),
        Value::Array(values) => values
            .iter()
            .enumerate()
            .for_each(|(index, value)| collect(join(&path, &format!("[{index}]")), value, found)),
        scalar => found.push((path, scalar.clone())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths_name_fields_and_positions() {
        let value = json!({ "a": { "b": [1, { "c": null }] }, "d": "x" });
        let paths: Vec<String> = scalars(&value).into_iter().map(|(path, _)| path).collect();
        assert_eq!(paths, ["a.b[0]", "a.b[1].c", "d"]);
        assert_eq!(join("port", ""), "port");
        assert_eq!(scalars(&json!(3)), [(String::new(), json!(3))]);
    }
}
