//! The cache directory: the store changes files below it through this module, which follows no symbolic link.
//!
//! A project that somebody else made may bring a `cache/` whose `tmp`, `blobs` or `latest/TASK` is a link to a folder of
//! the user's. So the directory is opened once, and every name is reached from there by `openat2` (Linux 5.6), or
//! directory by directory where the kernel has no such call. Paths are given as others know them: whole, below the root.
//! Knows nothing of what the files mean.

use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{AtFlags, Dir, Mode, OFlags, RenameFlags, ResolveFlags};
use rustix::io::Errno;

use crate::error::Error;

/// Largest file that is read whole.
pub(super) const MOST: u64 = 1 << 30;
/// Directories below the root whose names every store has.
const OWN: [&str; 11] = [
    "blobs",
    "receipts",
    "memo",
    "history",
    "locks",
    "partial",
    "tmp",
    "logs",
    "latest",
    "pins",
    "quarantine",
];

/// A symbolic link that stands in the way.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is a symbolic link, and none is followed below the cache directory")]
pub(crate) struct Linked(PathBuf);

/// The directory of a store. Clones share the open directory.
#[derive(Debug, Clone)]
pub(crate) struct Root {
    path: Arc<Path>,
    /// False: the directory came with the project, so it may be anybody's.
    is_trusted: bool,
    /// True once it was found to be the user's own.
    is_own: Arc<AtomicBool>,
    opened: Arc<Mutex<Option<Arc<OwnedFd>>>>,
}

impl Root {
    pub(super) fn new(path: &Path, is_trusted: bool) -> Self {
        Self {
            path: Arc::from(path),
            is_trusted,
            is_own: Arc::default(),
            opened: Arc::default(),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Why a build must not write here: the directory is a link or another user's, or a link lies directly below it.
    pub(super) fn trouble(&self) -> Option<Error> {
        let is_link = |path: &Path| {
            path.symlink_metadata()
                .is_ok_and(|found| found.is_symlink())
        };
        if let Some(error) = self.foreign() {
            return Some(error);
        }
        let mut own = OWN.iter().map(|name| self.path.join(name));
        let link = own.find(|path| is_link(path))?;
        Some(Error::unusable(
            &link,
            format!("it is a symbolic link; {ELSEWHERE}"),
        ))
    }

    /// Why the directory may be somebody else's: it is a link, or belongs to another user.
    fn foreign(&self) -> Option<Error> {
        if self.is_trusted {
            return None;
        }
        let found = self.path.symlink_metadata().ok()?;
        if found.is_symlink() {
            return Some(Error::unusable(&self.path, LINK));
        }
        let me = rustix::process::geteuid().as_raw();
        if found.uid() == me {
            return None;
        }
        let message = format!("it belongs to user {}, not to you (user {me})", found.uid());
        Some(Error::unusable(
            &self.path,
            format!("{message}; {ELSEWHERE}"),
        ))
    }

    /// Whether something may be changed below the directory. It is looked at once.
    fn permit(&self) -> io::Result<()> {
        if self.is_own.load(Ordering::Relaxed) {
            return Ok(());
        }
        if let Some(error) = self.foreign() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                error.to_string(),
            ));
        }
        self.is_own.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn directory(&self) -> io::Result<Arc<OwnedFd>> {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(directory) = &*opened {
            return Ok(Arc::clone(directory));
        }
        let directory = Arc::new(rustix::fs::open(&*self.path, PLACE, Mode::empty())?);
        *opened = Some(Arc::clone(&directory));
        Ok(directory)
    }

