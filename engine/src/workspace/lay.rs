//! From a pattern to files: which ones, in which order, laid out how.

mod pattern;

use std::collections::BTreeMap;
use std::fs::{self, FileType, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::artifact::Shape;
use crate::graph::Source;
use crate::store::Laid;

/// The files of a source, or why it has none. Files are in the byte order of their relative paths.
pub fn lay(root: &Path, source: &Source) -> Result<Laid, String> {
    let is_glob = source.pattern.contains(['*', '?', '[']);
    if is_glob && !root.join(&source.pattern).exists() {
        return glob(root, source);
    }
    let path = root.join(&source.pattern);
    let metadata = looked_at(root, &path)?;
    match source.shape {
        None if metadata.is_dir() => directory(root, &path),
        None | Some(Shape::File) => file(root, &path, &metadata),
        Some(Shape::Directory) if metadata.is_dir() => directory(root, &path),
        Some(Shape::Directory) => Err(format!(
            "`{}` is a file where a directory is expected",
            source.pattern
        )),
        Some(Shape::Shards) if metadata.is_dir() => shards_in(root, &path),
        Some(Shape::Shards) => Ok(Laid::Shards(vec![file(root, &path, &metadata)?])),
    }
}

fn glob(root: &Path, source: &Source) -> Result<Laid, String> {
    let mut paths = pattern::matches(root, &source.pattern)?;
    if source.pattern.contains("**") {
        paths.retain(|path| !path.is_dir());
    }
    match (source.shape, paths.as_slice()) {
        (_, []) => Err(format!("`{}` matches no file", source.pattern)),
        (None | Some(Shape::Shards), _) => shards(root, &paths),
        (Some(Shape::File), [path]) => file(root, path, &looked_at(root, path)?),
        (Some(Shape::Directory), [path]) if path.is_dir() => directory(root, path),
        (Some(shape), _) => Err(format!(
            "`{}` matches {} paths where one {} is expected",
            source.pattern,
            paths.len(),
            match shape {
                Shape::Directory => "directory",
                _ => "file",
            }
        )),
    }
}

/// The directories whose entries decide which files a source has; `None` when they are too many.
pub fn directories(root: &Path, source: &Source, laid: &Laid) -> Option<Vec<PathBuf>> {
    let path = root.join(&source.pattern);
    let mut found = Vec::new();
    let wild = source.pattern.split('/').filter(pattern::is_wild).count();
    if wild == 0 || path.exists() {
        below(root, &path, &mut Vec::new(), &mut found)?;
        return Some(found);
    }
    let fixed = pattern::fixed(root, &source.pattern);
    let last = source.pattern.rsplit('/').next().unwrap_or_default();
    let are_files = laid
        .parts()
        .iter()
        .all(|part| matches!(part, Laid::File(_)));
    if wild == 1 && pattern::is_wild(&last) && are_files && last != "**" {
        return Some(vec![fixed]);
    }
    below(root, &fixed, &mut Vec::new(), &mut found)?;
    Some(found)
}

/// A directory and every directory below it, with links followed; nothing for a file.
fn below(
    root: &Path,
    path: &Path,
    above: &mut Vec<(u64, u64)>,
    found: &mut Vec<PathBuf>,
) -> Option<()> {
    /// Beyond this many, looking at them is no faster than laying the source out.
    const MOST: usize = 10_000;
    let Ok(metadata) = fs::metadata(path) else {
        return Some(());
    };
    let identity = (metadata.dev(), metadata.ino());
    if !metadata.is_dir() || above.contains(&identity) || is_own(root, path) {
        return Some(());
    }
    if found.len() == MOST {
        return None;
    }
    found.push(path.to_owned());
    above.push(identity);
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        if !is_file {
            below(root, &entry.path(), above, found)?;
        }
    }
    above.pop();
    Some(())
}

/// The folder that kbuild writes to: nothing in it is found by looking around.
fn is_own(root: &Path, path: &Path) -> bool {
    path.strip_prefix(root)
        .is_ok_and(|name| name == Path::new("cache"))
}

