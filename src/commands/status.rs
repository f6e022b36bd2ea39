//! `kbuild status`: what runs now, and how the last build went. Reads the newest log of events and takes no lock.

use std::path::Path;

use kbuild_engine::store::Store;
use serde_json::Value;

use super::{Exit, Stop, workspace};
use crate::args::{ProjectArgs, StatusArgs};
use crate::console::{self, status};

pub fn run(project_args: &ProjectArgs, args: &StatusArgs) -> Result<Exit, Stop> {
    let (workspace, _) = workspace(project_args)?;
    let store = Store::of(&workspace);
    let Some(build) = store.builds().pop() else {
        console::talk("nothing was built here yet");
        return Ok(Exit::Done);
    };
    let path = store.logs(&build).join("events.jsonl");
    let text = std::fs::read_to_string(&path).map_err(|cause| Stop::io("read", &path, &cause))?;
    // The last line of a build that runs may be half written.
    let events: Vec<Value> = text
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    let state = status::State::of(&build, &events, is_alive(&build));
    if args.json {
        console::json(&format!("{:#}\n", state.to_json()));
    } else {
        console::data(&state.render(console::data_width()));
    }
    Ok(Exit::Done)
}

/// True when the process that a build is named after is there.
fn is_alive(build: &str) -> bool {
    let process = build.rsplit('-').next().unwrap_or_default();
    !process.is_empty() && Path::new("/proc").join(process).exists()
}
