//! What earlier builds took: durations and sizes by task. Disposable, and the only file that names sled.
//!
//! sled locks its directory and writes when it opens, so only a build that has an order to choose, or something to
//! remember, opens it; and a build that cannot have it goes on without.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Store;
use super::root::Root;
use crate::limits;

/// One finished execution.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    key: String,
    elapsed_ms: u64,
    bytes: u64,
}

/// What took less than this orders nothing, and is not remembered.
const WORTH: Duration = Duration::from_secs(1);

/// Durations of earlier executions, opened when somebody asks; knows nothing when it cannot be.
#[derive(Debug)]
pub struct History {
    root: Root,
    path: PathBuf,
    tree: Option<sled::Db>,
    is_opened: bool,
    warning: Option<String>,
}

impl History {
    /// The history of a store. Touches nothing.
    pub fn of(store: &Store) -> Self {
        Self {
            root: store.below().clone(),
            path: store.history_path(),
            tree: None,
            is_opened: false,
            warning: None,
        }
    }

    /// Never waits: locked or damaged, it is empty.
    fn tree(&mut self) -> Option<&sled::Db> {
        if !std::mem::replace(&mut self.is_opened, true) {
            self.unlink();
            self.tree = match open(&self.path) {
                Ok(tree) => Some(tree),
                Err(Trouble::Locked) => None,
                Err(Trouble::Damaged(cause)) => {
                    self.root.remove_tree(&self.path);
                    let path = self.path.display();
                    self.warning = Some(format!("`{path}` was damaged and starts anew: {cause}"));
                    open(&self.path).ok()
                }
            };
        }
        self.tree.as_ref()
    }

    /// sled opens files by their paths: where a link is among them, all of it goes.
    fn unlink(&self) {
        let is_link = |path: &Path| {
            path.symlink_metadata()
                .is_ok_and(|found| found.is_symlink())
        };
        let mut inside = self.root.entries(&self.path);
        let below: Vec<PathBuf> = inside
            .iter()
            .flat_map(|path| self.root.entries(path))
            .collect();
        inside.extend(below);
        if is_link(&self.path) || inside.iter().any(|path| is_link(path)) {
            self.root.remove_tree(&self.path);
        }
    }

    /// What there is to say of it, once.
    pub fn take_warning(&mut self) -> Option<String> {
        self.warning.take()
    }

    /// How long the last execution of this task took, if it took long.
    pub fn elapsed(&mut self, task: &str) -> Option<Duration> {
        let tree = self.tree()?;
        let bytes = guarded(|| tree.get(task))?;
        let record: Record = serde_json::from_slice(&bytes?).ok()?;
        Some(Duration::from_millis(record.elapsed_ms))
    }

    pub fn record(&mut self, task: &str, key: &str, elapsed: Duration, bytes: u64) {
        if elapsed < WORTH {
            // It may have taken longer before. Nothing is opened to forget.
            if let Some(tree) = &self.tree {
                guarded(|| tree.remove(task));
            }
            return;
        }
        let record = Record {
            key: key.to_owned(),
            elapsed_ms: u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
            bytes,
        };
        if let (Some(tree), Ok(value)) = (self.tree(), serde_json::to_vec(&record)) {
            guarded(|| tree.insert(task, value));
        }
    }
}

impl Drop for History {
    fn drop(&mut self) {
        if let Some(tree) = self.tree.take() {
            guarded(|| tree.flush());
            let _ = limits::guarded(|| drop(tree));
        }
    }
}

enum Trouble {
    Locked,
    Damaged(String),
}

fn open(path: &Path) -> Result<sled::Db, Trouble> {
    let config = sled::Config::new()
        .path(path)
        .mode(sled::Mode::LowSpace)
        .cache_capacity(1 << 20)
        .flush_every_ms(None);
    // sled panics on some damaged files.
    match limits::guarded(|| config.open()) {
        Some(Ok(tree)) => Ok(tree),
        Some(Err(sled::Error::Io(error))) if is_lock(&error) => Err(Trouble::Locked),
        Some(Err(error)) => Err(Trouble::Damaged(error.to_string())),
        None => Err(Trouble::Damaged("unreadable".to_owned())),
    }
}

fn is_lock(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::WouldBlock || error.to_string().contains("acquire lock")
}

fn guarded<T>(action: impl FnOnce() -> sled::Result<T>) -> Option<T> {
    limits::guarded(action)?.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembers_and_never_blocks() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::new(directory.path());
        let mut first = History::of(&store);
        first.record("tok", "k", Duration::from_millis(1500), 10);
        first.record("quick", "k", Duration::from_millis(900), 10);
        let mut second = History::of(&store);
        assert_eq!(second.elapsed("tok"), None, "locked by the first");
        assert_eq!(second.take_warning(), None);
        drop(first);
        // A process that another test starts just now shares the lock until it has become its program.
        let mut third = (0..5_000).find_map(|_| {
            std::thread::sleep(Duration::from_millis(1));
            let mut history = History::of(&store);
            history.tree().is_some().then_some(history)
        });
        let mut elapsed = |task| third.as_mut().and_then(|third| third.elapsed(task));
        assert_eq!(elapsed("tok"), Some(Duration::from_millis(1500)));
        assert_eq!(elapsed("quick"), None);
        if let Some(third) = &mut third {
            third.record("tok", "k", Duration::from_millis(900), 10);
            assert_eq!(third.elapsed("tok"), None, "it is quick by now");
        }
    }

    #[test]
    fn damage_starts_it_anew() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::new(directory.path());
        std::fs::write(store.history_path(), "not a directory").unwrap();
        let mut history = History::of(&store);
        history.record("tok", "k", Duration::from_secs(1), 1);
        assert!(history.take_warning().is_some());
        assert_eq!(history.elapsed("tok"), Some(Duration::from_secs(1)));
    }
}
