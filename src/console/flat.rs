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

/// A step of a path: `optimizer.lr` is one, and the `[2]` behind it another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    Index(usize),
    Name(String),
}

/// A path by its steps, whose order is that of people: `[2]` before `[10]`.
pub fn steps(path: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut rest = path;
    while !rest.is_empty() {
        let inside = rest.strip_prefix('[').and_then(|rest| rest.split_once(']'));
        if let Some((index, after)) =
            inside.and_then(|(text, after)| Some((text.parse().ok()?, after)))
        {
            steps.push(Step::Index(index));
            rest = after;
            continue;
        }
        let end = rest
            .match_indices('[')
            .map(|(at, _)| at)
            .find(|at| *at > 0)
            .unwrap_or(rest.len());
        steps.push(Step::Name(rest[..end].to_owned()));
        rest = &rest[end..];
    }
    steps
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

    #[test]
    fn steps_are_in_the_order_of_people() {
        let mut paths = ["a[10].x", "a[2].x", "b", "a[2]", "a[x]"];
        paths.sort_by_key(|path| steps(path));
        assert_eq!(paths, ["a[2]", "a[2].x", "a[10].x", "a[x]", "b"]);
        let name = |name: &str| Step::Name(name.to_owned());
        assert_eq!(
            steps("p.q[1][2].r"),
            [name("p.q"), Step::Index(1), Step::Index(2), name(".r")]
        );
    }
}
