//! The folder that a Kananafile lies in: what its sources hold.
//!
//! Reads and never writes. Knows patterns and files; what they are for is the graph's.

mod lay;
mod trust;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rayon::prelude::*;

use crate::artifact::{Blob, Content};
use crate::digest::Digest;
use crate::error::{Doing, Error};
use crate::explain::NamedPart;
use crate::graph::{Graph, Source, SourceId, TaskId};
use crate::kananafile::{Files, Text, Unread};
use crate::plan::Snapshot;
use crate::read;
use crate::store::{Laid, Memo, Seen, Stamp, hash_file, now_ns};

pub use trust::{SAFE_DIRECTORY, Trust};

/// Name of the file that marks a workspace.
pub const KANANAFILE: &str = "Kananafile";

/// A folder with a Kananafile.
#[derive(Debug, Clone)]
pub struct Workspace {
    root: Arc<Path>,
    /// Includes and plugins may lie outside the folder.
    allows_outside: bool,
}

/// What a scan found: the snapshot for the planner, and where its files lie for a build.
#[derive(Debug, Default)]
pub struct Scan {
    pub snapshot: Snapshot,
    /// Files of each source, laid out as its content is.
    laid: BTreeMap<SourceId, Laid>,
    /// What every file that was read looked like then, and held.
    looks: HashMap<PathBuf, Look>,
}

/// How a file looked when it was read, and what it held.
#[derive(Debug, Clone, Copy)]
struct Look {
    stamp: Stamp,
    seen_ns: i64,
    digest: Digest,
}

impl Workspace {
    /// The workspace at a folder, given by an absolute path. Touches nothing.
    pub fn at(root: impl AsRef<Path>) -> Self {
        Self {
            root: Arc::from(root.as_ref()),
            allows_outside: false,
        }
    }

    /// The same, whose includes and plugins may lie outside the folder.
    #[must_use]
    pub fn allowing_outside(self, allows_outside: bool) -> Self {
        Self {
            allows_outside,
            ..self
        }
    }

