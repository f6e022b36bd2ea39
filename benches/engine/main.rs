//! kbuild beside ninja, make, DVC, Snakemake and doit on the same graphs.
//!
//! ```console
//! $ cargo bench --bench engine -- --tools VENV/bin
//! ```
//!
//! Graphs are made in a folder of their own, which is removed afterwards. Prints one line a row: medians of wall and CPU
//! time, and what kbuild takes as a multiple of it. A tool that is not there is named and left out.

mod graphs;
mod measure;
mod rows;

use std::path::{Path, PathBuf};

const HELP: &str = "\
cargo bench --bench engine -- [OPTIONS] [ROW]...

  --tools DIR      look for the other tools here before the PATH; may be repeated
  --kbuild FILE    program to measure [default: the one that was built]
  --folder DIR     where graphs are made [default: the temporary folder]
  --runs N         runs of which the median is taken [default: 5]
  --scale N        divide the sizes of all graphs by N, for a quick look
  --list           print the names of the rows
";

/// What the command line asks for.
pub struct Options {
    pub tools: Vec<PathBuf>,
    pub kbuild: PathBuf,
    pub folder: PathBuf,
    pub runs: usize,
    pub scale: usize,
    rows: Vec<String>,
}

impl Options {
    /// The program of this name, in the given folders or on the PATH.
    pub fn tool(&self, name: &str) -> Option<PathBuf> {
        if name == "kbuild" {
            return Some(self.kbuild.clone());
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = self
            .tools
            .iter()
            .cloned()
            .chain(std::env::split_paths(&path));
        folders
            .map(|folder| folder.join(name))
            .find(|file| file.is_file())
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, folder, threads] = arguments.as_slice()
        && flag == "--statx-loop"
    {
        return measure::statx_loop(Path::new(folder), threads.parse().unwrap_or(1));
    }
    let Some(options) = parse(arguments) else {
        return print!("{HELP}");
    };
    let all = rows::all();
    let wanted = all
        .iter()
        .filter(|row| options.rows.is_empty() || options.rows.iter().any(|name| name == row.name));
    println!("| row | tool | wall, ms | CPU, ms | peak, MiB | kbuild : it, wall | CPU |");
    println!("|---|---|--:|--:|--:|--:|--:|");
    for row in wanted {
        let folder = options
            .folder
            .join(format!("kbuild-bench-{}", std::process::id()));
        (row.run)(row.name, &options, &folder);
        let _ = std::fs::remove_dir_all(&folder);
    }
}

fn parse(arguments: Vec<String>) -> Option<Options> {
    let mut options = Options {
        tools: Vec::new(),
        kbuild: PathBuf::from(env!("CARGO_BIN_EXE_kbuild")),
        folder: std::env::temp_dir(),
        runs: 5,
        scale: 1,
        rows: Vec::new(),
    };
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next();
        match argument.as_str() {
            // What cargo adds.
            "--bench" => {}
            "--tools" => options.tools.push(absolute(value()?)),
            "--kbuild" => options.kbuild = absolute(value()?),
            "--folder" => options.folder = absolute(value()?),
            "--runs" => options.runs = value()?.parse().ok()?,
            "--scale" => options.scale = value()?.parse().ok()?,
            "--list" => {
                rows::all().iter().for_each(|row| println!("{}", row.name));
                std::process::exit(0);
            }
            name if rows::all().iter().any(|row| row.name == name) => options.rows.push(argument),
            _ => return None,
        }
    }
    Some(options)
}

fn absolute(path: String) -> PathBuf {
    std::path::absolute(&path).unwrap_or_else(|_| PathBuf::from(path))
}
