//! `kbuild chat GOAL|TASK|DIR`: lines in, answers out. Works in a pipe.

use std::collections::BTreeMap;
use std::io::{BufRead, IsTerminal};
use std::path::{Path, PathBuf};

use kbuild_engine::graph::{Graph, TaskId};
use kbuild_engine::project::Project;
use kbuild_engine::runner::Failure;
use kbuild_engine::store::Materialise;
use kbuild_tasks::chat::{Options, Session};
use serde_json::json;

use super::{Exit, Stop, export, open, select};
use crate::args::{ChatArgs, ProjectArgs};
use crate::console;

/// An output port that holds a language model.
#[derive(Clone)]
pub struct ModelPort {
    pub task: TaskId,
    pub port: String,
}

pub fn run(project_args: &ProjectArgs, args: &ChatArgs) -> Result<Exit, Stop> {
    let directory = locate(project_args, &args.model)?;
    let options = Options {
        temperature: f64::from(args.temperature),
        top_p: f64::from(args.top_p),
        max_tokens: args.max_tokens,
        seed: args.seed,
        device: args.device.clone(),
    };
    let mut session =
        Session::open(&directory.path, args.system.as_deref(), options).map_err(stop)?;
    let is_typed = std::io::stdin().is_terminal();
    if is_typed {
        console::talk(&format!(
            "{}; an empty line or Ctrl-D ends, /reset starts over",
            directory.path.display()
        ));
    }
    let mut lines = std::io::stdin().lock().lines();
    loop {
        if is_typed {
            console::prompt("> ");
        }
        let line = match lines.next() {
            None => break,
            Some(line) => {
                line.map_err(|cause| Stop::io("read", Path::new("standard input"), &cause))?
            }
        };
        match line.trim() {
            "" if is_typed => break,
            "" => {}
            "/reset" => session.reset(),
            text => turn(&mut session, text, args)?,
        }
    }
    Ok(Exit::Done)
}

fn turn(session: &mut Session, text: &str, args: &ChatArgs) -> Result<(), Stop> {
    if args.show_tokens {
        let answer = session.answer(text, &mut |_| {}).map_err(stop)?;
        let line = json!({ "prompt": answer.prompt, "tokens": answer.tokens, "text": answer.text });
        console::json(&format!("{line}\n"));
        return Ok(());
    }
    let answer = session
        .answer(text, &mut |piece| console::foreign(piece))
        .map_err(stop)?;
    console::data("\n");
    if !answer.is_finished {
        console::talk(&console::styled(
            console::DIM,
            "(cut off: the answer did not end within --max-tokens)",
        ));
    }
    Ok(())
}

/// The model that some goals make: of the goals themselves, else the one on the way to them that no other is made of.
pub fn model_of(graph: &Graph, goals: &[TaskId]) -> Option<ModelPort> {
    let port = |task: &TaskId| {
        let port = graph
            .task(*task)
            .outputs
            .iter()
            .find(|port| port.format == "model")?;
        Some(ModelPort {
            task: *task,
            port: port.name.clone(),
        })
    };
    let of_goals = goals.iter().rev().find_map(port);
    let on_the_way = || {
        let reached = graph.reach(goals);
        let models = reached
            .iter()
            .filter_map(|task| Some((*task, port(task)?)))
            .collect::<BTreeMap<_, _>>();
        let is_last = |task: &TaskId| {
            let mut next = graph.dependents(*task).iter();
            !next.any(|next| models.contains_key(next))
        };
        let mut last = models.keys().filter(|task| is_last(task));
        let found = last.next().filter(|_| last.next().is_none())?;
        models.get(found).cloned()
    };
    of_goals.or_else(on_the_way)
}

/// A model's files, and where they were copied to if they had to be.
struct Located {
    path: PathBuf,
    is_copy: bool,
}

impl Drop for Located {
    fn drop(&mut self) {
        if self.is_copy {
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

fn locate(project_args: &ProjectArgs, word: &str) -> Result<Located, Stop> {
    let path = PathBuf::from(word);
    if path.join("config.json").is_file() {
        return Ok(Located {
            path,
            is_copy: false,
        });
    }
    if path.is_dir() && word.contains('/') {
        let message = format!("`{word}` holds no model");
        return Err(Stop::missing(
            message,
            "expected `config.json`, `model.safetensors` and `tokenizer.json`",
        ));
    }
    let kinds = kbuild_tasks::kinds();
    let project = open(project_args, &kinds)?;
    let goals = select(project.graph(), &[word.to_owned()])?;
    let Some(model) = model_of(project.graph(), &goals) else {
        return Err(Stop::words(
            format!("`{word}` makes no model, or several"),
            "name a task with an output of format `model`",
        ));
    };
    files(&project, &model)
}

/// The newest copy of the model if it is the one that the Kananafile means now, else a copy for this conversation.
fn files(project: &Project, model: &ModelPort) -> Result<Located, Stop> {
    let _visit = project.store.visit();
    let receipt = export::receipt(project, model.task)?;
    let name = &project.graph().task(model.task).name;
    let latest = project.store.latest(name).join(&model.port);
    let is_newest = project
        .store
        .last(name)
        .is_some_and(|last| last.key == receipt.key);
    if is_newest && latest.join("config.json").is_file() {
        return Ok(Located {
            path: latest,
            is_copy: false,
        });
    }
    let copy = Located {
        path: std::env::temp_dir().join(format!("kbuild-chat-{}", std::process::id())),
        is_copy: true,
    };
    project.store.materialise(
        &receipt.outputs[&model.port],
        "",
        &copy.path,
        Materialise::Writable,
    )?;
    Ok(copy)
}

fn stop(failure: Failure) -> Stop {
    Stop::missing(failure.message, failure.help)
}
