//! Patterns over real files.

use super::*;
use crate::artifact::Shape;
use crate::graph::Source;

fn folder(files: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, name).unwrap();
    }
    folder
}

fn laid(folder: &tempfile::TempDir, pattern: &str, shape: Option<Shape>) -> Result<Laid, String> {
    let pattern = pattern.to_owned();
    lay::lay(folder.path(), &Source { pattern, shape })
}

fn names(folder: &tempfile::TempDir, laid: &Laid) -> Vec<String> {
    laid.files()
        .iter()
        .map(|path| {
            path.strip_prefix(folder.path())
                .unwrap()
                .display()
                .to_string()
        })
        .collect()
}

#[test]
fn globs_are_sorted_by_bytes_and_skip_hidden_files() {
    let folder = folder(&["d/b 1.txt", "d/B.txt", "d/a\nx.txt", "d/.h.txt", "d/c.bin"]);
    let found = laid(&folder, "d/*.txt", None).unwrap();
    assert_eq!(
        names(&folder, &found),
        ["d/B.txt", "d/a\nx.txt", "d/b 1.txt"]
    );
    let all = laid(&folder, "d", Some(Shape::Shards)).unwrap();
    assert_eq!(all.parts().len(), 4);
    let one = laid(&folder, "d/c.bin", Some(Shape::Shards)).unwrap();
    assert_eq!(one.parts().len(), 1);
}

#[test]
fn every_wrong_source_has_a_cause() {
    let folder = folder(&["d/x.txt", "m/config.json"]);
    let path = |name: &str| folder.path().join(name);
    std::os::unix::fs::symlink("../m", path("m/loop")).unwrap();
    std::os::unix::fs::symlink("self", path("d/self")).unwrap();
    let pipe = std::process::Command::new("mkfifo")
        .arg(path("pipe"))
        .status();
    assert!(pipe.unwrap().success());
    use std::os::unix::ffi::OsStrExt;
    fs::create_dir(path("odd")).unwrap();
    fs::write(
        path("odd").join(std::ffi::OsStr::from_bytes(b"\xff.txt")),
        "",
    )
    .unwrap();
    for (pattern, shape, expected) in [
        ("odd/*.txt", None, "the name is not UTF-8"),
        ("no", None, "does not exist"),
        ("no/*.txt", None, "matches no file"),
        (
            "d",
            Some(Shape::File),
            "is a directory where a file is expected",
        ),
        (
            "d/x.txt",
            Some(Shape::Directory),
            "is a file where a directory is expected",
        ),
        ("pipe", None, "is not a regular file"),
        (
            "m",
            Some(Shape::Directory),
            "symbolic link to a directory above it",
        ),
        ("d/self", None, "d/self"),
        (
            "d/*",
            Some(Shape::File),
            "matches 2 paths where one file is expected",
        ),
    ] {
        let error = laid(&folder, pattern, shape).unwrap_err();
        assert!(error.contains(expected), "{pattern}: {error}");
    }
}

#[test]
fn a_change_within_one_tick_of_the_clock_is_noticed() {
    let folder = folder(&["x"]);
    let path = folder.path().join("x");
    let stamp = Stamp::of(&fs::metadata(&path).unwrap());
    let digest = Digest::of(b"y");
    // Another content was read just when the file had got its present look, or long after.
    let scan = |seen_ns| {
        let look = Look {
            stamp,
            seen_ns,
            digest,
        };
        Scan {
            looks: HashMap::from([(path.clone(), look)]),
            ..Scan::default()
        }
    };
    let workspace = Workspace::at(folder.path());
    let moved = |seen_ns| workspace.moved(&scan(seen_ns), [(&*path, &*path)]).len();
    assert_eq!(moved(stamp.ctime_ns), 1, "its bytes are read");
    assert_eq!(
        moved(stamp.ctime_ns + 10_000_000_000),
        0,
        "its look suffices"
    );
}

#[test]
fn finds_the_folder_from_below() {
    let folder = folder(&["Kananafile", "a/b/x"]);
    let found = Workspace::discover(&folder.path().join("a/b")).unwrap();
    assert_eq!(found.root(), folder.path());
}
