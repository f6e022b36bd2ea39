//! Whose Kananafile may be read that was found by looking upwards: a stranger may have put one into a folder above.

use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::KANANAFILE;

/// Variable that lists folders, separated by `:`, whose Kananafile may be anybody's; `*` stands for all.
pub const SAFE_DIRECTORY: &str = "KBUILD_SAFE_DIRECTORY";

const SUPERUSER: u32 = 0;

/// Whom this process trusts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trust {
    user: u32,
    /// Who became the superuser by `sudo`.
    sudo: Option<u32>,
    safe: Vec<PathBuf>,
}

impl Trust {
    pub fn of_this_process() -> Self {
        let sudo = std::env::var("SUDO_UID").ok();
        let safe = std::env::var_os(SAFE_DIRECTORY).unwrap_or_default();
        Self::new(
            rustix::process::geteuid().as_raw(),
            sudo.and_then(|uid| uid.parse().ok()),
            &safe,
        )
    }

    fn new(user: u32, sudo: Option<u32>, safe: &OsStr) -> Self {
        Self {
            user,
            sudo: sudo.filter(|_| user == SUPERUSER),
            safe: std::env::split_paths(safe).collect(),
        }
    }

    /// The owner of the Kananafile in this folder, of the link that it may be, or of the folder, who is not trusted.
    pub fn stranger(&self, folder: &Path) -> Option<u32> {
        let file = folder.join(KANANAFILE);
        let looks = [
            fs::symlink_metadata(&file),
            fs::metadata(&file),
            fs::metadata(folder),
        ];
        let owner = |look: &Metadata| look.uid();
        let mut owners = looks.iter().flatten().map(owner);
        let stranger = owners.find(|owner| !self.is_known(*owner))?;
        (!self.is_safe(folder)).then_some(stranger)
    }

    /// The superuser can do everything anyway.
    fn is_known(&self, owner: u32) -> bool {
        owner == self.user || owner == SUPERUSER || Some(owner) == self.sudo
    }

    fn is_safe(&self, folder: &Path) -> bool {
        let real = |path: &Path| fs::canonicalize(path).ok();
        let is_it = |safe: &PathBuf| {
            let is_all = safe == Path::new("*");
            is_all
                || safe == folder
                || (safe.is_absolute() && real(safe).is_some_and(|safe| Some(safe) == real(folder)))
        };
        self.safe.iter().any(is_it)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_the_superuser_and_whoever_called_sudo_are_known() {
        let trust = Trust::new(1000, Some(7), OsStr::new(""));
        assert!(trust.is_known(1000) && trust.is_known(0));
        assert!(!trust.is_known(7) && !trust.is_known(1001));
        let root = Trust::new(0, Some(7), OsStr::new(""));
        assert!(root.is_known(0) && root.is_known(7));
        assert!(!root.is_known(1000));
    }

    #[test]
    fn folders_are_safe_by_their_names_or_all_at_once() {
        let is_safe =
            |list: &str| Trust::new(1, None, OsStr::new(list)).is_safe(Path::new("/nowhere/a"));
        assert!(is_safe("/x:/nowhere/a") && is_safe("*"));
        assert!(!is_safe("") && !is_safe("/nowhere") && !is_safe("/nowhere/a/b"));
    }
}
