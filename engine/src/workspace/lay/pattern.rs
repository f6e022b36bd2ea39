//! The paths that a pattern matches: `*`, `?`, `[…]` within a name, `**` for any number of directories.
//!
//! Links to directories are followed, and never round in a circle. Hidden names match only a pattern that begins with a
//! dot. A name that is not UTF-8 where names are compared is an error: data must not vanish silently.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use glob::{MatchOptions, Pattern};

use super::{cause, entries, is_own, relative};

pub fn is_wild(name: &&str) -> bool {
    name.contains(['*', '?', '['])
}

/// The folder that a pattern begins in: everything before the first name that is wild.
pub fn fixed(root: &Path, pattern: &str) -> PathBuf {
    let names = pattern.split('/').take_while(|name| !is_wild(name));
    let start = match pattern.starts_with('/') {
        true => Path::new("/"),
        false => root,
    };
    start.join(names.filter(|name| !name.is_empty()).collect::<PathBuf>())
}

/// Every path that `pattern` matches, below `root` unless it is absolute; in byte order, each once.
pub fn matches(root: &Path, pattern: &str) -> Result<Vec<PathBuf>, String> {
    let names = pattern.split('/').skip_while(|name| !is_wild(name));
    let steps = names
        .filter(|name| !name.is_empty())
        .map(|name| match (name, is_wild(&name)) {
            ("**", _) => Ok(Step::Any),
            (_, false) => Ok(Step::Name(name)),
            _ => Pattern::new(name)
                .map(Step::Like)
                .map_err(|error| format!("`{pattern}` is not a pattern: `{name}`: {}", error.msg)),
        })
        .collect::<Result<Vec<_>, _>>()?;
    let mut walk = Walk {
        root,
        pattern,
        above: Vec::new(),
        found: Vec::new(),
    };
    walk.enter(&fixed(root, pattern), &steps)?;
    let mut found = walk.found;
    // As text: paths compare component by component.
    found.sort_unstable_by(|a, b| a.as_os_str().cmp(b.as_os_str()));
    found.dedup();
    Ok(found)
}

/// One name of a pattern.
enum Step<'a> {
    Name(&'a str),
    Like(Pattern),
    /// `**`
    Any,
}

struct Walk<'a> {
    root: &'a Path,
    pattern: &'a str,
    /// Directories on the way down, to notice a circle.
    above: Vec<(u64, u64)>,
    found: Vec<PathBuf>,
}

impl Walk<'_> {
    /// Follows the steps from a directory on.
    fn enter(&mut self, directory: &Path, steps: &[Step<'_>]) -> Result<(), String> {
        let Some((step, rest)) = steps.split_first() else {
            return Ok(());
        };
        let metadata = match fs::metadata(directory) {
            Ok(metadata) if metadata.is_dir() => metadata,
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(cause(relative(self.root, directory), &error));
            }
            _ => return Ok(()),
        };
        let identity = (metadata.dev(), metadata.ino());
        match step {
            Step::Name(name) => self.reach(&directory.join(name), rest),
            Step::Like(like) => {
                for (path, name) in self.named(directory)? {
                    if like.matches_with(&name, OPTIONS) {
                        self.reach(&path, rest)?;
                    }
                }
                Ok(())
            }
            Step::Any if self.above.contains(&identity) => Ok(()),
            Step::Any => {
                self.enter(directory, rest)?;
                self.above.push(identity);
                for (path, name) in self.named(directory)? {
                    if !name.starts_with('.') {
                        if rest.is_empty() {
                            self.found.push(path.clone());
                        }
                        self.enter(&path, steps)?;
                    }
                }
                self.above.pop();
                Ok(())
            }
        }
    }

    /// A path that a step matches: found, or on the way.
    fn reach(&mut self, path: &Path, rest: &[Step<'_>]) -> Result<(), String> {
        match rest {
            [] => {
                if fs::symlink_metadata(path).is_ok() {
                    self.found.push(path.to_owned());
                }
                Ok(())
            }
            rest => self.enter(path, rest),
        }
    }

    /// Entries of a directory with their names.
    fn named(&self, directory: &Path) -> Result<Vec<(PathBuf, String)>, String> {
        let mut named = Vec::new();
        for (path, _) in entries(self.root, directory)? {
            if is_own(self.root, &path) {
                continue;
            }
            let name = path.file_name().and_then(|name| name.to_str());
            let name = name.map(str::to_owned).ok_or_else(|| {
                format!(
                    "`{}`: the name is not UTF-8, so `{}` cannot match it",
                    relative(self.root, &path).display(),
                    self.pattern
                )
            })?;
            named.push((path, name));
        }
        Ok(named)
    }
}