    fn forget(&self) {
        *self.opened.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn below<'a>(&self, path: &'a Path) -> io::Result<&'a Path> {
        let below = path.strip_prefix(&*self.path);
        let below = below.map_err(|_| io::Error::from(Errno::XDEV))?;
        let is_plain = |part| matches!(part, Component::Normal(_));
        match below.components().all(is_plain) {
            true => Ok(below),
            false => Err(Errno::XDEV.into()),
        }
    }

    /// Says which link is in the way, where one is.
    fn explain(&self, path: &Path, errno: Errno) -> io::Error {
        if !matches!(errno, Errno::LOOP | Errno::NOTDIR) {
            return errno.into();
        }
        let all: Vec<&Path> = path
            .ancestors()
            .take_while(|above| **above != *self.path)
            .collect();
        let is_link = |path: &&&Path| {
            path.symlink_metadata()
                .is_ok_and(|found| found.is_symlink())
        };
        match all.iter().rev().find(is_link) {
            Some(link) => io::Error::new(io::ErrorKind::InvalidInput, Linked(link.to_path_buf())),
            None => errno.into(),
        }
    }

    /// Opens a path without following links.
    fn at(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        let below = self.below(path)?;
        let root = self.directory()?;
        let below = match below.as_os_str().is_empty() {
            true => Path::new("."),
            false => below,
        };
        reach(root.as_fd(), below, flags).map_err(|errno| self.explain(path, errno))
    }

    /// The directory of a path, and the name in it, to change what lies there.
    fn place<'a>(&self, path: &'a Path) -> io::Result<(OwnedFd, &'a OsStr)> {
        self.permit()?;
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(Errno::INVAL.into());
        };
        Ok((self.at(parent, PLACE)?, name))
    }

    /// Makes a directory; false where there is one.
    pub(super) fn create_dir(&self, path: &Path) -> io::Result<bool> {
        if path == &*self.path {
            // The way to the root is the user's own, links and all.
            self.forget();
            let is_new = !path.is_dir();
            std::fs::create_dir_all(path)?;
            return Ok(is_new);
        }
        let (parent, name) = self.place(path)?;
        match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o777)) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => {
                let flags = PLACE | OFlags::NOFOLLOW;
                rustix::fs::openat(&parent, name, flags, Mode::empty())
                    .map(|_| false)
                    .map_err(|errno| self.explain(path, errno))
            }
            Err(errno) => Err(errno.into()),
        }
    }

    /// Makes a directory and those above it.
    pub(crate) fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        if path != &*self.path {
            match self.at(path, PLACE) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            self.create_dir_all(path.parent().unwrap_or(&self.path))?;
        }
        self.create_dir(path).map(drop)
    }

    /// A new file, to be written.
    pub(crate) fn create_new(&self, path: &Path) -> io::Result<File> {
        let (parent, name) = self.place(path)?;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&parent, name, flags, Mode::from_raw_mode(0o666))?;
        Ok(file.into())
    }

    /// A regular file, to be read and written; made where there is none.
    pub(crate) fn open_or_create(&self, path: &Path, more: OFlags) -> io::Result<File> {
        let (parent, name) = self.place(path)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | QUIET | more;
        let file = rustix::fs::openat(&parent, name, flags, Mode::from_raw_mode(0o666))
            .map_err(|errno| self.explain(path, errno))?;
        regular(file.into()).map(|(file, _)| file)
    }

    /// A regular file, to be read.
    pub(crate) fn open(&self, path: &Path) -> io::Result<File> {
        self.open_seen(path).map(|(file, _)| file)
    }

    pub(super) fn open_seen(&self, path: &Path) -> io::Result<(File, Metadata)> {
        let file = self.at(path, OFlags::RDONLY | OFlags::NOFOLLOW | QUIET)?;
        regular(file.into())
    }

    /// The bytes of a regular file that is no larger than [`MOST`].
    pub(super) fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let (file, found) = self.open_seen(path)?;
        if found.len() > MOST {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "it is too large",
            ));
        }
        let mut bytes = Vec::with_capacity(found.len() as usize + 1);
        file.take(MOST).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Writes a file through a new one, as one step. A link at `path` is replaced.
    pub(super) fn write(&self, temporary: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let written = self
            .create_new(temporary)
            .and_then(|mut file| file.write_all(bytes))
            .and_then(|()| self.rename(temporary, path));
        if written.is_err() {
            let _ = self.remove_file(temporary);
        }
        written
    }

    pub(super) fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.rename_with(from, to, RenameFlags::empty())
    }

    pub(super) fn exchange(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.rename_with(from, to, RenameFlags::EXCHANGE)
    }

    fn rename_with(&self, from: &Path, to: &Path, flags: RenameFlags) -> io::Result<()> {
        let ((from, old), (to, new)) = (self.place(from)?, self.place(to)?);
        if flags.is_empty() {
            return Ok(rustix::fs::renameat(from, old, to, new)?);
        }
        Ok(rustix::fs::renameat_with(from, old, to, new, flags)?)
    }

    pub(super) fn remove_file(&self, path: &Path) -> io::Result<()> {
        let (parent, name) = self.place(path)?;
        Ok(rustix::fs::unlinkat(parent, name, AtFlags::empty())?)
    }

    /// Removes whatever is at `path`, if it can: of a link, the link alone.
    pub(crate) fn remove_tree(&self, path: &Path) {
        if path == &*self.path {
            return;
        }
        if let Ok((parent, name)) = self.place(path) {
            remove_at(parent.as_fd(), name);
        }
    }

    /// Whether a directory, and no link, is at `path`.
    pub(super) fn is_directory(&self, path: &Path) -> bool {
        self.at(path, PLACE).is_ok()
    }

    /// Paths of what is in a directory; none where it is none.
    pub(crate) fn entries(&self, directory: &Path) -> Vec<PathBuf> {
        let Ok(opened) = self.at(directory, LIST) else {
            return Vec::new();
        };
        names(opened)
            .iter()
            .map(|name| directory.join(OsStr::from_bytes(name)))
            .collect()
    }
}

