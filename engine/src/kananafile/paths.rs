//! Paths of a Kananafile: text with `/`, relative to the folder of the root file. Nothing here looks at a disk.

/// The folder of a file, without a slash at the end; empty for the root folder.
pub fn folder(file: &str) -> String {
    file.rsplit_once('/')
        .map_or_else(String::new, |(folder, _)| folder.to_owned())
}

/// `path` as seen from the root folder when it was written in `folder`.
pub fn join(folder: &str, path: &str) -> String {
    if path.starts_with('/') {
        return path.to_owned();
    }
    let mut parts: Vec<&str> = Vec::new();
    let all = folder.split('/').chain(path.split('/'));
    for part in all.filter(|part| !part.is_empty() && *part != ".") {
        match (part, parts.last()) {
            ("..", Some(last)) if *last != ".." => {
                parts.pop();
            }
            _ => parts.push(part),
        }
    }
    let absolute = if folder.starts_with('/') { "/" } else { "" };
    match parts.is_empty() && absolute.is_empty() {
        true => ".".to_owned(),
        false => format!("{absolute}{}", parts.join("/")),
    }
}

/// True when the path names any number of files.
pub fn is_glob(path: &str) -> bool {
    path.contains(['*', '?', '['])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_seen_from_the_root() {
        assert_eq!(join("", "data/a.txt"), "data/a.txt");
        assert_eq!(join("sub", "./a.txt"), "sub/a.txt");
        assert_eq!(join("sub", "../a.txt"), "a.txt");
        assert_eq!(join("", "../a.txt"), "../a.txt");
        assert_eq!(join("sub", "/a.txt"), "/a.txt");
        assert_eq!(join("", "."), ".");
        assert_eq!(folder("sub/data.kanana"), "sub");
        assert_eq!(folder("Kananafile"), "");
    }
}
