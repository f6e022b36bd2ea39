//! One attempt as a child process: spawned, listened to, stopped, and explained when it ends badly.
//!
//! The program is an argument. Knows nothing of keys and stores, and nothing of what the child works on.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, WaitOptions, kill_process_group, waitid, waitpid,
};
use tokio::io::BufReader;
use tokio::process::ChildStdout;
use tokio::sync::{mpsc::Sender, oneshot, watch};

use super::bounds::{Fate, Log, Talk};
use super::context::Failure;
use super::group::{MARK, end_group};
use super::lines;
use super::orphans;
use super::protocol::{Event, FailureClass};
use super::spawn::{Birth, spawn};
use crate::error::{MORE_PROCESSES, limit_help};

/// Environment variables that every attempt is given as they are.
const ALLOWED: [&str; 5] = ["PATH", "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH"];

/// Events of an attempt that wait for the build; when there are more, the attempt waits.
pub const EVENTS_AT_ONCE: usize = 1024;

/// Longest line that is read as an event.
const LONGEST_EVENT: usize = 64 * 1024;

/// What to spawn.
#[derive(Debug)]
pub struct Launch {
    /// Program and arguments; never empty.
    pub argv: Vec<OsString>,
    /// Working directory.
    pub directory: PathBuf,
    /// Variables beside the allow-list; `None` takes one off the list.
    pub environment: BTreeMap<String, Option<OsString>>,
    pub stdin: Stdin,
    /// Standard output carries events, one JSON object a line. Otherwise, and for other lines, it is log.
    pub speaks: bool,
    /// Standard error, and what is not an event, is appended here.
    pub log: PathBuf,
    /// Longest time that the attempt may take.
    pub timeout: Option<Duration>,
    /// Time between being asked to leave and being killed.
    pub grace: Duration,
    /// Descriptors that the attempt's processes keep open: the lock of the key.
    pub inherited: Vec<OwnedFd>,
    /// Mark of the attempt, see [`MARK`].
    pub mark: String,
}

/// What the child reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stdin {
    Null,
    /// A pipe that is never written to: its end tells the child that the build is gone.
    Watch,
}

/// What the user wants of running attempts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stop {
    #[default]
    No,
    /// Save and leave.
    Leave,
    /// At once.
    Kill,
}

/// How an attempt ended.
#[derive(Debug)]
pub struct Ended {
    /// `None`: exit status 0, and nothing said otherwise.
    pub failure: Option<Failure>,
    pub elapsed: Duration,
}

/// A pipe that every process of an attempt holds the other end of, whatever group or session it moves to.
struct Leash(OwnedFd);

impl Leash {
    fn new(launch: &mut Launch) -> std::io::Result<Self> {
        let (own, theirs) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        launch.inherited.push(theirs);
        Ok(Self(own))
    }

    /// Whether some process still holds its end. An attempt that is being started just now holds all that this process
    /// has open, until it becomes its program: for that moment this waits.
    fn is_held(&self) -> bool {
        const MOMENTS: [u64; 5] = [50, 100, 200, 400, 800];
        // The end of the pipe is read once nobody can write to it.
        let is_over = || matches!(rustix::io::read(&self.0, &mut [0_u8; 1]), Ok(0));
        let is_over_now = |moment: &u64| {
            let was_over = is_over();
            if !was_over {
                std::thread::sleep(Duration::from_micros(*moment));
            }
            was_over
        };
        !MOMENTS.iter().any(is_over_now) && !is_over()
    }
}

