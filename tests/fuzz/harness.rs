//! Runs a target in a child process, and says of a failure what it was and which bytes caused it.
//!
//! The child writes each input to a file before it reads it, so that an abort has its input. It knows nothing of
//! formats.

use std::collections::HashSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, setrlimit};

use crate::mutate::mutate;
use crate::random::Random;

/// Something that reads bytes.
pub struct Target {
    /// Name of the test.
    pub test: &'static str,
    /// Name of its folder in `corpus/`.
    pub name: &'static str,
    /// Words of the format, to be inserted.
    pub words: &'static [&'static str],
    /// Reads an input; may use the folder. What it gives says how far it came: an error, or some words. Inputs that
    /// come somewhere new are mutated further.
    pub run: fn(&Path, &[u8]) -> String,
}

/// CPU time for one input: machines that are busy are no hang.
const MOST_CPU: Duration = Duration::from_secs(5);
/// Time for one input that waits.
const MOST_WAIT: Duration = Duration::from_secs(60);
/// Memory that one input may take.
const MOST_MEMORY: u64 = 1 << 30;
/// Addresses that the child may have: what asks for more aborts, with its input known.
const MOST_ADDRESSES: u64 = 8 << 30;
/// Inputs that are mutated further.
const MOST_KEPT: usize = 2048;
/// Inputs that are tried to make a failing one smaller.
const MOST_SHRINKING: usize = 2000;

const CHILD: &str = "KBUILD_FUZZ_CHILD";

/// Runs a target for its time; fails with what it found.
pub fn fuzz(target: &Target) {
    match std::env::var_os(CHILD) {
        Some(folder) => child(target, Path::new(&folder)),
        None => parent(target),
    }
}

fn parent(target: &Target) {
    let folder = tempfile::Builder::new().prefix("kbuild-fuzz-").tempdir();
    let folder = folder.expect("a temporary folder");
    let output = Command::new(std::env::current_exe().expect("this program has a path"))
        .args([target.test, "--exact", "--nocapture", "--test-threads=1"])
        .env(CHILD, folder.path())
        .env("RUST_BACKTRACE", "0")
        .output()
        .expect("this program starts again");
    let read = |name: &str| fs::read_to_string(folder.path().join(name)).ok();
    if let Some(done) = read("done").filter(|_| output.status.success()) {
        println!("{}: {done}", target.name);
        return;
    }
    let place = read("place").unwrap_or_else(|| "before any input".to_owned());
    let cause = read("cause").unwrap_or_else(|| {
        let errors = String::from_utf8_lossy(&output.stderr);
        let tail: Vec<&str> = errors.lines().rev().take(8).collect();
        let tail: Vec<&str> = tail.into_iter().rev().collect();
        format!("the process ended: {}\n{}", output.status, tail.join("\n"))
    });
    // Made smaller, or the one that was being read when the process ended.
    let folder = folder.keep();
    let failing = folder.join("failing");
    let input = if failing.exists() {
        failing
    } else {
        folder.join("input")
    };
    panic!(
        "{name}, {place}: {cause}\n  input: {input}\n  help: fix it, and keep the input as a test: cp {input} \
         tests/fuzz/corpus/{name}/found-WHAT",
        name = target.name,
        input = input.display(),
    );
}

fn child(target: &Target, folder: &Path) {
    let limit = Rlimit {
        current: Some(MOST_ADDRESSES),
        maximum: None,
    };
    let _ = setrlimit(Resource::As, limit);
    let mut runner = Runner::new(target, folder);
    let seeds = corpus(target.name);
    assert!(!seeds.is_empty(), "no seeds for `{}`", target.name);
    let mut kept: Vec<Vec<u8>> = Vec::new();
    for (path, bytes) in seeds {
        runner.run(&format!("seed {}", path.display()), &bytes);
        kept.push(bytes);
    }
    let seed = number("KBUILD_FUZZ_SEED", 0);
    let deadline = Instant::now() + Duration::from_secs(number("KBUILD_FUZZ_SECONDS", 2));
    let mut random = Random(seed);
    let mut n_inputs = 0_u64;
    while Instant::now() < deadline {
        let input = mutate(&mut random, &kept, target.words);
        let is_new = runner.run(
            &format!("input {n_inputs} of KBUILD_FUZZ_SEED={seed}"),
            &input,
        );
        if is_new && kept.len() < MOST_KEPT {
            kept.push(input);
        }
        n_inputs += 1;
    }
    let done = format!("{n_inputs} inputs, {} ways to end", runner.outcomes.len());
    fs::write(folder.join("done"), done).expect("the folder is writable");
}

fn number(variable: &str, default: u64) -> u64 {
    let Ok(text) = std::env::var(variable) else {
        return default;
    };
    let number = text.parse();
    number.unwrap_or_else(|_| panic!("{variable} is `{text}`, not a number"))
}

/// Seeds in the order of their names.
fn corpus(name: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus");
    let entries = fs::read_dir(folder.join(name)).into_iter().flatten();
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort_unstable();
    let read = |path: PathBuf| {
        let bytes = fs::read(&path).expect("a seed is readable");
        (path, bytes)
    };
    paths.into_iter().map(read).collect()
}

