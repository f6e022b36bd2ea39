//! The `command` kind: any program, with ports that the task itself declares.
//!
//! `argv` is an array and never passes through a shell. `{inputs.NAME}` and `{outputs.NAME}` stand for paths,
//! `{partial}` for a folder that survives an interrupted attempt.

use std::borrow::Cow;
use std::rc::Rc;

use serde_json::{Map, Value};

use super::draft::Draft;
use super::expand::{Entry, is_allowed};
use super::node::{Node, Span, Val};
use super::paths;
use super::plugin::check_format;
use super::problem::{Report, did_you_mean, suggest};
use super::schema::{refuse_unknown, table, text, texts};
use crate::graph::{Executor, Program};
use crate::kind::{Arity, Input, Kinds, Output, Ports};

const PARAMS: [&str; 3] = ["argv", "files", "env"];

/// The ports that a task declares: every input takes anything.
pub fn ports(entry: &Entry, kinds: &Kinds, report: &Report) -> Ports {
    let inputs = entry.inputs.as_ref().map_or(&[][..], Node::entries);
    let inputs = inputs.iter().map(|(key, _)| {
        is_allowed(key, "port", &[], report);
        Input {
            name: key.name.clone(),
            formats: Vec::new(),
            arity: Arity::Any,
            mapped: false,
            labelled: false,
            doc: String::new(),
        }
    });
    let Some(outputs) = &entry.outputs else {
        let help = "add `outputs = { result = \"file\" }`";
        report.error(entry.span, "a command needs outputs", help);
        return Ports::default();
    };
    let entries = table(outputs, "`outputs`", report).unwrap_or_default();
    let outputs = entries.iter().map(|(key, node)| {
        is_allowed(key, "port", &[], report);
        let format = text(node, "an output", report).unwrap_or("file");
        check_format(format, node.span, kinds, report);
        Output {
            name: key.name.clone(),
            format: format.to_owned(),
            mapped: false,
            doc: String::new(),
        }
    });
    Ports {
        inputs: inputs.collect(),
        outputs: outputs.collect(),
        per_input: Vec::new(),
    }
}

/// Params as they are hashed, and the program. `argv` and the formats of the outputs are params; files and
/// environment are hashed by content.
pub fn resolve(draft: &Draft<'_>, report: &Report) -> Option<(Value, Executor)> {
    let none = Node {
        span: draft.span,
        value: Val::Table(Rc::default()),
    };
    let written = draft.written.as_ref().unwrap_or(&none);
    refuse_unknown(written, &PARAMS, "`params` of a command", report);
    let argv = arguments(draft, written.get("argv"), report)?;
    let strings = |name: &str| -> Vec<String> {
        let node = written.get(name).into_iter();
        node.flat_map(|node| texts(node, format_args!("`{name}`"), report))
            .map(|(text, _)| text)
            .collect()
    };
    let folder = paths::folder(&report.path_of(draft.span.file));
    let mut program = Program {
        argv: argv.iter().map(|(text, _)| text.clone()).collect(),
        declared: Vec::new(),
        files: strings("files")
            .iter()
            .map(|file| paths::join(&folder, file))
            .collect(),
        env: strings("env"),
    };
    hash_executable(&mut program, &folder);
    let outputs = &draft.ports.outputs;
    let outputs: Map<String, Value> = outputs
        .iter()
        .map(|port| (port.name.clone(), Value::from(port.format.as_str())))
        .collect();
    let declared: Value = argv.into_iter().map(|(text, _)| text).collect();
    let mut params = Map::new();
    params.insert("argv".to_owned(), declared);
    params.insert("outputs".to_owned(), outputs.into());
    Some((params.into(), Executor::Command(program)))
}

/// A program that is given by path is one of the files that decide the result.
fn hash_executable(program: &mut Program, folder: &str) {
    let Some(first) = program.argv.first_mut().filter(|first| first.contains('/')) else {
        return;
    };
    *first = paths::join(folder, first);
    // A bare name would be looked up on the path.
    let path = first.clone();
    if !first.contains('/') {
        *first = format!("./{path}");
    }
    if !program.files.contains(&path) {
        program.files.insert(0, path);
    }
}

