//! Errors of the environment: a path, what was attempted there, and the cause.
//!
//! Problems of a Kananafile and failures of a task are other sorts; they are values, not errors.

use std::io;
use std::path::{Path, PathBuf};

/// The way out of a full disk.
pub const MAKE_ROOM: &str =
    "free some space (`kbuild gc` lists what can go), then run the same command";

/// The way out where no process or thread can be started.
pub const MORE_PROCESSES: &str =
    "raise the limit of processes (`ulimit -u`, or `pids.max` of the container), or end some";

/// The way out where no file can be opened.
pub const MORE_FILES: &str = "raise the limit of open files (`ulimit -n`)";

/// The way out of a limit of the system that `cause` speaks of.
pub fn limit_help(cause: &io::Error) -> Option<&'static str> {
    match cause.raw_os_error()? {
        libc::EMFILE | libc::ENFILE => Some(MORE_FILES),
        _ => None,
    }
}

/// Something outside kbuild went wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot {doing} `{}`: {cause}", path.display())]
    Io {
        doing: &'static str,
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("`{}`: {message}", path.display())]
    Unusable { path: PathBuf, message: String },
}

impl Error {
    pub fn unusable(path: &Path, message: impl Into<String>) -> Self {
        Self::Unusable {
            path: path.to_owned(),
            message: message.into(),
        }
    }

    /// The path that the error is about.
    pub fn path(&self) -> &Path {
        match self {
            Self::Io { path, .. } | Self::Unusable { path, .. } => path,
        }
    }

    /// True when the disk, or the user's share of it, is full.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Io { cause, .. } if is_full(cause))
    }

    /// A way out, where one is known.
    pub fn help(&self) -> Option<&'static str> {
        let Self::Io { cause, .. } = self else {
            return None;
        };
        match cause.kind() {
            _ if is_full(cause) => Some(MAKE_ROOM),
            _ if is_linked(cause) => Some(
                "remove it, or set KBUILD_CACHE to a directory of yours where the whole cache is to lie",
            ),
            _ if limit_help(cause) == Some(MORE_FILES) => Some(MORE_FILES),
            io::ErrorKind::PermissionDenied => Some("check who owns the path and its mode"),
            io::ErrorKind::ReadOnlyFilesystem => {
                Some("building writes to `cache/`; `kbuild plan` works without writing")
            }
            _ => None,
        }
    }
}

fn is_linked(cause: &io::Error) -> bool {
    (cause.get_ref()).is_some_and(|cause| cause.is::<crate::store::Linked>())
}

fn is_full(cause: &io::Error) -> bool {
    matches!(
        cause.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// Adds what was attempted, and where, to an I/O error.
pub trait Doing<T> {
    fn doing(self, doing: &'static str, path: &Path) -> Result<T, Error>;
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, doing: &'static str, path: &Path) -> Result<T, Error> {
        self.map_err(|cause| Error::Io {
            doing,
            path: path.to_owned(),
            cause,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_where_and_why() {
        let missing =
            std::fs::read("/nonexistent/file").doing("read", Path::new("/nonexistent/file"));
        let text = missing.unwrap_err().to_string();
        assert!(
            text.starts_with("cannot read `/nonexistent/file`: "),
            "{text}"
        );
    }

    #[test]
    fn full_disk_has_a_way_out() {
        let full: io::Result<()> = Err(io::ErrorKind::StorageFull.into());
        let error = full.doing("write", Path::new("x")).unwrap_err();
        assert!(error.is_full() && error.help().is_some());
    }
}
