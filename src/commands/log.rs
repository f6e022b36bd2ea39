//! `kbuild log [TASK]`: what the attempt that made a task's result wrote and said; or every event of the last build.
//!
//! A hit has a log too: that of the build which made it. Reads files and takes no lock. A program that reads the text
//! from a pipe gets it as the attempt wrote it; a terminal gets its control characters shown.

use std::path::PathBuf;

use kbuild_engine::store::Store;
use serde_json::Value;

use super::{Exit, Stop, open, select, workspace};
use crate::args::{LogArgs, ProjectArgs};
use crate::console::{self, events};

pub fn run(project_args: &ProjectArgs, args: &LogArgs) -> Result<Exit, Stop> {
    let (workspace, _) = workspace(project_args)?;
    let store = Store::of(&workspace);
    let task = args
        .task
        .as_deref()
        .map(|task| task.strip_prefix(':').unwrap_or(task));
    let Some(build) = build(&store, task, args.build.as_deref()) else {
        if let Some(task) = task {
            known(project_args, task)?;
        }
        return Err(nothing(&store, task, args.build.as_deref()));
    };
    match task {
        Some(task) if !args.events && !args.json => text(&store, &build, task, args.lines),
        task => replay(&store, &build, task, args),
    }
}

/// Refuses a word that names no task, where there is a Kananafile to tell.
fn known(project_args: &ProjectArgs, word: &str) -> Result<(), Stop> {
    let kinds = kbuild_tasks::kinds();
    let Ok(project) = open(project_args, &kinds) else {
        return Ok(());
    };
    select(project.graph(), &[word.to_owned()]).map(drop)
}

/// The build that is meant; of a task the one that made its newest result, or else the last that tried.
fn build(store: &Store, task: Option<&str>, build: Option<&str>) -> Option<String> {
    let mut builds = store.builds();
    if let Some(wanted) = build {
        builds.retain(|build| build.starts_with(wanted));
    }
    let Some(task) = task else {
        return builds.pop();
    };
    let tried = |build: &&String| log_path(store, build, task).is_file();
    let tried: Vec<&String> = builds.iter().rev().filter(tried).collect();
    let key = store.last(task).map(|last| last.key.to_hex());
    let made_it = |build: &&&String| {
        let is_made = |event: &Value| {
            event["event"] == "finished"
                && event["task"] == task
                && event["key"].as_str() == key.as_deref()
        };
        read_events(store, build).iter().any(is_made)
    };
    // What failed or was stopped since then is what people ask about.
    let newest = tried.first()?;
    let is_hit_since = tried.iter().position(|build| made_it(&build));
    match is_hit_since {
        Some(at) if at > 0 && !failed_last(store, newest, task) => Some(tried[at].clone()),
        _ => Some((*newest).clone()),
    }
}

/// The last word of a build on a task is a failure.
fn failed_last(store: &Store, build: &str, task: &str) -> bool {
    let events = read_events(store, build);
    let last = events.iter().rfind(|event| event["task"] == task);
    last.is_some_and(|event| event["event"] == "failed")
}

fn nothing(store: &Store, task: Option<&str>, build: Option<&str>) -> Stop {
    let builds = store.builds();
    let help = match builds.as_slice() {
        [] => "nothing was built here yet".to_owned(),
        builds => format!(
            "the last build is {}; logs of the last 200 are kept",
            builds[builds.len() - 1]
        ),
    };
    let message = match (task, build) {
        (Some(task), None) => format!("there is no log of a task called `{task}`"),
        (Some(task), Some(build)) => {
            format!("build `{build}` has no log of a task called `{task}`")
        }
        (None, Some(build)) => format!("there is no log of a build called `{build}`"),
        (None, None) => "there is no log of a build".to_owned(),
    };
    Stop::missing(message, help)
}

fn text(store: &Store, build: &str, task: &str, lines: Option<usize>) -> Result<Exit, Stop> {
    let path = log_path(store, build, task);
    let bytes = std::fs::read(&path).map_err(|cause| Stop::io("read", &path, &cause))?;
    let text = String::from_utf8_lossy(&bytes);
    tail(&text.lines().collect::<Vec<_>>(), lines)
        .iter()
        .for_each(|line| console::foreign(&format!("{line}\n")));
    console::talk(&console::styled(console::DIM, path.display()));
    Ok(Exit::Done)
}

/// The events of a build, or those of one task in it, as they were sent or in words.
fn replay(store: &Store, build: &str, task: Option<&str>, args: &LogArgs) -> Result<Exit, Stop> {
    let is_meant = |event: &&Value| task.is_none_or(|task| event["task"] == task);
    let all = read_events(store, build);
    let chosen: Vec<&Value> = all.iter().filter(is_meant).collect();
    for event in tail(&chosen, args.lines) {
        match args.json {
            true => console::json(&format!("{event}\n")),
            false => console::data(&events::line(event, task.is_none(), console::data_width())),
        }
    }
    if !args.json {
        console::talk(&console::styled(console::DIM, format!("build {build}")));
    }
    Ok(Exit::Done)
}

fn tail<T>(all: &[T], n: Option<usize>) -> &[T] {
    &all[n.map_or(0, |n| all.len().saturating_sub(n))..]
}

fn log_path(store: &Store, build: &str, task: &str) -> PathBuf {
    store.logs(build).join(format!("{task}.log"))
}

/// The last line of a build that runs may be half written: it is no event yet.
fn read_events(store: &Store, build: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(store.logs(build).join("events.jsonl")).unwrap_or_default();
    text.lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect()
}
