//! From a word to results: a task, `task.port`, or the beginning of a key or digest.

use kbuild_engine::artifact::Content;
use kbuild_engine::plan::Status;
use kbuild_engine::project::Project;
use kbuild_engine::receipt::Receipt;

use super::{Stop, one};

/// Fewest digits of a key or digest that are taken for one.
const DIGITS: usize = 4;

/// A result, or one output of it.
#[derive(Debug)]
pub struct Chosen {
    pub word: String,
    pub receipt: Receipt,
    pub port: Option<String>,
}

impl Chosen {
    /// The outputs that are meant.
    pub fn outputs(&self) -> impl Iterator<Item = (&String, &Content)> {
        let is_meant = |port: &String| self.port.as_ref().is_none_or(|meant| meant == port);
        self.receipt
            .outputs
            .iter()
            .filter(move |(port, _)| is_meant(port))
    }
}

/// What a word stands for: of a task the result that is up to date, or else the last one.
pub fn choose(project: &Project, word: &str) -> Result<Chosen, Stop> {
    let graph = project.graph();
    if graph.find(word).is_some() {
        return of_task(project, word, word, None);
    }
    if let Some((task, port)) = word
        .rsplit_once('.')
        .filter(|(task, _)| graph.find(task).is_some())
    {
        return of_task(project, word, task, Some(port));
    }
    let is_digest = word.len() >= DIGITS && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_digest {
        return of_digest(project, word);
    }
    Err(one(graph, word)
        .err()
        .unwrap_or_else(|| Stop::words("nothing is called that", "")))
}

fn of_task(project: &Project, word: &str, task: &str, port: Option<&str>) -> Result<Chosen, Stop> {
    let id = one(project.graph(), task)?;
    let name = &project.graph().task(id).name;
    let receipt = match project.prepare(&[id]).plan.status(id) {
        Some(Status::Hit(receipt)) => Some((**receipt).clone()),
        _ => {
            let last = project.store.last(name);
            last.and_then(|last| project.store.receipt(&last.key).ok()?)
        }
    };
    let Some(receipt) = receipt else {
        let help = format!("build it first: `kbuild {name}`");
        return Err(Stop::missing(format!("`{name}` has no result"), help));
    };
    if let Some(port) = port.filter(|port| !receipt.outputs.contains_key(*port)) {
        let ports: Vec<&str> = receipt.outputs.keys().map(String::as_str).collect();
        let help = format!("it has {}", ports.join(", "));
        return Err(Stop::words(
            format!("`{name}` has no output `{port}`"),
            help,
        ));
    }
    Ok(Chosen {
        word: word.to_owned(),
        receipt,
        port: port.map(str::to_owned),
    })
}

fn of_digest(project: &Project, prefix: &str) -> Result<Chosen, Stop> {
    let prefix = prefix.to_ascii_lowercase();
    let mut found = project.store.named_by(&prefix);
    // A key says more than the digest of content, which several results may share.
    if found
        .iter()
        .filter(|receipt| receipt.key.to_hex().starts_with(&prefix))
        .count()
        == 1
    {
        found.retain(|receipt| receipt.key.to_hex().starts_with(&prefix));
    }
    let Some(receipt) = found.pop() else {
        let message = format!("no key and no digest in the store begins with `{prefix}`");
        return Err(Stop::missing(message, "`kbuild plan --json` prints keys"));
    };
    if !found.is_empty() {
        found.push(receipt);
        let names: Vec<String> = found
            .iter()
            .take(4)
            .map(|receipt| format!("{} ({})", receipt.key.short(), receipt.task))
            .collect();
        let message = format!("`{prefix}` stands for {} results", found.len());
        return Err(Stop::words(
            message,
            format!("name one of {}", names.join(", ")),
        ));
    }
    let is_meant =
        |(_, content): &(&String, &Content)| content.digest().to_hex().starts_with(&prefix);
    let port = match receipt.key.to_hex().starts_with(&prefix) {
        true => None,
        false => receipt
            .outputs
            .iter()
            .find(is_meant)
            .map(|(port, _)| port.clone()),
    };
    Ok(Chosen {
        word: prefix,
        receipt,
        port,
    })
}
