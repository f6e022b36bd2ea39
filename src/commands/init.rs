//! `kbuild init [DIR]`: the smallest project that builds, which is the example `minimal`.

use std::path::Path;

use super::{Exit, Stop};
use crate::args::InitArgs;
use crate::console;

const FILES: [(&str, &str); 4] = [
    (
        "Kananafile",
        include_str!("../../examples/minimal/Kananafile"),
    ),
    (
        "data/en.jsonl",
        include_str!("../../examples/minimal/data/en.jsonl"),
    ),
    (
        "data/ko.jsonl",
        include_str!("../../examples/minimal/data/ko.jsonl"),
    ),
    (".gitignore", "/cache\n"),
];

pub fn run(args: &InitArgs) -> Result<Exit, Stop> {
    let directory = args.target.clone().unwrap_or_default();
    if directory.join("Kananafile").exists() {
        let message = "there is a Kananafile already";
        return Err(Stop::words(message, "`kbuild check` looks at it"));
    }
    for (name, content) in FILES {
        let path = directory.join(name);
        if path.exists() {
            console::talk(&format!("{} is there and stays as it is", path.display()));
            continue;
        }
        write(&path, content)?;
        console::talk(&format!("wrote {}", path.display()));
    }
    let enter = match &args.target {
        Some(directory) => format!("`cd {}`; then ", directory.display()),
        None => String::new(),
    };
    console::talk(&format!(
        "next: {enter}`kbuild plan` says what would run, `kbuild` runs it"
    ));
    Ok(Exit::Done)
}

fn write(path: &Path, content: &str) -> Result<(), Stop> {
    let parent = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent).map_err(|cause| Stop::io("create", parent, &cause))?;
    std::fs::write(path, content).map_err(|cause| Stop::io("write", path, &cause))
}
