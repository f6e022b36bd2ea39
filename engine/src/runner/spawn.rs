//! The moment of birth of an attempt's first process.
//!
//! `std::process::Command` forks when anything must be done between fork and exec, and a fork copies the page tables of
//! a build that has a large graph in memory: more work than many a task. Here the child borrows this process's memory
//! until it execs (clone(2) with `CLONE_VM | CLONE_VFORK`, as posix_spawn does), and can still be tied to its parent.

use std::ffi::{CString, OsStr, OsString, c_char, c_int, c_void};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, WaitOptions, waitpid};

use crate::limits;

/// What the child becomes.
pub struct Birth<'a> {
    /// Program and arguments; never empty. A program without a slash is looked for on the `PATH` of `environment`.
    pub argv: &'a [OsString],
    pub directory: &'a Path,
    /// The whole environment.
    pub environment: &'a [(OsString, OsString)],
    /// Standard input, output and error.
    pub stdio: [&'a dyn AsRawFd; 3],
    /// Descriptors that stay open beside them.
    pub inherited: &'a [OwnedFd],
}

/// Starts a process that leads a group of its own and is sent SIGTERM when the calling *thread* ends; returns its pid,
/// which must be waited for.
///
/// # Errors
/// What kept the program from being started: as `exec` says it.
pub fn spawn(birth: &Birth<'_>) -> io::Result<Pid> {
    let variables = birth.environment.iter().map(|(name, value)| {
        let pair = [name.as_bytes(), b"=", value.as_bytes()].concat();
        Ok(CString::new(pair)?)
    });
    let argv = texts(birth.argv.iter().map(|argument| text(argument)))?;
    let environment = texts(variables)?;
    let programs = texts(programs(birth).iter().map(|path| text(path)))?;
    let directory = text(birth.directory.as_os_str())?;
    let inherited: Vec<RawFd> = birth.inherited.iter().map(AsRawFd::as_raw_fd).collect();
    start(&mut Plan {
        programs: &programs
            .iter()
            .map(|path| path.as_ptr())
            .collect::<Vec<_>>(),
        argv: &terminated(&argv),
        environment: &terminated(&environment),
        directory: directory.as_ptr(),
        stdio: birth.stdio.map(AsRawFd::as_raw_fd),
        inherited: &inherited,
        open_files: limits::open_files_of_children(),
        parent: rustix::process::getpid().as_raw_pid(),
        errno: 0,
    })
}

fn text(text: &OsStr) -> io::Result<CString> {
    Ok(CString::new(text.as_bytes())?)
}

fn texts(texts: impl Iterator<Item = io::Result<CString>>) -> io::Result<Vec<CString>> {
    texts.collect()
}

fn terminated(texts: &[CString]) -> Vec<*const c_char> {
    let pointers = texts.iter().map(|text| text.as_ptr());
    pointers.chain([std::ptr::null()]).collect()
}

/// The paths at which the program may be, in order.
fn programs(birth: &Birth<'_>) -> Vec<OsString> {
    let name = &birth.argv[0];
    if name.as_bytes().contains(&b'/') {
        return vec![name.clone()];
    }
    let path = birth.environment.iter().find(|(name, _)| name == "PATH");
    let path = path.map_or(OsStr::new("/bin:/usr/bin"), |(_, value)| value);
    // Those that are there as the child will see them: it need not try the others.
    let is_there = |file: &PathBuf| birth.directory.join(file).exists();
    std::env::split_paths(path)
        .map(|folder| folder.join(name))
        .filter(is_there)
        .map(OsString::from)
        .collect()
}

/// Everything that the child needs, made before it exists: it must not allocate.
struct Plan<'a> {
    programs: &'a [*const c_char],
    /// This and the environment end with a null pointer.
    argv: &'a [*const c_char],
    environment: &'a [*const c_char],
    directory: *const c_char,
    stdio: [RawFd; 3],
    inherited: &'a [RawFd],
    open_files: Option<libc::rlimit>,
    parent: libc::pid_t,
    /// Set by the child when it fails.
    errno: c_int,
}