const LINK: &str = "it is a symbolic link, which may lead to files of yours; to keep the cache there, set KBUILD_CACHE to \
    the directory, or KBUILD_TRUST_CACHE=1";
const ELSEWHERE: &str =
    "remove it, or set KBUILD_CACHE to a directory of yours where the whole cache is to lie";

const PLACE: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
const LIST: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::CLOEXEC);
/// Nothing waits for the other end of a pipe.
const QUIET: OFlags = OFlags::NONBLOCK
    .union(OFlags::NOCTTY)
    .union(OFlags::CLOEXEC);

fn reach(root: BorrowedFd<'_>, below: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    match rustix::fs::openat2(root, below, flags, Mode::empty(), resolve) {
        // Some sandboxes forbid the calls that they do not know.
        Err(Errno::NOSYS | Errno::PERM) => step_by_step(root, below, flags),
        opened => opened,
    }
}

/// The same without `openat2`.
fn step_by_step(root: BorrowedFd<'_>, below: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let open = |at: BorrowedFd<'_>, name: &OsStr, flags| {
        rustix::fs::openat(at, name, flags | OFlags::NOFOLLOW, Mode::empty())
    };
    let name = below.file_name().unwrap_or(OsStr::new("."));
    let mut above: Option<OwnedFd> = None;
    for part in below.parent().into_iter().flat_map(Path::iter) {
        let at = above.as_ref().map_or(root, AsFd::as_fd);
        above = Some(open(at, part, PLACE)?);
    }
    open(above.as_ref().map_or(root, AsFd::as_fd), name, flags)
}

fn regular(file: File) -> io::Result<(File, Metadata)> {
    let found = file.metadata()?;
    match found.is_file() {
        true => Ok((file, found)),
        false => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "it is not a regular file",
        )),
    }
}

fn names(directory: OwnedFd) -> Vec<Vec<u8>> {
    let entries = Dir::new(directory).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name().to_bytes().to_vec())
        .filter(|name| name != b"." && name != b"..")
        .collect()
}

/// Removes a name in a directory with all below it, as far as it can; directories that a task made read-only as well.
pub(super) fn remove_at(parent: BorrowedFd<'_>, name: &OsStr) {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Err(Errno::ISDIR | Errno::PERM) => {}
        _ => return,
    }
    if rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR).is_ok() {
        return;
    }
    let Some(directory) = open_writable(parent, name) else {
        return;
    };
    if let Ok(again) = directory.try_clone() {
        names(again)
            .iter()
            .for_each(|name| remove_at(directory.as_fd(), OsStr::from_bytes(name)));
    }
    let _ = rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR);
}

