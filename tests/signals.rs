//! What a build does about signals, and about programs and limits that leave it little room.

mod common;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use common::{Project, Ran};
use rustix::process::{Pid, Signal, kill_process};

/// A task that starts a process beside itself, which leaves its group, and waits.
const WAITS: &str = r#"
kananafile = 1
[goal]
default = [":waits"]
[task.waits]
kind = "command"
outputs = { out = "file" }
params.argv = ["sh", "-c", 'setsid sleep 61 & echo $! > pid; sleep 60; echo done > "$1"', "sh", "{outputs.out}"]
"#;

fn project() -> Project {
    let project = Project::with(&[("Kananafile", WAITS)]);
    project.run(&["check"]).exits(0);
    project
}

/// A build that another program becomes.
fn through(project: &Project, program: &[&str]) -> Command {
    let usual = project.command(&["--json"]);
    let mut command = Command::new(program[0]);
    command
        .args(&program[1..])
        .arg(usual.get_program())
        .args(usual.get_args())
        .current_dir(project.path("."))
        .stdin(Stdio::null());
    command
}

/// Starts a build and returns when its task runs.
fn started(mut command: Command, project: &Project) -> Child {
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.expect("the program starts");
    let out = child.stdout.as_mut().expect("stdout is a pipe");
    let said = BufReader::new(out).lines().map_while(Result::ok);
    assert!(said.into_iter().any(|line| line.contains("running")));
    while !project.path("pid").exists() || project.read("pid").is_empty() {
        std::thread::yield_now();
    }
    child
}

fn send(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).expect("the build is there");
}

#[test]
fn a_signal_that_asks_to_end_leaves_nothing_behind() {
    for signal in [Signal::HUP, Signal::QUIT] {
        let project = project();
        // Whoever runs the tests may ignore these signals, as `nohup` does.
        let child = started(
            through(&project, &["env", "--default-signal=HUP,QUIT"]),
            &project,
        );
        send(&child, Signal::USR1);
        send(&child, Signal::USR2);
        send(&child, signal);
        let output = child.wait_with_output().expect("the program ends");
        Ran::new(&[], output).exits(130);
        let left = format!("/proc/{}", project.read("pid").trim());
        assert!(!std::path::Path::new(&left).exists(), "{signal:?}: {left}");
    }
}

#[test]
fn nohup_keeps_a_build_alive() {
    let project = project();
    let mut child = started(through(&project, &["nohup"]), &project);
    send(&child, Signal::HUP);
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert!(child.try_wait().expect("it is ours").is_none());
    send(&child, Signal::TERM);
    let output = child.wait_with_output().expect("the program ends");
    Ran::new(&[], output).exits(130);
}