    /// The nearest folder with a Kananafile, from `start` upwards.
    pub fn discover(start: &Path) -> Result<Self, Error> {
        let start = std::path::absolute(start).doing("find", start)?;
        start
            .ancestors()
            .find(|folder| {
                // Not only regular files: a pipe of that name is refused, not passed over.
                fs::metadata(folder.join(KANANAFILE)).is_ok_and(|found| !found.is_dir())
            })
            .map(Self::at)
            .ok_or_else(|| Error::unusable(&start, "no Kananafile here, nor in a folder above"))
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Whether a path without links leads out of the folder.
    fn is_outside(&self, real: &Path) -> bool {
        let is_within = |root: &Path| real.starts_with(root);
        !is_within(&self.root) && !fs::canonicalize(&self.root).is_ok_and(|root| is_within(&root))
    }

    /// Sources that are not there, or cannot be laid out, each with the cause. Reads no content.
    pub fn missing(&self, graph: &Graph) -> Vec<(SourceId, String)> {
        graph
            .sources()
            .filter_map(|(id, source)| Some((id, lay::lay(&self.root, source).err()?)))
            .collect()
    }

    /// The directories whose entries decide which files a source has, and how they looked before it was found to be
    /// laid out as `laid` is: what appears in one of them, or goes, changes its time. `None` when they are too many to
    /// look at, or the source is laid out in another way by now.
    pub fn unchanged(&self, source: &Source, laid: &Laid) -> Option<Vec<(PathBuf, Stamp)>> {
        let directories = lay::directories(&self.root, source, laid)?;
        let look = |path: PathBuf| {
            let metadata = fs::metadata(&path).ok()?;
            Some((path, Stamp::of(&metadata)))
        };
        let looked = directories.into_iter().map(look).collect::<Option<_>>()?;
        let is_so = lay::lay(&self.root, source).is_ok_and(|now| now == *laid);
        is_so.then_some(looked)
    }

    /// Digests what `tasks` read from the workspace: sources, program files, environment. `memo` saves reading what
    /// did not change, and learns what was read.
    pub fn scan(&self, graph: &Graph, tasks: &[TaskId], memo: &mut Memo) -> Scan {
        let mut scan = Scan::default();
        let laid: BTreeMap<SourceId, Result<Laid, String>> = graph
            .sources_of(tasks)
            .into_par_iter()
            .map(|id| (id, lay::lay(&self.root, graph.source(id))))
            .collect();
        let programs = programs(graph, tasks);
        let mut files: Vec<PathBuf> = programs.iter().map(|name| self.root.join(name)).collect();
        for laid in laid.values().flatten() {
            files.extend(laid.files().into_iter().map(Path::to_owned));
        }
        // As text: paths compare component by component.
        files.sort_unstable_by(|a, b| a.as_os_str().cmp(b.as_os_str()));
        files.dedup();
        let digested = self.digest(files, memo, &mut scan.looks);
        for (id, laid) in laid {
            let content = laid.and_then(|laid| {
                let content = laid::content(&laid, &digested)?;
                scan.laid.insert(id, laid);
                Ok(Arc::new(content))
            });
            scan.snapshot.sources.insert(id, content);
        }
        for name in programs {
            let digest = digested[&self.root.join(&name)].clone();
            scan.snapshot
                .files
                .insert(name, digest.map(|blob| blob.digest));
        }
        scan.snapshot.env = environment(graph, tasks);
        scan
    }

    fn digest(
        &self,
        files: Vec<PathBuf>,
        memo: &mut Memo,
        looks: &mut HashMap<PathBuf, Look>,
    ) -> HashMap<PathBuf, Result<Blob, String>> {
        let known: &Memo = memo;
        let read: Vec<(PathBuf, Result<Reading, String>)> = files
            .into_par_iter()
            .map(|path| {
                let reading = reading(&path, self.relative(&path), known);
                (path, reading)
            })
            .collect();
        let mut digested = HashMap::new();
        for (path, reading) in read {
            let blob = reading.map(|reading| {
                if reading.is_new {
                    let name = self.relative(&path).to_owned();
                    memo.note(name, reading.stamp, reading.blob.digest, reading.seen_ns);
                }
                let look = Look {
                    stamp: reading.stamp,
                    seen_ns: reading.seen_ns,
                    digest: reading.blob.digest,
                };
                looks.insert(path.clone(), look);
                reading.blob
            });
            digested.insert(path, blob);
        }
        digested
    }

    fn relative<'a>(&self, path: &'a Path) -> &'a Path {
        path.strip_prefix(&self.root).unwrap_or(path)
    }

    /// Those of the files that are no longer what they were in the scan; of each its path, and where it is looked at.
    pub fn moved<'a>(
        &self,
        scan: &Scan,
        files: impl IntoIterator<Item = (&'a Path, &'a Path)>,
    ) -> Vec<PathBuf> {
        files
            .into_iter()
            .filter(|(name, place)| scan.looks.get(*name).is_none_or(|look| look.is_past(place)))
            .map(|(name, _)| self.relative(name).to_owned())
            .collect()
    }
}

impl Files for Workspace {
    /// The text of a file by its path from the root.
    fn read(&self, path: &str) -> Result<Text, Unread> {
        let failed = |error| Unread::because(lay::cause(Path::new(path), &error));
        let real = fs::canonicalize(self.root.join(path)).map_err(failed)?;
        let is_outside = self.is_outside(&real);
        // What stands in the folder itself was chosen by whoever runs kbuild there: the Kananafile may be a link.
        let is_chosen = path == KANANAFILE;
        if is_outside && !self.allows_outside && !is_chosen {
            return Err(Unread {
                cause: "it lies outside the project".to_owned(),
                help: "move it into the project, or allow it with `--allow-outside-includes`",
            });
        }
        let bytes = read::whole(&real, read::MOST_TEXT).map_err(failed)?;
        let text = String::from_utf8(bytes).map_err(|error| {
            let byte = error.utf8_error().valid_up_to();
            Unread::because(format!("`{path}` is not UTF-8 (byte {byte})"))
        })?;
        Ok(Text { text, is_outside })
    }
}

impl Look {
    /// Whether the file looks other now. Where a change could have left the very same look, its bytes are read.
    fn is_past(&self, path: &Path) -> bool {
        let now = fs::metadata(path).ok().map(|metadata| Stamp::of(&metadata));
        if now != Some(self.stamp) {
            return true;
        }
        self.stamp.is_racy(self.seen_ns)
            && !hash_file(path).is_ok_and(|found| found.digest == self.digest)
    }
}