/// Place and message of the last panic.
static LAST_PANIC: Mutex<String> = Mutex::new(String::new());

fn last_panic() -> String {
    let last = LAST_PANIC.lock().unwrap_or_else(PoisonError::into_inner);
    last.clone()
}

/// Runs one input after the other and ends the process at the first that fails.
struct Runner<'a> {
    target: &'a Target,
    folder: &'a Path,
    scratch: PathBuf,
    input: File,
    place: File,
    watch: Watch,
    outcomes: HashSet<String>,
}

impl<'a> Runner<'a> {
    fn new(target: &'a Target, folder: &'a Path) -> Self {
        std::panic::set_hook(Box::new(|info| {
            *LAST_PANIC.lock().unwrap_or_else(PoisonError::into_inner) = info.to_string();
        }));
        let scratch = folder.join("scratch");
        fs::create_dir(&scratch).expect("the folder is writable");
        let create = |name: &str| File::create(folder.join(name)).expect("the folder is writable");
        Self {
            target,
            folder,
            scratch,
            input: create("input"),
            place: create("place"),
            watch: Watch::start(folder),
            outcomes: HashSet::new(),
        }
    }

    /// True where the input ended as no other did before.
    fn run(&mut self, place: &str, input: &[u8]) -> bool {
        put(&self.place, place.as_bytes());
        let before = peak_memory();
        let Some(outcome) = self.outcome(input) else {
            let panic = last_panic();
            self.note(&panic, input);
            let smaller = self.shrunk(input.to_vec(), &panic);
            self.note(&panic, &smaller);
            std::process::exit(1);
        };
        let growth = peak_memory().saturating_sub(before);
        if growth > MOST_MEMORY {
            self.note(&format!("it took {} MiB of memory", growth >> 20), input);
            std::process::exit(1);
        }
        self.outcomes.insert(without_details(&outcome))
    }

    /// `None` after a panic.
    fn outcome(&self, input: &[u8]) -> Option<String> {
        put(&self.input, input);
        self.watch.begin();
        let outcome = catch_unwind(AssertUnwindSafe(|| (self.target.run)(&self.scratch, input)));
        self.watch.end();
        outcome.ok()
    }

    /// A smaller input that panics at the same place.
    fn shrunk(&self, mut input: Vec<u8>, panic: &str) -> Vec<u8> {
        let place = |panic: &str| panic.lines().next().map(str::to_owned);
        let wanted = place(panic);
        let mut n_tries = 0;
        let mut size = input.len() / 2;
        while size > 0 && n_tries < MOST_SHRINKING {
            let mut at = 0;
            while at < input.len() && n_tries < MOST_SHRINKING {
                let end = (at + size).min(input.len());
                let mut candidate = input.clone();
                candidate.drain(at..end);
                n_tries += 1;
                match self.outcome(&candidate) {
                    None if place(&last_panic()) == wanted => input = candidate,
                    _ => at = end,
                }
            }
            size /= 2;
        }
        input
    }

    /// For the parent: what is wrong, and with which input. What goes wrong while it is made smaller changes neither.
    fn note(&self, cause: &str, input: &[u8]) {
        let write = |name: &str, bytes: &[u8]| fs::write(self.folder.join(name), bytes);
        write("cause", cause.as_bytes()).expect("the folder is writable");
        write("failing", input).expect("the folder is writable");
    }
}

fn put(file: &File, bytes: &[u8]) {
    file.set_len(0).expect("a file is writable");
    file.write_all_at(bytes, 0).expect("a file is writable");
}

/// The first words of an outcome without numbers and names: those are as many as there are inputs.
fn without_details(outcome: &str) -> String {
    let mut is_quoted = false;
    let keep = |c: &char| {
        is_quoted ^= *c == '`';
        !is_quoted && !c.is_ascii_digit()
    };
    outcome.chars().filter(keep).take(400).collect()
}

/// The most memory that this process ever had, bytes.
fn peak_memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}

/// CPU time of this process (proc(5): fields 14 and 15 of `stat`, in hundredths of a second).
fn cpu_time() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let ticks = fields.split_whitespace().skip(11).take(2);
    let ticks: u64 = ticks.filter_map(|field| field.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

/// Ends the process when an input takes too long. The count is odd while an input is being read.
struct Watch(Arc<AtomicU64>);

impl Watch {
    fn start(folder: &Path) -> Self {
        let count = Arc::new(AtomicU64::new(0));
        let (watched, cause) = (Arc::clone(&count), folder.join("cause"));
        thread::spawn(move || watch(&watched, &cause));
        Self(count)
    }

    fn begin(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    fn end(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn watch(count: &AtomicU64, cause: &Path) {
    let mut seen = (0, Instant::now(), cpu_time());
    loop {
        thread::sleep(Duration::from_millis(100));
        let now = count.load(Ordering::SeqCst);
        let (before, since, cpu) = seen;
        if now != before || now.is_multiple_of(2) {
            seen = (now, Instant::now(), cpu_time());
        } else if cpu_time().saturating_sub(cpu) > MOST_CPU || since.elapsed() > MOST_WAIT {
            if !cause.exists() {
                let _ = fs::write(cause, "it takes more than 5 s");
            }
            std::process::exit(1);
        }
    }
}
