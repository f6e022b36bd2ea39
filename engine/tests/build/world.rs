//! A folder with a Kananafile of small commands, and a count of what ran in it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kbuild_engine::artifact::Shape;
use kbuild_engine::build::{Options, Outcome};
use kbuild_engine::event::{BuildEvent, Events};
use kbuild_engine::kananafile;
use kbuild_engine::kind::{Format, Kinds};
use kbuild_engine::project::{Closed, Project};
use kbuild_engine::runner::Stop;
use tokio::sync::watch;

pub struct World {
    pub folder: tempfile::TempDir,
}

/// A build that has ended.
pub struct Built {
    pub outcome: Outcome,
    pub events: Vec<BuildEvent>,
}

impl World {
    /// `RUNS` in the Kananafile stands for a file outside that counts executions.
    pub fn new(kananafile: &str, files: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let world = Self { folder };
        world.write("project/Kananafile", &world.filled(kananafile));
        for (name, text) in files {
            world.write(&format!("project/{name}"), &world.filled(text));
        }
        world
    }

    pub fn filled(&self, text: &str) -> String {
        text.replace("RUNS", &self.path("runs").display().to_string())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub fn cache(&self) -> PathBuf {
        self.path("project/cache")
    }

    /// What ran since this was asked last, sorted.
    pub fn runs(&self) -> Vec<String> {
        let path = self.path("runs");
        let mut lines: Vec<String> = fs::read_to_string(&path)
            .unwrap_or_default()
            .lines()
            .map(str::to_owned)
            .collect();
        let _ = fs::remove_file(&path);
        lines.sort();
        lines
    }

    pub fn open(&self) -> Project {
        Self::open_at(&self.path("project"))
    }

    pub fn open_at(folder: &Path) -> Project {
        let lines = Format {
            name: "lines",
            shape: Shape::Shards,
            extension: "txt",
            doc: "lines of text",
        };
        Self::open_with(folder, &Kinds::new(Vec::new(), vec![lines]))
    }

    pub fn open_with(folder: &Path, kinds: &Kinds) -> Project {
        let options = kananafile::Options {
            file: "Kananafile",
            ..kananafile::Options::default()
        };
        match Project::open(folder, kinds, &options) {
            Ok(project) => project,
            Err(Closed::Problems(problems)) => panic!("{problems:#?}"),
            Err(Closed::Environment(error)) => panic!("{error}"),
        }
    }

    pub async fn build_at(
        project: &Project,
        goal: &str,
        change: impl FnOnce(&mut Options),
    ) -> Outcome {
        let goals = project.graph().select(&[goal]).unwrap();
        let mut options = Options::new("test");
        options.grace = Duration::from_millis(500);
        change(&mut options);
        let stop = watch::Sender::new(Stop::No);
        let quiet = Events::new(|_| ());
        project
            .build(project.prepare(&goals), options, quiet, stop.subscribe())
            .await
            .unwrap()
    }

    pub async fn build(&self, goal: &str) -> Built {
        self.build_with(goal, |_| (), watch::Sender::new(Stop::No))
            .await
    }

    pub async fn build_with(
        &self,
        goal: &str,
        change: impl FnOnce(&mut Options),
        stop: watch::Sender<Stop>,
    ) -> Built {
        Self::run(&self.open(), goal, change, stop).await
    }

    pub async fn run(
        project: &Project,
        goal: &str,
        change: impl FnOnce(&mut Options),
        stop: watch::Sender<Stop>,
    ) -> Built {
        let goals = project.graph().select(&[goal]).unwrap();
        let mut options = Options::new("test");
        options.grace = Duration::from_secs(5);
        change(&mut options);
        let events = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&events);
        let sink = Events::new(move |event| heard.lock().unwrap().push(event));
        let outcome = project
            .build(project.prepare(&goals), options, sink, stop.subscribe())
            .await
            .unwrap();
        let events = events.lock().unwrap().clone();
        Built { outcome, events }
    }

    /// The bytes of a file below `latest/`.
    pub fn latest(&self, name: &str) -> String {
        let path = self.cache().join("latest").join(name);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }
}

impl Built {
    #[track_caller]
    pub fn complete(self) -> Self {
        assert!(self.outcome.is_complete(), "{:#?}", self.events);
        self
    }

    pub fn failure(&self) -> Option<(&str, &str)> {
        self.events.iter().find_map(|event| match event {
            BuildEvent::Failed { task, message, .. } => Some((task.as_str(), message.as_str())),
            _ => None,
        })
    }

    pub fn warnings(&self) -> Vec<&str> {
        let events = self.events.iter();
        events
            .filter_map(|event| match event {
                BuildEvent::Warning { text } => Some(text.as_str()),
                _ => None,
            })
            .collect()
    }
}

/// Waits until something is true, and fails after ten seconds.
pub fn until(what: &str, is_true: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_true() {
        assert!(begun.elapsed() < Duration::from_secs(10), "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Every file below a folder with its bytes.
pub fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.insert(path.clone(), fs::read(&path).unwrap_or_default());
        }
    }
    found
}
