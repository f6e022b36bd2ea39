//! `kbuild gc`: what no goal reaches; first a list, then, with `--yes`, its removal.

use kbuild_engine::digest::Digest;
use kbuild_engine::project::Project;
use kbuild_engine::store::{Kept, Limits};
use serde_json::json;

use super::artifact::choose;
use super::{Exit, Stop, open};
use crate::args::{GcArgs, ProjectArgs};
use crate::console::{self, text};

pub fn run(project_args: &ProjectArgs, args: &GcArgs) -> Result<Exit, Stop> {
    let kinds = kbuild_tasks::kinds();
    let project = open(project_args, &kinds)?;
    for word in &args.pin {
        project.store.pin(&choose(&project, word)?.receipt.key)?;
    }
    for word in &args.unpin {
        unpin(&project, word)?;
    }
    let reached = project.reached();
    let limits = Limits {
        max_bytes: args.max_size,
        older_than: args.older_than,
    };
    let kept = if args.yes {
        match project.store.collect(&reached, &limits)? {
            Some(kept) => kept,
            None => {
                return Err(Stop::missing(
                    "a build is running; nothing was removed",
                    "try again when it has ended",
                ));
            }
        }
    } else {
        project.store.garbage(&reached, &limits)
    };
    let pins = project.store.pins().len();
    if args.json {
        console::json(&format!("{:#}\n", to_json(&kept, pins, args.yes)));
        return Ok(Exit::Done);
    }
    print(&kept, pins, args.yes);
    if let Some(max) = args.max_size.filter(|max| kept.bytes > *max) {
        let (bytes, max) = (text::bytes(kept.bytes), text::bytes(max));
        let young = match args.older_than {
            Some(_) => ", or they are not old enough",
            None => "",
        };
        console::warn(&format!(
            "{bytes} stay, more than {max}: goals, newest results and pins need them{young}"
        ));
    }
    Ok(Exit::Done)
}

fn unpin(project: &Project, word: &str) -> Result<(), Stop> {
    let key = choose(project, word)?.receipt.key;
    let pins = project.store.pins();
    if pins.contains(&key) {
        return Ok(project.store.unpin(&key)?);
    }
    let name = |pin: &Digest| match project.store.receipt(pin) {
        Ok(Some(receipt)) => format!("{} ({})", pin.short(), receipt.task),
        _ => pin.short(),
    };
    let names: Vec<String> = pins.iter().map(name).collect();
    let help = match names.as_slice() {
        [] => "nothing is".to_owned(),
        names => format!("these are: {}", names.join(", ")),
    };
    let message = format!("`{word}`, key {}, is not pinned", key.short());
    Err(Stop::missing(message, help))
}

fn print(kept: &Kept, pins: usize, is_removed: bool) {
    let head = ["task", "key", "size", "age", "cost to rebuild"];
    let mut rows: Vec<Vec<String>> = kept
        .garbage
        .iter()
        .map(|garbage| {
            let age = garbage.age.map_or("?".to_owned(), text::duration);
            vec![
                garbage.task.clone(),
                garbage.key.short(),
                text::bytes(garbage.bytes),
                age,
                text::duration(garbage.elapsed),
            ]
        })
        .collect();
    rows.extend(kept.litter.iter().map(|litter| {
        let name = litter
            .path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        vec!["(nobody's)".to_owned(), name, text::bytes(litter.bytes)]
    }));
    if !rows.is_empty() {
        let head = head.map(|word| console::styled(console::DIM, word));
        rows.insert(0, head.to_vec());
    }
    console::data(&text::table(&rows, console::data_width()));
    let verb = if is_removed { "freed" } else { "would free" };
    let pinned = match pins {
        0 => String::new(),
        pins => format!(", {pins} pinned"),
    };
    console::data(&format!(
        "{verb} {}; {} of {} stay{pinned}\n",
        text::bytes(kept.freed()),
        text::plural(kept.results, "result"),
        text::bytes(kept.bytes)
    ));
    if !is_removed && !rows.is_empty() {
        console::talk("`kbuild gc --yes` removes them");
    }
}

fn to_json(kept: &Kept, pins: usize, is_removed: bool) -> serde_json::Value {
    let garbage: Vec<_> = kept
        .garbage
        .iter()
        .map(|each| {
            json!({ "task": each.task, "key": each.key, "bytes": each.bytes,
                    "age_ms": each.age.map(|age| age.as_millis() as u64),
                    "elapsed_ms": each.elapsed.as_millis() as u64 })
        })
        .collect();
    let litter: Vec<_> = kept
        .litter
        .iter()
        .map(|each| json!({ "path": each.path, "bytes": each.bytes }))
        .collect();
    json!({ "removed": is_removed, "freed": kept.freed(), "kept": kept.results, "kept_bytes": kept.bytes, "pins": pins,
            "garbage": garbage, "litter": litter })
}