#[allow(unsafe_code)]
fn start(plan: &mut Plan<'_>) -> io::Result<Pid> {
    const STACK: usize = 64 * 1024;
    let mut stack = vec![0_u128; STACK / size_of::<u128>()];
    // SAFETY: the stack belongs to this call and is aligned for any use; its end is one past the last element. The
    // child runs `child` on it and borrows `plan`; with CLONE_VFORK this thread does not go on before the child has
    // called exec or _exit, so both outlive its use of them, and no other thread knows of them. All signals are blocked
    // in this thread until the child has no handlers of ours any more, so that none runs in borrowed memory.
    let (pid, failure) = unsafe {
        let mut all = std::mem::zeroed::<libc::sigset_t>();
        let mut before = std::mem::zeroed::<libc::sigset_t>();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
        let top = stack.as_mut_ptr_range().end.cast::<c_void>();
        let pid = libc::clone(child, top, flags, std::ptr::from_mut(plan).cast::<c_void>());
        let failure = io::Error::last_os_error();
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut());
        (pid, failure)
    };
    let Some(pid) = Pid::from_raw(pid.max(0)) else {
        return Err(failure);
    };
    if plan.errno != 0 {
        let _ = waitpid(Some(pid), WaitOptions::empty());
        return Err(io::Error::from_raw_os_error(plan.errno));
    }
    Ok(pid)
}

/// The child until exec: system calls alone.
#[allow(unsafe_code)]
extern "C" fn child(plan: *mut c_void) -> c_int {
    // SAFETY: `start` passes a plan that lives, untouched, until this process has called exec or _exit. Everything
    // called here is async-signal-safe, and nothing allocates or takes a lock.
    unsafe {
        let plan = &mut *plan.cast::<Plan<'_>>();
        plan.errno = match prepare(plan) {
            Err(errno) => errno,
            Ok(()) => become_program(plan),
        };
        libc::_exit(127)
    }
}

/// Makes the process what it must be before exec.
///
/// # Safety
/// To be called in the child alone.
#[allow(unsafe_code)]
unsafe fn prepare(plan: &Plan<'_>) -> Result<(), c_int> {
    // SAFETY: plain system calls on values that the plan owns.
    unsafe {
        for signal in 1..=libc::SIGRTMAX() {
            let mut action = std::mem::zeroed::<libc::sigaction>();
            libc::sigaction(signal, std::ptr::null(), &raw mut action);
            let is_ours = ![libc::SIG_IGN, libc::SIG_DFL].contains(&action.sa_sigaction);
            // SIGPIPE is ignored by Rust programs and by no other.
            if is_ours || signal == libc::SIGPIPE {
                libc::signal(signal, libc::SIG_DFL);
            }
        }
        done(libc::setpgid(0, 0))?;
        done(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM))?;
        if libc::getppid() != plan.parent {
            // The parent died before the signal was set.
            return Err(libc::ESRCH);
        }
        done(libc::chdir(plan.directory))?;
        for (descriptor, number) in plan.stdio.iter().zip(0..) {
            done(libc::dup2(*descriptor, number))?;
        }
        for descriptor in plan.inherited {
            done(libc::fcntl(*descriptor, libc::F_SETFD, 0))?;
        }
        if let Some(limit) = &plan.open_files {
            done(libc::setrlimit(libc::RLIMIT_NOFILE, limit))?;
        }
        let mut none = std::mem::zeroed::<libc::sigset_t>();
        libc::sigemptyset(&raw mut none);
        done(libc::sigprocmask(
            libc::SIG_SETMASK,
            &raw const none,
            std::ptr::null_mut(),
        ))
    }
}

/// Tries the programs in turn; returns what kept the last of them from being run.
///
/// # Safety
/// To be called in the child alone.
#[allow(unsafe_code)]
unsafe fn become_program(plan: &Plan<'_>) -> c_int {
    let mut errno = libc::ENOENT;
    for program in plan.programs {
        // SAFETY: text that ends with a null byte, and lists of such that end with a null pointer.
        unsafe {
            libc::execve(*program, plan.argv.as_ptr(), plan.environment.as_ptr());
            errno = *libc::__errno_location();
        }
        // As a shell does: a file that may not be run hides no other.
        if errno != libc::EACCES && errno != libc::ENOENT {
            break;
        }
    }
    errno
}

#[allow(unsafe_code)]
fn done(result: c_int) -> Result<(), c_int> {
    match result {
        // SAFETY: a pointer to a variable of this thread.
        -1 => Err(unsafe { *libc::__errno_location() }),
        _ => Ok(()),
    }
}
