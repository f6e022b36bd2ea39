//! Curves of training: one chart for each number that was logged, lines of like height together.

use serde_json::Value;

use super::super::chart::{Axes, N_COLOURS, Series, line_chart};
use super::super::html::{Block, Chart, Section};
use super::value::entries;

/// Parts of names of the curves that are drawn; the others are settings rather than results.
const DRAWN: [&str; 3] = ["loss", "accuracy", "margin"];
/// Lines whose highest points differ by more than this factor get charts of their own.
const LIKE: f64 = 2.5;

pub fn section(report: &Value) -> Section {
    let mut blocks = Vec::new();
    for name in names(report) {
        for group in alike(series(report, &name)) {
            let axes = Axes {
                x: "step",
                y: &name,
            };
            let svg = line_chart(&group, &axes);
            let legend = group.into_iter().map(|line| line.label).collect();
            blocks.push(Block::Chart(Chart {
                caption: String::new(),
                svg,
                legend,
            }));
        }
    }
    Section {
        id: "curves".to_owned(),
        title: "Curves of training".to_owned(),
        lead: String::new(),
        blocks,
    }
}

/// Names of the curves to draw, losses first.
fn names(report: &Value) -> Vec<String> {
    let mut names: Vec<String> = entries(report, "metrics")
        .iter()
        .filter_map(|(_, content)| content["curves"].as_object())
        .flat_map(|curves| curves.keys().cloned())
        .filter(|name| DRAWN.iter().any(|drawn| name.contains(drawn)))
        .collect();
    names.sort_by_key(|name| {
        (
            DRAWN.iter().position(|drawn| name.contains(drawn)),
            name.clone(),
        )
    });
    names.dedup();
    names
}

fn series(report: &Value, name: &str) -> Vec<Series> {
    let line = |(label, content): &(&str, &Value)| {
        let points: Vec<(f64, f64)> = content["curves"][name]
            .as_array()?
            .iter()
            .filter_map(point)
            .collect();
        (!points.is_empty()).then(|| Series {
            label: (*label).to_owned(),
            points,
        })
    };
    entries(report, "metrics").iter().filter_map(line).collect()
}

fn point(pair: &Value) -> Option<(f64, f64)> {
    Some((pair.get(0)?.as_f64()?, pair.get(1)?.as_f64()?))
}

/// Lines that can share axes, at most as many as there are colours.
fn alike(series: Vec<Series>) -> Vec<Vec<Series>> {
    let mut groups: Vec<(f64, Vec<Series>)> = Vec::new();
    for line in series {
        let height = line
            .points
            .iter()
            .map(|point| point.1.abs())
            .fold(f64::MIN_POSITIVE, f64::max);
        let fits = |(other, lines): &&mut (f64, Vec<Series>)| {
            lines.len() < N_COLOURS && (height / *other).max(*other / height) <= LIKE
        };
        match groups.iter_mut().find(fits) {
            Some((_, lines)) => lines.push(line),
            None => groups.push((height, vec![line])),
        }
    }
    groups.into_iter().map(|(_, lines)| lines).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn preference_losses_do_not_lie_flat_below_language_losses() {
        let line = |label: &str, height: f64| Series {
            label: label.to_owned(),
            points: vec![(0.0, height), (1.0, height / 2.0)],
        };
        let groups = alike(vec![
            line("stage-1", 7.0),
            line("dpo", 0.69),
            line("stage-2", 4.0),
        ]);
        let labels: Vec<Vec<&str>> = groups
            .iter()
            .map(|group| group.iter().map(|line| line.label.as_str()).collect())
            .collect();
        assert_eq!(labels, [vec!["stage-1", "stage-2"], vec!["dpo"]]);
    }
}
