//! The report of a pipeline as a page: every section that its `report.json` has numbers for.
//!
//! Knows the names of fields and computes nothing. A section that it has no form for is shown as a table of its
//! numbers, so that nothing that was measured is hidden.

mod curves;
mod tables;
mod value;

use serde_json::Value;

use super::html::{Block, Item, Page, Section, Tone};
use value::{entries, number, percent, significant, text_of};

/// A picture of the pipeline, and how long it took.
#[derive(Debug, Clone, Default)]
pub struct Pipeline {
    /// SVG of the graph; empty leaves it out.
    pub svg: String,
    /// A sentence about tasks and durations.
    pub lead: String,
}

/// The page of a report. `task` is the name of the task that made it.
pub fn page(task: &str, report: &Value, pipeline: &Pipeline) -> Page {
    let title = match text_of(&report["title"]) {
        "" => task.to_owned(),
        title => title.to_owned(),
    };
    let mut sections = vec![pipeline_section(pipeline), tables::gates(report)];
    sections.push(tables::bits_per_byte(report));
    sections.push(curves::section(report));
    sections.extend(tables::alignment(report));
    sections.extend(tables::data(report));
    sections.push(tables::flops(report));
    sections.extend(tables::evidence(report));
    sections.push(tables::choices(report));
    sections.push(tables::rest(report));
    sections.retain(|section| !section.blocks.is_empty());
    Page {
        title,
        lead: lead(report),
        headline: headline(report),
        sections,
        footer: format!(
            "Drawn by kbuild {} from the artifact of task {task}. Durations come from receipts; everything else is in \
             the report.",
            env!("CARGO_PKG_VERSION")
        ),
    }
}

/// The numbers that stand on top of a page, and in the last lines of a build.
pub fn headline(report: &Value) -> Vec<Item> {
    let mut items = Vec::new();
    let mut push =
        |label: String, value: String, tone: Tone| items.push(Item { label, value, tone });
    if let (Some(passed), Some(failed)) = (report["passed"].as_u64(), report["failed"].as_u64()) {
        let tone = if failed == 0 { Tone::Good } else { Tone::Bad };
        if passed + failed > 0 {
            push(
                "gates passed".to_owned(),
                format!("{passed} of {}", passed + failed),
                tone,
            );
        }
    }
    // Of repeated runs, one says nothing: the page has their means.
    let is_single = report["groups"]
        .as_object()
        .is_none_or(|groups| groups.is_empty());
    let single = |kind| entries(report, kind).into_iter().filter(move |_| is_single);
    if let Some((label, content)) = single("evaluate").next_back() {
        let mean = number(&content["mean"]["bits_per_byte"]);
        push(
            format!("bits per byte, {}", value::short(label)),
            significant(mean),
            Tone::Plain,
        );
        push(
            "parameters".to_owned(),
            value::count(number(&content["parameters"])),
            Tone::Plain,
        );
    }
    for (label, content) in single("compare") {
        push(
            format!("win-rate, {}", value::short(label)),
            percent(number(&content["win_rate"])),
            Tone::Plain,
        );
    }
    if let Some((label, content)) = single("evaluate-reward-model").next_back() {
        push(
            format!("accuracy, {}", value::short(label)),
            percent(number(&content["accuracy"])),
            Tone::Plain,
        );
    }
    if let Some(flops) = report["chain"]["flops"]
        .as_f64()
        .filter(|flops| *flops > 0.0)
    {
        push(
            "training FLOPs".to_owned(),
            value::count(Some(flops)),
            Tone::Plain,
        );
    }
    items
}

fn lead(report: &Value) -> String {
    let noun = match report["order"].as_array().map_or(0, Vec::len) {
        1 => "1 entry".to_owned(),
        n => format!("{n} entries"),
    };
    format!("{noun}, made from artifacts alone.")
}

fn pipeline_section(pipeline: &Pipeline) -> Section {
    let blocks = match pipeline.svg.as_str() {
        "" => Vec::new(),
        svg => vec![Block::Graph(svg.to_owned())],
    };
    Section {
        id: "pipeline".to_owned(),
        title: "Pipeline".to_owned(),
        lead: pipeline.lead.clone(),
        blocks,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn report() -> Value {
        let evaluate = |bpb: f64| {
            json!({ "sort": "report", "content": { "kind": "evaluate", "parameters": 1_000_000,
                "labels": { "ko": { "bits_per_byte": bpb, "loss": 3.0, "tokens": 10 },
                            "en": { "bits_per_byte": bpb + 0.1, "loss": 3.0, "tokens": 10 } },
                "mean": { "bits_per_byte": bpb + 0.05 } } })
        };
        json!({
            "kind": "report", "title": "A small Kanana", "order": ["s1", "s2", "loss", "rules", "win", "odd"],
            "sections": {
                "s1": evaluate(2.0), "s2": evaluate(1.5),
                "loss": { "sort": "metrics", "content": { "steps": 2, "curves": {
                    "loss": [[0, 6.0], [10, 3.0]], "learning_rate": [[0, 0.1], [10, 0.0]] } } },
                "rules": { "sort": "ledger", "content": { "documents_in": 10, "rules": { "too-short": { "documents": 3 } } } },
                "win": { "sort": "report", "content": { "kind": "compare", "win_rate": 0.75, "interval": [0.6, 0.9],
                    "ties": 0.1, "prompts": 40, "score_difference": { "mean": 0.2, "interval": [0.1, 0.3] },
                    "a": { "mean_length": 12.0, "mean_score": 0.5, "stopped": 1.0 },
                    "b": { "mean_length": 14.0, "mean_score": 0.3, "stopped": 0.9 } } },
                "odd": { "sort": "report", "content": { "kind": "new-thing", "depth": { "score": 0.123456 } } },
            },
            "chain": { "stages": [{ "name": "s1", "parameters": 1e6, "tokens": 2e6, "flops": 1.2e13, "extra_flops": 0 }],
                       "flops": 1.2e13, "extra_flops": 0 },
            "groups": {}, "comparisons": {},
            "gates": [{ "name": "stage 2 below stage 1", "value": 1.55, "below": 2.05, "above": null, "margin": 0.0,
                        "pass": true, "reason": "1.55 is below 2.05" }],
            "passed": 1, "failed": 0
        })
    }

    #[test]
    fn every_section_of_a_report_is_on_the_page() {
        let html = page("report", &report(), &Pipeline::default()).to_html();
        for shown in [
            "A small Kanana",
            "stage 2 below stage 1",
            "1.50",
            "<polyline",
            "too-short",
            "75",
            "new-thing",
            "0.123",
            "12.0T",
        ] {
            assert!(html.contains(shown), "{shown}");
        }
        assert!(!html.contains("learning_rate"));
    }

    #[test]
    fn the_headline_is_short_and_says_how_it_did() {
        let items: Vec<String> = headline(&report())
            .iter()
            .map(|item| format!("{}: {}", item.label, item.value))
            .collect();
        assert_eq!(
            items,
            [
                "gates passed: 1 of 1",
                "bits per byte, s2: 1.55",
                "parameters: 1.00M",
                "win-rate, win: 75.0%",
                "training FLOPs: 12.0T",
            ]
        );
    }

    #[test]
    fn a_report_of_another_form_gives_a_page_all_the_same() {
        for odd in [
            json!({}),
            json!([1]),
            json!({ "sections": 3 }),
            json!({ "sections": { "x": null } }),
        ] {
            assert!(
                page("t", &odd, &Pipeline::default())
                    .to_html()
                    .contains("<h1>t</h1>")
            );
        }
    }
}
