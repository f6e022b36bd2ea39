//! An event of a log in words.

use std::time::Duration;

use kbuild_engine::plan::Reason;
use serde_json::Value;

use super::plan::in_one_line;
use super::{BOLD, DIM, clean, styled, text};

/// `  1.2s  clean  progress  50 of 100 docs`, ended.
pub fn line(event: &Value, with_task: bool, columns: Option<usize>) -> String {
    let at = text::duration(Duration::from_millis(
        event["at_ms"].as_u64().unwrap_or_default(),
    ));
    let word = event["event"].as_str().unwrap_or_default();
    let task = event["task"].as_str().filter(|_| with_task);
    let task = task
        .map(|task| format!("{} ", styled(BOLD, task)))
        .unwrap_or_default();
    let line = format!(
        "{}  {task}{} {}",
        styled(DIM, format!("{at:>7}")),
        clean::one_line(word),
        clean::one_line(&detail(event))
    );
    format!("{}\n", text::fit(line.trim_end(), columns))
}

fn detail(event: &Value) -> String {
    let text_of = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
    let number = |name: &str| event[name].as_f64().unwrap_or_default();
    match event["event"].as_str().unwrap_or_default() {
        "started" => format!("{} ({} tasks)", text_of("build"), event["tasks"]),
        "hit" => short(&event["key"]),
        "miss" | "held" => reasons(event),
        "running" => format!("attempt {}", event["attempt"]),
        "progress" => super::status::progress(event),
        "metric" => format!(
            "{} {} at step {}",
            text_of("name"),
            shown(&event["value"]),
            event["step"]
        ),
        "note" | "warning" => text_of("text"),
        "part" => format!(
            "{} ({} of {})",
            event["index"], event["done"], event["missing"]
        ),
        "checkpoint" => format!("step {}", event["step"]),
        "finished" => {
            let elapsed = Duration::from_millis(number("elapsed_ms") as u64);
            format!("key {}, {}", short(&event["key"]), text::duration(elapsed))
        }
        "failed" => text_of("message"),
        "blocked" => event["problems"].to_string(),
        "dropped" => {
            let bytes = text::bytes(event["bytes"].as_u64().unwrap_or_default());
            format!("{}: {bytes}", names(&event["tasks"]))
        }
        "skipped" => format!("because of {}", text_of("because")),
        "done" => format!("{} built, {} up to date", event["built"], event["hits"]),
        _ => String::new(),
    }
}

/// Reasons as the plan tells them; as they stand where they cannot be read.
fn reasons(event: &Value) -> String {
    let reasons: Result<Vec<Reason>, _> = serde_json::from_value(event["reasons"].clone());
    reasons.map_or_else(
        |_| event["reasons"].to_string(),
        |reasons| in_one_line(&reasons),
    )
}

fn names(tasks: &Value) -> String {
    let names = tasks.as_array().into_iter().flatten();
    names
        .filter_map(Value::as_str)
        .collect::<Vec<_>>()
        .join(", ")
}

fn short(key: &Value) -> String {
    key.as_str().unwrap_or_default().chars().take(10).collect()
}

fn shown(value: &Value) -> String {
    match value {
        Value::Number(number) => text::number(number),
        value => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn events_are_told_in_a_line() {
        let shown =
            |event: Value| anstream::adapter::strip_str(&line(&event, true, Some(60))).to_string();
        let miss = json!({ "at_ms": 12, "event": "miss", "task": "tok", "key": "00", "reasons": [
            { "reason": "param-changed", "path": "bos", "old": false, "new": true },
            { "reason": "never-built" },
        ] });
        assert_eq!(
            shown(miss),
            "  12 ms  tok miss param `bos` false → true; never built\n"
        );
        let metric = json!({ "at_ms": 1500, "event": "metric", "task": "t", "step": 3, "name": "loss", "value": 2.5 });
        assert_eq!(shown(metric), "   1.5s  t metric loss 2.5 at step 3\n");
        let long = json!({ "at_ms": 0, "event": "note", "task": "t", "text": "x".repeat(99) });
        assert_eq!(text::width(shown(long).trim_end()), 60);
    }
}
