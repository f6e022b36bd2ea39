//! Twelve commands in two halves, each execution of which leaves a line behind: what ran is never asked of kbuild.
//!
//! ```text
//! data/a.txt ─▶ a0 ─▶ a1 ─▶ a3 ─▶ a5        and the same for b
//!                └──▶ a2 ─┘─▶ a4 ─┘
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use super::{Project, Ran};

/// Every step with what it reads: `data` is the source of its half.
const STEPS: [(&str, &[&str]); 6] = [
    ("0", &["data"]),
    ("1", &["0"]),
    ("2", &["0"]),
    ("3", &["1", "2"]),
    ("4", &["2"]),
    ("5", &["3", "4"]),
];
const HALVES: [&str; 2] = ["a", "b"];

/// Every task, sorted.
pub fn all() -> Vec<String> {
    let steps = |half| STEPS.iter().map(move |(step, _)| format!("{half}{step}"));
    HALVES.into_iter().flat_map(steps).collect()
}

/// The project, and a place outside of it where its commands leave what they did.
pub struct Dozen {
    pub project: Project,
    homes: TempDir,
}

/// A process of kbuild that was not waited for.
pub struct Running {
    pub child: Child,
    /// Where its commands leave what they did.
    pub home: Home,
}

/// What the commands of an invocation see as `HOME`: kbuild passes it on, and no key holds it.
#[derive(Debug, Clone)]
pub struct Home(PathBuf);

impl Home {
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// What was executed since this was asked last, sorted.
    pub fn ran(&self) -> Vec<String> {
        let path = self.0.join("ran");
        let text = fs::read_to_string(&path).unwrap_or_default();
        let _ = fs::remove_file(&path);
        let mut ran: Vec<String> = text.lines().map(str::to_owned).collect();
        ran.sort();
        ran
    }

    /// Lets a step wait at a moment: `begun` (half of its output is there) or `done` (all of it is).
    pub fn hold(&self, step: &str, moment: &str) {
        self.put(&format!("hold-{step}-{moment}"), "");
    }

    pub fn release(&self, step: &str, moment: &str) {
        fs::remove_file(self.0.join(format!("hold-{step}-{moment}"))).expect("the step was held");
    }

    /// Waits until the step is at that moment.
    pub fn await_held(&self, step: &str, moment: &str) {
        let path = self.0.join(format!("held-{step}-{moment}"));
        until(&format!("{step} is {moment}"), || path.exists());
    }

    fn put(&self, name: &str, text: &str) {
        fs::write(self.0.join(name), text).expect("the file is written");
    }
}

impl Dozen {
    pub fn new() -> Self {
        Self::paced("0", "0")
    }

    /// Commands that work for `pace` seconds, and the children that some leave behind, which stay for `linger`.
    pub fn paced(pace: &str, linger: &str) -> Self {
        let source = |half: &str| format!("{half}1\n{half}2\n{half}3\n{half}4\n");
        let project = Project::with(&[
            ("Kananafile", &kananafile()),
            ("step.sh", include_str!("../dozen/step.sh")),
            ("data/a.txt", &source("a")),
            ("data/b.txt", &source("b")),
        ]);
        let homes = tempfile::tempdir().expect("a temporary folder");
        fs::write(homes.path().join("pace"), pace).expect("the file is written");
        fs::write(homes.path().join("linger"), linger).expect("the file is written");
        Self { project, homes }
    }

    /// The `HOME` of that name.
    pub fn home(&self, name: &str) -> Home {
        let path = self.homes.path().join(name);
        fs::create_dir_all(&path).expect("folders are made");
        for file in ["pace", "linger"] {
            fs::copy(self.homes.path().join(file), path.join(file)).expect("files are copied");
        }
        Home(path)
    }

    pub fn command(&self, words: &[&str], home: &Home) -> Command {
        let mut command = self.project.command(words);
        command.env("HOME", &home.0);
        command
    }

    /// Runs to the end, and gives what was executed.
    pub fn run(&self, words: &[&str]) -> (Ran, Vec<String>) {
        let home = self.home("run");
        let output = self
            .command(words, &home)
            .output()
            .expect("the program starts");
        (Ran::new(words, output), home.ran())
    }

    /// Builds everything, expects exit code 0 and the right bytes everywhere, and gives what was executed.
    #[track_caller]
    pub fn build(&self) -> (Ran, Vec<String>) {
        let (ran, executed) = self.run(&[]);
        let ran = ran.exits(0);
        assert_eq!(self.wrong(), [""; 0], "{}", ran.stderr());
        (ran, executed)
    }

