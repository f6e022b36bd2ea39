//! Signals that ask the program to end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::signal::unix::{Signal, SignalKind, signal};

/// What asks a program to end, and what must not end it.
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
    quit: Signal,
    /// None where SIGHUP was ignored from the start: `nohup` asks for that.
    hang_up: Option<Signal>,
    /// They mean nothing here; without a handler they would end the build.
    user: [Signal; 2],
}

/// The signal that asks to end at once.
pub const AT_ONCE: i32 = SignalKind::quit().as_raw_value();

impl Signals {
    pub fn new() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            quit: signal(SignalKind::quit())?,
            hang_up: match is_ignored(SignalKind::hangup()) {
                true => None,
                false => Some(signal(SignalKind::hangup())?),
            },
            user: [
                signal(SignalKind::user_defined1())?,
                signal(SignalKind::user_defined2())?,
            ],
        })
    }

    /// Its number.
    pub async fn next(&mut self) -> i32 {
        let [first, second] = &mut self.user;
        loop {
            let kind = tokio::select! {
                _ = self.interrupt.recv() => SignalKind::interrupt(),
                _ = self.terminate.recv() => SignalKind::terminate(),
                _ = self.quit.recv() => SignalKind::quit(),
                () = hung_up(&mut self.hang_up) => SignalKind::hangup(),
                _ = first.recv() => continue,
                _ = second.recv() => continue,
            };
            return kind.as_raw_value();
        }
    }
}

async fn hung_up(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => {
            signal.recv().await;
        }
        None => std::future::pending().await,
    }
}

/// Whether this process ignores a signal (proc(5): bit n - 1 of `SigIgn` stands for signal n).
fn is_ignored(kind: SignalKind) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let set = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok());
    set.is_some_and(|set| set & (1 << (kind.as_raw_value() - 1)) != 0)
}

/// The time between two builds of one command: nothing runs, and nothing is written. Who has listened for signals once
/// does not stop to, so they end the program here, as they did before.
pub struct Between {
    is_over: Arc<AtomicBool>,
}

impl Between {
    pub fn builds() -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let shared = Arc::clone(&is_over);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            let Ok(runtime) = runtime else { return };
            runtime.block_on(async {
                let Ok(mut signals) = Signals::new() else {
                    return;
                };
                let number = signals.next().await;
                if !shared.load(Ordering::Relaxed) {
                    std::process::exit(128 + number);
                }
            });
        });
        Self { is_over }
    }
}

impl Drop for Between {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}
