//! What an attempt left: is everything there that was promised, in the right shape, and nothing else?
//!
//! Whatever is wrong here is a broken promise of the kind: a failure, never an error of the build.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::artifact::{Shape, is_relative};
use crate::runner::{AtPath, Failure, FailureClass};
use crate::store::Laid;

/// The files of an output port, laid out in its shape. Links are replaced by what they lead to, if that is below
/// `out` (the directory of all outputs).
pub fn survey(out: &Path, port: &str, path: &Path, shape: Shape) -> Result<Laid, Failure> {
    let found = fs::symlink_metadata(path).map_err(|_| {
        broken(format!("output `{port}` is missing"))
            .help(format!("it was expected at `{}`", path.display()))
    })?;
    match shape {
        Shape::File => file(out, port, path),
        _ if !found.is_dir() => Err(broken(format!(
            "output `{port}` is a file where a directory is expected"
        ))),
        Shape::Directory => tree(out, port, path),
        Shape::Shards => {
            let parts = entries(path)?
                .iter()
                .map(|entry| part(out, port, entry))
                .collect::<Result<Vec<_>, _>>()?;
            match parts.is_empty() {
                true => Err(broken(format!("output `{port}` is empty"))),
                false => Ok(Laid::Shards(parts)),
            }
        }
    }
}

/// One part of a mapped output: a file or a directory.
pub fn part(out: &Path, port: &str, path: &Path) -> Result<Laid, Failure> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => tree(out, port, path),
        Ok(_) => file(out, port, path),
        Err(_) => Err(broken(format!(
            "output `{port}`: part `{}` is missing",
            path.file_name().unwrap_or_default().to_string_lossy()
        ))),
    }
}

/// Refuses what lies in `out` beside the promised paths.
pub fn nothing_else(out: &Path, promised: &BTreeSet<PathBuf>) -> Result<(), Failure> {
    // A link in its place, or above it, would lead to files that are not the kind's to give.
    for directory in out.parent().into_iter().chain([out]) {
        if !fs::symlink_metadata(directory).is_ok_and(|found| found.is_dir()) {
            return Err(broken("replaced the directory of its outputs".to_owned()));
        }
    }
    match entries(out)?.iter().find(|path| !promised.contains(*path)) {
        None => Ok(()),
        Some(path) => Err(broken(format!(
            "wrote `{}`, which is no output port",
            path.file_name().unwrap_or_default().to_string_lossy()
        ))),
    }
}

fn tree(out: &Path, port: &str, directory: &Path) -> Result<Laid, Failure> {
    let mut files = BTreeMap::new();
    walk(out, port, directory, "", &mut files)?;
    match files.is_empty() {
        true => Err(broken(format!("output `{port}` is an empty directory"))),
        false => Ok(Laid::Directory(files)),
    }
}

fn walk(
    out: &Path,
    port: &str,
    directory: &Path,
    prefix: &str,
    files: &mut BTreeMap<String, PathBuf>,
) -> Result<(), Failure> {
    for path in entries(directory)? {
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .ok_or_else(|| {
                broken(format!(
                    "output `{port}`: the name `{}` is not UTF-8",
                    path.display()
                ))
            })?;
        let name = match prefix {
            "" => name.to_owned(),
            _ => format!("{prefix}/{name}"),
        };
        if !is_relative(&name) {
            // Nobody could read it back from a receipt.
            return Err(broken(format!(
                "output `{port}`: a file has no usable name"
            )));
        }
        if fs::symlink_metadata(&path).at(&path)?.is_dir() {
            walk(out, port, &path, &name, files)?;
        } else {
            file(out, port, &path)?;
            files.insert(name, path);
        }
    }
    Ok(())
}

fn file(out: &Path, port: &str, path: &Path) -> Result<Laid, Failure> {
    let found = fs::symlink_metadata(path).at(path)?;
    if found.is_symlink() {
        own(out, port, path)?;
    } else if found.is_dir() {
        return Err(broken(format!(
            "output `{port}` is a directory where a file is expected"
        )));
    } else if !found.is_file() {
        return Err(broken(format!("output `{port}` is not a regular file")));
    }
    Ok(Laid::File(path.to_owned()))
}

/// Replaces a link by a copy of the file below `out` that it leads to.
fn own(out: &Path, port: &str, link: &Path) -> Result<(), Failure> {
    let outside = || {
        broken(format!(
            "output `{port}`: `{}` is a link that leads out of the outputs",
            link.file_name().unwrap_or_default().to_string_lossy()
        ))
        .help("write the content itself")
    };
    let out = fs::canonicalize(out).at(out)?;
    let target = fs::canonicalize(link).map_err(|_| outside())?;
    if !target.starts_with(&out) || !target.is_file() {
        return Err(outside());
    }
    let mut copy = link.as_os_str().to_owned();
    copy.push(".kbuild-copy");
    let copy = PathBuf::from(copy);
    fs::copy(&target, &copy).at(&copy)?;
    fs::rename(&copy, link).at(link)
}

/// Entries in the byte order of their names.
fn entries(directory: &Path) -> Result<Vec<PathBuf>, Failure> {
    let mut paths = fs::read_dir(directory)
        .at(directory)?
        .map(|entry| Ok(entry.at(directory)?.path()))
        .collect::<Result<Vec<_>, Failure>>()?;
    paths.sort_unstable_by(|a, b| a.as_os_str().as_bytes().cmp(b.as_os_str().as_bytes()));
    Ok(paths)
}

/// A promise that the kind did not keep.
pub fn broken(message: String) -> Failure {
    Failure::new(FailureClass::Bug, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn message(result: Result<Laid, Failure>) -> String {
        result.unwrap_err().message
    }

    #[test]
    fn refuses_what_was_not_promised() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path();
        fs::create_dir(out.join("tree")).unwrap();
        fs::write(out.join("file"), "x").unwrap();
        symlink("/etc/hostname", out.join("leak")).unwrap();
        symlink("..", out.join("up")).unwrap();
        for (name, shape, expected) in [
            ("none", Shape::File, "is missing"),
            ("tree", Shape::File, "is a directory where"),
            ("file", Shape::Directory, "is a file where"),
            ("tree", Shape::Directory, "is an empty directory"),
            ("tree", Shape::Shards, "is empty"),
            ("leak", Shape::File, "leads out"),
            ("up", Shape::File, "leads out"),
        ] {
            let found = message(survey(out, "p", &out.join(name), shape));
            assert!(found.contains(expected), "{name}: {found}");
        }
        let promised = ["tree", "file", "leak"].map(|name| out.join(name)).into();
        let link = folder.path().join("link");
        symlink(out.join("tree"), &link).unwrap();
        let replaced = nothing_else(&link, &BTreeSet::new()).unwrap_err().message;
        assert_eq!(replaced, "replaced the directory of its outputs");
        fs::remove_file(link).unwrap();
        let extra = nothing_else(out, &promised).unwrap_err().message;
        assert_eq!(extra, "wrote `up`, which is no output port");
    }

    #[test]
    fn a_link_inside_becomes_a_copy() {
        let folder = tempfile::tempdir().unwrap();
        let tree = folder.path().join("tree");
        fs::create_dir(&tree).unwrap();
        fs::write(tree.join("a"), "x").unwrap();
        symlink("a", tree.join("b")).unwrap();
        let laid = survey(folder.path(), "p", &tree, Shape::Directory).unwrap();
        assert_eq!(laid.files().len(), 2);
        assert!(fs::symlink_metadata(tree.join("b")).unwrap().is_file());
        assert_eq!(fs::read_to_string(tree.join("b")).unwrap(), "x");
    }
}
