//! The reference of kinds, made from the table: ports, and params with their types, defaults and meaning.
//!
//! Knows JSON Schema as far as params use it; where it does not, it says `any`.

use std::fmt::Write as _;

use kbuild_engine::kind::{Arity, Body, Input, Kind, Kinds, Output};
use serde_json::Value;

use super::{BOLD, DIM, styled, text};

/// A param as the reference shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Param {
    /// `optimizer.lr` for a param inside a table.
    pub name: String,
    pub kind: String,
    /// Compact JSON; `None` where it must be given or may be left out (then `kind` says so).
    pub default: Option<String>,
    pub doc: String,
}

/// One line a kind.
pub fn list(kinds: &[&Kind], columns: Option<usize>) -> String {
    let rows: Vec<Vec<String>> = kinds
        .iter()
        .map(|kind| vec![styled(BOLD, &kind.name), kind.summary.clone()])
        .collect();
    text::table(&rows, columns)
}

/// Everything about one kind, for a terminal.
pub fn describe(kind: &Kind, kinds: &Kinds) -> String {
    let mut out = format!("{}  {}\n", styled(BOLD, &kind.name), kind.summary);
    let _ = writeln!(out, "{}", styled(DIM, nature(kind)));
    let inputs: Vec<Vec<String>> = kind.ports.inputs.iter().map(input_row).collect();
    let outputs: Vec<Vec<String>> = kind.ports.outputs.iter().map(output_row).collect();
    for (title, rows) in [("inputs", inputs), ("outputs", outputs)] {
        if !rows.is_empty() {
            let _ = write!(
                out,
                "\n{}\n{}",
                styled(BOLD, title),
                text::table(&rows, None)
            );
        }
    }
    let params = params(&kind.schema);
    if !params.is_empty() {
        let _ = writeln!(out, "\n{}", styled(BOLD, "params"));
    }
    params
        .iter()
        .for_each(|param| out.push_str(&describe_param(param)));
    let formats: Vec<Vec<String>> = kind
        .ports
        .outputs
        .iter()
        .filter_map(|port| kinds.format(&port.format))
        .map(|format| vec![format!("  {}", format.name), format.doc.to_owned()])
        .collect();
    if !formats.is_empty() {
        let _ = write!(
            out,
            "\n{}\n{}",
            styled(BOLD, "formats"),
            text::table(&formats, None)
        );
    }
    out
}

/// Name, type and default on a line; what it means below.
fn describe_param(param: &Param) -> String {
    let default = param
        .default
        .as_ref()
        .map_or(String::new(), |default| format!(" = {default}"));
    let head = format!("  {}{default}", styled(BOLD, &param.name));
    format!(
        "{head}  {}\n      {}\n",
        styled(DIM, param.kind.replace('`', "")),
        param.doc
    )
}

/// The whole reference as Markdown: `docs/kinds.md`.
pub fn markdown(kinds: &Kinds) -> String {
    let mut out = String::from(
        "# Kinds of task\n\nThis page is generated from the table of kinds by `kbuild kinds --markdown`; a test \
         compares them. `kbuild kinds KIND` prints one of them.\n\n| kind | what it does |\n|---|---|\n",
    );
    for kind in kinds.iter() {
        let _ = writeln!(
            out,
            "| [`{0}`](#{0}) | {1} |",
            kind.name,
            cell(&kind.summary)
        );
    }
    for kind in kinds.iter() {
        out.push_str(&markdown_kind(kind));
    }
    out.push_str(
        "\n## Formats\n\nWhat travels between ports.\n\n| format | content |\n|---|---|\n",
    );
    for format in kinds.formats() {
        let _ = writeln!(out, "| `{}` | {} |", format.name, cell(format.doc));
    }
    out
}