/// Runs one attempt to its end; events go to `events` in order. When this returns, no process of the attempt's group
/// is left, nor one that left the group and kept what it inherited.
pub async fn run(
    mut launch: Launch,
    events: Sender<Event>,
    mut stop: watch::Receiver<Stop>,
) -> Ended {
    let begun = Instant::now();
    let ended = |failure| Ended {
        failure,
        elapsed: begun.elapsed(),
    };
    let (program, timeout, grace) = (launch.argv[0].clone(), launch.timeout, launch.grace);
    let leash = match Leash::new(&mut launch) {
        Ok(leash) => leash,
        Err(error) => return ended(Some(not_started(&program, &error))),
    };
    let (speaks, mark) = (launch.speaks, launch.mark.clone());
    let path = launch.log.clone();
    let (log, bounded) = match open_log(&path) {
        Ok(logs) => logs,
        Err(failure) => return ended(Some(failure)),
    };
    let mut child = match start(launch, &log).await {
        Ok(child) => child,
        Err(error) => return ended(Some(not_started(&program, &error))),
    };
    let pid = child.pid;
    let listener = tokio::spawn(listen(child.stdout, speaks, log, events.clone()));
    let waiting = wait(&mut child.end, pid, timeout, grace, &mut stop);
    let (status, why) = tokio::select! {
        end = waiting => end,
        never = bounded.keep_small() => match never {},
    };
    drop(child.stdin);
    let end = move || {
        end_group(pid, &mark, leash.is_held());
        orphans::end_orphans(&mark);
    };
    let _ = tokio::task::spawn_blocking(end).await;
    let said = heard(listener, &events).await;
    let _ = tokio::task::spawn_blocking(move || bounded.close()).await;
    let failure = explain(status, why, speaks, said);
    ended(failure.map(|failure| in_view_of(failure, &path)))
}

/// Why the child was told to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Nothing,
    Leave,
    Timeout(Duration),
}

async fn wait(
    child: &mut End,
    pid: Pid,
    timeout: Option<Duration>,
    grace: Duration,
    stop: &mut watch::Receiver<Stop>,
) -> (std::io::Result<ExitStatus>, Told) {
    let told = tokio::select! {
        status = child.wait() => return (status, Told::Nothing),
        () = asked(stop, Stop::Leave) => Told::Leave,
        limit = expired(timeout) => Told::Timeout(limit),
    };
    signal_group(pid, Signal::TERM);
    tokio::select! {
        status = child.wait() => return (status, told),
        () = asked(stop, Stop::Kill) => {}
        () = tokio::time::sleep(grace) => {}
    }
    signal_group(pid, Signal::KILL);
    (child.wait().await, told)
}

async fn asked(stop: &mut watch::Receiver<Stop>, at_least: Stop) {
    if stop.wait_for(|wanted| *wanted >= at_least).await.is_err() {
        // Nobody can ask any more.
        std::future::pending::<()>().await;
    }
}

async fn expired(timeout: Option<Duration>) -> Duration {
    match timeout {
        Some(limit) => {
            tokio::time::sleep(limit).await;
            limit
        }
        None => std::future::pending().await,
    }
}

/// Signals the group of a leader that has not been waited for yet: its id cannot be anybody else's.
fn signal_group(leader: Pid, signal: Signal) {
    let _ = kill_process_group(leader, signal);
}

/// Sorts the child's standard output into events and log; returns the failure that it stated.
async fn listen(
    stdout: ChildStdout,
    speaks: bool,
    mut log: File,
    events: Sender<Event>,
) -> Option<Failure> {
    let mut reader = BufReader::with_capacity(64 * 1024, stdout);
    let mut stated = None;
    let mut talk = Talk::new();
    while let Ok(Some(line)) = lines::next(&mut reader).await {
        let may_be_event = speaks && line.len() <= LONGEST_EVENT;
        match may_be_event.then(|| lines::event(&line)).flatten() {
            Some(Event::Failed {
                class,
                message,
                help,
            }) => stated = Some(Failure::new(class, message).help(help)),
            Some(event) => {
                let event = match talk.judge(&event, line.len()) {
                    Fate::Passes => event,
                    Fate::Dropped => continue,
                    Fate::DroppedFirst => too_much(),
                };
                let _ = events.send(event).await;
            }
            None => {
                let _ = log.write_all(&line).and_then(|()| log.write_all(b"\n"));
            }
        }
    }
    stated
}

