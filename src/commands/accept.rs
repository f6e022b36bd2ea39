//! `kbuild accept TASK --reason …`: the old result stands, although its key has changed.

use super::{Exit, Stop, one, open};
use crate::args::{AcceptArgs, ProjectArgs};
use crate::console;

pub fn run(project_args: &ProjectArgs, args: &AcceptArgs) -> Result<Exit, Stop> {
    let kinds = kbuild_tasks::kinds();
    let project = open(project_args, &kinds)?;
    let task = one(project.graph(), &args.task)?;
    let receipt = project.accept(task, &args.reason)?;
    let from = receipt
        .accepted
        .as_ref()
        .map_or(receipt.key, |accepted| accepted.from);
    console::talk(&format!(
        "the result of key {} stands for {} of today, key {}",
        from.short(),
        project.graph().task(task).name,
        receipt.key.short()
    ));
    Ok(Exit::Done)
}
