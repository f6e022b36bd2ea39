//! Plugins: a `kind.toml` becomes a kind, so that checking never runs foreign code.

use serde_json::{Map, Value, json};

use super::Files;
use super::expand::is_allowed;
use super::node::{Key, Node, Span, Val, parse};
use super::paths;
use super::problem::{Report, did_you_mean};
use super::schema::{fields, flag, table, text, texts};
use crate::graph::Program;
use crate::kind::{Arity, Body, Input, Kind, Kinds, Output, Ports};

/// A kind described by a `kind.toml`: what is known beyond its ports and its schema.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plugin {
    pub program: Program,
}

const KEYS: [&str; 8] = [
    "version", "summary", "argv", "files", "env", "inputs", "outputs", "params",
];
const TYPES: [&str; 6] = ["boolean", "integer", "number", "string", "array", "object"];

/// Reads `[plugin.NAME] path = "…"` and the `kind.toml` in that folder.
pub fn read(
    files: &dyn Files,
    kinds: &Kinds,
    name: &Key,
    node: &Node,
    report: &Report,
) -> Option<Kind> {
    let what = format!("plugin `{}`", name.name);
    table(node, &what, report)?;
    let declared = fields(node, &["path"], &what, report);
    let Some(path) = declared.get("path") else {
        let help = "add `path = \"…\"`: the folder that holds its `kind.toml`";
        report.error(name.span, format!("{what} has no path"), help);
        return None;
    };
    if kinds.get(&name.name).is_some() {
        let message = format!("`{}` is a kind already", name.name);
        report.error(name.span, message, "choose another name for the plugin");
    }
    let declared_in = paths::folder(&report.path_of(name.span.file));
    let folder = paths::join(&declared_in, text(path, "`path`", report)?);
    let file = paths::join(&folder, "kind.toml");
    match files.read(&file) {
        Ok(content) => {
            let number = report.add_file(&file, &content);
            let root = parse(number, &content.text, report);
            (!root.is_broken()).then(|| kind(&name.name, &folder, &root, kinds, report))
        }
        Err(unread) => {
            let message = format!("cannot read `{file}`: {}", unread.cause);
            report.error(path.span, message, unread.help);
            None
        }
    }
}

fn kind(name: &str, folder: &str, root: &Node, kinds: &Kinds, report: &Report) -> Kind {
    let fields = fields(root, &KEYS, "a `kind.toml`", report);
    let field = |name: &str| fields.get(name).copied();
    let strings = |name: &str| -> Vec<String> {
        let node = field(name).into_iter();
        node.flat_map(|node| texts(node, format_args!("`{name}`"), report))
            .map(|(text, _)| text)
            .collect()
    };
    let summary = field("summary").and_then(|node| text(node, "`summary`", report));
    let entries = |name: &str| field(name).map_or(&[][..], Node::entries);
    Kind {
        name: name.to_owned(),
        version: version(field("version"), root.span, report),
        summary: summary.unwrap_or_default().to_owned(),
        ports: Ports {
            inputs: entries("inputs")
                .iter()
                .map(|(key, node)| input(key, node, kinds, report))
                .collect(),
            outputs: entries("outputs")
                .iter()
                .map(|(key, node)| output(key, node, kinds, report))
                .collect(),
            per_input: Vec::new(),
        },
        schema: schema(entries("params"), report),
        body: Body::Plugin(Plugin {
            program: program(folder, &strings, root.span, report),
        }),
    }
}

fn version(node: Option<&Node>, span: Span, report: &Report) -> u32 {
    let number = match node.map(|node| (&node.value, node.span)) {
        Some((Val::Int(number), _)) => u32::try_from(*number).ok(),
        _ => None,
    };
    number.unwrap_or_else(|| {
        let help = "write `version = 1`, and raise it whenever equal inputs give other bytes";
        let span = node.map_or(span, |node| node.span);
        report.error(span, "a `kind.toml` needs a version", help);
        0
    })
}

fn program(
    folder: &str,
    strings: &dyn Fn(&str) -> Vec<String>,
    span: Span,
    report: &Report,
) -> Program {
    let declared = strings("argv");
    if declared.is_empty() {
        let help = "write `argv = [\"python3\", \"main.py\"]`";
        report.error(span, "a `kind.toml` needs an argv", help);
    }
    let files = strings("files");
    // An argument that names a declared file is that file, wherever the plugin lies.
    let argv = declared.iter().enumerate().map(|(index, argument)| {
        let is_file = files.contains(argument) || (index == 0 && argument.contains('/'));
        match is_file {
            true => paths::join(folder, argument),
            false => argument.clone(),
        }
    });
    let argv: Vec<String> = argv.collect();
    let mut files: Vec<String> = files.iter().map(|file| paths::join(folder, file)).collect();
    let executable = argv.first().filter(|program| program.contains('/'));
    if let Some(executable) = executable.filter(|program| !files.contains(program)) {
        files.insert(0, executable.clone());
    }
    Program {
        argv,
        declared,
        files,
        env: strings("env"),
    }
}