const OPTIONS: MatchOptions = MatchOptions {
    case_sensitive: true,
    require_literal_separator: true,
    require_literal_leading_dot: true,
};

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;

    fn folder(files: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for file in files {
            let path = folder.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        folder
    }

    fn found(folder: &Path, pattern: &str) -> Vec<String> {
        let found = matches(folder, pattern).unwrap();
        let name = |path: &PathBuf| relative(folder, path).to_string_lossy().into_owned();
        found.iter().map(name).collect()
    }

    #[test]
    fn names_and_directories() {
        let world = folder(&[
            "d/a.txt",
            "d/b.md",
            "d/.h.txt",
            "d/e/c.txt",
            "d/.f/g.txt",
            "x.txt",
        ]);
        for (pattern, expected) in [
            ("*.txt", &["x.txt"][..]),
            ("d/*.txt", &["d/a.txt"]),
            ("d/.*.txt", &["d/.h.txt"]),
            ("d/[ab].*", &["d/a.txt", "d/b.md"]),
            ("d/*/c.txt", &["d/e/c.txt"]),
            ("d/?/*", &["d/e/c.txt"]),
            ("**/*.txt", &["d/a.txt", "d/e/c.txt", "x.txt"]),
            ("d/**/c.txt", &["d/e/c.txt"]),
            ("d/**", &["d/a.txt", "d/b.md", "d/e", "d/e/c.txt"]),
            ("**/e/**", &["d/e/c.txt"]),
            ("none/*.txt", &[]),
            ("x.txt/*", &[]),
        ] {
            assert_eq!(found(world.path(), pattern), expected, "{pattern}");
        }
        let absolute = format!("{}/d/*.md", world.path().display());
        assert_eq!(found(Path::new("/elsewhere"), &absolute).len(), 1);
    }

    #[test]
    fn what_kbuild_writes_is_not_found() {
        let world = folder(&["cache/latest/t/a.txt", "d/cache/b.txt", "a.txt"]);
        assert_eq!(found(world.path(), "**/*.txt"), ["a.txt", "d/cache/b.txt"]);
        assert_eq!(found(world.path(), "*"), ["a.txt", "d"]);
    }

    #[test]
    fn links_are_followed_but_not_in_circles() {
        let world = folder(&["d/a.txt", "e/b.txt"]);
        symlink(".", world.path().join("d/again")).unwrap();
        symlink("..", world.path().join("d/up")).unwrap();
        symlink("../e", world.path().join("d/e")).unwrap();
        assert_eq!(
            found(world.path(), "d/**/*.txt"),
            ["d/a.txt", "d/e/b.txt", "d/up/e/b.txt"]
        );
    }

    #[test]
    fn a_name_that_cannot_be_compared_is_told() {
        let world = folder(&["d/e/a.txt", "d/b.txt"]);
        let name = OsStr::from_bytes(b"bad\xff.txt");
        fs::write(world.path().join("d/e").join(name), "").unwrap();
        assert_eq!(
            found(world.path(), "d/*.txt"),
            ["d/b.txt"],
            "it is not there"
        );
        for pattern in ["d/*/*.txt", "**/*.txt", "d/**/b.txt"] {
            let told = matches(world.path(), pattern).unwrap_err();
            assert!(told.contains("not UTF-8"), "{told}");
        }
        assert!(
            matches(world.path(), "d/[")
                .unwrap_err()
                .contains("is not a pattern")
        );
    }
}
