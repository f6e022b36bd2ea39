//! What tasks take: parameters, operations, tokens, memory, disk and time. What is not known is shown as such, never
//! guessed.

use std::collections::BTreeMap;
use std::time::Duration;

use kbuild_engine::facts::Cost;
use serde_json::{Value, json};

use super::{BOLD, DIM, clean, styled, text};

/// The cost of one task.
#[derive(Debug, Clone)]
pub struct Row {
    pub task: String,
    pub is_pending: bool,
    pub cost: Cost,
    /// Time of the last execution, milliseconds.
    pub last_ms: Option<u64>,
}

/// Tasks that the Kananafile wants to be added up.
#[derive(Debug, Clone)]
pub struct Budget {
    pub name: String,
    pub about: String,
    pub costs: Vec<Cost>,
    pub against: Option<String>,
    /// The FLOPs that it allows.
    pub limit: Option<f64>,
}

/// A sum, as far as its terms are known.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Sum {
    known: f64,
    is_whole: bool,
}

/// One line a task; then the sum of everything, and of what is pending; then the budgets.
pub fn table(rows: &[Row], budgets: &[Budget], columns: Option<usize>) -> String {
    let mut lines = vec![head(&[
        "task",
        "parameters",
        "FLOPs",
        "+ forward",
        "tokens",
        "memory",
        "disk ≥",
        "last time",
    ])];
    lines.extend(
        rows.iter()
            .map(|row| line(&row.task, &row.cost, row.last_ms)),
    );
    let pending: Vec<&Row> = rows.iter().filter(|row| row.is_pending).collect();
    lines.push(total("all", &rows.iter().collect::<Vec<_>>()));
    lines.push(total("pending", &pending));
    let mut out = text::table(&lines, columns);
    if !budgets.is_empty() {
        out.push('\n');
        out.push_str(&budget_table(budgets, columns));
    }
    out
}

pub fn to_json(rows: &[Row], budgets: &[Budget]) -> Value {
    let row = |row: &Row| json!({ "task": row.task, "pending": row.is_pending, "cost": row.cost, "last_ms": row.last_ms });
    let budget = |budget: &Budget| {
        let sums = json!({
            "about": budget.about,
            "flops": known(budget.sum(|cost| cost.flops)),
            "nominal_flops": known(budget.sum(|cost| cost.nominal_flops)),
            "extra_flops": known(budget.sum(|cost| cost.extra_flops)),
            "against": budget.against,
            "saving": saving(budgets, budget, |cost| cost.flops),
            "nominal_saving": saving(budgets, budget, |cost| cost.nominal_flops),
            "limit": budget.limit,
        });
        (budget.name.clone(), sums)
    };
    let tasks: Vec<Value> = rows.iter().map(row).collect();
    let budgets: BTreeMap<String, Value> = budgets.iter().map(budget).collect();
    json!({ "tasks": tasks, "budgets": budgets })
}

impl Budget {
    fn sum(&self, of: fn(&Cost) -> Option<f64>) -> Sum {
        let terms: Vec<Option<f64>> = self.costs.iter().map(of).collect();
        Sum {
            known: terms.iter().flatten().sum(),
            is_whole: terms.iter().all(Option::is_some),
        }
    }
}

fn known(sum: Sum) -> Option<f64> {
    sum.is_whole.then_some(sum.known)
}

/// How much less a budget takes than the one that it is held against, as a share.
fn saving(budgets: &[Budget], budget: &Budget, of: fn(&Cost) -> Option<f64>) -> Option<f64> {
    let other = budgets
        .iter()
        .find(|other| Some(&other.name) == budget.against.as_ref())?;
    let (own, other) = (known(budget.sum(of))?, known(other.sum(of))?);
    (other > 0.0).then(|| 1.0 - own / other)
}

fn budget_table(budgets: &[Budget], columns: Option<usize>) -> String {
    let mut lines = vec![head(&["budget", "FLOPs", "by name", "+ forward", ""])];
    lines.extend(budgets.iter().map(|budget| {
        vec![
            styled(BOLD, &budget.name),
            shown(budget.sum(|cost| cost.flops)),
            shown(budget.sum(|cost| cost.nominal_flops)),
            shown(budget.sum(|cost| cost.extra_flops)),
            clean::one_line(&budget.about).into_owned(),
        ]
    }));
    let mut out = text::table(&lines, columns);
    for budget in budgets {
        let exact = saving(budgets, budget, |cost| cost.flops);
        let nominal = saving(budgets, budget, |cost| cost.nominal_flops);
        if let (Some(against), Some(exact), Some(nominal)) = (&budget.against, exact, nominal) {
            out.push_str(&format!(
                "`{}` takes {} than `{against}` by name, {} with all parameters\n",
                budget.name,
                difference(nominal),
                difference(exact)
            ));
        }
        if let Some(limit) = budget.limit {
            let share = 100.0 * budget.sum(|cost| cost.flops).known / limit;
            let line = format!(
                "`{}` takes {share:.1} % of {limit:.4e} FLOPs\n",
                budget.name
            );
            out.push_str(&line);
        }
    }
    out.push_str(
        "by name: with the size that a model goes by, as papers count (8.03 billion is 8.0B)\n",
    );
    out
}

fn difference(saving: f64) -> String {
    let word = if saving < 0.0 { "more" } else { "less" };
    format!("{:.2} % {word}", 100.0 * saving.abs())
}

