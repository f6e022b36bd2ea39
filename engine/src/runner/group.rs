//! Processes by identity, and the end of those that an attempt left behind.
//!
//! A pid alone names nothing: it is used again. A process here is its pid and its start, and a member of an attempt
//! is whoever carries the mark of that attempt in its environment, whatever group or session it is in: nobody else's
//! process is ever signalled.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, test_kill_process_group};
use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// Environment variable that marks every process of an attempt.
pub const MARK: &str = "KBUILD_ATTEMPT";

/// A record with a shorter mark was not written by a build: temporary names are longer.
const SHORTEST_MARK: usize = 8;

/// A process, as nobody else will ever be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    pub pid: u32,
    /// Start in clock ticks since the machine came up.
    pub start: u64,
}

impl Process {
    /// The process that runs this code.
    pub fn own() -> Self {
        static OWN: OnceLock<Process> = OnceLock::new();
        *OWN.get_or_init(|| {
            let pid = std::process::id();
            Self {
                pid,
                start: stat(pid).map_or(0, |stat| stat.start),
            }
        })
    }

    /// The living process that now has this pid.
    pub fn find(pid: u32) -> Option<Self> {
        stat(pid).filter(Stat::lives).map(|stat| Self {
            pid,
            start: stat.start,
        })
    }

    pub fn is_alive(&self) -> bool {
        stat(self.pid).is_some_and(|stat| stat.start == self.start && stat.lives())
    }
}

/// Who works on a key, as its lock file records it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// Where pids mean something, see [`boot`].
    pub boot: String,
    pub builder: Process,
    /// Value of [`MARK`] in the attempt's processes.
    pub mark: String,
}

impl Attempt {
    pub fn new(mark: &str) -> Self {
        Self {
            boot: boot().to_owned(),
            builder: Process::own(),
            mark: mark.to_owned(),
        }
    }

    /// True when the build that started the attempt is gone, on this machine, since it came up.
    pub fn is_orphaned(&self) -> bool {
        self.boot == boot() && !self.builder.is_alive()
    }

    /// Sends a signal to every process of the attempt that is still there; returns how many there were.
    pub fn signal(&self, signal: Signal) -> usize {
        if self.boot != boot() || self.mark.len() < SHORTEST_MARK {
            return 0;
        }
        let members = members(&self.mark);
        for pid in &members {
            let _ = kill_process(*pid, signal);
        }
        members.len()
    }

    /// Kills what is left of the attempt and waits until it is gone.
    pub fn kill(&self) {
        patiently(|| self.signal(Signal::KILL) == 0);
    }
}

/// Kills what carries the mark when anything is left of the group of a leader that was killed with it, or left the group
/// and still holds what it inherited (`is_held`), and waits until the group is gone too. Cheap when nothing is left.
pub(crate) fn end_group(leader: Pid, mark: &str, is_held: bool) {
    if !is_held && test_kill_process_group(leader).is_err() {
        return;
    }
    let attempt = Attempt::new(mark);
    // A process has no environment to be known by while it becomes another program, and while it ends.
    patiently(|| attempt.signal(Signal::KILL) == 0 && !lives(leader));
}

pub(super) fn patiently(mut is_done: impl FnMut() -> bool) {
    const PATIENCE: Duration = Duration::from_secs(5);
    let begun = Instant::now();
    while !is_done() && begun.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Living processes that carry the mark. (A dead one that was not waited for has no environment any more.)
fn members(mark: &str) -> Vec<Pid> {
    pids()
        .filter(|pid| is_marked(*pid, mark))
        .filter_map(|pid| Pid::from_raw(i32::try_from(pid).ok()?))
        .collect()
}

/// True while a process of the group has not ended.
fn lives(group: Pid) -> bool {
    pids()
        .filter_map(stat)
        .any(|stat| stat.group == group.as_raw_pid() && stat.lives())
}

fn pids() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

pub(super) fn is_marked(pid: u32, mark: &str) -> bool {
    let expected = format!("{MARK}={mark}");
    fs::read(format!("/proc/{pid}/environ")).is_ok_and(|environ| {
        environ
            .split(|byte| *byte == 0)
            .any(|entry| entry == expected.as_bytes())
    })
}

struct Stat {
    state: char,
    group: i32,
    start: u64,
}

impl Stat {
    /// False for a process that has ended and was not waited for.
    fn lives(&self) -> bool {
        !matches!(self.state, 'Z' | 'X')
    }
}

/// Fields 3, 5 and 22 of `/proc/<pid>/stat` (proc(5)); the name in field 2 may hold anything, so reading starts
/// after its closing parenthesis.
fn stat(pid: u32) -> Option<Stat> {
    let text = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let text = String::from_utf8_lossy(&text);
    let fields: Vec<&str> = text[text.rfind(')')? + 1..].split_whitespace().collect();
    Some(Stat {
        state: fields.first()?.chars().next()?,
        group: fields.get(2)?.parse().ok()?,
        start: fields.get(19)?.parse().ok()?,
    })
}

/// Where the pids that this process sees mean something: this run of this machine, and the namespace of pids (a container
/// has one of its own). Somebody who is not found here may be alive elsewhere.
fn boot() -> &'static str {
    static BOOT: OnceLock<String> = OnceLock::new();
    BOOT.get_or_init(|| {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let namespace = fs::metadata("/proc/self/ns/pid").map_or(0, |found| found.ino());
        format!("{} {namespace}", boot.trim())
    })
}

/// The same as eight hexadecimal digits.
pub fn place() -> &'static str {
    static PLACE: OnceLock<String> = OnceLock::new();
    PLACE.get_or_init(|| Digest::of(boot().as_bytes()).to_hex()[..8].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::CommandExt;
    use std::process::{Command, Stdio};

    /// A mark that a test running at the same time does not use.
    fn own(mark: &str) -> String {
        format!("{mark} of {}", std::process::id())
    }

    fn sleeper(mark: &str) -> std::process::Child {
        Command::new("sleep")
            .arg("60")
            .env(MARK, mark)
            .process_group(0)
            .stdin(Stdio::null())
            .spawn()
            .unwrap()
    }

    #[test]
    fn kills_marked_processes_alone() {
        let (mut ours, mut other) = (sleeper(&own("ours")), sleeper(&own("other")));
        // The mark appears with exec, which spawn has waited for.
        Attempt::new(&own("nobody's")).kill();
        assert!(ours.try_wait().unwrap().is_none());
        end_group(Pid::from_child(&ours), &own("ours"), false);
        assert!(!ours.wait().unwrap().success());
        assert!(
            other.try_wait().unwrap().is_none(),
            "another mark is another attempt"
        );
        other.kill().unwrap();
        other.wait().unwrap();
    }

    #[test]
    fn a_member_that_left_the_group_is_found() {
        let mut daemon = Command::new("setsid")
            .args(["sleep", "60"])
            .env(MARK, own("a daemon"))
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let attempt = Attempt::new(&own("a daemon"));
        // Nothing is seen of a process for the moment in which it becomes another program.
        while attempt.signal(Signal::KILL) == 0 {
            assert!(daemon.try_wait().unwrap().is_none());
        }
        assert!(!daemon.wait().unwrap().success());
    }

    #[test]
    fn a_recycled_pid_is_another_process() {
        let own = Process::own();
        assert!(own.is_alive());
        let recycled = Process {
            start: own.start + 1,
            ..own
        };
        assert!(!recycled.is_alive());
        let mut attempt = Attempt::new("m");
        assert!(!attempt.is_orphaned());
        attempt.builder = recycled;
        assert!(attempt.is_orphaned());
    }
}
