//! `kbuild why TASK`: what differs from the last time.

use kbuild_engine::plan::Status;
use serde_json::json;

use super::{Exit, Stop, one, open, plan::warn};
use crate::args::{ProjectArgs, WhyArgs};
use crate::console::{self, why};

pub fn run(project_args: &ProjectArgs, args: &WhyArgs) -> Result<Exit, Stop> {
    let kinds = kbuild_tasks::kinds();
    let project = open(project_args, &kinds)?;
    let task = one(project.graph(), &args.task)?;
    let prepared = project.prepare(&[task]);
    warn(&prepared);
    if args.json {
        let status = prepared.plan.status(task);
        let manifest = match status {
            Some(Status::Hit(receipt)) => json!(receipt.manifest),
            Some(Status::Miss(work)) => json!(work.manifest),
            _ => json!(null),
        };
        let plan = console::plan::to_json(&prepared.graph, &prepared.plan);
        console::data(&format!(
            "{:#}\n",
            json!({ "task": args.task, "manifest": manifest, "plan": plan })
        ));
    } else {
        console::data(&why::render(&prepared.graph, &prepared.plan, task));
    }
    Ok(Exit::Done)
}