fn input(key: &Key, node: &Node, kinds: &Kinds, report: &Report) -> Input {
    is_allowed(key, "port", &[], report);
    let known = ["format", "arity", "mapped", "labelled", "doc"];
    let what = format!("input `{}`", key.name);
    let fields = fields(node, &known, &what, report);
    let string = |name: &str| fields.get(name).and_then(|node| text(node, &what, report));
    let is = |name: &str| {
        fields
            .get(name)
            .is_some_and(|node| flag(node, name, report))
    };
    let formats: Vec<String> = string("format")
        .into_iter()
        .flat_map(|formats| formats.split('|'))
        .map(str::to_owned)
        .collect();
    if let Some(node) = fields.get("format") {
        for format in &formats {
            check_format(format, node.span, kinds, report);
        }
    }
    Input {
        name: key.name.clone(),
        formats,
        arity: arity(string("arity"), key, report),
        mapped: is("mapped"),
        labelled: is("labelled"),
        doc: string("doc").unwrap_or_default().to_owned(),
    }
}

fn arity(word: Option<&str>, key: &Key, report: &Report) -> Arity {
    match word {
        None | Some("one") => Arity::One,
        Some("optional") => Arity::Optional,
        Some("many") => Arity::Many,
        Some("any") => Arity::Any,
        Some(word) => {
            let help = did_you_mean(word, ["one", "optional", "many", "any"]);
            report.error(key.span, format!("`{word}` is no arity"), help);
            Arity::Any
        }
    }
}

fn output(key: &Key, node: &Node, kinds: &Kinds, report: &Report) -> Output {
    is_allowed(key, "port", &[], report);
    let what = format!("output `{}`", key.name);
    let fields = fields(node, &["format", "mapped", "doc"], &what, report);
    let string = |name: &str| fields.get(name).and_then(|node| text(node, &what, report));
    let format = string("format").unwrap_or("file").to_owned();
    let span = fields.get("format").map_or(key.span, |node| node.span);
    check_format(&format, span, kinds, report);
    Output {
        name: key.name.clone(),
        format,
        mapped: fields
            .get("mapped")
            .is_some_and(|node| flag(node, "mapped", report)),
        doc: string("doc").unwrap_or_default().to_owned(),
    }
}

/// Reports a format that nobody knows; `file` and `directory` are content without a format.
pub fn check_format(name: &str, span: Span, kinds: &Kinds, report: &Report) {
    let plain = ["file", "directory"];
    if plain.contains(&name) || kinds.format(name).is_some() {
        return;
    }
    let all = kinds.formats().map(|format| format.name).chain(plain);
    let help = did_you_mean(name, all);
    report.error(span, format!("unknown format `{name}`"), help);
}

/// The JSON Schema of declared params.
fn schema(params: &[(Key, Node)], report: &Report) -> Value {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for (key, node) in params {
        let what = format!("param `{}`", key.name);
        let fields = fields(node, &["type", "default", "doc"], &what, report);
        let string = |name: &str| fields.get(name).and_then(|node| text(node, &what, report));
        let kind = string("type").unwrap_or("string");
        if !TYPES.contains(&kind) {
            let help = did_you_mean(kind, TYPES);
            let span = fields.get("type").map_or(key.span, |node| node.span);
            report.error(span, format!("unknown type `{kind}`"), help);
        }
        let mut property =
            json!({ "type": kind, "description": string("doc").unwrap_or_default() });
        match fields
            .get("default")
            .and_then(|node| Some((node, node.to_json()?)))
        {
            None => required.push(key.name.clone()),
            Some((_, default)) if fits(&default, kind) => property["default"] = default,
            Some((node, _)) => {
                let found = node.type_name();
                report.error(
                    node.span,
                    format!("the default must be of type {kind}, found {found}"),
                    "",
                );
            }
        }
        properties.insert(key.name.clone(), property);
    }
    json!({ "type": "object", "properties": properties, "required": required, "additionalProperties": false })
}

/// Fills in the defaults of a plugin's params and checks their types: `(param, message)` of each that does not fit.
pub fn resolve(
    schema: &Value,
    mut given: Map<String, Value>,
) -> Result<Value, Vec<(String, String)>> {
    let mut wrong = Vec::new();
    let none = Map::new();
    let properties = schema["properties"].as_object().unwrap_or(&none);
    let mut resolved = Map::new();
    for (name, property) in properties {
        let kind = property["type"].as_str().unwrap_or_default();
        match given
            .remove(name)
            .or_else(|| property.get("default").cloned())
        {
            Some(value) if fits(&value, kind) => {
                resolved.insert(name.clone(), widened(value, kind));
            }
            Some(value) => wrong.push((name.clone(), format!("expected {kind}, found {value}"))),
            None => {}
        }
    }
    if wrong.is_empty() {
        Ok(Value::Object(resolved))
    } else {
        Err(wrong)
    }
}

fn fits(value: &Value, kind: &str) -> bool {
    match kind {
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => true,
    }
}

/// `1` and `1.0` are one number to a param that is a number.
fn widened(value: Value, kind: &str) -> Value {
    match value.as_f64().filter(|_| kind == "number") {
        Some(number) => Value::from(number),
        None => value,
    }
}