fn too_much() -> Event {
    let text = "it says more than can be kept: most of its notes, metrics and progress are left out from here on";
    Event::Note {
        text: text.to_owned(),
    }
}

/// What the listener heard. The group is gone, so the pipe ends; a process that left the group may hold it open. While
/// the build has not taken what waits for it, the listener cannot go on, and is waited for.
async fn heard(
    mut listener: tokio::task::JoinHandle<Option<Failure>>,
    events: &Sender<Event>,
) -> Option<Failure> {
    const PATIENCE: Duration = Duration::from_secs(2);
    loop {
        match tokio::time::timeout(PATIENCE, &mut listener).await {
            Ok(heard) => return heard.unwrap_or_default(),
            Err(_) if events.capacity() < EVENTS_AT_ONCE && !events.is_closed() => {}
            Err(_) => {
                listener.abort();
                return None;
            }
        }
    }
}

fn explain(
    status: std::io::Result<ExitStatus>,
    told: Told,
    speaks: bool,
    said: Option<Failure>,
) -> Option<Failure> {
    let status = match status {
        Ok(status) => status,
        Err(error) => {
            return Some(Failure::new(
                FailureClass::Environment,
                format!("the attempt could not be waited for: {error}"),
            ));
        }
    };
    match told {
        Told::Timeout(limit) => {
            let message = format!("ran past its time limit of {} s", limit.as_secs_f64());
            return Some(
                Failure::new(FailureClass::Timeout, message).help(
                    "raise `run.timeout`; what it has saved is continued by the next attempt",
                ),
            );
        }
        // A task may have finished just then; otherwise it left because it was asked to. Of a command nobody knows
        // which: many end with 0 when they are asked to, with half of their output written.
        Told::Leave if !status.success() || !speaks => return Some(Failure::interrupted()),
        Told::Leave | Told::Nothing => {}
    }
    said.or_else(|| by_status(status))
}

fn by_status(status: ExitStatus) -> Option<Failure> {
    if let Some(signal) = status.signal() {
        return Some(by_signal(signal));
    }
    match status.code() {
        Some(0) => None,
        Some(101) => Some(Failure::new(
            FailureClass::Bug,
            "panicked (exit status 101)",
        )),
        Some(code) => Some(Failure::new(
            FailureClass::Environment,
            format!("exit status {code}"),
        )),
        None => Some(Failure::new(FailureClass::Bug, "ended without a status")),
    }
}

fn by_signal(signal: i32) -> Failure {
    match signal {
        libc::SIGKILL => Failure::new(
            FailureClass::Resources,
            "killed (signal 9), probably out of memory",
        )
        .help("`dmesg` tells; give it less to hold at once, or a machine with more memory"),
        libc::SIGXCPU => Failure::new(
            FailureClass::Resources,
            "ended by the limit of processor time (signal 24, SIGXCPU)",
        )
        .help("raise `ulimit -t`"),
        libc::SIGXFSZ => Failure::new(
            FailureClass::Resources,
            "ended by the limit of file size (signal 25, SIGXFSZ)",
        )
        .help("raise `ulimit -f`"),
        libc::SIGTERM | libc::SIGINT | libc::SIGHUP => Failure::new(
            FailureClass::Interrupted,
            format!("ended by signal {signal} from outside"),
        ),
        _ => Failure::new(FailureClass::Bug, format!("crashed (signal {signal})")),
    }
}

