//! Limits that the system sets to this process, and panics that say nothing new.
//!
//! Knows nothing of builds: the program calls it before anything else, and a panic hook asks it.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The limit of open files that this process was started with, once it has been raised.
static OPEN_FILES: OnceLock<Rlimit> = OnceLock::new();

/// Lets this process have as many files open as it may allow itself; its children begin with the limit that it had.
pub fn raise_open_files() {
    let before = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: before.maximum,
        maximum: before.maximum,
    };
    if before.current != before.maximum && setrlimit(Resource::Nofile, raised).is_ok() {
        let _ = OPEN_FILES.set(before);
    }
}

/// The limit of open files that children get, where it is another than this process has.
pub(crate) fn open_files_of_children() -> Option<libc::rlimit> {
    let limit = OPEN_FILES.get()?;
    Some(libc::rlimit {
        rlim_cur: limit.current.unwrap_or(libc::RLIM_INFINITY),
        rlim_max: limit.maximum.unwrap_or(libc::RLIM_INFINITY),
    })
}

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// What `action` gives, or `None` when it panics; [`is_guarded`] lets a panic hook keep silent about that.
pub(crate) fn guarded<T>(action: impl FnOnce() -> T) -> Option<T> {
    let before = GUARDED.replace(true);
    let given = catch_unwind(AssertUnwindSafe(action)).ok();
    GUARDED.set(before);
    given
}

/// Whether a panic of this thread is expected, and handled. (The history's library has threads of its own.)
pub fn is_guarded() -> bool {
    let of_library = || {
        std::thread::current()
            .name()
            .is_some_and(|name| name.starts_with("sled"))
    };
    GUARDED.get() || of_library()
}

/// Whether a panic says that a thread could not be started: so do the standard library, tokio and rayon.
pub fn is_want_of_threads(message: &str) -> bool {
    let speaks_of_threads = [
        "failed to spawn thread",
        "OS can't spawn worker thread",
        "global thread pool has not been initialized",
    ];
    speaks_of_threads
        .iter()
        .any(|words| message.contains(words))
}
