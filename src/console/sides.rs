//! Two results side by side: a line for each thing that differs.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{BOLD, DIM, clean, styled, text};

/// Groups in the order in which they are shown.
const GROUPS: [&str; 4] = ["manifest", "output", "fact", "metric"];

/// What is known of one result, by group and path.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Side(BTreeMap<(&'static str, String), Value>);

impl Side {
    pub fn set(&mut self, group: &'static str, path: String, value: Value) {
        self.0.insert((group, path), value);
    }
}

/// One thing, as it stands on both sides.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    group: &'static str,
    path: String,
    a: Option<Value>,
    b: Option<Value>,
}

impl Row {
    /// Everything that is on either side, group by group.
    pub fn pair(a: &Side, b: &Side) -> Vec<Self> {
        let mut places: Vec<&(&'static str, String)> = a.0.keys().chain(b.0.keys()).collect();
        let rank = |group: &str| GROUPS.iter().position(|each| *each == group);
        places.sort_by_key(|(group, path)| (rank(group), path));
        places.dedup();
        let row = |place: &&(&'static str, String)| Self {
            group: place.0,
            path: place.1.clone(),
            a: a.0.get(*place).cloned(),
            b: b.0.get(*place).cloned(),
        };
        places.iter().map(row).collect()
    }

    fn differs(&self) -> bool {
        self.a != self.b
    }

    /// By how much a metric changed, in percent of what it was.
    fn change(&self) -> Option<f64> {
        if self.group == "manifest" {
            return None;
        }
        let (a, b) = (self.a.as_ref()?.as_f64()?, self.b.as_ref()?.as_f64()?);
        (a != 0.0 && a != b).then(|| 100.0 * (b - a) / a.abs())
    }
}

/// The rows that differ (or `all`), below what the two are.
pub fn table(head: &[String; 2], rows: &[Row], all: bool, columns: Option<usize>) -> String {
    let mut out = format!(
        "{} {}\n{} {}\n",
        styled(BOLD, "a"),
        clean::one_line(&head[0]),
        styled(BOLD, "b"),
        clean::one_line(&head[1])
    );
    let mut equal = 0;
    for group in GROUPS {
        let of_group: Vec<&Row> = rows.iter().filter(|row| row.group == group).collect();
        let shown: Vec<&Row> = of_group
            .iter()
            .filter(|row| all || row.differs())
            .copied()
            .collect();
        equal += of_group.len() - shown.len();
        if shown.is_empty() {
            continue;
        }
        let mut lines = vec![[group, "a", "b"].map(|word| styled(DIM, word)).to_vec()];
        lines.extend(shown.iter().map(|row| line(row, columns)));
        out += &format!("\n{}", text::table(&lines, columns));
    }
    if rows.iter().all(|row| !row.differs()) {
        out += "\nnothing differs\n";
    } else if equal > 0 {
        out += &format!(
            "\n{} equal; `--all` shows them\n",
            text::plural(equal, "value")
        );
    }
    out
}

fn line(row: &Row, columns: Option<usize>) -> Vec<String> {
    // Two values and a path share a line.
    let room = columns.map_or(usize::MAX, |columns| (columns / 4).max(12));
    let shown = |value: &Option<Value>| {
        let text = match value {
            None => "(none)".to_owned(),
            Some(Value::String(text)) => short(text),
            Some(Value::Number(number)) => text::number(number),
            Some(value) => value.to_string(),
        };
        text::fit(&clean::one_line(&text), Some(room)).into_owned()
    };
    let change = row.change().map(|percent| format!("{percent:+.1}%"));
    let path = clean::one_line(&row.path);
    let path = text::fit(&path, columns.map(|columns| columns / 3)).into_owned();
    vec![
        path,
        shown(&row.a),
        shown(&row.b),
        change.unwrap_or_default(),
    ]
}

/// A digest by its first digits.
fn short(text: &str) -> String {
    let is_digest = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_digest {
        text[..10].to_owned()
    } else {
        text.to_owned()
    }
}

pub fn to_json(rows: &[Row]) -> Value {
    let row = |row: &Row| {
        json!({ "group": row.group, "path": row.path, "a": row.a, "b": row.b, "differs": row.differs(),
                "percent": row.change() })
    };
    rows.iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_shown_with_its_change() {
        let side = |lr: f64, loss: f64| {
            let mut side = Side::default();
            side.set("metric", "metrics.loss".to_owned(), json!(loss));
            side.set("manifest", "params.lr".to_owned(), json!(lr));
            side.set("manifest", "kind".to_owned(), json!("pretrain"));
            side
        };
        let rows = Row::pair(&side(0.001, 2.5), &side(0.003, 2.0));
        let head = ["x@lr=0.001".to_owned(), "x@lr=0.003".to_owned()];
        let shown = anstream::adapter::strip_str(&table(&head, &rows, false, None)).to_string();
        insta::assert_snapshot!(shown, @r"
        a x@lr=0.001
        b x@lr=0.003

        manifest   a      b
        params.lr  0.001  0.003

        metric        a    b
        metrics.loss  2.5  2  -20.0%

        1 value equal; `--all` shows them
        ");
        let same = Row::pair(&side(1.0, 1.0), &side(1.0, 1.0));
        assert!(table(&head, &same, false, Some(60)).contains("nothing differs"));
    }
}
