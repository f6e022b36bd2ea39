//! Nothing to do, said at once: what the quick answer rests on, and that nothing depends on its being there.

mod common;

use std::fs;
use std::path::PathBuf;

use common::Project;

const KANANAFILE: &str = r#"
kananafile = 1
[goal]
default = [":b"]
[task.a]
kind = "command"
inputs.from = "data/*.txt"
outputs = { out = "file" }
params.argv = ["sh", "-c", 'echo a >> runs; cat "$1"/* > "$2"', "sh", "{inputs.from}", "{outputs.out}"]
[task.b]
kind = "command"
inputs.from = ":a"
outputs = { out = "file" }
params.argv = ["sh", "-c", 'echo b >> runs; wc -c < "$1" > "$2"', "sh", "{inputs.from}", "{outputs.out}"]
"#;

/// A project that was built and has left a seal.
fn sealed() -> Project {
    let project = Project::with(&[("Kananafile", KANANAFILE), ("data/1.txt", "one\n")]);
    project.ok(&[]);
    reseal(&project);
    fs::remove_file(project.path("runs")).expect("both tasks ran");
    project
}

/// Builds until what was just written is old enough to be believed.
fn reseal(project: &Project) {
    for _ in 0..100 {
        project.ok(&[]).says("nothing to do");
        if seals(project).len() == 1 {
            return;
        }
    }
    panic!("no seal");
}

fn seals(project: &Project) -> Vec<PathBuf> {
    let memo = fs::read_dir(project.path("cache/memo")).expect("there is a memo");
    let is_seal = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("seal-")
    };
    memo.flatten()
        .map(|entry| entry.path())
        .filter(is_seal)
        .collect()
}

fn runs(project: &Project) -> String {
    let runs = fs::read_to_string(project.path("runs")).unwrap_or_default();
    let _ = fs::remove_file(project.path("runs"));
    runs.replace('\n', " ").trim().to_owned()
}

fn first_below(folder: PathBuf) -> PathBuf {
    let fans = fs::read_dir(folder).expect("the folder is there").flatten();
    let mut files = fans.flat_map(|fan| fs::read_dir(fan.path()).into_iter().flatten().flatten());
    files.next().expect("a file").path()
}

#[test]
fn every_change_is_noticed() {
    type Change = (&'static str, fn(&Project), &'static str);
    let changes: [Change; 8] = [
        ("nothing", |_| (), ""),
        (
            "a source",
            |project| project.write("data/1.txt", "two\n"),
            "a b",
        ),
        (
            "a new file",
            |project| project.write("data/2.txt", "two\n"),
            "a b",
        ),
        (
            "the Kananafile",
            |project| {
                let text = project.read("Kananafile").replace("wc -c", "wc -l");
                project.write("Kananafile", &text);
            },
            "b",
        ),
        (
            "an export",
            |project| {
                fs::remove_file(project.path("cache/latest/b/out")).expect("the export is there");
                project.write("cache/latest/b/out", "tampered\n");
            },
            "",
        ),
        (
            "a lost export",
            |project| {
                fs::remove_file(project.path("cache/latest/b/out")).expect("the export is there");
            },
            "",
        ),
        (
            "all receipts",
            |project| fs::remove_dir_all(project.path("cache/receipts")).expect("receipts"),
            "a b",
        ),
        (
            "a lost blob",
            |project| fs::remove_file(first_below(project.path("cache/blobs"))).expect("a blob"),
            "one of them",
        ),
    ];
    for (what, change, expected) in changes {
        let project = sealed();
        change(&project);
        project.ok(&[]);
        let ran = runs(&project);
        match expected {
            "one of them" => assert!(ran == "a" || ran == "b", "{what}: {ran}"),
            expected => assert_eq!(ran, expected, "{what}"),
        }
        let lines = project.read("cache/latest/b/out").trim().to_owned();
        let expected = match what {
            "a new file" => "8",
            "the Kananafile" => "1",
            _ => "4",
        };
        assert_eq!(lines, expected, "{what}");
    }
}

#[test]
fn a_damaged_seal_is_no_seal() {
    let project = sealed();
    let path = seals(&project).remove(0);
    let sound = fs::read(&path).expect("the seal is there");
    let mut flipped = sound.clone();
    flipped[sound.len() / 2] ^= 1;
    for (round, bytes) in [&flipped[..], &sound[..sound.len() / 2], b""]
        .into_iter()
        .enumerate()
    {
        fs::write(&path, bytes).expect("the seal is written");
        project
            .ok(&[])
            .says("nothing to do: 2 tasks are up to date");
        // With a source that changed, a seal that is believed would be a lie.
        fs::write(&path, bytes).expect("the seal is written");
        project.write("data/1.txt", &"x".repeat(10 + round));
        project.ok(&[]);
        assert_eq!(runs(&project), "a b");
        assert_eq!(
            project.read("cache/latest/b/out").trim(),
            (10 + round).to_string()
        );
        project.write("data/1.txt", "one\n");
        project.ok(&[]);
        reseal(&project);
        assert_eq!(runs(&project), "");
    }
}

#[test]
fn a_dry_run_leaves_everything_as_it_is() {
    let project = sealed();
    let listing = || {
        let output = std::process::Command::new("find")
            .args([".", "-printf", "%p %i %T@ %C@\\n"])
            .current_dir(project.path("."))
            .output();
        output.expect("find runs").stdout
    };
    let before = listing();
    project.ok(&["-n"]);
    project.ok(&["plan"]);
    assert_eq!(listing(), before);
}
