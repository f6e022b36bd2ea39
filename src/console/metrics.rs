//! What tasks measured, as a table: a line a number, or a line a task where some numbers were asked for.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::flat::{Step, steps};
use super::{BOLD, DIM, clean, styled, text};

/// Arrays of more numbers than this are one line.
const LONG: usize = 16;
/// Numbers of such an array that are shown.
const SHOWN: usize = 3;

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
        let numbers = folded(&row.numbers).into_iter().zip(names);
        lines.extend(numbers.map(|((path, values), name)| {
            vec![name, clean::one_line(&path).into_owned(), told(&values)]
        }));
    }
    lines
}

/// Numbers by path in the order of people; those of a long array are together under a path with `[…]`.
fn folded(numbers: &BTreeMap<String, f64>) -> Vec<(String, Vec<f64>)> {
    let mut all: Vec<(Vec<Step>, f64)> = numbers
        .iter()
        .map(|(path, value)| (steps(path), *value))
        .collect();
    all.sort_by(|(a, _), (b, _)| a.cmp(b));
    let mut lengths: BTreeMap<&[Step], usize> = BTreeMap::new();
    for (path, _) in &all {
        for (at, step) in path.iter().enumerate() {
            if let Step::Index(index) = step {
                let length = lengths.entry(&path[..at]).or_default();
                *length = (*length).max(index + 1);
            }
        }
    }
    let pattern = |path: &[Step]| -> String {
        let shown = |(at, step): (usize, &Step)| match step {
            Step::Name(name) => name.clone(),
            Step::Index(_) if lengths[&path[..at]] > LONG => "[…]".to_owned(),
            Step::Index(index) => format!("[{index}]"),
        };
        path.iter().enumerate().map(shown).collect()
    };
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    let mut found: Vec<(String, Vec<f64>)> = Vec::new();
    for (path, value) in &all {
        let pattern = pattern(path);
        let place = *places.entry(pattern.clone()).or_insert(found.len());
        match found.get_mut(place) {
            Some((_, values)) => values.push(*value),
            None => found.push((pattern, vec![*value])),
        }
    }
    found
}

/// A number, or how many there are and how they begin.
fn told(values: &[f64]) -> String {
    let first: Vec<String> = values
        .iter()
        .take(SHOWN)
        .map(|value| shown(*value))
        .collect();
    match values {
        [_] => first.concat(),
        values if values.len() <= SHOWN => first.join(", "),
        values => format!("{}, … ({} numbers)", first.join(", "), values.len()),
    }
}

fn by_task(rows: &[Row]) -> Vec<Vec<String>> {
    let paths: BTreeSet<&String> = rows.iter().flat_map(|row| row.numbers.keys()).collect();
    let mut paths: Vec<&String> = paths.into_iter().collect();
    paths.sort_by_cached_key(|path| steps(path));
    let head = std::iter::once("task").chain(paths.iter().map(|path| path.as_str()));
    let mut lines = vec![head.map(|word| styled(DIM, word)).collect()];
    lines.extend(rows.iter().map(|row| {
        let cell = |path: &&String| {
            row.numbers
                .get(path.as_str())
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
    fn long_arrays_are_one_line_and_short_ones_in_order() {
        let mut numbers = BTreeMap::from([("r.loss".to_owned(), -0.0)]);
        for at in 0..412 {
            numbers.insert(format!("r.curve[{at}].loss"), f64::from(at));
        }
        for at in 0..11 {
            numbers.insert(format!("r.short[{at}]"), f64::from(at));
        }
        let row = Row {
            task: "t".to_owned(),
            is_current: true,
            numbers,
        };
        let shown = anstream::adapter::strip_str(&table(&[row], false, None)).to_string();
        let lines: Vec<&str> = shown.lines().map(str::trim).collect();
        assert_eq!(lines.len(), 13, "{shown}");
        assert_eq!(lines[0], "t  r.curve[…].loss  0, 1, 2, … (412 numbers)");
        assert_eq!(lines[1], "r.loss           0");
        assert_eq!(lines[12], "r.short[10]      10");
    }

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
