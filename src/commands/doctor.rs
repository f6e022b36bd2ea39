//! `kbuild doctor`: what this machine offers, and the command that would bring what is missing.

use super::{Exit, Stop};
use crate::console::{self, doctor};

#[allow(clippy::unnecessary_wraps)]
pub fn run() -> Result<Exit, Stop> {
    console::data(&doctor::findings(&kbuild_tasks::machine::examine()));
    Ok(Exit::Done)
}
