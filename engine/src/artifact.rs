//! Artifacts as values: what went through a port, named by content.
//!
//! Knows nothing of where the bytes lie (`store` does) and nothing of what they mean (`tasks` does).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// How the content of a port is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shape {
    /// One file.
    File,
    /// A tree of files whose relative names are part of the content (a model: `config.json`, `model.safetensors`).
    Directory,
    /// An ordered list of parts whose names are not part of the content (documents, tokens). A part is a file or a
    /// directory.
    Shards,
}

/// Content by digest: a file, a directory, or an ordered list of shards.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Content {
    File(Blob),
    Directory(BTreeMap<String, Blob>),
    Shards(Vec<Content>),
}

/// One file of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blob {
    pub digest: Digest,
    /// Length in bytes.
    pub size: u64,
}

impl Content {
    pub fn shape(&self) -> Shape {
        match self {
            Self::File(_) => Shape::File,
            Self::Directory(_) => Shape::Directory,
            Self::Shards(_) => Shape::Shards,
        }
    }

    /// The identity of the content. A file is its bytes; a directory its relative names and bytes; shards are their
    /// parts in order.
    pub fn digest(&self) -> Digest {
        match self {
            Self::File(blob) => blob.digest,
            Self::Directory(files) => {
                let mut hasher = blake3::Hasher::new_derive_key("kbuild directory v1");
                for (name, blob) in files {
                    hasher.update(&(name.len() as u64).to_le_bytes());
                    hasher.update(name.as_bytes());
                    hasher.update(blob.digest.as_bytes());
                }
                Digest::from_bytes(*hasher.finalize().as_bytes())
            }
            Self::Shards(parts) => {
                let mut hasher = blake3::Hasher::new_derive_key("kbuild shards v1");
                for part in parts {
                    hasher.update(part.digest().as_bytes());
                }
                Digest::from_bytes(*hasher.finalize().as_bytes())
            }
        }
    }

    /// Total length in bytes.
    pub fn size(&self) -> u64 {
        self.blobs().iter().map(|blob| blob.size).sum()
    }

    /// Every file below, in order.
    pub fn blobs(&self) -> Vec<Blob> {
        match self {
            Self::File(blob) => vec![*blob],
            Self::Directory(files) => files.values().copied().collect(),
            Self::Shards(parts) => parts.iter().flat_map(Content::blobs).collect(),
        }
    }

    /// The fault of the layout, if it has one. A content with a fault is never written below a directory.
    pub fn flaw(&self) -> Option<String> {
        match self {
            Self::File(_) => None,
            Self::Directory(files) => files.keys().find_map(|name| flaw_of_entry(files, name)),
            Self::Shards(parts) => parts.iter().find_map(|part| match part {
                Self::Shards(_) => Some("a shard holds shards".to_owned()),
                part => part.flaw(),
            }),
        }
    }

    /// The parts of a list of shards; any other content is its own single part.
    pub fn parts(&self) -> &[Content] {
        match self {
            Self::Shards(parts) => parts,
            _ => std::slice::from_ref(self),
        }
    }
}

fn flaw_of_entry(files: &BTreeMap<String, Blob>, name: &str) -> Option<String> {
    if !is_relative(name) {
        return Some(format!("`{}` is no name of a file", name.escape_debug()));
    }
    let mut folders = name.match_indices('/').map(|(at, _)| &name[..at]);
    let folder = folders.find(|folder| files.contains_key(*folder))?;
    Some(format!("`{folder}` is a file and a directory"))
}

/// True for a path that stays below the directory it is joined to, whatever that is: components parted by single
/// slashes, none of them `.` or `..`.
pub fn is_relative(path: &str) -> bool {
    path.split('/').all(is_component)
}

/// True for a name that stands for one entry of a directory.
pub fn is_component(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && !name.contains(['/', '\0'])
}

/// The name of one of `count` files where names are made up: its position from 0, so that they sort as they stand.
pub fn numbered(index: usize, count: usize) -> String {
    let digits = count.saturating_sub(1).to_string().len().max(5);
    format!("{index:0digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_below_the_directory_are_names() {
        for name in ["a", "a/b", "..a", "a..", "a b/.c", "é"] {
            assert!(is_relative(name), "{name}");
        }
        for name in [
            "", ".", "..", "/a", "a/", "a//b", "../a", "a/../b", "a/.", "./a", "a\0b",
        ] {
            assert!(!is_relative(name), "{name:?}");
        }
        let blob = Blob {
            digest: Digest::of(b""),
            size: 0,
        };
        let tree = |names: &[&str]| {
            let files = names.iter().map(|name| ((*name).to_owned(), blob));
            Content::Directory(files.collect())
        };
        assert_eq!(tree(&["a", "a-b", "b/a"]).flaw(), None);
        assert!(tree(&["a", "a-b", "a/b"]).flaw().is_some());
        let shards = |part| Content::Shards(vec![Content::File(blob), part]);
        assert!(shards(tree(&["../a"])).flaw().is_some());
        assert!(shards(Content::Shards(Vec::new())).flaw().is_some());
        assert_eq!(shards(tree(&["a"])).flaw(), None);
    }

    #[test]
    fn made_up_names_sort_as_they_stand() {
        assert_eq!(numbered(7, 8), "00007");
        assert_eq!(numbered(99_999, 100_000), "99999");
        let count = 100_001;
        let names: Vec<String> = (0..count).map(|index| numbered(index, count)).collect();
        assert!(names.is_sorted());
        assert_eq!(names[7], "000007");
    }
}
