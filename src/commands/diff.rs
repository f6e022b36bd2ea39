//! `kbuild diff A B`: manifests, outputs, facts and metrics of two results side by side.

use std::time::Duration;

use kbuild_engine::project::Project;
use serde_json::{Value, json};

use super::artifact::{Chosen, choose};
use super::metrics::numbers;
use super::{Exit, Stop, open};
use crate::args::{DiffArgs, ProjectArgs};
use crate::console::sides::{Row, Side, table, to_json};
use crate::console::{self, flat, text};

pub fn run(project_args: &ProjectArgs, args: &DiffArgs) -> Result<Exit, Stop> {
    let kinds = kbuild_tasks::kinds();
    let project = open(project_args, &kinds)?;
    let (a, b) = (choose(&project, &args.a)?, choose(&project, &args.b)?);
    let rows = Row::pair(&side(&project, &a), &side(&project, &b));
    if args.json {
        let of = |chosen: &Chosen| {
            json!({ "word": chosen.word, "task": chosen.receipt.task, "key": chosen.receipt.key,
                    "port": chosen.port, "elapsed_ms": chosen.receipt.elapsed_ms,
                    "environment": chosen.receipt.environment })
        };
        let found = json!({ "a": of(&a), "b": of(&b), "rows": to_json(&rows) });
        console::json(&format!("{found:#}\n"));
        return Ok(Exit::Done);
    }
    let head = [&a, &b].map(|chosen| {
        let elapsed = text::duration(Duration::from_millis(chosen.receipt.elapsed_ms));
        format!(
            "{} (key {}, took {elapsed})",
            chosen.word,
            chosen.receipt.key.short()
        )
    });
    console::data(&table(&head, &rows, args.all, console::data_width()));
    Ok(Exit::Done)
}

/// Everything that is known of a result, as paths and values.
fn side(project: &Project, chosen: &Chosen) -> Side {
    let receipt = &chosen.receipt;
    let mut side = Side::default();
    for (path, value) in flat::scalars(&receipt.manifest.to_value()) {
        side.set("manifest", path, value);
    }
    for (port, content) in chosen.outputs() {
        side.set(
            "output",
            port.clone(),
            Value::from(content.digest().short()),
        );
        side.set(
            "output",
            format!("{port} bytes"),
            Value::from(content.size()),
        );
        side.set(
            "output",
            format!("{port} files"),
            Value::from(content.blobs().len()),
        );
        for (name, value) in receipt.facts.get(port).into_iter().flatten() {
            for (path, value) in flat::scalars(value) {
                side.set("fact", flat::join(&format!("{port}.{name}"), &path), value);
            }
        }
        for (path, value) in numbers(&project.store, port, content) {
            side.set("metric", path, Value::from(value));
        }
    }
    side
}
