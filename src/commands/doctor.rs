//! `kbuild doctor`: what this machine offers, and the command that would bring what is missing.

use super::{Exit, Stop};
use crate::console::{self, doctor};

pub fn run() -> Result<Exit, Stop> {
    console::data(&doctor::findings(&kbuild_tasks::machine::examine()));
    Ok(Exit::Done)
}
