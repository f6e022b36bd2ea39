//! Files that a stranger may have put into the way: nothing hangs, and nothing outside the project is shown.

mod common;

use std::os::unix::fs::{chown, symlink};
use std::process::Command;
use std::time::{Duration, Instant};

use common::Project;

const HEAD: &str = "kananafile = 1\n";
const SECRET: &str = "hunter2";

/// Exit code and everything that is said. Ends soon, or the test fails.
fn kbuild(project: &Project, words: &[&str], safe: &str) -> (i32, String) {
    let begun = Instant::now();
    let output = Command::new("timeout")
        .args(["20", env!("CARGO_BIN_EXE_kbuild")])
        .args(words)
        .current_dir(project.path("."))
        .env("KBUILD_SAFE_DIRECTORY", safe)
        .env("SECRET", SECRET)
        .output()
        .expect("the program starts");
    assert!(begun.elapsed() < Duration::from_secs(20), "{words:?} hangs");
    let said = [output.stdout, output.stderr].concat();
    let code = output.status.code().expect("an exit code");
    (code, String::from_utf8_lossy(&said).into_owned())
}

fn pipe(project: &Project, name: &str) {
    let made = Command::new("mkfifo").arg(project.path(name)).status();
    assert!(made.expect("mkfifo starts").success());
}

/// `check` and `plan` end with 2, and say this.
fn refused(project: &Project, words: &[&str], wanted: &str) {
    for verb in [&["check", "--format", "json"][..], &["plan"]] {
        let (code, said) = kbuild(project, &[verb, words].concat(), "");
        assert_eq!(code, 2, "{said}");
        assert!(said.contains(wanted), "{said}");
        assert!(!said.contains(SECRET), "{said}");
    }
}

#[test]
fn pipes_and_devices_are_refused_at_once() {
    let include = format!("{HEAD}include = [\"x.kanana\"]\n");
    let project = Project::with(&[("Kananafile", &include)]);
    pipe(&project, "x.kanana");
    refused(&project, &[], "not a regular file");
    let zero = format!("{HEAD}include = [\"/dev/zero\"]\n");
    let project = Project::with(&[("Kananafile", &zero)]);
    refused(&project, &[], "outside the project");
    refused(
        &project,
        &["--allow-outside-includes"],
        "not a regular file",
    );
    let plugin = format!("{HEAD}[plugin.p]\npath = \"p\"\n");
    let project = Project::with(&[("Kananafile", &plugin), ("p/a", "")]);
    pipe(&project, "p/kind.toml");
    refused(&project, &[], "not a regular file");
    let project = Project::with(&[]);
    pipe(&project, "Kananafile");
    refused(&project, &[], "not a regular file");
}

#[test]
fn nothing_outside_the_project_is_shown() {
    let outside = Project::with(&[
        ("x.kanana", &format!("{SECRET} = 1\n")),
        ("kind.toml", &format!("{SECRET}\n")),
    ]);
    let path = |name: &str| outside.path(name).display().to_string();
    let environment = "/proc/self/environ".to_owned();
    for include in [environment, path("x.kanana"), path("kind.toml")] {
        let text = format!("{HEAD}include = [\"{include}\"]\n");
        let project = Project::with(&[("Kananafile", &text)]);
        refused(&project, &[], "outside the project");
        refused(
            &project,
            &["--allow-outside-includes"],
            "outside the project",
        );
    }
    // By a link, and as a plugin.
    let text = format!("{HEAD}include = [\"x.kanana\"]\n[plugin.p]\npath = \"p\"\n");
    let project = Project::with(&[("Kananafile", &text)]);
    symlink(outside.path("x.kanana"), project.path("x.kanana")).expect("a link");
    symlink(outside.path("."), project.path("p")).expect("a link");
    refused(&project, &[], "outside the project");
    refused(
        &project,
        &["--allow-outside-includes"],
        "outside the project",
    );
}

#[test]
fn a_kananafile_of_somebody_else_is_refused() {
    let project = Project::with(&[("Kananafile", HEAD)]);
    if chown(project.path("Kananafile"), Some(65534), None).is_err() {
        return; // Only the superuser gives files away.
    }
    for verb in [&["check"][..], &["plan"], &["status"], &[]] {
        let (code, said) = kbuild(&project, verb, "");
        assert_eq!(code, 3, "{said}");
        assert!(said.contains("KBUILD_SAFE_DIRECTORY"), "{said}");
    }
    let folder = project
        .path(".")
        .canonicalize()
        .expect("the folder is there");
    for safe in ["*", &folder.display().to_string()] {
        let (code, said) = kbuild(&project, &["check"], safe);
        assert_eq!(code, 0, "{said}");
    }
    assert_eq!(kbuild(&project, &["check", "-f", "Kananafile"], "").0, 0);
}
