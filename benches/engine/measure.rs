//! What a command takes: wall, CPU of it and of everything it waited for, and its peak of memory.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// One run, or the median of several.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cost {
    pub wall: Duration,
    pub cpu: Duration,
    pub peak_kib: u64,
}

/// A command, from the arguments; its output is thrown away.
pub fn command(program: &Path, folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

/// Runs a command to its end.
#[allow(unsafe_code)]
pub fn run(command: &mut Command) -> Cost {
    let begun = Instant::now();
    #[expect(
        clippy::zombie_processes,
        reason = "`wait4` below reaps it, and tells its times"
    )]
    let child = command.spawn().expect("the command starts");
    let pid = libc::pid_t::try_from(child.id()).expect("a pid");
    let (mut status, mut usage) = (0, std::mem::MaybeUninit::<libc::rusage>::zeroed());
    // SAFETY: the child was just started and nobody else waits for it; both pointers are valid, and all-zero bytes are
    // a valid `rusage`.
    let usage = unsafe {
        let waited = libc::wait4(pid, &raw mut status, 0, usage.as_mut_ptr());
        assert_eq!(waited, pid, "{command:?} can be waited for");
        usage.assume_init()
    };
    assert!(
        libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0,
        "{command:?} failed"
    );
    let time = |time: libc::timeval| {
        Duration::from_micros(u64::try_from(time.tv_sec * 1_000_000 + time.tv_usec).unwrap_or(0))
    };
    Cost {
        wall: begun.elapsed(),
        cpu: time(usage.ru_utime) + time(usage.ru_stime),
        peak_kib: u64::try_from(usage.ru_maxrss).unwrap_or(0),
    }
}

/// The median of `runs` runs, each field by itself. `before` is done before each and not measured.
pub fn median(runs: usize, mut before: impl FnMut(), mut make: impl FnMut() -> Command) -> Cost {
    let costs: Vec<Cost> = (0..runs.max(1))
        .map(|_| {
            before();
            run(&mut make())
        })
        .collect();
    let middle = |mut values: Vec<u128>| {
        values.sort_unstable();
        values[values.len() / 2]
    };
    let duration = |of: fn(&Cost) -> Duration| {
        let nanos = middle(costs.iter().map(|cost| of(cost).as_nanos()).collect());
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    };
    let peak = middle(costs.iter().map(|cost| u128::from(cost.peak_kib)).collect());
    Cost {
        wall: duration(|cost| cost.wall),
        cpu: duration(|cost| cost.cpu),
        peak_kib: u64::try_from(peak).unwrap_or(u64::MAX),
    }
}

/// Calls stat on every file of a folder from so many threads: the least that looking at them can cost.
pub fn statx_loop(folder: &Path, threads: usize) {
    let names: Vec<_> = std::fs::read_dir(folder)
        .expect("the folder is there")
        .flatten()
        .map(|entry| entry.path())
        .collect();
    let share = names.len().div_ceil(threads.max(1)).max(1);
    let total: u64 = std::thread::scope(|scope| {
        let parts: Vec<_> = names
            .chunks(share)
            .map(|names| {
                scope.spawn(|| {
                    let sizes = names
                        .iter()
                        .filter_map(|name| Some(std::fs::metadata(name).ok()?.len()));
                    sizes.sum::<u64>()
                })
            })
            .collect();
        parts
            .into_iter()
            .map(|part| part.join().expect("no panic"))
            .sum()
    });
    assert!(total > 0, "the files are not empty");
}
