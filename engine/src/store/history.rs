//! What earlier builds took: durations and sizes by task. Disposable, and the only file that names sled.
//!
//! sled locks its directory and writes when it opens, so only a build that runs something opens it, and a build that
//! cannot have it goes on without.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Store;

/// One finished execution.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    key: String,
    elapsed_ms: u64,
    bytes: u64,
}

/// Durations of earlier executions; knows nothing when it could not be opened.
#[derive(Debug, Default)]
pub struct History {
    tree: Option<sled::Db>,
}

impl History {
    /// Opens the history of a store. Never waits: locked or damaged, it is empty and says so.
    pub fn open(store: &Store) -> (Self, Option<String>) {
        let path = store.history_path();
        match open(&path) {
            Ok(tree) => (Self { tree: Some(tree) }, None),
            Err(Trouble::Locked) => (Self::default(), None),
            Err(Trouble::Damaged(cause)) => {
                super::blobs::remove_tree(&path);
                let warning = format!("`{}` was damaged and starts anew: {cause}", path.display());
                (
                    Self {
                        tree: open(&path).ok(),
                    },
                    Some(warning),
                )
            }
        }
    }

    /// How long the last execution of this task took.
    pub fn elapsed(&self, task: &str) -> Option<Duration> {
        let tree = self.tree.as_ref()?;
        let bytes = guarded(|| tree.get(task))?;
        let record: Record = serde_json::from_slice(&bytes?).ok()?;
        Some(Duration::from_millis(record.elapsed_ms))
    }

    pub fn record(&self, task: &str, key: &str, elapsed: Duration, bytes: u64) {
        let record = Record {
            key: key.to_owned(),
            elapsed_ms: u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
            bytes,
        };
        if let (Some(tree), Ok(value)) = (&self.tree, serde_json::to_vec(&record)) {
            guarded(|| tree.insert(task, value));
        }
    }
}

impl Drop for History {
    fn drop(&mut self) {
        if let Some(tree) = self.tree.take() {
            guarded(|| tree.flush());
            let _ = catch_unwind(AssertUnwindSafe(|| drop(tree)));
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
    match catch_unwind(AssertUnwindSafe(|| config.open())) {
        Ok(Ok(tree)) => Ok(tree),
        Ok(Err(sled::Error::Io(error))) if is_lock(&error) => Err(Trouble::Locked),
        Ok(Err(error)) => Err(Trouble::Damaged(error.to_string())),
        Err(_) => Err(Trouble::Damaged("unreadable".to_owned())),
    }
}

fn is_lock(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::WouldBlock || error.to_string().contains("acquire lock")
}

fn guarded<T>(action: impl FnOnce() -> sled::Result<T>) -> Option<T> {
    catch_unwind(AssertUnwindSafe(action)).ok()?.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembers_and_never_blocks() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::new(directory.path());
        let (first, _) = History::open(&store);
        first.record("tok", "k", Duration::from_millis(1500), 10);
        let (second, warning) = History::open(&store);
        assert_eq!(second.elapsed("tok"), None, "locked by the first");
        assert_eq!(warning, None);
        drop(first);
        // A process that another test starts just now shares the lock until it has become its program.
        let open = || Some(History::open(&store).0).filter(|history| history.tree.is_some());
        let third = (0..5_000).find_map(|_| {
            std::thread::sleep(Duration::from_millis(1));
            open()
        });
        let elapsed = third.and_then(|third| third.elapsed("tok"));
        assert_eq!(elapsed, Some(Duration::from_millis(1500)));
    }

    #[test]
    fn damage_starts_it_anew() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::new(directory.path());
        std::fs::write(store.history_path(), "not a directory").unwrap();
        let (history, warning) = History::open(&store);
        assert!(warning.is_some());
        history.record("tok", "k", Duration::from_secs(1), 1);
    }
}
