//! The tables of a report: one function for each thing that is measured.

use std::collections::BTreeSet;

use serde_json::Value;

use super::super::chart;
use super::super::html::{Block, Cell, Section, Table, Tone};
use super::value::{
    all, count, entries, interval, leaves, number, percent, scalar, short, significant, text_of,
};

/// Kinds of section that have a form of their own.
const KNOWN: [&str; 3] = ["evaluate", "compare", "evaluate-reward-model"];
/// Rows that the table of a section without a form of its own may have.
const MAX_LEAVES: usize = 60;

pub fn gates(report: &Value) -> Section {
    let none = Vec::new();
    let gates = report["gates"].as_array().unwrap_or(&none);
    let row = |gate: &Value| {
        let (word, tone) = match gate["pass"].as_bool() {
            Some(true) => ("holds", Tone::Good),
            _ => ("does not hold", Tone::Bad),
        };
        vec![
            Cell::text(text_of(&gate["name"])),
            Cell::text(word).tone(tone),
            Cell::text(significant(number(&gate["value"]))),
            Cell::text(bound(gate)),
        ]
    };
    let rows = gates.iter().map(row).collect();
    section(
        "gates",
        "Gates",
        "What must hold at this size.",
        vec![table(&["gate", "", "value", "must be"], rows)],
    )
}

fn bound(gate: &Value) -> String {
    let side = |word: &str, name: &str| {
        number(&gate[name]).map(|bound| format!("{word} {}", significant(Some(bound))))
    };
    let sides: Vec<String> = [side("below", "below"), side("above", "above")]
        .into_iter()
        .flatten()
        .collect();
    let margin = match number(&gate["margin"]).filter(|margin| *margin > 0.0) {
        Some(margin) => format!(" by {}", significant(Some(margin))),
        None => String::new(),
    };
    sides.join(" and ") + &margin
}

pub fn bits_per_byte(report: &Value) -> Section {
    let stages = entries(report, "evaluate");
    let sources: BTreeSet<&str> = stages
        .iter()
        .filter_map(|(_, content)| content["labels"].as_object())
        .flat_map(|labels| labels.keys().map(String::as_str))
        .collect();
    let mut columns = vec!["model"];
    columns.extend(&sources);
    columns.extend(["mean", "parameters"]);
    let row = |(label, content): &(&str, &Value)| {
        let of = |source: &&str| {
            Cell::text(significant(number(
                &content["labels"][source]["bits_per_byte"],
            )))
        };
        let mut row = vec![Cell::text(short(label))];
        row.extend(sources.iter().map(of));
        row.push(Cell::text(significant(number(
            &content["mean"]["bits_per_byte"],
        ))));
        row.push(Cell::text(count(number(&content["parameters"]))));
        row
    };
    let rows = stages.iter().map(row).collect();
    let lead = "On held-out text, by source; lower is better.";
    section(
        "bits-per-byte",
        "Bits per byte",
        lead,
        vec![table(&columns, rows)],
    )
}

/// Reward model and win-rates.
pub fn alignment(report: &Value) -> Vec<Section> {
    let wins = entries(report, "compare")
        .iter()
        .map(|(label, content)| win_row(label, content))
        .collect();
    let win_columns = [
        "comparison",
        "win-rate",
        "95% interval",
        "ties",
        "prompts",
        "score difference",
        "length",
        "before",
        "stopped",
    ];
    let rewards = entries(report, "evaluate-reward-model")
        .iter()
        .map(|(label, content)| reward_row(label, content))
        .collect();
    let reward_columns = [
        "model",
        "accuracy",
        "longer is chosen",
        "pairs",
        "margin",
        "length chosen",
        "length rejected",
        "length preferred",
    ];
    vec![
        section(
            "win-rates",
            "Win-rates",
            "Each stage against the one before, by a score that neither was trained on; ties count half. Lengths are \
             in tokens.",
            vec![table(&win_columns, wins)],
        ),
        section(
            "reward-model",
            "Reward model",
            "On held-out pairs. An accuracy that is no better than always taking the longer answer has learned length.",
            vec![table(&reward_columns, rewards)],
        ),
    ]
}

