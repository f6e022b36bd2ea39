//! Processes whose parent ended before them: they come to this process, which waits for them.
//!
//! Only a program whose children are all attempts may adopt: whatever else it had started would be waited for here.

use std::fs;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, WaitOptions, getpid, kill_process, set_child_subreaper,
    waitid, waitpid,
};

use super::group::{is_marked, patiently};

static ADOPTS: AtomicBool = AtomicBool::new(false);

/// First processes of attempts that were not waited for yet: somebody else waits for them.
static LEADERS: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

/// Makes orphans of attempts children of this process. To be called by a program that starts nothing but attempts.
pub fn adopt_orphans() {
    if set_child_subreaper(Some(getpid())).is_ok() {
        ADOPTS.store(true, Ordering::Relaxed);
    }
}

fn leaders() -> MutexGuard<'static, Vec<Pid>> {
    LEADERS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts a leader with `spawn`: no orphan is waited for before it is known.
pub(super) fn with_leader(spawn: impl FnOnce() -> io::Result<Pid>) -> io::Result<Pid> {
    let mut leaders = leaders();
    let pid = spawn()?;
    leaders.push(pid);
    Ok(pid)
}

/// Forgets a leader that was waited for.
pub(super) fn forget_leader(pid: Pid) {
    leaders().retain(|leader| *leader != pid);
}

/// Kills the orphans that carry the mark of an attempt that has ended, and waits for all that have ended.
pub(super) fn end_orphans(mark: &str) {
    if ADOPTS.load(Ordering::Relaxed) {
        patiently(|| !reap(mark));
    }
}

/// True if a process with this mark was still there.
fn reap(mark: &str) -> bool {
    let leaders = leaders();
    if !has_children() {
        return false;
    }
    let orphans: Vec<Pid> = children()
        .into_iter()
        .filter(|pid| !leaders.contains(pid))
        .collect();
    let mut found = false;
    for orphan in orphans {
        if is_marked(orphan.as_raw_pid().unsigned_abs(), mark) {
            found = true;
            let _ = kill_process(orphan, Signal::KILL);
        }
        let _ = waitpid(Some(orphan), WaitOptions::NOHANG);
    }
    found
}

fn has_children() -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    waitid(WaitId::All, options).is_ok()
}

/// Children of every thread of this process (proc(5)).
fn children() -> Vec<Pid> {
    let threads = fs::read_dir("/proc/self/task")
        .into_iter()
        .flatten()
        .flatten();
    let lists =
        threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    let pid = |word: &str| Pid::from_raw(word.parse().ok()?);
    lists
        .flat_map(|list| list.split_whitespace().filter_map(pid).collect::<Vec<_>>())
        .collect()
}
