//! What the engine reads as text: the Kananafile, receipts, and what a child writes.

use std::path::Path;

use kbuild_engine::digest::Digest;
use kbuild_engine::kananafile::{Options, Problem, load, problems_of_profiles};
use kbuild_engine::kind::Kinds;
use kbuild_engine::runner::lines;
use kbuild_engine::store::{Found, Memo, Store};

pub const KANANAFILE_WORDS: &[&str] = &[
    "kananafile = 1\n",
    "include = [\"other.kanana\"]\n",
    "[vars]\n",
    "[goal]\n",
    "[task.a]\n",
    "[source.a]\n",
    "[budget.a]\n",
    "[resources]\n",
    "[profile.a.vars]\n",
    "[plugin.a]\n",
    "kind = \"command\"",
    "inputs.a = ",
    "params.a = ",
    "run.gpu = true",
    "matrix.a = [1, 2, 3]",
    "matrix.a = { from = 1, to = 1000000000 }",
    "outputs = { out = \"file\" }",
    "temporary = true",
    "protect = true",
    "\":a\"",
    "\":a/out\"",
    "\":*\"",
    "\"{a}\"",
    "\"{inputs.a}\"",
    "\"{outputs.out}\"",
    "\"${a}\"",
    "{ var = \"a\" }",
    "{ concat = [",
    "\"\"\"",
    "'''",
    "1_000",
    "0x_",
    "1979-05-27",
    "nan",
    "inf",
    "\"1 GiB\"",
    "\"3 days\"",
    "\"100%\"",
    "../",
    "**",
    "한",
    "\r\n",
];

/// Other files stand behind lines `#### PATH`, words of the command line behind `#set NAME=VALUE`.
pub fn kananafile(_: &Path, bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut pieces = text.split("\n#### ");
    let root = pieces.next().unwrap_or_default().to_owned();
    let others: Vec<(&str, &str)> = pieces.filter_map(|piece| piece.split_once('\n')).collect();
    let read = |path: &str| match others.iter().find(|(name, _)| *name == path) {
        Some((_, text)) => Ok((*text).to_owned()),
        None if path == "Kananafile" => Ok(root.clone()),
        None => Err("no such file".to_owned()),
    };
    let set: Vec<(String, String)> = root
        .lines()
        .filter_map(|line| line.strip_prefix("#set ")?.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let options = Options {
        file: "Kananafile",
        set: &set,
        reserved: &["plan", "check"],
        ..Options::default()
    };
    let kinds = kinds();
    let mut problems = match load(&read, kinds, &options) {
        Ok(kananafile) => kananafile.warnings,
        Err(problems) => {
            assert!(!problems.is_empty(), "refused, and nothing is said");
            problems
        }
    };
    problems.extend(problems_of_profiles(&read, kinds, &options, &problems));
    for problem in &problems {
        let text = read(&problem.file).unwrap_or_default();
        assert_has_place(problem, &text);
    }
    let said: Vec<String> = problems.iter().map(Problem::to_string).collect();
    said.join("\n")
}

/// Whoever shows a problem cuts its line out of the text.
fn assert_has_place(problem: &Problem, text: &str) {
    let is_there = problem.line == 0 || text.get(problem.span.clone()).is_some();
    assert!(is_there, "{problem:?} points nowhere");
}

fn kinds() -> &'static Kinds {
    static KINDS: std::sync::OnceLock<Kinds> = std::sync::OnceLock::new();
    KINDS.get_or_init(kbuild_tasks::kinds)
}

/// A receipt file; where it is not one, its text, in a file whose checksum is right.
pub fn receipts(folder: &Path, bytes: &[u8]) -> String {
    let store = Store::new(folder);
    let framed = match bytes.starts_with(b"{\"blake3\"") {
        true => bytes.to_vec(),
        false => framed(bytes),
    };
    let key = Digest::from_bytes([7; 32]);
    let receipts = folder.join("receipts");
    let path = receipts
        .join("07")
        .join(format!("{}.json", "07".repeat(31)));
    std::fs::create_dir_all(path.parent().expect("it has one")).expect("the folder is writable");
    std::fs::write(path, framed).expect("the folder is writable");
    let looked = match store.receipt(&key) {
        Ok(Some(receipt)) => {
            let manifest = receipt.manifest.read();
            format!("{manifest:?} {}", receipt.blobs().count())
        }
        Ok(None) => "nothing".to_owned(),
        Err(unsound) => unsound.to_string(),
    };
    for receipt in store.receipts() {
        let _ = (receipt.manifest.to_value(), receipt.manifest.read());
        let _ = receipt.outputs.values().map(|content| content.digest());
    }
    store.named_by("0");
    let memo = Memo::default();
    let found = Found::new(&store, &memo).foreseeing(vec![key]);
    format!("{looked} {:?}", found.take_warnings())
}

fn framed(text: &[u8]) -> Vec<u8> {
    let digest = Digest::of(text);
    let mut bytes = format!("{{\"blake3\":\"{digest}\",\"receipt\":").into_bytes();
    bytes.extend(text);
    bytes.extend(b"}\n");
    bytes
}

/// What a child writes to its standard output.
pub fn events(_: &Path, bytes: &[u8]) -> String {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let read = async {
        let mut reader = tokio::io::BufReader::with_capacity(64, bytes);
        let mut said = Vec::new();
        while let Ok(Some(line)) = lines::next(&mut reader).await {
            assert!(line.len() <= lines::LONGEST);
            said.push(lines::event(&line));
        }
        said
    };
    let events = runtime.expect("a runtime").block_on(read);
    let names: Vec<String> = events
        .iter()
        .flatten()
        .map(|event| serde_json::to_string(event).expect("an event is JSON"))
        .collect();
    names.concat()
}