    /// Builds everything, and compares what was executed.
    #[track_caller]
    pub fn executes(&self, expected: &[&str]) -> Ran {
        let (ran, executed) = self.build();
        assert_eq!(executed, expected, "{}", ran.stderr());
        ran
    }

    pub fn start(&self, words: &[&str], home: Home) -> Running {
        let mut command = self.command(words, &home);
        let child = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program starts");
        Running { child, home }
    }

    /// The export of a task.
    pub fn export(&self, task: &str) -> PathBuf {
        self.project.path(&format!("cache/latest/{task}/out"))
    }

    /// What a task must give, worked out from the sources.
    pub fn expected(&self, task: &str) -> String {
        let (half, step) = task.split_at(1);
        let (_, inputs) = STEPS
            .iter()
            .find(|(name, _)| *name == step)
            .expect("a step");
        let input = |name: &&str| match *name {
            "data" => {
                let source = self.project.read(&format!("data/{half}.txt"));
                source.split_inclusive('\n').take(3).collect()
            }
            name => self.expected(&format!("{half}{name}")),
        };
        format!("{task}\n{}", inputs.iter().map(input).collect::<String>())
    }

    /// Exports that are there and are not what they must be.
    pub fn visibly_wrong(&self) -> Vec<String> {
        let is_wrong = |task: &String| {
            fs::read_to_string(self.export(task)).is_ok_and(|text| text != self.expected(task))
        };
        all().into_iter().filter(is_wrong).collect()
    }

    /// Exports that are missing, or not what they must be.
    pub fn wrong(&self) -> Vec<String> {
        let is_right = |task: &String| {
            fs::read_to_string(self.export(task)).is_ok_and(|text| text == self.expected(task))
        };
        all().into_iter().filter(|task| !is_right(task)).collect()
    }

    /// Tasks that ran beside another writer of their `partial`.
    pub fn two_writers(&self) -> String {
        fs::read_to_string(self.homes.path().join("two-writers")).unwrap_or_default()
    }

    /// Receipts by task, as they lie in the store.
    pub fn receipts(&self) -> BTreeMap<String, Vec<PathBuf>> {
        receipts(&self.project.path("cache/receipts"))
    }

    /// Tasks that have a receipt: nothing of them may run again.
    pub fn finished(&self) -> BTreeSet<String> {
        self.receipts().into_keys().collect()
    }

    /// The blob that a task made.
    pub fn blob(&self, task: &str) -> PathBuf {
        let receipt = receipt(&self.receipts()[task][0]);
        let digest = receipt["outputs"]["out"]["file"]["digest"]
            .as_str()
            .expect("a digest");
        let (head, tail) = digest.split_at(2);
        self.project.path(&format!("cache/blobs/{head}/{tail}"))
    }
}

/// Receipts below a folder by task.
pub fn receipts(folder: &Path) -> BTreeMap<String, Vec<PathBuf>> {
    let mut found: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    for path in files(folder) {
        let task = receipt(&path)["task"].as_str().map(str::to_owned);
        let task = task.expect("a receipt names its task");
        found.entry(task).or_default().push(path);
    }
    found
}

/// What is inside a receipt file.
fn receipt(path: &Path) -> Value {
    let bytes = fs::read(path).expect("a receipt is read");
    let value: Value = serde_json::from_slice(&bytes).expect("a receipt is whole, or not there");
    value["receipt"].clone()
}

fn kananafile() -> String {
    let mut text = "kananafile = 1\n[goal]\ndefault = [\":a5\", \":b5\"]\n".to_owned();
    for half in HALVES {
        for (step, inputs) in STEPS {
            let source = |name: &&str| match *name {
                "data" => format!("data/{half}.txt"),
                name => format!(":{half}{name}"),
            };
            let inputs: Vec<String> = inputs.iter().map(source).collect();
            text.push_str(&format!(
                r#"
[task.{half}{step}]
kind = "command"
inputs.from = {inputs:?}
outputs = {{ out = "file" }}
params = {{ argv = ["sh", "step.sh", "{half}{step}", "{{outputs.out}}", "{{partial}}", "{{inputs.from}}"], files = ["step.sh"] }}
"#
            ));
        }
    }
    text
}

/// Every file below a folder, sorted.
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        match entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            true => found.extend(files(&path)),
            false => found.push(path),
        }
    }
    found.sort();
    found
}

/// Waits until something is true, and fails after a minute.
pub fn until(what: &str, is_true: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_true() {
        assert!(begun.elapsed() < Duration::from_secs(60), "never: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