fn win_row(label: &str, content: &Value) -> Vec<Cell> {
    let rate = number(&content["win_rate"]);
    let ends = interval(&content["interval"]);
    let picture = match (rate, ends) {
        (Some(rate), Some((low, high))) => chart::interval(rate, low, high),
        _ => String::new(),
    };
    let tone = match ends {
        Some((low, _)) if low > 0.5 => Tone::Good,
        Some((_, high)) if high < 0.5 => Tone::Bad,
        _ => Tone::Plain,
    };
    let span = ends.map_or("–".to_owned(), |(low, high)| {
        format!("{} to {}", percent(Some(low)), percent(Some(high)))
    });
    vec![
        Cell::text(label),
        Cell {
            text: percent(rate),
            picture,
            tone,
        },
        Cell::text(span),
        Cell::text(percent(number(&content["ties"]))),
        Cell::text(significant(number(&content["prompts"]))),
        Cell::text(significant(number(&content["score_difference"]["mean"]))),
        Cell::text(significant(number(&content["a"]["mean_length"]))),
        Cell::text(significant(number(&content["b"]["mean_length"]))),
        Cell::text(percent(number(&content["a"]["stopped"]))),
    ]
}

fn reward_row(label: &str, content: &Value) -> Vec<Cell> {
    let error = number(&content["accuracy_standard_error"]);
    let spread = error.map_or(String::new(), |error| {
        format!(" ± {}", percent(Some(error)))
    });
    vec![
        Cell::text(label),
        Cell::text(percent(number(&content["accuracy"])) + &spread),
        Cell::text(percent(number(&content["longer_is_chosen"]))),
        Cell::text(significant(number(&content["pairs"]))),
        Cell::text(significant(number(&content["mean_margin"]))),
        Cell::text(significant(number(&content["mean_length"]["chosen"]))),
        Cell::text(significant(number(&content["mean_length"]["rejected"]))),
        Cell::text(significant(number(
            &content["mean_length"]["preferred_by_model"],
        ))),
    ]
}

/// Cleaning and classification.
pub fn data(report: &Value) -> Vec<Section> {
    let classifiers: Vec<(&str, &Value)> = entries(report, "report")
        .into_iter()
        .filter(|(_, content)| is_classifier(content))
        .collect();
    vec![
        section(
            "cleaning",
            "Cleaning",
            "Documents that came into each step, that stayed, and that each rule dropped.",
            ledgers(report),
        ),
        section(
            "classifiers",
            "Classifiers",
            "On held-out pages, round by round; the threshold is a percentile. The baseline knows the length alone.",
            vec![rounds(&classifiers), sources(&classifiers)],
        ),
    ]
}

/// One table a step; a step that was done for several corpora has a column for each.
fn ledgers(report: &Value) -> Vec<Block> {
    let mut steps: Vec<(&str, Vec<(&str, &Value)>)> = Vec::new();
    for (label, content) in entries(report, "ledger") {
        let step = label.split('@').next().unwrap_or(label);
        match steps.iter_mut().find(|(known, _)| *known == step) {
            Some((_, corpora)) => corpora.push((label, content)),
            None => steps.push((step, vec![(label, content)])),
        }
    }
    let is_ledger =
        |corpora: &[(&str, &Value)]| corpora.iter().all(|(_, content)| content["in"].is_object());
    steps
        .into_iter()
        .map(|(step, corpora)| match is_ledger(&corpora) {
            true => ledger(step, &corpora),
            false => matrix(step, corpora[0].1),
        })
        .collect()
}

fn ledger(step: &str, corpora: &[(&str, &Value)]) -> Block {
    let rules: BTreeSet<&String> = corpora
        .iter()
        .filter_map(|(_, content)| content["dropped"].as_object())
        .flat_map(serde_json::Map::keys)
        .collect();
    let row = |name: &str, of: &dyn Fn(&Value) -> Option<f64>| {
        let cells = corpora
            .iter()
            .map(|(_, content)| Cell::text(significant(of(content))));
        std::iter::once(Cell::text(name))
            .chain(cells)
            .collect::<Vec<_>>()
    };
    let mut rows = vec![
        row("in", &|content| number(&content["in"]["documents"])),
        row("kept", &|content| number(&content["kept"]["documents"])),
    ];
    rows.extend(rules.into_iter().map(|rule| {
        row(rule, &|content| {
            Some(number(&content["dropped"][rule]["documents"]).unwrap_or(0.0))
        })
    }));
    let columns =
        std::iter::once(String::new()).chain(corpora.iter().map(|(label, _)| match short(label) {
            label if label == step => "documents".to_owned(),
            label => label.to_owned(),
        }));
    Block::Table(Table {
        caption: step.to_owned(),
        columns: columns.collect(),
        rows,
    })
}