fn file(root: &Path, path: &Path, metadata: &Metadata) -> Result<Laid, String> {
    let name = relative(root, path).display();
    match metadata {
        found if found.is_file() => Ok(Laid::File(path.to_owned())),
        found if found.is_dir() => Err(format!("`{name}` is a directory where a file is expected")),
        _ => Err(format!(
            "`{name}` is not a regular file (a pipe, a socket or a device cannot be a source)"
        )),
    }
}

/// The entries of a directory as parts; hidden ones are nobody's data.
fn shards_in(root: &Path, path: &Path) -> Result<Laid, String> {
    let is_shown = |entry: &PathBuf| {
        let name = entry.file_name().unwrap_or_default();
        !name.as_bytes().starts_with(b".")
    };
    let entries = entries(root, path)?.into_iter().map(|(entry, _)| entry);
    let entries: Vec<PathBuf> = entries.filter(is_shown).collect();
    if entries.is_empty() {
        let name = relative(root, path).display();
        return Err(format!("`{name}` is an empty directory"));
    }
    shards(root, &entries)
}

fn shards(root: &Path, paths: &[PathBuf]) -> Result<Laid, String> {
    let part = |path: &PathBuf| {
        let metadata = looked_at(root, path)?;
        match metadata.is_dir() {
            true => directory(root, path),
            false => file(root, path, &metadata),
        }
    };
    Ok(Laid::Shards(
        paths.iter().map(part).collect::<Result<_, String>>()?,
    ))
}

fn directory(root: &Path, path: &Path) -> Result<Laid, String> {
    let mut files = BTreeMap::new();
    walk(root, path, "", &mut Vec::new(), &mut files)?;
    Ok(Laid::Directory(files))
}

/// Every file below, with links followed; `above` holds the directories on the way, to notice a loop.
fn walk(
    root: &Path,
    directory: &Path,
    prefix: &str,
    above: &mut Vec<(u64, u64)>,
    files: &mut BTreeMap<String, PathBuf>,
) -> Result<(), String> {
    let metadata = looked_at(root, directory)?;
    let identity = (metadata.dev(), metadata.ino());
    if above.contains(&identity) {
        let name = relative(root, directory).display();
        return Err(format!(
            "`{name}` is a symbolic link to a directory above it"
        ));
    }
    above.push(identity);
    for (path, kind) in entries(root, directory)? {
        if is_own(root, &path) {
            continue;
        }
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .ok_or_else(|| {
                let name = relative(root, &path).display();
                format!("`{name}`: the name is not UTF-8, and names in a directory are content")
            })?;
        let name = if prefix.is_empty() {
            name.to_owned()
        } else {
            format!("{prefix}/{name}")
        };
        if kind.is_file() {
            // What needs no look of its own: there may be very many.
            files.insert(name, path);
            continue;
        }
        let metadata = looked_at(root, &path)?;
        if metadata.is_dir() {
            walk(root, &path, &name, above, files)?;
        } else {
            file(root, &path, &metadata)?;
            files.insert(name, path);
        }
    }
    above.pop();
    Ok(())
}

/// Entries of a directory and what they are (links not followed), in the byte order of their names.
fn entries(root: &Path, directory: &Path) -> Result<Vec<(PathBuf, FileType)>, String> {
    let read = || -> std::io::Result<Vec<(PathBuf, FileType)>> {
        let entry = |entry: std::io::Result<fs::DirEntry>| {
            let entry = entry?;
            Ok((entry.path(), entry.file_type()?))
        };
        fs::read_dir(directory)?.map(entry).collect()
    };
    let mut paths = read().map_err(|error| cause(relative(root, directory), &error))?;
    paths.sort_unstable_by(|(a, _), (b, _)| a.as_os_str().cmp(b.as_os_str()));
    Ok(paths)
}

fn looked_at(root: &Path, path: &Path) -> Result<Metadata, String> {
    fs::metadata(path).map_err(|error| cause(relative(root, path), &error))
}

/// What is wrong with a path, in words.
pub fn cause(name: &Path, error: &std::io::Error) -> String {
    let name = name.display();
    match error.kind() {
        std::io::ErrorKind::NotFound => format!("`{name}` does not exist"),
        _ => format!("`{name}`: {error}"),
    }
}

fn relative<'a>(root: &Path, path: &'a Path) -> &'a Path {
    path.strip_prefix(root).unwrap_or(path)
}
