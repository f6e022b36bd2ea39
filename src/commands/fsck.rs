//! `kbuild fsck`: finds damage in the store, and repairs it from what is there.

use kbuild_engine::store::{Examined, Finding, Remedy, Store};
use serde_json::json;

use super::{Exit, Stop, workspace};
use crate::args::{FsckArgs, ProjectArgs};
use crate::console::{self, text};

pub fn run(project_args: &ProjectArgs, args: &FsckArgs) -> Result<Exit, Stop> {
    let (workspace, _) = workspace(project_args)?;
    let store = Store::of(&workspace);
    let found = store.examine();
    let is_repaired = args.repair && !found.findings.is_empty();
    if is_repaired && !store.repair(&found.findings)? {
        return Err(Stop::missing(
            "a build is running; nothing was repaired",
            "try again when it has ended",
        ));
    }
    if args.json {
        console::json(&format!(
            "{:#}\n",
            json!({ "repaired": is_repaired, "found": found })
        ));
    } else {
        print(&found, is_repaired);
    }
    Ok(match found.findings.is_empty() || is_repaired {
        true => Exit::Done,
        false => Exit::Failed,
    })
}

fn print(found: &Examined, is_repaired: bool) {
    for finding in &found.findings {
        console::warn(&line(finding, is_repaired));
    }
    console::data(&format!(
        "{} and {} of {}: {} damaged\n",
        text::plural(found.receipts, "receipt"),
        text::plural(found.blobs, "blob"),
        text::bytes(found.bytes),
        found.findings.len(),
    ));
    if found.litter > 0 {
        let (files, bytes) = (
            text::plural(found.litter, "file"),
            text::bytes(found.litter_bytes),
        );
        console::talk(&format!(
            "{files} of {bytes} belong to nothing; `kbuild gc` lists them"
        ));
    }
    if !found.findings.is_empty() && !is_repaired {
        console::talk(
            "`kbuild fsck --repair` mends what it can; the next build makes the rest again",
        );
    }
}

fn line(finding: &Finding, is_repaired: bool) -> String {
    let path = text::from_here(&finding.path);
    let tasks: Vec<String> = finding
        .tasks
        .iter()
        .map(|task| format!("`{task}`"))
        .collect();
    let whose = match tasks.as_slice() {
        [] => String::new(),
        tasks => format!(" (of {})", tasks.join(", ")),
    };
    let (done, to_do) = match &finding.remedy {
        Remedy::Restore { .. } => (
            "restored from `latest`",
            "the same bytes are under `latest`",
        ),
        Remedy::Quarantine => ("put aside", "its producer would run again"),
        Remedy::Rebuild => ("its producer runs again", "its producer would run again"),
        Remedy::Remove => ("removed", "it is made anew"),
    };
    let remedy = if is_repaired { done } else { to_do };
    format!("`{}`{whose}: {}; {remedy}", path.display(), finding.trouble)
}
