//! `kbuild plan` and `kbuild -n`: what a build would do, and why.

use kbuild_engine::build::Prepared;
use kbuild_engine::graph::TaskId;
use kbuild_engine::plan::Status;
use kbuild_engine::project::Project;

use super::{Exit, Stop, mention_trouble, mention_warnings, open, select};
use crate::args::{PlanArgs, ProjectArgs};
use crate::console::cost::{self, Budget, Row};
use crate::console::plan::{Counts, table, to_json};
use crate::console::{self};

pub fn run(project_args: &ProjectArgs, args: &PlanArgs) -> Result<Exit, Stop> {
    let kinds = kbuild_tasks::kinds();
    let project = open(project_args, &kinds)?;
    mention_warnings(&project);
    mention_trouble(&project);
    let goals = select(project.graph(), &args.goals)?;
    let prepared = project.prepare(&goals);
    warn(&prepared);
    let costs = args
        .cost
        .then(|| (costs(&project, &prepared), budgets(&project, &prepared)));
    if args.json {
        let mut plan = to_json(&prepared.graph, &prepared.plan);
        if let Some((rows, budgets)) = &costs {
            plan["cost"] = cost::to_json(rows, budgets);
        }
        console::json(&format!("{plan:#}\n"));
    } else {
        console::data(&table(
            &prepared.graph,
            &prepared.plan,
            console::data_width(),
        ));
        if let Some((rows, budgets)) = &costs {
            let table = cost::table(rows, budgets, console::data_width());
            console::data(&format!("\n{table}"));
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
    let row = |(id, status): &(TaskId, Status)| {
        let task = prepared.graph.task(*id);
        Row {
            task: task.name.clone(),
            is_pending: !status.is_hit(),
            cost: task.prediction.cost.clone(),
            last_ms: last_ms(project, &task.name),
        }
    };
    tasks.map(row).collect()
}

/// The budgets all of whose tasks are planned.
fn budgets(project: &Project, prepared: &Prepared) -> Vec<Budget> {
    let budgets = project.kananafile.budgets.iter();
    let is_planned = |task| prepared.plan.status(task).is_some();
    budgets
        .filter(|(_, budget)| budget.tasks.iter().all(|task| is_planned(*task)))
        .map(|(name, budget)| Budget {
            name: name.clone(),
            about: budget.about.clone(),
            costs: (budget.tasks.iter())
                .map(|task| prepared.graph.task(*task).prediction.cost.clone())
                .collect(),
            against: budget.against.clone(),
            limit: budget.flops,
        })
        .collect()
}

/// How long the last execution of a task of this name took.
fn last_ms(project: &Project, task: &str) -> Option<u64> {
    let last = project.store.last(task)?;
    Some(project.store.receipt(&last.key).ok()??.elapsed_ms)
}
