//! `kbuild log TASK`: what the last attempt at a task wrote.

use std::path::PathBuf;

use kbuild_engine::store::Store;

use super::{Exit, Stop, workspace};
use crate::args::{LogArgs, ProjectArgs};
use crate::console;

pub fn run(project_args: &ProjectArgs, args: &LogArgs) -> Result<Exit, Stop> {
    let (workspace, _) = workspace(project_args)?;
    let store = Store::new(workspace.root().join("cache"));
    let task = args.task.strip_prefix(':').unwrap_or(&args.task);
    let Some(path) = newest(&store, task) else {
        let help =
            "a task that was a hit in every build has no log; `kbuild status` shows the last build";
        return Err(Stop::missing(
            format!("there is no log of a task called `{task}`"),
            help,
        ));
    };
    let bytes = std::fs::read(&path).map_err(|cause| Stop::io("read", &path, &cause))?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    let from = args.lines.map_or(0, |n| lines.len().saturating_sub(n));
    lines[from..]
        .iter()
        .for_each(|line| console::data(&format!("{line}\n")));
    console::talk(&console::styled(console::DIM, path.display()));
    Ok(Exit::Done)
}

fn newest(store: &Store, task: &str) -> Option<PathBuf> {
    let builds = store.builds();
    let logs = builds
        .iter()
        .rev()
        .map(|build| store.logs(build).join(format!("{task}.log")));
    logs.into_iter().find(|path| path.is_file())
}
