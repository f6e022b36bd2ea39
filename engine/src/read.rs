//! Files that somebody else may have put there: opened without waiting, and never read without an end.
//!
//! A pipe waits for a writer, and `/dev/zero` never ends: what is opened here is a regular file, as the descriptor
//! itself says, so that nobody can exchange it between the look and the reading.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// The longest Kananafile, include or `kind.toml` that is read.
pub const MOST_TEXT: u64 = 16 << 20;

/// Opens a regular file for reading; returns at once, whatever lies there.
///
/// # Errors
/// An error of the system, or a file that is not regular.
pub fn open(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC)
        .open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    match metadata.is_file() {
        true => Ok(file),
        false => Err(io::Error::other(
            "not a regular file (a pipe, a socket or a device)",
        )),
    }
}

/// The whole of a regular file that holds at most `most` bytes.
///
/// # Errors
/// An error of the system, a file that is not regular, or one that is too long.
pub fn whole(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let file = open(path)?;
    let too_long = || io::Error::other(format!("longer than {} MiB", most >> 20));
    let size = file.metadata()?.len();
    if size > most {
        return Err(too_long());
    }
    let mut bytes = Vec::with_capacity(size as usize + 1);
    // Some files say that they are empty and are not, and some grow while they are read.
    file.take(most + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > most {
        true => Err(too_long()),
        false => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_end_or_no_beginning_is_refused_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        rustix::fs::mkfifoat(rustix::fs::CWD, path("pipe"), 0o600.into()).unwrap();
        File::create(path("sparse"))
            .unwrap()
            .set_len(1 << 40)
            .unwrap();
        std::fs::write(path("text"), "a").unwrap();
        for wrong in [path("pipe"), "/dev/zero".into(), path("sparse"), path("")] {
            assert!(whole(&wrong, MOST_TEXT).is_err(), "{wrong:?}");
        }
        assert_eq!(whole(&path("text"), 1).unwrap(), b"a");
        assert!(whole(&path("text"), 0).is_err());
    }
}
