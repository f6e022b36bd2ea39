//! kill -9 in the middle of a build, then the same command: nothing that was finished runs again, and the result is the
//! one of a build that nobody disturbed.

mod common;

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::Stdio;

use common::Project;
use serde_json::Value;

/// Builds until the n-th event of this name, then kills the whole process group; the tasks that were finished.
fn kill_at(project: &Project, event: &str, n: usize) -> Vec<String> {
    let mut command = project.command(&["--json", "-j", "1"]);
    let mut child = command
        .stdout(Stdio::piped())
        .process_group(0)
        .spawn()
        .expect("the program starts");
    let mut finished = Vec::new();
    let mut left = n;
    for line in BufReader::new(child.stdout.take().expect("stdout is a pipe"))
        .lines()
        .map_while(Result::ok)
    {
        let said: Value = serde_json::from_str(&line).expect("events are JSON");
        if said["event"] == "finished" {
            finished.push(said["task"].as_str().unwrap_or_default().to_owned());
        }
        left -= usize::from(said["event"] == event);
        if left == 0 {
            break;
        }
    }
    let group = i32::try_from(child.id()).expect("a process number");
    // SAFETY: the group was made for this child, which was not waited for.
    #[allow(unsafe_code)]
    let killed = unsafe { libc::kill(-group, libc::SIGKILL) };
    assert_eq!(killed, 0);
    child.wait().expect("the program ends");
    finished
}

#[test]
fn killed_anywhere_a_build_goes_on_from_there() {
    let whole = Project::example("minimal");
    whole.ok(&[]);
    let tokenizer = whole.read("cache/latest/tokenizer/tokenizer/tokenizer.json");
    for (event, n) in [
        ("running", 1),
        ("running", 2),
        ("finished", 1),
        ("finished", 2),
        ("running", 3),
        ("finished", 4),
    ] {
        let project = Project::example("minimal");
        let finished = kill_at(&project, event, n);
        let again = project.built(&[]);
        let repeated: Vec<&String> = again
            .iter()
            .filter(|task| finished.contains(task))
            .collect();
        assert!(
            repeated.is_empty(),
            "killed at {event} {n}: ran twice: {repeated:?}"
        );
        assert_eq!(
            project.read("cache/latest/tokenizer/tokenizer/tokenizer.json"),
            tokenizer
        );
        project.ok(&[]).says("nothing to do");
    }
}

#[test]
fn memo_and_history_can_go_at_any_time() {
    let project = Project::example("minimal");
    project.ok(&[]);
    for name in ["cache/memo", "cache/history"] {
        std::fs::remove_dir_all(project.path(name)).expect("the helper is there");
    }
    assert_eq!(project.plan(&[])["hits"], 5);
    assert_eq!(project.built(&[]), [""; 0]);
}

#[test]
fn a_damaged_blob_runs_its_producer_again_and_a_damaged_export_nothing() {
    let project = Project::example("minimal");
    project.ok(&[]);
    let export = project.path("cache/latest/tokenizer/tokenizer/tokenizer.json");
    std::fs::remove_file(&export).expect("the export is there");
    assert_eq!(project.built(&[]), [""; 0]);

    let blob = largest(&project.path("cache/blobs"));
    let mut permissions = std::fs::metadata(&blob)
        .expect("the blob is there")
        .permissions();
    #[allow(
        clippy::permissions_set_readonly_false,
        reason = "the folder is this test's own"
    )]
    permissions.set_readonly(false);
    std::fs::set_permissions(&blob, permissions).expect("the mode is changed");
    std::fs::write(&blob, "damaged").expect("the blob is written");
    project.run(&["fsck"]).exits(1).says("damaged");
    assert_eq!(project.built(&[]).len(), 1);
    project.ok(&["fsck"]).says("0 damaged");
}

fn largest(folder: &std::path::Path) -> std::path::PathBuf {
    let files = std::fs::read_dir(folder)
        .expect("the store is there")
        .flatten()
        .flat_map(|entry| {
            std::fs::read_dir(entry.path())
                .expect("blobs lie two levels deep")
                .flatten()
        });
    files
        .map(|entry| entry.path())
        .max_by_key(|path| path.metadata().map_or(0, |data| data.len()))
        .expect("a blob")
}

#[test]
fn two_builds_at_once_share_the_work() {
    let project = Project::example("minimal");
    let mut children: Vec<_> = (0..3)
        .map(|_| {
            project
                .command(&["--json"])
                .stdout(Stdio::piped())
                .spawn()
                .expect("the program starts")
        })
        .collect();
    let mut finished = Vec::new();
    for child in &mut children {
        for line in BufReader::new(child.stdout.take().expect("stdout is a pipe"))
            .lines()
            .map_while(Result::ok)
        {
            let said: Value = serde_json::from_str(&line).expect("events are JSON");
            if said["event"] == "finished" {
                finished.push(said["task"].to_string());
            }
        }
        assert_eq!(child.wait().expect("the program ends").code(), Some(0));
    }
    finished.sort();
    assert_eq!(finished.len(), 5, "{finished:?}");
}