fn is_classifier(content: &Value) -> bool {
    content["rounds"][0]["held_out"]["f1"].is_number()
}

fn rounds(classifiers: &[(&str, &Value)]) -> Block {
    let mut rows = Vec::new();
    for (label, content) in classifiers {
        for (at, round) in content["rounds"]
            .as_array()
            .into_iter()
            .flatten()
            .enumerate()
        {
            let of = |name: &str| Cell::text(significant(number(&round["held_out"][name])));
            let baseline = &round["length_baseline"]["held_out"]["f1"];
            rows.push(vec![
                Cell::text(format!("{label}, round {}", at + 1)),
                of("f1"),
                of("precision"),
                of("recall"),
                Cell::text(significant(number(baseline))),
                Cell::text(significant(number(&round["ranking"]))),
                of("pages"),
                of("positives"),
                Cell::text(significant(number(&round["mined_positives"]))),
            ]);
        }
    }
    let columns = [
        "classifier",
        "F1",
        "precision",
        "recall",
        "F1 of length",
        "ranking",
        "pages",
        "positives",
        "mined",
    ];
    table(&columns, rows)
}

/// F1 of the last round, by source.
fn sources(classifiers: &[(&str, &Value)]) -> Block {
    let last = |content: &'_ Value| {
        content["rounds"]
            .as_array()
            .and_then(|rounds| rounds.last().cloned())
    };
    let mut rows = Vec::new();
    for (label, content) in classifiers {
        let round = last(content).unwrap_or_default();
        for (source, metrics) in round["per_source"].as_object().into_iter().flatten() {
            let of = |name: &str| Cell::text(significant(number(&metrics[name])));
            rows.push(vec![
                Cell::text(format!("{label}, {source}")),
                of("f1"),
                of("pages"),
                of("positives"),
            ]);
        }
    }
    table(&["last round, by source", "F1", "pages", "positives"], rows)
}

pub fn flops(report: &Value) -> Section {
    let none = Vec::new();
    let stages = report["chain"]["stages"].as_array().unwrap_or(&none);
    let row = |name: &str, stage: &Value| {
        let of = |field: &str| Cell::text(count(number(&stage[field])));
        vec![
            Cell::text(name),
            of("parameters"),
            of("tokens"),
            of("flops"),
            of("extra_flops"),
        ]
    };
    let mut rows: Vec<Vec<Cell>> = stages
        .iter()
        .map(|stage| row(text_of(&stage["name"]), stage))
        .collect();
    if rows.len() > 1 {
        rows.push(row("sum", &report["chain"]));
    }
    let columns = [
        "stage",
        "parameters",
        "tokens",
        "FLOPs",
        "teachers and references",
    ];
    let lead =
        "Six operations per parameter and token; passes of teachers and references beside it.";
    section(
        "flops",
        "Parameters and FLOPs",
        lead,
        vec![table(&columns, rows)],
    )
}

/// Repetitions under several seeds.
pub fn evidence(report: &Value) -> Vec<Section> {
    let estimates = |name: &str| -> Vec<Vec<Cell>> {
        let mut rows = Vec::new();
        for (group, measures) in report[name].as_object().into_iter().flatten() {
            for (measure, estimate) in measures.as_object().into_iter().flatten() {
                rows.push(estimate_row(group, measure, estimate));
            }
        }
        rows
    };
    let columns = ["", "measure", "mean", "95% interval", "seeds"];
    vec![
        section(
            "arms",
            "Arms",
            "Means over seeds.",
            vec![table(&columns, estimates("groups"))],
        ),
        section(
            "comparisons",
            "Comparisons",
            "Paired differences, first minus second; an interval that does not hold zero is marked.",
            vec![table(&columns, estimates("comparisons"))],
        ),
    ]
}

fn estimate_row(group: &str, measure: &str, estimate: &Value) -> Vec<Cell> {
    let ends = interval(&estimate["interval"]);
    let span = ends.map_or("–".to_owned(), |(low, high)| {
        format!("{} to {}", significant(Some(low)), significant(Some(high)))
    });
    let is_clear = ends.is_some_and(|(low, high)| low > 0.0 || high < 0.0);
    vec![
        Cell::text(group),
        Cell::text(measure),
        Cell::text(significant(number(&estimate["mean"]))),
        Cell::text(span).tone(if is_clear { Tone::Good } else { Tone::Plain }),
        Cell::text(significant(number(&estimate["n"]))),
    ]
}