impl Scan {
    /// The parts of every source that has several, by the digest of the source, with their paths from the root.
    pub fn named_parts(&self, workspace: &Workspace) -> BTreeMap<Digest, Vec<NamedPart>> {
        let several = self.snapshot.sources.iter().filter_map(|(id, content)| {
            let (content, laid) = (content.as_ref().ok()?, self.laid.get(id)?);
            let parts = named(content, laid, workspace);
            (parts.len() > 1).then(|| (content.digest(), parts))
        });
        several.collect()
    }

    /// How a file looked when it was read.
    pub fn stamp(&self, path: &Path) -> Option<Stamp> {
        self.looks.get(path).map(|look| look.stamp)
    }

    /// Where the files of a source lie, if it could be read.
    pub fn files(&self, source: SourceId) -> Option<&Laid> {
        self.laid.get(&source)
    }
}

fn named(content: &Content, laid: &Laid, workspace: &Workspace) -> Vec<NamedPart> {
    let mut parts = NamedPart::all(content);
    if let Laid::Shards(shards) = laid {
        for (part, shard) in parts.iter_mut().zip(shards) {
            if let Laid::File(path) = shard {
                part.name = workspace.relative(path).to_string_lossy().into_owned();
            }
        }
    }
    parts
}

/// A file and what it held.
struct Reading {
    blob: Blob,
    stamp: Stamp,
    seen_ns: i64,
    /// Not from the memo.
    is_new: bool,
}

fn reading(path: &Path, name: &Path, memo: &Memo) -> Result<Reading, String> {
    let failed = |error: std::io::Error| lay::cause(name, &error);
    let seen_ns = now_ns();
    let metadata = fs::metadata(path).map_err(failed)?;
    if !metadata.is_file() {
        return Err(format!("`{}` is not a regular file", name.display()));
    }
    let stamp = Stamp::of(&metadata);
    if let Seen::Same(digest) = memo.seen(name, &stamp) {
        let blob = Blob {
            digest,
            size: stamp.size,
        };
        return Ok(Reading {
            blob,
            stamp,
            seen_ns,
            is_new: false,
        });
    }
    let blob = hash_file(path).map_err(|error| error.to_string())?;
    let after = fs::metadata(path).map_err(failed)?;
    if Stamp::of(&after) != stamp {
        return Err(format!("`{}` changed while it was read", name.display()));
    }
    Ok(Reading {
        blob,
        stamp,
        seen_ns,
        is_new: true,
    })
}

/// Program files that some tasks declare, each once.
fn programs(graph: &Graph, tasks: &[TaskId]) -> BTreeSet<String> {
    tasks
        .iter()
        .filter_map(|id| graph.task(*id).executor.program())
        .flat_map(|program| program.files.iter().cloned())
        .collect()
}

fn environment(graph: &Graph, tasks: &[TaskId]) -> BTreeMap<String, String> {
    tasks
        .iter()
        .filter_map(|id| graph.task(*id).executor.program())
        .flat_map(|program| &program.env)
        .filter_map(|name| {
            let value = std::env::var_os(name)?;
            Some((name.clone(), value.to_string_lossy().into_owned()))
        })
        .collect()
}

mod laid {
    //! From laid-out files to content.

    use super::{Blob, Content, HashMap, Laid, PathBuf};

    /// The content of laid-out files, whose digests are known.
    pub fn content(
        laid: &Laid,
        digested: &HashMap<PathBuf, Result<Blob, String>>,
    ) -> Result<Content, String> {
        Ok(match laid {
            Laid::File(path) => Content::File(digested[path].clone()?),
            Laid::Directory(files) => Content::Directory(
                files
                    .iter()
                    .map(|(name, path)| Ok((name.clone(), digested[path].clone()?)))
                    .collect::<Result<_, String>>()?,
            ),
            Laid::Shards(parts) => Content::Shards(
                parts
                    .iter()
                    .map(|part| content(part, digested))
                    .collect::<Result<_, String>>()?,
            ),
        })
    }
}

#[cfg(test)]
mod tests;