/// The failure of an attempt, or what its log says of its reason where its status says nothing.
fn in_view_of(failure: Failure, log: &Path) -> Failure {
    const SAYINGS: [&str; 4] = [
        "memory allocation of ",
        "MemoryError",
        "std::bad_alloc",
        "Cannot allocate memory",
    ];
    let is_open = ["crashed (", "exit status ", "panicked ("]
        .iter()
        .any(|words| failure.message.starts_with(words));
    if !is_open {
        return failure;
    }
    let said = tail(log, 20);
    if !SAYINGS.iter().any(|words| said.contains(words)) {
        return failure;
    }
    let message = format!(
        "out of memory, or of what a limit allows: {}",
        failure.message
    );
    Failure::new(FailureClass::Resources, message).help(
        "raise the limit (`ulimit -v`, or that of the container), or give it less to hold at once",
    )
}

fn not_started(program: &OsString, error: &std::io::Error) -> Failure {
    let program = Path::new(program).display();
    let failure = Failure::new(
        FailureClass::Environment,
        format!("cannot start `{program}`: {error}"),
    );
    if error.raw_os_error() == Some(libc::ENOEXEC) {
        return failure.help("a script begins with `#!` and the path of its interpreter");
    }
    if error.raw_os_error() == Some(libc::EAGAIN) {
        return failure.help(MORE_PROCESSES);
    }
    if let Some(help) = limit_help(error) {
        return failure.help(help);
    }
    match error.kind() {
        std::io::ErrorKind::NotFound => failure.help("is it installed, and on the PATH?"),
        std::io::ErrorKind::PermissionDenied => failure.help("is it executable?"),
        _ => failure,
    }
}

fn open_log(path: &Path) -> Result<(File, Log), Failure> {
    let open = || {
        path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
        let mut options = OpenOptions::new();
        let file = options.create(true).read(true).append(true).open(path)?;
        Ok((file.try_clone()?, Log::new(file)))
    };
    open().map_err(|error| Failure::io(path, &error))
}

/// The last lines of a log, at most `lines` of them and 8 KiB.
pub fn tail(path: &Path, lines: usize) -> String {
    const WINDOW: u64 = 8 * 1024;
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(WINDOW)))?;
        let mut bytes = Vec::new();
        file.take(WINDOW).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let text = String::from_utf8_lossy(&read().unwrap_or_default()).into_owned();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// The first process of an attempt, and our ends of its pipes.
struct Child {
    pid: Pid,
    /// Held open until the child is gone: its end means that the build died.
    stdin: Option<OwnedFd>,
    stdout: ChildStdout,
    end: End,
}

/// The end of a process, to be waited for.
struct End {
    pid: Pid,
    ended: oneshot::Receiver<()>,
}

impl End {
    /// A thread that no runtime waits for sleeps until the process has ended, and leaves it to be waited for. (There
    /// are machines in use whose Linux has no pidfd.)
    fn of(pid: Pid) -> std::io::Result<Self> {
        let (answer, ended) = oneshot::channel();
        let sleep = move || {
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
            while waitid(WaitId::Pid(pid), options).is_err_and(|error| error == Errno::INTR) {}
            let _ = answer.send(());
        };
        std::thread::Builder::new()
            .name("waits".to_owned())
            .stack_size(64 * 1024)
            .spawn(sleep)?;
        Ok(Self { pid, ended })
    }

    /// Its exit status; its group is killed first. Until this returns, its id cannot be anybody else's. To be called
    /// until it has returned, not after.
    async fn wait(&mut self) -> std::io::Result<ExitStatus> {
        let _ = (&mut self.ended).await;
        signal_group(self.pid, Signal::KILL);
        let waited = waitpid(Some(self.pid), WaitOptions::empty());
        orphans::forget_leader(self.pid);
        match waited? {
            Some((_, status)) => Ok(ExitStatus::from_raw(status.as_raw())),
            None => Err(std::io::Error::other("it still runs")),
        }
    }
}

async fn start(launch: Launch, log: &File) -> std::io::Result<Child> {
    let log = log.try_clone()?;
    on_lasting_thread(move || born(&launch, &log)).await
}

