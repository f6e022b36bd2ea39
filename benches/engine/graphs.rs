//! The same graph for every tool: tasks in ten layers, each reading three tasks of the layer before (a source in the
//! first), each `touch`ing one output.

use std::fmt::Write;
use std::fs;
use std::path::Path;

/// Tasks in layers.
#[derive(Debug, Clone, Copy)]
pub struct Layers {
    pub tasks: usize,
    pub layers: usize,
    pub fan_in: usize,
}

impl Layers {
    pub fn of(tasks: usize) -> Self {
        Self {
            tasks,
            layers: 10,
            fan_in: 3,
        }
    }

    fn width(self) -> usize {
        (self.tasks / self.layers).max(1)
    }

    /// Each task with the tasks that it reads; none in the first layer.
    fn each(self) -> impl Iterator<Item = (usize, Vec<usize>)> {
        let width = self.width();
        (0..self.tasks).map(move |task| {
            let (layer, column) = (task / width, task % width);
            let before = |offset: usize| (layer - 1) * width + (column + offset) % width;
            let reads = if layer == 0 {
                0
            } else {
                self.fan_in.min(width)
            };
            (task, (0..reads).map(before).collect())
        })
    }

    fn last(self) -> std::ops::Range<usize> {
        self.tasks - self.width()..self.tasks
    }

    /// Makes the sources, and the file that `tool` reads.
    pub fn write(self, tool: &str, folder: &Path) {
        fs::create_dir_all(folder.join("src")).expect("a folder for the sources");
        for task in 0..self.width() {
            fs::write(source(folder, task), format!("source {task}\n")).expect("a source");
        }
        let (name, text) = match tool {
            "kbuild" => ("Kananafile", self.kananafile()),
            "ninja" => ("build.ninja", self.ninja()),
            "make" => ("Makefile", self.makefile()),
            "snakemake" => ("Snakefile", self.snakefile()),
            "dvc" => ("dvc.yaml", self.dvc()),
            "doit" => ("dodo.py", self.doit()),
            other => panic!("no graph for {other}"),
        };
        if tool != "kbuild" {
            fs::create_dir_all(folder.join("out")).expect("a folder for the outputs");
        }
        fs::write(folder.join(name), text).expect("the graph");
    }

    /// Makes every output, oldest layer first, as if the graph had been run.
    pub fn touch_outputs(self, folder: &Path) {
        for task in 0..self.tasks {
            fs::write(folder.join(output(task)), "").expect("an output");
        }
    }

    /// Every task has an output port of its own name: otherwise equal work on equal content would be done once.
    fn kananafile(self) -> String {
        let goals: Vec<String> = self.last().map(|task| format!("\":t{task:06}\"")).collect();
        let mut text = format!(
            "kananafile = 1\n\n[goal]\ndefault = [{}]\n",
            goals.join(", ")
        );
        for (task, reads) in self.each() {
            let from: Vec<String> = match reads.as_slice() {
                [] => vec![format!("\"src/{task:06}.txt\"")],
                reads => reads
                    .iter()
                    .map(|task| format!("\":t{task:06}\""))
                    .collect(),
            };
            let _ = write!(
                text,
                "\n[task.t{task:06}]\nkind = \"command\"\ninputs.from = [{}]\noutputs = {{ t{task:06} = \"file\" }}\n\
                 params.argv = [\"touch\", \"{{outputs.t{task:06}}}\"]\n",
                from.join(", ")
            );
        }
        text
    }

    fn ninja(self) -> String {
        let mut text = "rule touch\n  command = touch $out\n".to_owned();
        for (task, reads) in self.each() {
            let _ = writeln!(
                text,
                "build {}: touch {}",
                output(task),
                inputs(task, &reads).join(" ")
            );
        }
        text
    }

    fn makefile(self) -> String {
        let goals: Vec<String> = self.last().map(output).collect();
        let mut text = format!("all: {}\n", goals.join(" "));
        for (task, reads) in self.each() {
            let _ = writeln!(
                text,
                "{}: {}\n\ttouch $@",
                output(task),
                inputs(task, &reads).join(" ")
            );
        }
        text
    }

    fn snakefile(self) -> String {
        let goals: Vec<String> = self.last().map(|task| quoted(&output(task))).collect();
        let mut text = format!("rule all:\n    input: {}\n", goals.join(", "));
        for (task, reads) in self.each() {
            let inputs: Vec<String> = inputs(task, &reads)
                .iter()
                .map(|name| quoted(name))
                .collect();
            let _ = writeln!(
                text,
                "rule t{task:06}:\n    input: {}\n    output: {}\n    shell: \"touch {{output}}\"",
                inputs.join(", "),
                quoted(&output(task))
            );
        }
        text
    }

