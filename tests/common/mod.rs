//! The real program in a temporary copy of a project.

// Each test file uses some of these.
#![allow(dead_code)]

pub mod damage;
pub mod dozen;
pub mod processes;
pub mod random;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// The repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A project in a folder of its own.
pub struct Project {
    folder: TempDir,
}

impl Project {
    /// A copy of an example, without anything that was built there.
    pub fn example(name: &str) -> Self {
        Self::copy_of(&format!("examples/{name}"))
    }

    /// A copy of a folder of the repository.
    pub fn copy_of(folder: &str) -> Self {
        let copied = tempfile::tempdir().expect("a temporary folder");
        copy(&root().join(folder), copied.path());
        Self { folder: copied }
    }

    /// A project with these files.
    pub fn with(files: &[(&str, &str)]) -> Self {
        let project = Self {
            folder: tempfile::tempdir().expect("a temporary folder"),
        };
        files
            .iter()
            .for_each(|(name, text)| project.write(name, text));
        project
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    pub fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().expect("a file is in a folder"))
            .expect("folders are made");
        std::fs::write(path, text).expect("the file is written");
    }

    /// The program with these words, not started yet.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kbuild"));
        command
            .current_dir(self.folder.path())
            .args(words)
            .stdin(Stdio::null())
            .env("NO_COLOR", "1");
        command
    }

    pub fn run(&self, words: &[&str]) -> Ran {
        let output = self.command(words).output().expect("the program starts");
        Ran::new(words, output)
    }

    /// Runs and expects exit code 0.
    pub fn ok(&self, words: &[&str]) -> Ran {
        self.run(words).exits(0)
    }

    /// `plan --json` of some goals.
    pub fn plan(&self, goals: &[&str]) -> Value {
        let words = [&["plan", "--json"], goals].concat();
        serde_json::from_str(&self.ok(&words).stdout()).expect("the plan is JSON")
    }

    /// Status of each task of a plan: `("clean", "hit")`.
    pub fn statuses(&self, goals: &[&str]) -> Vec<(String, String)> {
        let plan = self.plan(goals);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let tasks = plan["tasks"].as_array().expect("the plan has tasks");
        tasks
            .iter()
            .map(|task| (text(&task["task"]), text(&task["status"])))
            .collect()
    }

    /// The tasks that a build executes, by its own stream of events.
    pub fn built(&self, words: &[&str]) -> Vec<String> {
        let words = [&["--json"], words].concat();
        let events = self.ok(&words).stdout();
        let mut built: Vec<String> = events
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .filter(|event| event["event"] == "finished")
            .filter_map(|event| event["task"].as_str().map(str::to_owned))
            .collect();
        built.sort();
        built
    }
}

/// What a run of the program printed, and how it ended.
pub struct Ran {
    words: String,
    pub output: Output,
}

impl Ran {
    pub fn new(words: &[&str], output: Output) -> Self {
        Self {
            words: words.join(" "),
            output,
        }
    }

    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        let found = self.output.status.code();
        let (out, err) = (self.stdout(), self.stderr());
        assert_eq!(
            found,
            Some(code),
            "kbuild {}\n--- stdout\n{out}\n--- stderr\n{err}",
            self.words
        );
        self
    }

    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.output.stdout).into_owned()
    }

    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.output.stderr).into_owned()
    }

    /// Everything that was printed holds this.
    #[track_caller]
    pub fn says(self, what: &str) -> Self {
        let all = self.stdout() + &self.stderr();
        assert!(
            all.contains(what),
            "kbuild {} does not say `{what}`:\n{all}",
            self.words
        );
        self
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("folders are made");
    for entry in std::fs::read_dir(from)
        .expect("the example is there")
        .flatten()
    {
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        match path.is_dir() {
            true if entry.file_name() == "cache" => {}
            true => copy(&path, &target),
            false => drop(std::fs::copy(&path, &target).expect("files are copied")),
        }
    }
}
