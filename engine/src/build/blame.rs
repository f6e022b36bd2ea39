//! What a child says of its inputs, in the words of the person who gave them.
//!
//! A child sees links in a directory that is gone when its failure is read; what they lead to is what can be looked at.

use std::fs;
use std::path::Path;

use crate::runner::Failure;

/// The failure with every path below `inputs` replaced by the file that it leads to, relative to `root` where it is there.
pub fn blame(mut failure: Failure, inputs: &Path, root: &Path) -> Failure {
    let inputs = format!("{}/", inputs.display());
    let origin = |path: &str| {
        let target = fs::read_link(path).ok()?;
        let shown = target.strip_prefix(root).unwrap_or(&target);
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
