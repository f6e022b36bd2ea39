//! `kbuild verify TASK`: runs a task again in a place of its own, and compares what comes out.

use std::time::Duration;

use kbuild_engine::project::{Again, FileDifference, Verdict};
use kbuild_engine::receipt::Receipt;
use serde_json::json;

use super::build::{self, drive};
use super::{Exit, Stop, export, one, open};
use crate::args::{BuildArgs, ProjectArgs, VerifyArgs};
use crate::console::{self, GREEN, RED, YELLOW, clean, styled, text};

pub fn run(project_args: &ProjectArgs, args: &VerifyArgs) -> Result<Exit, Stop> {
    let kinds = kbuild_tasks::kinds();
    let project = open(project_args, &kinds)?;
    let id = one(project.graph(), &args.task)?;
    let task = project.graph().task(id);
    let dropped = project.dropped(id);
    if !dropped.is_empty() {
        return Err(export::dropped(&dropped));
    }
    let options = build::options(&project.kananafile.resources, &BuildArgs::default());
    let reading = build::same_reading(project_args);
    let again = drive(false, &reading, |events, stop| {
        project.again(id, options, events, stop)
    })?;
    let Some(again) = again else {
        let (name, help) = (
            &task.name,
            format!("build it first: `kbuild {}`", task.name),
        );
        return Err(Stop::missing(
            format!("`{name}` is not up to date: there is nothing to compare with"),
            help,
        ));
    };
    let Some(second) = &again.second else {
        console::talk(&format!("`{}` gave no result the second time", task.name));
        return Ok(if again.outcome.is_interrupted() {
            Exit::Interrupted
        } else {
            Exit::Failed
        });
    };
    let differences = project.compare(task, &again, &kinds);
    if args.json {
        let environment = [&again.first.environment, &second.environment];
        console::json(&format!(
            "{:#}\n",
            json!({ "task": task.name, "key": again.first.key, "differences": differences,
                    "environments": environment, "reproduced": is_reproduced(&differences) })
        ));
    } else {
        console::data(&words(&task.name, &again, second, &differences));
    }
    Ok(if is_reproduced(&differences) {
        Exit::Done
    } else {
        Exit::Failed
    })
}

fn is_reproduced(differences: &[FileDifference]) -> bool {
    differences
        .iter()
        .all(|each| each.verdict == Verdict::Close)
}

fn words(name: &str, again: &Again, second: &Receipt, differences: &[FileDifference]) -> String {
    let time = |receipt: &Receipt| text::duration(Duration::from_millis(receipt.elapsed_ms));
    let (verdict, style) = match differences {
        [] => ("gives the same bytes", GREEN),
        differences if is_reproduced(differences) => ("agrees within tolerance", YELLOW),
        _ => ("gives something else", RED),
    };
    let mut out = format!(
        "{name} {} (took {}, and {} the first time)\n",
        styled(style, verdict),
        time(second),
        time(&again.first)
    );
    for each in differences {
        let file = if each.file.is_empty() {
            String::new()
        } else {
            format!("/{}", each.file)
        };
        let word = match each.verdict {
            Verdict::Close => "close",
            Verdict::Differs => "differs",
            Verdict::Alone => "alone",
        };
        let line = format!("{}{file}: {}", each.port, each.detail);
        out += &format!("  {word}  {}\n", clean::one_line(&line));
    }
    if again.first.environment != second.environment {
        for (name, first) in &again.first.environment {
            let now = second
                .environment
                .get(name)
                .map_or("(none)", String::as_str);
            if first != now {
                let line = format!("{name}: {first} the first time, {now} now");
                out += &format!("  {}\n", clean::one_line(&line));
            }
        }
    }
    out
}
