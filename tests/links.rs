//! A project that somebody else made may bring a cache with symbolic links: nothing of the user's goes through them.

mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use common::Project;

const KANANAFILE: &str = r#"
kananafile = 1
[goal]
default = [":t"]
[task.t]
kind = "command"
inputs.x = "src"
outputs = { out = "file" }
params.argv = ["sh", "-c", 'cat "$1" > "$2"', "sh", "{inputs.x}", "{outputs.out}"]
"#;

fn project() -> Project {
    let project = Project::with(&[("Kananafile", KANANAFILE), ("src", "text")]);
    project.write("photos/one", "precious");
    project.write("photos/1-1-1", "precious");
    project.write("photos/album/two", "precious");
    project
}

/// Every file of the photos with its content.
fn photos(project: &Project) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![project.path("photos")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            match entry.file_type().unwrap().is_dir() {
                true => folders.push(entry.path()),
                false => found.push((
                    entry.path().display().to_string(),
                    fs::read_to_string(entry.path()).unwrap(),
                )),
            }
        }
    }
    found.sort();
    found
}

/// Puts a link to the photos, or to one of them, in the place of what is at `place`.
fn link(project: &Project, place: &str, target: &str) {
    let place = project.path(place);
    let _ = fs::remove_file(&place);
    let _ = fs::remove_dir_all(&place);
    fs::create_dir_all(place.parent().unwrap()).unwrap();
    symlink(project.path(target), place).unwrap();
}

/// Runs whatever changes a cache, before and after a source has changed.
fn everything(project: &Project) {
    for text in ["text", "other"] {
        project.write("src", text);
        for words in [
            &[][..],
            &["gc", "--yes"],
            &["fsck", "--repair"],
            &["plan"],
            &["check"],
        ] {
            let ran = project.run(words);
            assert!(ran.output.status.code().is_some_and(|code| code < 100));
        }
    }
}

/// A name like `aa` in a folder of the cache.
fn fan(folder: &Path) -> String {
    let name = fs::read_dir(folder)
        .unwrap()
        .flatten()
        .next()
        .unwrap()
        .file_name();
    name.into_string().unwrap()
}

#[test]
fn no_folder_is_reached_through_a_link() {
    for name in [
        "tmp",
        "logs",
        "latest",
        "latest/t",
        "blobs",
        "blobs/FAN",
        "partial",
        "locks",
        "receipts",
        "receipts/FAN",
        "memo",
        "pins",
        "history",
        "quarantine",
    ] {
        let project = project();
        project.ok(&[]);
        let folder = name.split('/').next().unwrap();
        let name = match name.ends_with("FAN") {
            true => format!(
                "{folder}/{}",
                fan(&project.path(&format!("cache/{folder}")))
            ),
            false => name.to_owned(),
        };
        let before = photos(&project);
        link(&project, &format!("cache/{name}"), "photos");
        if !name.contains('/') {
            project.write("src", "new");
            let refused = project.run(&[]).exits(3).says("is a symbolic link");
            refused.says(&format!("cache/{name}")).says("KBUILD_CACHE");
        }
        everything(&project);
        assert_eq!(photos(&project), before, "{name}");
    }
}

#[test]
fn no_file_is_written_through_a_link() {
    let first = project();
    first.ok(&[]);
    let keys = fs::read_dir(first.path("cache/locks")).unwrap().flatten();
    let key = keys
        .filter_map(|entry| entry.file_name().into_string().ok())
        .find(|name| name.len() == 64);
    let mut places = vec![
        "memo/sources".to_owned(),
        "memo/blobs".to_owned(),
        "locks/builds".to_owned(),
        "locks/parts".to_owned(),
        "latest/t/out".to_owned(),
        "latest/t/report.html".to_owned(),
        "latest/t/.receipt".to_owned(),
        "history/db".to_owned(),
        "history/conf".to_owned(),
    ];
    places.extend(
        key.iter()
            .flat_map(|key| [format!("locks/{key}"), format!("pins/{key}")]),
    );
    assert!(key.is_some());
    for place in places {
        let project = project();
        let before = photos(&project);
        link(&project, &format!("cache/{place}"), "photos/one");
        everything(&project);
        assert_eq!(photos(&project), before, "{place}");
    }
}

#[test]
fn names_that_kbuild_does_not_give_stay() {
    let project = project();
    project.ok(&[]);
    let names = [
        "tmp/notes.txt",
        "tmp/1-1-1",
        "logs/mine",
        "blobs/notes",
        "blobs/aa/notes",
        "partial/mine/x",
        "locks/mine",
        "receipts/aa/notes",
    ];
    for name in names {
        project.write(&format!("cache/{name}"), "precious");
    }
    everything(&project);
    for name in names {
        assert_eq!(project.read(&format!("cache/{name}")), "precious", "{name}");
    }
}

#[test]
fn the_cache_lies_elsewhere_where_the_user_says_so() {
    let project = project();
    let before = photos(&project);
    symlink(project.path("photos"), project.path("cache")).unwrap();
    project.run(&[]).exits(3).says("KBUILD_CACHE");
    project.ok(&["check"]).says("symbolic link");
    project.ok(&["plan"]).says("symbolic link");
    project.run(&["gc", "--yes"]);
    project.run(&["fsck", "--repair"]);
    assert_eq!(photos(&project), before);
    let elsewhere = project.path("elsewhere");
    let mut command = project.command(&[]);
    assert!(
        command
            .env("KBUILD_CACHE", &elsewhere)
            .status()
            .unwrap()
            .success()
    );
    assert!(elsewhere.join("latest/t/out").exists());
    assert_eq!(photos(&project), before);
    let mut command = project.command(&[]);
    assert!(
        command
            .env("KBUILD_TRUST_CACHE", "1")
            .status()
            .unwrap()
            .success()
    );
}
