//! What tasks take: operations, tokens, memory, disk and time. What is not known is shown as such, never guessed.

use std::time::Duration;

use kbuild_engine::facts::Cost;
use serde_json::{Value, json};

use super::{BOLD, DIM, styled, text};

/// The cost of one task.
#[derive(Debug, Clone)]
pub struct Row {
    pub task: String,
    pub is_pending: bool,
    pub cost: Cost,
    /// Time of the last execution, milliseconds.
    pub last_ms: Option<u64>,
}

/// One line a task; then the sum of everything, and of what is pending.
pub fn table(rows: &[Row], columns: Option<usize>) -> String {
    let head = [
        "task",
        "FLOPs",
        "+ teachers",
        "tokens",
        "memory",
        "disk",
        "last time",
    ];
    let mut lines = vec![head.iter().map(|word| styled(DIM, word)).collect()];
    lines.extend(
        rows.iter()
            .map(|row| line(&row.task, &row.cost, row.last_ms)),
    );
    let pending: Vec<&Row> = rows.iter().filter(|row| row.is_pending).collect();
    lines.push(total("all", &rows.iter().collect::<Vec<_>>()));
    lines.push(total("pending", &pending));
    text::table(&lines, columns)
}

pub fn to_json(rows: &[Row]) -> Value {
    let row = |row: &Row| json!({ "task": row.task, "pending": row.is_pending, "cost": row.cost, "last_ms": row.last_ms });
    rows.iter().map(row).collect()
}

fn line(name: &str, cost: &Cost, last_ms: Option<u64>) -> Vec<String> {
    let count = |value: Option<f64>| value.map_or("?".to_owned(), text::count);
    let bytes = |value: Option<u64>| value.map_or("?".to_owned(), text::bytes);
    vec![
        styled(BOLD, name),
        count(cost.flops),
        count(cost.extra_flops),
        count(cost.tokens.map(|n| n as f64)),
        bytes(cost.memory_bytes),
        bytes(cost.disk_bytes),
        last_ms.map_or("?".to_owned(), |ms| {
            text::duration(Duration::from_millis(ms))
        }),
    ]
}

/// Sums of what is known, marked where something is not; memory is the largest, not the sum.
fn total(name: &str, rows: &[&Row]) -> Vec<String> {
    let sum = |of: fn(&Row) -> Option<f64>| -> String {
        let known: Vec<f64> = rows.iter().filter_map(|row| of(row)).collect();
        if known.is_empty() {
            return "?".to_owned();
        }
        let more = if known.len() < rows.len() { "+" } else { "" };
        format!("{}{more}", text::count(known.iter().sum()))
    };
    let memory = rows.iter().filter_map(|row| row.cost.memory_bytes).max();
    let disk: u64 = rows.iter().filter_map(|row| row.cost.disk_bytes).sum();
    let elapsed: u64 = rows.iter().filter_map(|row| row.last_ms).sum();
    vec![
        styled(BOLD, name),
        sum(|row| row.cost.flops),
        sum(|row| row.cost.extra_flops),
        sum(|row| row.cost.tokens.map(|n| n as f64)),
        memory.map_or("?".to_owned(), text::bytes),
        text::bytes(disk),
        text::duration(Duration::from_millis(elapsed)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_says_when_it_is_not_all() {
        let row = |flops| Row {
            task: "t".to_owned(),
            is_pending: true,
            cost: Cost {
                flops,
                ..Cost::default()
            },
            last_ms: None,
        };
        let rows = [row(Some(2e12)), row(None)];
        let shown = anstream::adapter::strip_str(&table(&rows, None)).to_string();
        let last = shown.lines().last().unwrap();
        assert!(last.starts_with("pending  2.00T+"), "{shown}");
    }
}
