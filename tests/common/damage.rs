//! What can happen to a file that nobody looked after.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Damage {
    /// Cut in half.
    Halved,
    /// One bit in the middle is another.
    Flipped,
    Deleted,
}

impl Damage {
    pub const ALL: [Self; 3] = [Self::Halved, Self::Flipped, Self::Deleted];

    /// Harms a file in place. False when this damage leaves it as it was: an empty file has no bits.
    pub fn harm(self, path: &Path) -> bool {
        let mut bytes = fs::read(path).expect("the file is read");
        if self == Self::Deleted {
            fs::remove_file(path).expect("the file is removed");
            return true;
        }
        let middle = bytes.len() / 2;
        match (self, bytes.get_mut(middle)) {
            (_, None) => return false,
            (Self::Halved, _) => bytes.truncate(middle),
            (_, Some(byte)) => *byte ^= 0x10,
        }
        // Blobs and exports are read-only for whoever is not the superuser.
        fs::set_permissions(path, Permissions::from_mode(0o644)).expect("the mode is changed");
        fs::write(path, bytes).expect("the file is written");
        true
    }
}