fn open_writable(parent: BorrowedFd<'_>, name: &OsStr) -> Option<OwnedFd> {
    let flags = LIST | OFlags::NOFOLLOW;
    let open = || rustix::fs::openat(parent, name, flags, Mode::empty());
    let all = Mode::from_raw_mode(0o755);
    let directory = open().or_else(|_| {
        // A change of mode follows links: the name is made sure of first.
        let found = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if !rustix::fs::FileType::from_raw_mode(found.st_mode).is_dir() {
            return Err(Errno::NOTDIR);
        }
        rustix::fs::chmodat(parent, name, all, AtFlags::empty())?;
        open()
    });
    let directory = directory.ok()?;
    let is_writable =
        rustix::fs::fstat(&directory).is_ok_and(|found| found.st_mode & 0o300 == 0o300);
    if !is_writable {
        let _ = rustix::fs::fchmod(&directory, all);
    }
    Some(directory)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn world() -> (tempfile::TempDir, Root, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let photos = folder.path().join("photos");
        fs::create_dir(&photos).unwrap();
        fs::write(photos.join("one"), "precious").unwrap();
        let root = Root::new(&folder.path().join("cache"), false);
        root.create_dir_all(&root.path().join("a/b")).unwrap();
        (folder, root, photos)
    }

    #[test]
    fn nothing_is_reached_through_a_link() {
        let (_folder, root, photos) = world();
        let link = root.path().join("a/link");
        symlink(&photos, &link).unwrap();
        let below = link.join("one");
        for error in [
            root.read(&below).unwrap_err(),
            root.remove_file(&below).unwrap_err(),
            root.create_new(&link.join("new")).map(drop).unwrap_err(),
            root.create_dir_all(&link.join("new")).unwrap_err(),
            root.rename(&below, &root.path().join("a/moved"))
                .unwrap_err(),
            root.create_dir_all(&link).unwrap_err(),
        ] {
            assert!(
                error.to_string().contains("a/link` is a symbolic link"),
                "{error}"
            );
        }
        root.remove_tree(&below);
        assert!(root.entries(&link).is_empty());
        root.remove_tree(&root.path().join("a"));
        assert!(!root.path().join("a").exists());
        assert_eq!(fs::read_to_string(photos.join("one")).unwrap(), "precious");
    }

    #[test]
    fn without_the_system_call_it_is_the_same() {
        let (_folder, root, photos) = world();
        symlink(&photos, root.path().join("a/link")).unwrap();
        fs::write(root.path().join("a/b/file"), "x").unwrap();
        let directory = root.directory().unwrap();
        let open = |path: &str| step_by_step(directory.as_fd(), Path::new(path), OFlags::RDONLY);
        assert!(open("a/b/file").is_ok());
        assert!(open("a/link/one").is_err() && open("a/link").is_err());
    }

    #[test]
    fn what_is_no_file_of_some_size_is_not_read() {
        let (_folder, root, _) = world();
        let (pipe, huge) = (root.path().join("a/pipe"), root.path().join("a/huge"));
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.unwrap().success());
        fs::File::create(&huge).unwrap().set_len(1 << 40).unwrap();
        assert!(root.read(&pipe).is_err() && root.read(&huge).is_err());
        assert!(root.open_or_create(&pipe, OFlags::empty()).is_err());
    }

    #[test]
    fn directories_that_were_made_read_only_go_too() {
        use std::os::unix::fs::PermissionsExt;
        let (_folder, root, _) = world();
        let tree = root.path().join("a/b");
        fs::write(tree.join("file"), "x").unwrap();
        fs::set_permissions(&tree, fs::Permissions::from_mode(0o555)).unwrap();
        root.remove_tree(&root.path().join("a"));
        assert!(!root.path().join("a").exists());
    }

    #[test]
    fn a_build_refuses_a_root_that_is_a_link_and_links_in_it() {
        let (folder, root, photos) = world();
        assert!(root.trouble().is_none());
        symlink(&photos, root.path().join("tmp")).unwrap();
        assert!(root.trouble().unwrap().to_string().contains("cache/tmp"));
        let link = folder.path().join("link");
        symlink(&photos, &link).unwrap();
        assert!(Root::new(&link, false).trouble().is_some());
        assert!(Root::new(&link, true).trouble().is_none());
    }
}
