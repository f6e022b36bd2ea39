//! What tasks measured, as a table: a line a number, or a line a task where some numbers were asked for.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::{BOLD, DIM, styled, text};

/// The numbers of one task, by path.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    pub task: String,
    /// False: of its last result, which is not up to date.
    pub is_current: bool,
    pub numbers: BTreeMap<String, f64>,
}

/// `wide`: a column for each number.
pub fn table(rows: &[Row], wide: bool, columns: Option<usize>) -> String {
    let lines = if wide { by_task(rows) } else { by_number(rows) };
    let mut out = text::table(&lines, columns);
    if rows.iter().any(|row| !row.is_current) {
        out += &format!(
            "{}\n",
            styled(DIM, "* of the last result, which is not up to date")
        );
    }
    out
}

fn by_number(rows: &[Row]) -> Vec<Vec<String>> {
    let mut lines = Vec::new();
    for row in rows {
        // The name stands once, before its first number.
        let names = std::iter::once(name(row)).chain(std::iter::repeat(String::new()));
        let numbers = row.numbers.iter().zip(names);
        lines.extend(numbers.map(|((path, value), name)| vec![name, path.clone(), shown(*value)]));
    }
    lines
}

fn by_task(rows: &[Row]) -> Vec<Vec<String>> {
    let paths: BTreeSet<&String> = rows.iter().flat_map(|row| row.numbers.keys()).collect();
    let head = std::iter::once("task").chain(paths.iter().map(|path| path.as_str()));
    let mut lines = vec![head.map(|word| styled(DIM, word)).collect()];
    lines.extend(rows.iter().map(|row| {
        let cell = |path: &&String| {
            row.numbers
                .get(*path)
                .map_or("-".to_owned(), |value| shown(*value))
        };
        std::iter::once(name(row))
            .chain(paths.iter().map(cell))
            .collect()
    }));
    lines
}

fn name(row: &Row) -> String {
    let mark = if row.is_current { "" } else { " *" };
    format!("{}{mark}", styled(BOLD, &row.task))
}

fn shown(value: f64) -> String {
    serde_json::Number::from_f64(value).map_or("?".to_owned(), |number| text::number(&number))
}

pub fn to_json(rows: &[Row]) -> Value {
    let row = |row: &Row| {
        (
            row.task.clone(),
            json!({ "current": row.is_current, "metrics": row.numbers }),
        )
    };
    rows.iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stand_in_lines_or_columns() {
        let row = |task: &str, loss: f64, is_current| Row {
            task: task.to_owned(),
            is_current,
            numbers: BTreeMap::from([
                ("metrics.loss".to_owned(), loss),
                ("metrics.step".to_owned(), 10.0),
            ]),
        };
        let rows = [row("a", 2.123_456_7, true), row("b", 3.0, false)];
        let plain = |wide| anstream::adapter::strip_str(&table(&rows, wide, None)).to_string();
        insta::assert_snapshot!(plain(false), @r"
        a    metrics.loss  2.12346
             metrics.step  10
        b *  metrics.loss  3
             metrics.step  10
        * of the last result, which is not up to date
        ");
        insta::assert_snapshot!(plain(true), @r"
        task  metrics.loss  metrics.step
        a     2.12346       10
        b *   3             10
        * of the last result, which is not up to date
        ");
    }
}
