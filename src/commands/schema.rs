//! `kbuild schema`: the JSON Schema of the Kananafile.

use super::{Exit, Stop};
use crate::console;

pub fn run() -> Result<Exit, Stop> {
    let schema = console::schema::kananafile(&kbuild_tasks::kinds());
    console::json(&format!("{schema:#}\n"));
    Ok(Exit::Done)
}