fn head(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| styled(DIM, word)).collect()
}

fn line(name: &str, cost: &Cost, last_ms: Option<u64>) -> Vec<String> {
    let bytes = |value: Option<u64>| value.map_or("?".to_owned(), text::bytes);
    let parameters = match (cost.parameters, cost.flops) {
        (Some(parameters), _) => text::count(parameters as f64),
        (None, Some(0.0)) => "-".to_owned(),
        (None, _) => "?".to_owned(),
    };
    vec![
        styled(BOLD, name),
        parameters,
        operations(cost.flops),
        operations(cost.extra_flops),
        match cost.tokens {
            Some(0) => "-".to_owned(),
            tokens => tokens.map_or("?".to_owned(), |tokens| text::count(tokens as f64)),
        },
        bytes(cost.memory_bytes),
        bytes(cost.disk_bytes),
        last_ms.map_or("?".to_owned(), duration),
    ]
}

/// `1.5576e23`; `-` for none, `?` for unknown.
fn operations(flops: Option<f64>) -> String {
    match flops {
        None => "?".to_owned(),
        Some(0.0) => "-".to_owned(),
        Some(flops) => format!("{flops:.4e}"),
    }
}

/// A sum, marked where a term of it is not known.
fn shown(sum: Sum) -> String {
    match (sum.is_whole, sum.known) {
        (true, known) => operations(Some(known)),
        (false, 0.0) => "?".to_owned(),
        (false, known) => format!("{known:.4e}+"),
    }
}

fn tokens(sum: Sum) -> String {
    match (sum.is_whole, sum.known) {
        (true, 0.0) => "-".to_owned(),
        (true, known) => text::count(known),
        (false, 0.0) => "?".to_owned(),
        (false, known) => format!("{}+", text::count(known)),
    }
}

fn duration(ms: u64) -> String {
    text::duration(Duration::from_millis(ms))
}

/// Sums of what is known, marked where something is not; memory is the largest, not the sum.
fn total(name: &str, rows: &[&Row]) -> Vec<String> {
    let sum = |of: fn(&Row) -> Option<f64>| {
        let terms: Vec<Option<f64>> = rows.iter().map(|row| of(row)).collect();
        Sum {
            known: terms.iter().flatten().sum(),
            is_whole: terms.iter().all(Option::is_some),
        }
    };
    let memory = rows.iter().filter_map(|row| row.cost.memory_bytes).max();
    let disk = rows.iter().filter_map(|row| row.cost.disk_bytes);
    let elapsed = rows.iter().filter_map(|row| row.last_ms);
    // Of nothing the sum is nothing; where no term is known, neither is the sum.
    let or_not = |sum: Option<String>| match (sum, rows) {
        (Some(sum), _) => sum,
        (None, []) => "-".to_owned(),
        (None, _) => "?".to_owned(),
    };
    vec![
        styled(BOLD, name),
        String::new(),
        shown(sum(|row| row.cost.flops)),
        shown(sum(|row| row.cost.extra_flops)),
        tokens(sum(|row| row.cost.tokens.map(|n| n as f64))),
        or_not(memory.map(text::bytes)),
        or_not(disk.reduce(u64::saturating_add).map(text::bytes)),
        or_not(elapsed.reduce(u64::saturating_add).map(duration)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cost(flops: Option<f64>) -> Cost {
        Cost {
            flops,
            nominal_flops: flops,
            ..Cost::default()
        }
    }

    #[test]
    fn a_sum_says_when_it_is_not_all() {
        let row = |flops| Row {
            task: "t".to_owned(),
            is_pending: true,
            cost: cost(flops),
            last_ms: None,
        };
        let rows = [row(Some(2e12)), row(None)];
        let shown = anstream::adapter::strip_str(&table(&rows, &[], None)).to_string();
        let last = shown.lines().last().unwrap();
        assert!(
            last.starts_with("pending              2.0000e12+"),
            "{shown}"
        );
    }

    #[test]
    fn a_sum_of_nothing_is_nothing_and_of_unknowns_unknown() {
        let unknown = Row {
            task: "t".to_owned(),
            is_pending: false,
            cost: Cost::default(),
            last_ms: None,
        };
        let shown = anstream::adapter::strip_str(&table(&[unknown], &[], None)).to_string();
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        let lines: Vec<String> = shown.lines().map(words).collect();
        assert_eq!(
            lines[2..],
            ["all ? ? ? ? ? ?", "pending - - - - - -"],
            "{shown}"
        );
    }

    #[test]
    fn a_budget_is_held_against_another() {
        let budget = |name: &str, flops, against: Option<&str>| Budget {
            name: name.to_owned(),
            about: String::new(),
            costs: vec![cost(Some(flops)), cost(Some(1e20))],
            against: against.map(str::to_owned),
            limit: None,
        };
        let budgets = [
            budget("small", 6.5e20, Some("large")),
            budget("large", 9e20, None),
        ];
        let shown = anstream::adapter::strip_str(&table(&[], &budgets, None)).to_string();
        assert!(
            shown.contains("`small` takes 25.00 % less than `large` by name"),
            "{shown}"
        );
        let json = to_json(&[], &budgets);
        assert_eq!(json["budgets"]["small"]["saving"], 0.25);
        assert_eq!(json["budgets"]["large"]["saving"], Value::Null);
    }
}