    fn dvc(self) -> String {
        let mut text = "stages:\n".to_owned();
        for (task, reads) in self.each() {
            let out = output(task);
            let _ = writeln!(text, "  t{task:06}:\n    cmd: touch {out}\n    deps:");
            for name in inputs(task, &reads) {
                let _ = writeln!(text, "    - {name}");
            }
            let _ = writeln!(text, "    outs:\n    - {out}");
        }
        text
    }

    fn doit(self) -> String {
        let mut text = "GRAPH = [\n".to_owned();
        for (task, reads) in self.each() {
            let inputs: Vec<String> = inputs(task, &reads)
                .iter()
                .map(|name| quoted(name))
                .collect();
            let _ = writeln!(
                text,
                "    ({}, [{}]),",
                quoted(&output(task)),
                inputs.join(", ")
            );
        }
        text.push_str(
            "]\n\ndef task_touch():\n    for out, reads in GRAPH:\n        yield {'name': out, 'actions': \
             [['touch', out]], 'file_dep': reads, 'targets': [out]}\n",
        );
        text
    }
}

/// `tasks` tasks over the same `parts` shards, one after the other.
pub struct Mapped {
    pub tasks: usize,
    pub parts: usize,
}

impl Mapped {
    /// kbuild maps a kind over the shards; ninja has an edge for each task and shard.
    pub fn write(&self, tool: &str, folder: &Path) {
        if tool != "kbuild" {
            let layers = Layers {
                tasks: self.tasks * self.parts,
                layers: self.tasks,
                fan_in: 1,
            };
            return layers.write(tool, folder);
        }
        fs::create_dir_all(folder.join("src")).expect("a folder for the sources");
        for part in 0..self.parts {
            fs::write(folder.join(format!("src/{part:06}.jsonl")), document(part))
                .expect("a shard");
        }
        let mut text = format!(
            "kananafile = 1\n[goal]\ndefault = [\":t{:03}\"]\n",
            self.tasks - 1
        );
        for task in 0..self.tasks {
            let from = match task {
                0 => "src/*.jsonl".to_owned(),
                _ => format!(":t{:03}", task - 1),
            };
            let _ = write!(
                text,
                "\n[task.t{task:03}]\nkind = \"filter\"\ninputs.documents = \"{from}\"\nparams = {{ rules = \
                 \"gopher\", thresholds = {{ gopher_short_doc = {} }} }}\n",
                task + 1
            );
        }
        fs::write(folder.join("Kananafile"), text).expect("the graph");
    }
}

/// A line of text that the rules let pass, different for each part.
pub fn document(part: usize) -> String {
    let words = "the boats come in with the first light and the people who have waited on the quay help to carry boxes \
                 up to that hall where fish is sold by eight of the clock while the stones are washed and the gulls \
                 have had their share of it";
    format!("{{\"text\": \"Part {part} of the story: {words}.\"}}\n")
}

/// `files` small files in one folder, read by one task.
pub fn files(folder: &Path, files: usize) {
    fs::create_dir_all(folder.join("f")).expect("a folder for the files");
    for file in 0..files {
        fs::write(
            folder.join(format!("f/{file:05}")),
            format!("file {file}\n"),
        )
        .expect("a file");
    }
    one_source(folder, "f");
}

/// One file of this many bytes, read by one task.
pub fn big(folder: &Path, bytes: usize) {
    use std::io::Write;
    fs::create_dir_all(folder).expect("a folder");
    let mut file = std::io::BufWriter::new(fs::File::create(folder.join("big")).expect("a file"));
    let mut state = 1_u64;
    for _ in 0..bytes / 8 {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        file.write_all(&state.to_le_bytes()).expect("a full disk");
    }
    one_source(folder, "big");
}

fn one_source(folder: &Path, source: &str) {
    let text = format!(
        "kananafile = 1\n[goal]\ndefault = [\":one\"]\n[task.one]\nkind = \"command\"\ninputs.from = \
         \"{source}\"\noutputs = {{ one = \"file\" }}\nparams.argv = [\"touch\", \"{{outputs.one}}\"]\n"
    );
    fs::write(folder.join("Kananafile"), text).expect("the graph");
}

pub fn source(folder: &Path, task: usize) -> std::path::PathBuf {
    folder.join(format!("src/{task:06}.txt"))
}

fn output(task: usize) -> String {
    format!("out/t{task:06}")
}

fn inputs(task: usize, reads: &[usize]) -> Vec<String> {
    match reads {
        [] => vec![format!("src/{task:06}.txt")],
        reads => reads.iter().map(|task| output(*task)).collect(),
    }
}

fn quoted(text: &str) -> String {
    format!("'{text}'")
}