fn arguments(
    draft: &Draft<'_>,
    node: Option<&Node>,
    report: &Report,
) -> Option<Vec<(String, Span)>> {
    let help = "write the program and its arguments: `argv = [\"sort\", \"{inputs.words}\"]`";
    let Some(node) = node else {
        report.error(draft.span, "a command needs `argv`", help);
        return None;
    };
    if !matches!(node.value, Val::List(_) | Val::Broken) {
        let found = node.type_name();
        report.error(
            node.span,
            format!("`argv` must be an array of strings, found {found}"),
            help,
        );
        return None;
    }
    let argv = texts(&written_out(node, report), "an argument", report);
    if argv.is_empty() {
        report.error(node.span, "`argv` is empty", help);
        return None;
    }
    for (argument, span) in &argv {
        placeholders(draft, argument, *span, report);
    }
    for port in &draft.ports.outputs {
        if !argv.iter().any(|(text, _)| names_output(text, &port.name)) {
            let placeholder = format!("{{outputs.{}}}", port.name);
            let message = format!("no argument names the output `{}`", port.name);
            report.error(
                node.span,
                message,
                format!("write `{placeholder}` where its path belongs"),
            );
        }
    }
    Some(argv)
}

/// Arguments with the text of every number and boolean that a string (`"${seed}"`) stands for.
fn written_out<'a>(node: &'a Node, report: &Report) -> Cow<'a, Node> {
    let is_text = |item: &Node| matches!(item.value, Val::Text(_));
    let items = match &node.value {
        Val::List(items) if !items.iter().all(is_text) => items,
        _ => return Cow::Borrowed(node),
    };
    let argument = |item: &Node| {
        let text = item.to_text().filter(|_| report.is_quoted(item.span));
        Node {
            span: item.span,
            value: text.map_or_else(|| item.value.clone(), Val::Text),
        }
    };
    Cow::Owned(Node {
        span: node.span,
        value: Val::List(items.iter().map(argument).collect()),
    })
}

/// Whether `{outputs.PORT}` is in an argument.
fn names_output(argument: &str, port: &str) -> bool {
    let after_brace = argument.split('{').skip(1);
    let mut ports = after_brace.filter_map(|text| text.strip_prefix("outputs."));
    ports.any(|text| {
        text.strip_prefix(port)
            .is_some_and(|text| text.starts_with('}'))
    })
}

/// Checks every `{inputs.…}`, `{outputs.…}` and `{partial}` of an argument; other braces are the program's own.
fn placeholders(draft: &Draft<'_>, argument: &str, span: Span, report: &Report) {
    for (start, _) in argument.match_indices('{') {
        let Some(end) = argument[start..].find('}') else {
            return;
        };
        let inside = &argument[start + 1..start + end];
        let whole = inside.len() + 2 == argument.len();
        placeholder(draft, inside, whole, span, report);
    }
}

fn placeholder(draft: &Draft<'_>, inside: &str, whole: bool, span: Span, report: &Report) {
    let (word, port) = inside.split_once('.').unwrap_or((inside, ""));
    let unknown = |names: Vec<&str>| {
        let message = format!("the placeholder `{{{inside}}}` names no port");
        report.error(span, message, did_you_mean(port, names));
    };
    match word {
        "inputs" => match draft.port(port) {
            None => unknown(draft.inputs.iter().map(|port| port.name.as_str()).collect()),
            Some(bound) if bound.bindings.len() != 1 && !whole => {
                let message = format!("`{{{inside}}}` stands for {} paths", bound.bindings.len());
                let help = "an argument that is only the placeholder becomes one argument for each";
                report.error(span, message, help);
            }
            Some(_) => {}
        },
        "outputs" if draft.ports.find_output(port).is_none() => {
            let outputs = &draft.ports.outputs;
            unknown(outputs.iter().map(|port| port.name.as_str()).collect());
        }
        "outputs" | "partial" => {}
        _ => {
            let is_word = !word.is_empty() && word.chars().all(char::is_alphanumeric);
            let close = suggest(word, ["inputs", "outputs", "partial"]).filter(|_| is_word);
            if let Some(close) = close {
                let message = format!("unknown placeholder `{{{inside}}}`");
                report.error(span, message, format!("did you mean `{close}`?"));
            }
        }
    }
}