fn markdown_kind(kind: &Kind) -> String {
    let mut out = format!(
        "\n## {}\n\n{}\n\n{}\n",
        kind.name,
        sentence(&kind.summary),
        nature(kind)
    );
    let doc = kind.schema["description"].as_str().unwrap_or_default();
    if !doc.is_empty() {
        let _ = writeln!(out, "\n{doc}");
    }
    let port_rows = |rows: Vec<Vec<String>>, direction: &str| -> Vec<String> {
        rows.into_iter()
            .map(|row| {
                format!(
                    "| {direction} | `{}` | {} | {} |",
                    row[0].trim(),
                    cell(&row[1]),
                    cell(&row[2])
                )
            })
            .collect()
    };
    let inputs = port_rows(kind.ports.inputs.iter().map(input_row).collect(), "in");
    let outputs = port_rows(kind.ports.outputs.iter().map(output_row).collect(), "out");
    if inputs.len() + outputs.len() > 0 {
        out.push_str("\n| | port | format | |\n|---|---|---|---|\n");
        let _ = writeln!(out, "{}", [inputs, outputs].concat().join("\n"));
    }
    let params = params(&kind.schema);
    if !params.is_empty() {
        out.push_str("\n| param | type | default | |\n|---|---|---|---|\n");
    }
    for param in params {
        let default = param
            .default
            .map_or(String::new(), |default| format!("`{default}`"));
        let _ = writeln!(
            out,
            "| `{}` | {} | {} | {} |",
            param.name,
            cell(&param.kind),
            cell(&default),
            cell(&param.doc)
        );
    }
    out
}

fn nature(kind: &Kind) -> &'static str {
    match kind.body {
        Body::BuiltIn { .. } if kind.ports.is_mapped() => {
            "Works part by part: only changed parts run again."
        }
        Body::BuiltIn { .. } => "One execution a task.",
        Body::Composite { .. } => "Composite: expands into other tasks, each cached on its own.",
        Body::Command => "Runs a program of yours; the task declares its ports.",
        Body::Plugin(_) => "A plugin of this Kananafile.",
    }
}

fn input_row(port: &Input) -> Vec<String> {
    let formats = match port.formats.as_slice() {
        [] => "any format".to_owned(),
        formats => formats.join(" or "),
    };
    let arity = match port.arity {
        Arity::One => "",
        Arity::Optional => ", optional",
        Arity::Many => ", one or more",
        Arity::Any => ", any number",
    };
    let mapped = if port.mapped { ", by part" } else { "" };
    let labelled = if port.labelled { ", labelled" } else { "" };
    vec![
        format!("  {}", port.name),
        format!("{formats}{arity}{mapped}{labelled}"),
        port.doc.clone(),
    ]
}

fn output_row(port: &Output) -> Vec<String> {
    let mapped = if port.mapped { ", by part" } else { "" };
    vec![
        format!("  {}", port.name),
        format!("{}{mapped}", port.format),
        port.doc.clone(),
    ]
}

/// The params of a schema, tables inside flattened.
pub fn params(schema: &Value) -> Vec<Param> {
    let mut out = Vec::new();
    collect(schema, schema, "", None, &mut out);
    out
}

fn collect(
    root: &Value,
    node: &Value,
    prefix: &str,
    defaults: Option<&Value>,
    out: &mut Vec<Param>,
) {
    let Some(properties) = node["properties"].as_object() else {
        return;
    };
    let required = |name: &str| {
        node["required"]
            .as_array()
            .is_some_and(|names| names.iter().any(|required| required == name))
    };
    for (name, property) in properties {
        let full = format!("{prefix}{name}");
        let target = dereference(root, property);
        let default = defaults
            .and_then(|defaults| defaults.get(name))
            .or_else(|| property.get("default"));
        let doc = property["description"]
            .as_str()
            .or_else(|| target["description"].as_str())
            .unwrap_or_default();
        let has_inside = target["properties"]
            .as_object()
            .is_some_and(|inside| !inside.is_empty());
        if has_inside && !is_optional(root, property) {
            collect(root, target, &format!("{full}."), default, out);
            continue;
        }
        let mut kind = type_name(root, property);
        if default.is_none() {
            kind.push_str(if required(name) {
                ", required"
            } else {
                ", optional"
            });
        }
        let default = default.filter(|default| !default.is_null());
        let doc = doc.split_whitespace().collect::<Vec<_>>().join(" ");
        out.push(Param {
            name: full,
            kind,
            default: default.map(Value::to_string),
            doc,
        });
    }
}

/// The schema that a reference stands for, through a lone `allOf` as well.
fn dereference<'a>(root: &'a Value, node: &'a Value) -> &'a Value {
    if let Some([only]) = node["allOf"].as_array().map(Vec::as_slice) {
        return dereference(root, only);
    }
    match node["$ref"]
        .as_str()
        .and_then(|path| path.strip_prefix('#'))
    {
        Some(pointer) => root.pointer(pointer).unwrap_or(node),
        None => node,
    }
}

