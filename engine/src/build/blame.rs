//! What is behind the failure of a child, in the words of the person who has to do something about it.
//!
//! A child sees links in a directory that is gone when its failure is read; what they lead to is what can be looked at.
//! A program that finds no room on the disk may not find room to say so.

use std::fs;
use std::path::Path;

use crate::error::MAKE_ROOM;
use crate::runner::{Failure, FailureClass};

/// The failure, with what explains it where the disk that the child wrote to, at `folder`, is full.
pub fn blame_disk(failure: Failure, folder: &Path) -> Failure {
    if failure.class != FailureClass::Environment || !is_full(folder) {
        return failure;
    }
    let message = format!("{}: No space left on the disk of `cache/`", failure.message);
    Failure::new(FailureClass::Resources, message).help(MAKE_ROOM)
}

/// Next to nothing is left: less than what any program writes at once, or hardly a file more.
fn is_full(folder: &Path) -> bool {
    const BYTES: u64 = 1 << 20;
    const FILES: u64 = 16;
    rustix::fs::statvfs(folder).is_ok_and(|disk| {
        let bytes = disk.f_bavail.saturating_mul(disk.f_frsize);
        // Filesystems that make inodes as they need them count none.
        bytes < BYTES || (disk.f_files > 0 && disk.f_favail < FILES)
    })
}

/// The failure with every path below `inputs` replaced by the file that it leads to, relative to `root` where it is there.
pub fn blame(mut failure: Failure, inputs: &Path, root: &Path) -> Failure {
    let inputs = format!("{}/", inputs.display());
    // Sources are linked where they really lie.
    let real = fs::canonicalize(root).unwrap_or_else(|_| root.to_owned());
    let origin = |path: &str| {
        let target = fs::read_link(path).ok()?;
        let shown = target
            .strip_prefix(root)
            .or_else(|_| target.strip_prefix(&real));
        let shown = shown.unwrap_or(&target);
        Some(shown.display().to_string())
    };
    failure.message = replace_paths(&failure.message, &inputs, origin);
    failure.help = replace_paths(&failure.help, &inputs, origin);
    failure
}

/// Paths are taken to end where quotes or white space begin; one without an origin stays.
fn replace_paths(text: &str, prefix: &str, origin: impl Fn(&str) -> Option<String>) -> String {
    let mut replaced = String::new();
    let mut rest = text;
    while let Some(start) = rest.find(prefix) {
        let path = &rest[start..];
        let is_end = |c: char| c.is_whitespace() || matches!(c, '`' | '"' | '\'');
        let path = &path[..path.find(is_end).unwrap_or(path.len())];
        replaced.push_str(&rest[..start]);
        replaced.push_str(&origin(path).unwrap_or_else(|| path.to_owned()));
        rest = &rest[start + path.len()..];
    }
    replaced + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_the_files_of_the_user() {
        let folder = tempfile::tempdir().expect("a folder");
        let (root, inputs) = (folder.path(), folder.path().join("in"));
        fs::create_dir(&inputs).expect("a folder");
        let link = inputs.join("00000.jsonl");
        std::os::unix::fs::symlink(root.join("data/ko.jsonl"), &link).expect("a link");
        let other = inputs.join("notes");
        let said = format!("`{}`, line 9: see {}", link.display(), other.display());
        let failure = blame(Failure::input(said), &inputs, root);
        let expected = format!("`data/ko.jsonl`, line 9: see {}", other.display());
        assert_eq!(failure.message, expected);
    }
}
