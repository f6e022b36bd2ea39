//! The rows of the table: what is measured, beside what.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::Options;
use crate::graphs::{self, Layers, Mapped};
use crate::measure::{Cost, command, median, run};

pub struct Row {
    pub name: &'static str,
    pub run: fn(&str, &Options, &Path),
}

pub fn all() -> Vec<Row> {
    let row = |name, run| Row { name, run };
    vec![
        row("null-1000", |name, options, folder| {
            null(name, options, folder, 1_000, &ALL)
        }),
        row("null-10000", |name, options, folder| {
            null(name, options, folder, 10_000, &FAST)
        }),
        row("null-100000", |name, options, folder| {
            null(name, options, folder, 100_000, &PAIR)
        }),
        row("null-parts", null_parts),
        row("dry-10000", dry),
        row("full-1000", full),
        row("edit-10000", edit),
        row("edit-parts", edit_part),
        row("hash-big", hash_big),
        row("hash-small", hash_small),
        row("recheck", recheck),
        row("version", version),
    ]
}

const ALL: [&str; 6] = ["kbuild", "ninja", "make", "doit", "snakemake", "dvc"];
const FAST: [&str; 3] = ["kbuild", "ninja", "make"];
const PAIR: [&str; 2] = ["kbuild", "ninja"];

/// Prints one line. `ours` is what kbuild took, where another tool is beside it.
fn report(row: &str, what: &str, cost: Cost, ours: Option<Cost>) {
    let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
    let ratio = |of: fn(&Cost) -> Duration| {
        let words = |ours: Cost| format!("{:.3}", ms(of(&ours)) / ms(of(&cost)).max(1e-3));
        ours.map_or_else(String::new, words)
    };
    println!(
        "| {row} | {what} | {:.1} | {:.1} | {:.0} | {} | {} |",
        ms(cost.wall),
        ms(cost.cpu),
        cost.peak_kib as f64 / 1024.0,
        ratio(|cost| cost.wall),
        ratio(|cost| cost.cpu)
    );
}

/// Measures each tool that is there, kbuild first.
fn compare(
    row: &str,
    options: &Options,
    tools: &[&str],
    mut measured: impl FnMut(&str, &Path) -> Cost,
) {
    let mut ours = None;
    for tool in tools {
        let Some(program) = options.tool(tool) else {
            println!("| {row} | {tool}: not found | | | | | |");
            continue;
        };
        let cost = measured(tool, &program);
        report(row, tool, cost, ours);
        ours = ours.or(Some(cost));
    }
}

fn null(row: &str, options: &Options, folder: &Path, tasks: usize, tools: &[&str]) {
    let layers = Layers::of(tasks / options.scale);
    compare(row, options, tools, |tool, program| {
        let folder = folder.join(tool);
        layers.write(tool, &folder);
        let arguments = build(tool);
        prepare(tool, program, &folder, layers);
        settle();
        let null = || command(program, &folder, &arguments);
        // The first look after a build may read again what was written within the last tick of the clock.
        run(&mut null());
        let cost = median(options.runs, || (), null);
        let _ = fs::remove_dir_all(&folder);
        cost
    });
}

/// How each tool is asked to build everything.
fn build(tool: &str) -> Vec<&'static str> {
    match tool {
        "make" => vec!["-j2"],
        "snakemake" => vec!["-c2", "--quiet", "all"],
        "dvc" => vec!["repro", "-q"],
        "doit" => vec!["-n2", "-v0"],
        _ => Vec::new(),
    }
}

/// Runs everything once. DVC takes seconds for each of its stages: it is given the outputs and told to believe them.
fn prepare(tool: &str, program: &Path, folder: &Path, layers: Layers) {
    let first = |arguments: &[&str]| {
        run(&mut command(program, folder, arguments));
    };
    match tool {
        "dvc" => {
            first(&["init", "--no-scm", "-q"]);
            layers.touch_outputs(folder);
            first(&["commit", "-f", "-q"]);
        }
        "snakemake" => {
            layers.touch_outputs(folder);
            first(&["-c2", "--quiet", "all", "--touch"]);
        }
        _ => first(&build(tool)),
    }
}

/// Lets a tick of the coarsest clock pass, so that what was just written is no longer too young to be believed.
fn settle() {
    std::thread::sleep(Duration::from_millis(50));
}

fn null_parts(row: &str, options: &Options, folder: &Path) {
    let mapped = Mapped {
        tasks: 20,
        parts: 1_000 / options.scale,
    };
    compare(row, options, &PAIR, |tool, program| {
        let folder = folder.join(tool);
        mapped.write(tool, &folder);
        let null = || command(program, &folder, &[]);
        run(&mut null());
        settle();
        run(&mut null());
        median(options.runs, || (), null)
    });
}