fn born(launch: &Launch, log: &File) -> std::io::Result<Child> {
    let (stdout, to_us) = pipe_with(PipeFlags::CLOEXEC)?;
    let (theirs, stdin) = match launch.stdin {
        Stdin::Null => (File::open("/dev/null")?.into(), None),
        Stdin::Watch => {
            let (theirs, ours) = pipe_with(PipeFlags::CLOEXEC)?;
            (theirs, Some(ours))
        }
    };
    let stdout = ChildStdout::from_std(stdout.into())?;
    let variables = environment(launch);
    let birth = Birth {
        argv: &launch.argv,
        directory: &launch.directory,
        environment: &variables,
        stdio: [&theirs, &to_us, log],
        inherited: &launch.inherited,
    };
    let pid = orphans::with_leader(|| spawn(&birth))?;
    let end = End::of(pid).inspect_err(|_| {
        signal_group(pid, Signal::KILL);
        let _ = waitpid(Some(pid), WaitOptions::empty());
        orphans::forget_leader(pid);
    })?;
    Ok(Child {
        pid,
        stdin,
        stdout,
        end,
    })
}

/// What is allowed of this process's own environment, and what the launch says.
fn environment(launch: &Launch) -> Vec<(OsString, OsString)> {
    let allowed = ALLOWED
        .iter()
        .filter_map(|name| Some((OsString::from(name), std::env::var_os(name)?)));
    let mut all: BTreeMap<OsString, OsString> = allowed.collect();
    for (name, value) in &launch.environment {
        match value {
            Some(value) => all.insert(name.into(), value.clone()),
            None => all.remove(OsStr::new(name)),
        };
    }
    all.insert(MARK.into(), launch.mark.clone().into());
    all.into_iter().collect()
}

/// Runs `job` on a thread that never ends: Linux sends the parent-death signal when the *thread* that forked ends.
async fn on_lasting_thread<T: Send + 'static>(
    job: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> std::io::Result<T> {
    type Job = Box<dyn FnOnce() + Send>;
    static SPAWNER: Mutex<Option<mpsc::Sender<Job>>> = Mutex::new(None);
    let start = || {
        let (sender, jobs) = mpsc::channel::<Job>();
        std::thread::Builder::new()
            .name("spawner".to_owned())
            .spawn(move || jobs.into_iter().for_each(|job| job()))?;
        std::io::Result::Ok(sender)
    };
    let spawner = {
        let mut spawner = SPAWNER.lock().unwrap_or_else(PoisonError::into_inner);
        match &*spawner {
            Some(spawner) => spawner.clone(),
            None => spawner.insert(start()?).clone(),
        }
    };
    let runtime = tokio::runtime::Handle::current();
    let (answer, answered) = oneshot::channel();
    let job: Job = Box::new(move || {
        let _entered = runtime.enter();
        let _ = answer.send(job());
    });
    let gone = || std::io::Error::other("the spawning thread is gone");
    spawner.send(job).map_err(|_| gone())?;
    answered.await.map_err(|_| gone())?
}

/// Whether this process may start as many threads as a build needs at least: those of its runtime, and some that wait
/// for the disk and for attempts. A runtime that lacks them waits for ever.
///
/// # Errors
/// What keeps them from being started.
pub fn can_start_threads() -> std::io::Result<()> {
    const BESIDE: usize = 6;
    let wanted = BESIDE + std::thread::available_parallelism().map_or(1, usize::from);
    let (hold, held) = mpsc::channel::<()>();
    let held = std::sync::Arc::new(Mutex::new(held));
    let mut threads = Vec::new();
    let mut start = || {
        let held = std::sync::Arc::clone(&held);
        let wait = move || drop(held.lock().map(|held| held.recv()));
        let thread = std::thread::Builder::new().stack_size(64 * 1024);
        threads.push(thread.spawn(wait)?);
        Ok(())
    };
    let started = (0..wanted).try_for_each(|_| start());
    drop(hold);
    threads.into_iter().for_each(|thread| drop(thread.join()));
    started
}

#[cfg(test)]
mod tests;