pub fn choices(report: &Value) -> Section {
    let row = |(label, content): &(&str, &Value)| {
        let winner = scalar(&content["winner"]).unwrap_or_default();
        vec![
            Cell::text(*label),
            Cell::text(winner),
            Cell::text(text_of(&content["reason"])),
        ]
    };
    let rows = entries(report, "choice").iter().map(row).collect();
    let lead = "Made in the graph, from the reports of the candidates.";
    section(
        "choices",
        "Choices",
        lead,
        vec![table(&["choice", "winner", "reason"], rows)],
    )
}

/// Sections that have no form of their own.
pub fn rest(report: &Value) -> Section {
    let mut blocks = Vec::new();
    for (label, sort, content) in all(report) {
        let is_shown = KNOWN.contains(&text_of(&content["kind"])) || is_classifier(content);
        if sort == "report" && !is_shown {
            blocks.push(matrix(label, content));
        }
    }
    section("more", "More measurements", "", blocks)
}

/// Numbers that come in rows of the same fields as a table; others as a list of paths and values.
fn matrix(label: &str, content: &Value) -> Block {
    let rows = leaves(content, MAX_LEAVES);
    let caption = label.to_owned();
    match rectangle(&rows) {
        Some(Block::Table(table)) => Block::Table(Table { caption, ..table }),
        _ => Block::Table(Table {
            caption,
            columns: vec!["what".to_owned(), "value".to_owned()],
            rows: rows
                .into_iter()
                .map(|(path, text)| vec![Cell::text(path), Cell::text(text)])
                .collect(),
        }),
    }
}

/// A table, when most paths are `row / field` with a few fields; what stands alone becomes a row of its own field.
fn rectangle(leaves: &[(String, String)]) -> Option<Block> {
    let split = |path: &str| -> (String, String) {
        let (row, field) = path.rsplit_once(" / ").unwrap_or(("", path));
        (row.to_owned(), field.to_owned())
    };
    let cells: Vec<(String, String, &String)> = leaves
        .iter()
        .map(|(path, text)| {
            let (row, field) = split(path);
            (row, field, text)
        })
        .collect();
    let nested = cells.iter().filter(|cell| !cell.0.is_empty());
    let mut fields: Vec<&String> = Vec::new();
    let mut rows: Vec<&String> = Vec::new();
    let mut n_nested = 0;
    for (row, field, _) in nested {
        n_nested += 1;
        if !fields.contains(&field) {
            fields.push(field);
        }
        if !rows.contains(&row) {
            rows.push(row);
        }
    }
    // Sparse tables read worse than lists.
    if rows.len() < 2 || fields.len() > 8 || n_nested * 2 < rows.len() * fields.len() {
        return None;
    }
    let cell = |row: &String, field: &String| {
        let found = cells.iter().find(|cell| cell.0 == *row && cell.1 == *field);
        Cell::text(found.map_or("", |cell| cell.2.as_str()))
    };
    let mut columns = vec![String::new()];
    columns.extend(fields.iter().map(|field| (*field).clone()));
    let alone = cells
        .iter()
        .filter(|cell| cell.0.is_empty())
        .map(|cell| vec![Cell::text(&cell.1), Cell::text(cell.2)]);
    let inside = rows.iter().map(|row| {
        let mut cells = vec![Cell::text(*row)];
        cells.extend(fields.iter().map(|field| cell(row, field)));
        cells
    });
    Some(Block::Table(Table {
        caption: String::new(),
        columns,
        rows: inside.chain(alone).collect(),
    }))
}

/// A table, or nothing to show where it has no rows.
fn table(columns: &[&str], rows: Vec<Vec<Cell>>) -> Block {
    Block::Table(Table {
        caption: String::new(),
        columns: columns.iter().map(|name| (*name).to_owned()).collect(),
        rows,
    })
}

fn section(id: &str, title: &str, lead: &str, blocks: Vec<Block>) -> Section {
    let is_empty = |block: &Block| matches!(block, Block::Table(table) if table.rows.is_empty());
    Section {
        id: id.to_owned(),
        title: title.to_owned(),
        lead: lead.to_owned(),
        blocks: blocks
            .into_iter()
            .filter(|block| !is_empty(block))
            .collect(),
    }
}