fn dry(row: &str, options: &Options, folder: &Path) {
    let layers = Layers::of(10_000 / options.scale);
    compare(row, options, &FAST, |tool, program| {
        let folder = folder.join(tool);
        layers.write(tool, &folder);
        median(options.runs, || (), || command(program, &folder, &["-n"]))
    });
}

fn full(row: &str, options: &Options, folder: &Path) {
    let layers = Layers::of(1_000 / options.scale);
    let clean = |tool: &str, program: &Path, arguments: &[&str]| {
        let folder = folder.join(tool);
        let fresh = || {
            let _ = fs::remove_dir_all(&folder);
            layers.write(tool, &folder);
        };
        median(options.runs, fresh, || command(program, &folder, arguments))
    };
    compare(row, options, &FAST, |tool, program| {
        clean(tool, program, &build(tool))
    });
}

/// One source gets other content, its task gives the same output, and nothing after it runs.
fn edit(row: &str, options: &Options, folder: &Path) {
    let layers = Layers::of(10_000 / options.scale);
    layers.write("kbuild", folder);
    let source = graphs::source(folder, 0);
    edited(row, options, folder, &source, |edit| {
        format!("edit {edit}\n")
    });
}

/// One of the shards gets other content; every task makes that part anew and puts its whole together.
fn edit_part(row: &str, options: &Options, folder: &Path) {
    let mapped = Mapped {
        tasks: 20,
        parts: 1_000 / options.scale,
    };
    mapped.write("kbuild", folder);
    let shard = folder.join("src/000000.jsonl");
    edited(row, options, folder, &shard, |edit| {
        graphs::document(mapped.parts + edit)
    });
}

/// A build after each edit of a file, beside one with nothing to do.
fn edited(
    row: &str,
    options: &Options,
    folder: &Path,
    file: &Path,
    text: impl Fn(usize) -> String,
) {
    let all = || command(&options.kbuild, folder, &[]);
    run(&mut all());
    settle();
    run(&mut all());
    let null = median(options.runs, || (), all);
    let mut edits = 0;
    let change = || {
        edits += 1;
        settle();
        run(&mut all());
        fs::write(file, text(edits)).expect("the file");
    };
    let edited = median(options.runs, change, all);
    report(row, "kbuild, one file edited", edited, None);
    report(row, "kbuild, nothing edited", null, Some(edited));
}

fn hash_big(row: &str, options: &Options, folder: &Path) {
    graphs::big(folder, (2 << 30) / options.scale);
    hash(row, options, folder, &["big".to_owned()]);
}

fn hash_small(row: &str, options: &Options, folder: &Path) {
    let files = 100_000 / options.scale;
    graphs::files(folder, files);
    let names: Vec<String> = (0..files).map(|file| format!("{file:05}")).collect();
    hash(row, options, &folder.join("f"), &names);
}

/// A dry run saves nothing, so that every one of them is the first.
fn hash(row: &str, options: &Options, folder: &Path, names: &[String]) {
    let root = folder
        .ancestors()
        .find(|folder| folder.join("Kananafile").exists());
    let root = root.expect("a Kananafile").to_owned();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    compare(row, options, &["kbuild", "b3sum"], |tool, program| {
        let make = || match tool {
            "kbuild" => command(program, &root, &["-n"]),
            _ => command(program, folder, &names),
        };
        run(&mut make());
        median(options.runs, || (), make)
    });
}

fn recheck(row: &str, options: &Options, folder: &Path) {
    graphs::files(folder, 100_000 / options.scale);
    let null = || command(&options.kbuild, folder, &[]);
    run(&mut null());
    settle();
    run(&mut null());
    let ours = median(options.runs, || (), null);
    let own: PathBuf = std::env::current_exe().expect("this program has a path");
    let threads = std::thread::available_parallelism()
        .map_or(1, usize::from)
        .to_string();
    let bare = || -> Command { command(&own, folder, &["--statx-loop", "f", &threads]) };
    let bare = median(options.runs, || (), bare);
    report(row, "kbuild", ours, None);
    report(row, "bare loop of stat", bare, Some(ours));
}

fn version(row: &str, options: &Options, folder: &Path) {
    fs::create_dir_all(folder).expect("a folder");
    let make = || command(&options.kbuild, folder, &["--version"]);
    report(
        row,
        "kbuild",
        median(options.runs.max(20), || (), make),
        None,
    );
}
