//! `kbuild why TASK`: what differs from the last time, and what began it.

use kbuild_engine::plan::Status;

use super::{Exit, Stop, one, open, plan::warn};
use crate::args::{ProjectArgs, WhyArgs};
use crate::console::{self, why};

pub fn run(project_args: &ProjectArgs, args: &WhyArgs) -> Result<Exit, Stop> {
    let kinds = kbuild_tasks::kinds();
    let project = open(project_args, &kinds)?;
    let task = one(project.graph(), &args.task)?;
    // Whether dropped content is needed is decided by those who would read it.
    let prepared = project.prepare(&project.graph().ends_of(task));
    warn(&prepared);
    let explanation = project.explain(&prepared, task);
    if args.json {
        console::json(&format!("{:#}\n", serde_json::json!(explanation)));
        return Ok(Exit::Done);
    }
    let receipt = match prepared.plan.status(task) {
        Some(Status::Hit(receipt) | Status::Dropped(receipt)) => Some(receipt.as_ref()),
        _ => None,
    };
    console::data(&why::render(&explanation, receipt));
    Ok(Exit::Done)
}
