//! Why a task must run, in sentences: its own reasons, or those of the tasks that it waits for.

use std::fmt::Write as _;
use std::time::Duration;

use kbuild_engine::graph::{Graph, TaskId};
use kbuild_engine::plan::{Plan, Status};

use super::plan::{blocker, reason};
use super::{BOLD, styled, text};

/// The answer for `task`, whose plan holds everything that it needs.
pub fn render(graph: &Graph, plan: &Plan, task: TaskId) -> String {
    let name = styled(BOLD, &graph.task(task).name);
    let mut out = String::new();
    match plan.status(task) {
        None => {}
        Some(Status::Hit(receipt)) => {
            let elapsed = text::duration(Duration::from_millis(receipt.elapsed_ms));
            let _ = writeln!(
                out,
                "{name} is up to date: key {}, made in {elapsed}",
                receipt.key.short()
            );
            if let Some(accepted) = &receipt.accepted {
                let _ = writeln!(
                    out,
                    "  its result was accepted from key {}: {}",
                    accepted.from.short(),
                    accepted.reason
                );
            }
        }
        Some(Status::Miss(work)) => {
            let _ = writeln!(out, "{name} must run: key {}", work.key.short());
            work.reasons
                .iter()
                .for_each(|each| out.push_str(&bullet(&reason(each))));
            if let Some(parts) = &work.parts {
                let counts = format!(
                    "{} of {}",
                    parts.missing().len(),
                    text::plural(parts.total(), "part")
                );
                let _ = writeln!(out, "  {counts} must run; the others are kept");
            }
        }
        Some(Status::Unknown(_)) => {
            let _ = writeln!(
                out,
                "{name} may have to run: its key depends on tasks that must run first"
            );
            roots(graph, plan, task, &mut out);
        }
        Some(Status::Blocked(blockers)) => {
            let _ = writeln!(out, "{name} cannot run");
            blockers
                .iter()
                .for_each(|each| out.push_str(&bullet(&blocker(each))));
        }
    }
    out
}

/// The tasks that start it all, with their reasons.
fn roots(graph: &Graph, plan: &Plan, task: TaskId, out: &mut String) {
    for (id, status) in &plan.tasks {
        let reasons: Vec<String> = match status {
            Status::Miss(work) => work.reasons.iter().map(reason).collect(),
            Status::Blocked(blockers) => blockers.iter().map(blocker).collect(),
            Status::Hit(_) | Status::Unknown(_) => continue,
        };
        if *id != task {
            out.push_str(&bullet(&format!(
                "{}: {}",
                styled(BOLD, &graph.task(*id).name),
                reasons.join("; ")
            )));
        }
    }
}

fn bullet(text: &str) -> String {
    format!("  - {text}\n")
}
