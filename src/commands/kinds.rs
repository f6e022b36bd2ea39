//! `kbuild kinds [KIND]`: the table of kinds.

use kbuild_engine::kananafile::suggest;

use super::{Exit, Stop};
use crate::args::KindsArgs;
use crate::console::{self, kinds};

pub fn run(args: &KindsArgs) -> Result<Exit, Stop> {
    let table = kbuild_tasks::kinds();
    let text = match &args.kind {
        None if args.markdown => kinds::markdown(&table),
        None => kinds::list(&table, console::data_width()),
        Some(name) => {
            let kind = table.get(name).ok_or_else(|| unknown(name, &table))?;
            kinds::describe(kind, &table)
        }
    };
    console::data(&text);
    Ok(Exit::Done)
}

fn unknown(name: &str, table: &kbuild_engine::kind::Kinds) -> Stop {
    let names = table.iter().map(|kind| kind.name.as_str());
    let help = match suggest(name, names) {
        Some(near) => format!("did you mean `{near}`?"),
        None => "`kbuild kinds` lists them".to_owned(),
    };
    Stop::Words { message: format!("no kind is called `{name}`"), help }
}
