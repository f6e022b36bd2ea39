//! `kbuild plan` and `kbuild -n`: what a build would do, and why.

use kbuild_engine::build::Prepared;
use kbuild_engine::project::Project;

use super::{Exit, Stop, open, select};
use crate::args::{PlanArgs, ProjectArgs};
use crate::console::cost::{self, Row};
use crate::console::plan::{Counts, table, to_json};
use crate::console::{self};

pub fn run(project_args: &ProjectArgs, args: &PlanArgs) -> Result<Exit, Stop> {
    let kinds = kbuild_tasks::kinds();
    let project = open(project_args, &kinds)?;
    let goals = select(project.graph(), &args.goals)?;
    let prepared = project.prepare(&goals);
    warn(&prepared);
    let rows = costs(&project, &prepared);
    if args.json {
        let mut plan = to_json(&prepared.graph, &prepared.plan);
        if args.cost {
            plan["cost"] = cost::to_json(&rows);
        }
        console::data(&format!("{plan:#}\n"));
    } else {
        console::data(&table(
            &prepared.graph,
            &prepared.plan,
            console::data_width(),
        ));
        if args.cost {
            console::data(&format!("\n{}", cost::table(&rows, console::data_width())));
        }
    }
    let is_pending = Counts::of(&prepared.plan).is_pending();
    Ok(if args.detailed_exitcode && is_pending {
        Exit::Pending
    } else {
        Exit::Done
    })
}

/// Says what was found to be damaged on the way to a plan.
pub fn warn(prepared: &Prepared) {
    prepared
        .warnings
        .iter()
        .for_each(|warning| console::warn(warning));
}

fn costs(project: &Project, prepared: &Prepared) -> Vec<Row> {
    let tasks = prepared.plan.tasks.iter();
    let row = |(id, status): &(_, _)| {
        let task = prepared.graph.task(*id);
        Row {
            task: task.name.clone(),
            is_pending: !matches!(status, kbuild_engine::plan::Status::Hit(_)),
            cost: task.prediction.cost.clone(),
            last_ms: last_ms(project, &task.name),
        }
    };
    tasks.map(row).collect()
}

/// How long the last execution of a task of this name took.
fn last_ms(project: &Project, task: &str) -> Option<u64> {
    let last = project.store.last(task)?;
    Some(project.store.receipt(&last.key).ok()??.elapsed_ms)
}
