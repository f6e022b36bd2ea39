//! The store: content by digest, receipts by key, and disposable helpers beside them.
//!
//! ```text
//! cache/
//!   blobs/3f/9a…            content, read-only, named by digest
//!   receipts/7c/01….json    one per key, written last, by rename
//!   memo/ history/          disposable
//!   locks/ partial/<key>/ tmp/ logs/<build>/
//!   latest/<task>/<port>    human names for the newest results
//! ```
//!
//! Truth is blobs and receipts. Knows nothing of graphs, plans or processes that run.

mod blobs;
mod book;
mod dropped;
mod durable;
mod fsck;
mod gc;
mod history;
mod latest;
mod locks;
mod memo;
mod past;
mod receipts;
mod root;
mod seal;

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

pub(crate) use blobs::remove_tree;
pub use blobs::{BlobState, Laid, Materialise, files_of, hash_file};
pub use book::Book;
pub use dropped::{Dropped, Spare};
pub use durable::{Disk, Durability, Step, Witness};
pub use fsck::{Examined, Finding, Remedy};
pub use gc::{Garbage, Kept, Limits, Litter};
pub use history::History;
pub(crate) use latest::key_file;
pub use latest::{Export, Last};
pub use locks::{Lock, PartLocks, Presence};
pub(crate) use memo::now_ns;
pub use memo::{Memo, Seen, Stamp};
pub use past::Remembered;
pub use receipts::{Found, Unsound};
pub(crate) use root::Linked;
pub use seal::{Bearer, Grounds, Moved, Sealed};

use self::root::Root;
use crate::digest::Digest;
use crate::error::{Doing, Error};
use crate::runner::{Process, place};
use crate::workspace::Workspace;

/// What is remembered of how files looked, by the name of its file in `memo/`.
pub(crate) const MEMOS: [&str; 3] = ["sources", "blobs", "latest"];

/// A store at a directory. Making one touches nothing.
#[derive(Debug, Clone)]
pub struct Store {
    root: Root,
    disk: Disk,
    /// How blobs looked when this process kept them. Clones share it.
    kept: Arc<Mutex<HashMap<Digest, Stamp>>>,
}

impl Store {
    /// A store at a directory that the caller trusts.
    pub fn new(root: impl AsRef<Path>) -> Self {
        Self::at(Root::new(root.as_ref(), true))
    }

    fn at(root: Root) -> Self {
        Self {
            disk: Disk::below(root.clone()),
            root,
            kept: Arc::default(),
        }
    }

    /// The store of a workspace: where `KBUILD_CACHE` says, else in `cache/`, which may have come with the project.
    pub fn of(workspace: &Workspace) -> Self {
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        match set("KBUILD_CACHE") {
            Some(path) => Self::new(workspace.root().join(path)),
            None => {
                let is_trusted = set("KBUILD_TRUST_CACHE").is_some_and(|value| value == "1");
                Self::at(Root::new(&workspace.root().join("cache"), is_trusted))
            }
        }
    }

    /// Why no build may use the store, if so: what is here belongs to somebody else, or leads elsewhere.
    pub fn trouble(&self) -> Option<Error> {
        self.root.trouble()
    }

    /// Below which all of the store is changed.
    pub(crate) fn below(&self) -> &Root {
        &self.root
    }

    /// The same store with another promise about power loss.
    pub fn with_durability(mut self, durability: Durability) -> Self {
        self.disk.durability = durability;
        self
    }

    /// The same store on a disk that somebody watches.
    pub fn with_witness(mut self, witness: Witness) -> Self {
        self.disk.witness = Some(witness);
        self
    }

    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// Makes the directories that a build writes to, unless something here belongs to somebody else.
    pub fn create(&self) -> Result<(), Error> {
        self.trouble().map_or(Ok(()), Err)?;
        for name in [
            "blobs", "receipts", "memo", "locks", "partial", "tmp", "logs", "latest",
        ] {
            self.disk.create_directory(&self.root().join(name))?;
        }
        self.disk.pend_name(self.root());
        Ok(())
    }

    /// Where checkpoints of the attempts at a key lie.
    pub fn partial(&self, key: &Digest) -> PathBuf {
        self.root().join("partial").join(key.to_hex())
    }

    /// Where the log of a build lies.
    pub fn logs(&self, build: &str) -> PathBuf {
        self.root().join("logs").join(build)
    }

    /// Every directory of logs, oldest first (names of builds begin with their time). Others that lie there are nobody's
    /// logs, and stay.
    pub fn builds(&self) -> Vec<String> {
        let logs = self.root.entries(&self.root().join("logs"));
        let mut builds: Vec<String> = logs
            .iter()
            .filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()))
            .filter(|name| is_build(name))
            .collect();
        builds.sort_unstable();
        builds
    }

    /// A path below `tmp/` that no other process or thread uses.
    pub fn temporary(&self) -> PathBuf {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let me = Process::own();
        self.root()
            .join("tmp")
            .join(format!("{}-{}-{}-{number}", me.pid, me.start, place()))
    }

    pub(crate) fn history_path(&self) -> PathBuf {
        self.root().join("history")
    }

    /// The memo of this name, with a warning when it was damaged.
    pub fn memo(&self, name: &str) -> (Memo, Option<String>) {
        Memo::load(&self.root, &self.root().join("memo").join(name))
    }

    /// Makes everything that was kept and written last, see [`durable`].
    pub fn commit(&self) -> Result<(), Error> {
        self.disk.commit()
    }

    /// Whether there is anything to commit.
    pub fn has_pending(&self) -> bool {
        self.disk.has_pending()
    }

    /// Saves a memo that has learnt something, after a commit of what it speaks of.
    pub fn save_memo(&self, name: &str, memo: &Memo) -> Result<(), Error> {
        if !memo.is_new() {
            return Ok(());
        }
        self.commit()?;
        let directory = self.root().join("memo");
        self.root
            .create_dir_all(&directory)
            .doing("create", &directory)?;
        memo.save(&self.root, &directory.join(name))
    }
}

/// `20260131T235959.123-4711`: whether a name is one of a build.
fn is_build(name: &str) -> bool {
    let is_number = |text: &str, length| text.len() == length && is_digits(text);
    name.split_once('T').is_some_and(|(day, rest)| {
        is_number(day, 8)
            && rest.split_once('.').is_some_and(|(second, rest)| {
                let process = rest.split_once('-');
                is_number(second, 6)
                    && process.is_some_and(|(ms, id)| is_number(ms, 3) && is_digits(id))
            })
    })
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// `ab/cdef…` below `parent`, with an extension when one is given.
fn fanned(parent: &Path, digest: &Digest, extension: &str) -> PathBuf {
    let hex = digest.to_hex();
    let (head, tail) = hex.split_at(2);
    let mut path =
        OsString::with_capacity(parent.as_os_str().len() + hex.len() + extension.len() + 2);
    path.push(parent);
    for part in ["/", head, "/", tail, extension] {
        path.push(part);
    }
    path.into()
}
