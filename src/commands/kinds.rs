//! `kbuild kinds [KIND]`: the table of kinds, with the plugins of the Kananafile where there is one.

use kbuild_engine::kananafile::suggest;
use kbuild_engine::kind::Kind;

use super::{Exit, Stop, open};
use crate::args::{KindsArgs, ProjectArgs};
use crate::console::{self, kinds};

pub fn run(project_args: &ProjectArgs, args: &KindsArgs) -> Result<Exit, Stop> {
    let table = kbuild_tasks::kinds();
    if args.markdown {
        console::verbatim(&kinds::markdown(&table));
        return Ok(Exit::Done);
    }
    // A Kananafile that is missing or wrong hides its plugins and nothing else.
    let project = open(project_args, &table).ok();
    let plugins = project
        .iter()
        .flat_map(|project| project.kananafile.plugins.values());
    let all: Vec<&Kind> = table.iter().chain(plugins).collect();
    let text = match &args.kind {
        None => kinds::list(&all, console::data_width()),
        Some(name) => {
            let kind = all.iter().find(|kind| kind.name == *name);
            kinds::describe(kind.ok_or_else(|| unknown(name, &all))?, &table)
        }
    };
    console::data(&text);
    Ok(Exit::Done)
}

fn unknown(name: &str, all: &[&Kind]) -> Stop {
    let help = match suggest(name, all.iter().map(|kind| kind.name.as_str())) {
        Some(near) => format!("did you mean `{near}`?"),
        None => "`kbuild kinds` lists them".to_owned(),
    };
    Stop::words(format!("no kind is called `{name}`"), help)
}
