//! Processes of a build, found by their parents, and their sudden end.

use std::fs;

use rustix::process::{Pid, Signal, kill_process};

/// A living process and its parent.
#[derive(Debug, Clone, Copy)]
struct Entry {
    pid: u32,
    parent: u32,
}

/// Living children of a process.
pub fn children(of: u32) -> Vec<u32> {
    let family = entries().into_iter().filter(|entry| entry.parent == of);
    family.map(|entry| entry.pid).collect()
}

/// Living children, their children, and so on.
pub fn descendants(of: u32) -> Vec<u32> {
    let entries = entries();
    let mut found = vec![of];
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        let family = entries.iter().filter(|entry| entry.parent == parent);
        found.extend(family.map(|entry| entry.pid));
        next += 1;
    }
    found.remove(0);
    found
}

/// kill -9. A process that is gone already is as dead as it should be.
pub fn kill(pid: u32) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let _ = kill_process(pid.expect("a process number"), Signal::KILL);
}

/// kill -9 for a process and all that descend from it, the process itself first: it cannot tidy up.
pub fn kill_group(leader: u32) {
    let group = descendants(leader);
    kill(leader);
    group.into_iter().for_each(kill);
}

fn entries() -> Vec<Entry> {
    let names = fs::read_dir("/proc").expect("/proc is there").flatten();
    let pids = names.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(entry).collect()
}

/// State and parent from `/proc/PID/stat` (proc(5)): they follow the name, which may hold anything but ends the last
/// parenthesis.
fn entry(pid: u32) -> Option<Entry> {
    let text = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let text = String::from_utf8_lossy(&text);
    let mut fields = text[text.rfind(')')? + 1..].split_whitespace();
    let is_alive = fields.next()? != "Z";
    let parent = fields.next()?.parse().ok()?;
    is_alive.then_some(Entry { pid, parent })
}