fn is_optional(root: &Value, node: &Value) -> bool {
    variants(dereference(root, node))
        .iter()
        .any(|variant| variant["type"] == "null")
}

fn variants(node: &Value) -> &[Value] {
    let of = |name: &str| node[name].as_array().map(Vec::as_slice);
    of("anyOf").or_else(|| of("oneOf")).unwrap_or(&[])
}

fn type_name(root: &Value, node: &Value) -> String {
    let node = dereference(root, node);
    let alternatives = variants(node);
    if !alternatives.is_empty() {
        let known = alternatives
            .iter()
            .filter(|variant| variant["type"] != "null");
        let mut names: Vec<String> = known.map(|variant| type_name(root, variant)).collect();
        names.dedup();
        return names.join(" or ");
    }
    if let Some(value) = node.get("const") {
        return format!(
            "`{}`",
            value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned)
        );
    }
    if let Some(values) = node["enum"].as_array() {
        let words = values.iter().filter(|value| !value.is_null());
        return words
            .map(|value| {
                format!(
                    "`{}`",
                    value
                        .as_str()
                        .map_or_else(|| value.to_string(), str::to_owned)
                )
            })
            .collect::<Vec<_>>()
            .join(" or ");
    }
    let name = match &node["type"] {
        Value::String(name) => name.as_str(),
        Value::Array(names) => names
            .iter()
            .filter_map(Value::as_str)
            .find(|name| *name != "null")
            .unwrap_or("any"),
        _ => "any",
    };
    match name {
        "array" if node["items"].is_object() => {
            format!("list of {}", type_name(root, &node["items"]))
        }
        "array" => "list".to_owned(),
        "object" if node["additionalProperties"].is_object() => {
            format!(
                "table of {}",
                type_name(root, &node["additionalProperties"])
            )
        }
        "object" => tagged_table(root, node),
        other => other.to_owned(),
    }
}

/// `{ alpha: number }` for a table with known fields.
fn tagged_table(root: &Value, node: &Value) -> String {
    let Some(fields) = node["properties"]
        .as_object()
        .filter(|fields| !fields.is_empty())
    else {
        return "table".to_owned();
    };
    let fields: Vec<String> = fields
        .iter()
        .map(|(name, field)| format!("{name}: {}", type_name(root, field)))
        .collect();
    format!("{{ {} }}", fields.join(", "))
}

fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters
        .next()
        .map(|first| first.to_uppercase().to_string())
        .unwrap_or_default();
    let end = if text.ends_with('.') { "" } else { "." };
    format!("{first}{}{end}", letters.as_str())
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn tables_are_flattened_and_choices_listed() {
        let schema = json!({
            "type": "object",
            "properties": {
                "beta": { "type": "number", "format": "double", "default": 0.1, "description": "KL\nweight" },
                "loss": { "$ref": "#/$defs/Loss", "default": "sigmoid" },
                "optimizer": { "$ref": "#/$defs/Optimizer", "default": { "lr": 0.5 } },
                "tokens": { "type": "integer" },
                "limit": { "type": ["integer", "null"] },
                "axes": { "anyOf": [{ "$ref": "#/$defs/Optimizer" }, { "type": "null" }] },
            },
            "required": ["tokens"],
            "$defs": {
                "Loss": { "oneOf": [{ "const": "sigmoid" }, { "const": "ipo" }] },
                "Optimizer": { "type": "object", "properties": { "lr": { "type": "number" } } },
            },
        });
        let shown: Vec<String> = params(&schema)
            .iter()
            .map(|p| format!("{}: {} = {:?} {}", p.name, p.kind, p.default, p.doc))
            .collect();
        assert_eq!(
            shown,
            [
                "axes: { lr: number }, optional = None ",
                "beta: number = Some(\"0.1\") KL weight",
                "limit: integer, optional = None ",
                "loss: `sigmoid` or `ipo` = Some(\"\\\"sigmoid\\\"\") ",
                "optimizer.lr: number = Some(\"0.5\") ",
                "tokens: integer, required = None ",
            ]
        );
    }
}
