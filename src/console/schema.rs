//! The JSON Schema of a Kananafile, put together from the schemas of the kinds: for editors that check TOML.
//!
//! It knows names, types and words, not what they mean together; `kbuild check` has the last word.

use kbuild_engine::kind::{Arity, Input, Kind, Kinds};
use serde_json::{Map, Value, json};

/// Schema of a whole Kananafile, and of the files that it includes.
pub fn kananafile(kinds: &Kinds) -> Value {
    let names: Vec<&str> = kinds.iter().map(|kind| kind.name.as_str()).collect();
    let mut definitions = Map::new();
    for kind in kinds.iter() {
        definitions.extend(definitions_of(kind));
    }
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Kananafile",
        "type": "object",
        "additionalProperties": false,
        "properties": {
            "kananafile": { "const": 1, "description": "Version of this form; required in the root file." },
            "include": { "type": "array", "items": { "type": "string" }, "description": "More files of this form." },
            "vars": { "type": "object", "description": "Values for `${name}`." },
            "goal": { "type": "object", "additionalProperties": references(), "description": "Names that people ask for." },
            "source": named(source(), "Sources that have a name, and what is known of them."),
            "task": named(task(kinds), "Pieces of work."),
            "budget": named(budget(), "Sums of costs, and limits to them."),
            "resources": resources(),
            "profile": named(profile(), "Changes for `--profile NAME`."),
            "plugin": named(plugin(), "Folders with a kind.toml; the name is then a kind."),
        },
        // Kinds of one's own come from plugins, which an included file may declare.
        "if": { "required": ["kananafile"], "not": { "anyOf": [{ "required": ["plugin"] }, { "required": ["include"] }] } },
        "then": { "properties": { "task": { "additionalProperties": { "properties": { "kind": {
            "anyOf": [{ "enum": names }, variable()],
        } } } } } },
        "$defs": definitions,
    })
}

fn named(schema: Value, description: &str) -> Value {
    json!({ "type": "object", "additionalProperties": schema, "description": description })
}

/// A string that names a var: it may stand wherever a value does.
fn variable() -> Value {
    json!({ "type": "string", "pattern": "\\$\\{" })
}

/// `:task`, a path, a glob; one or several.
fn references() -> Value {
    json!({ "anyOf": [{ "type": "string" }, { "type": "array", "items": { "type": "string" } }] })
}

fn task(kinds: &Kinds) -> Value {
    let by_kind: Vec<Value> = kinds.iter().map(of_kind).collect();
    json!({
        "type": "object",
        "required": ["kind"],
        "additionalProperties": false,
        "properties": {
            "kind": { "type": "string", "description": "What sort of work; `kbuild kinds` lists them." },
            "inputs": { "type": "object", "description": "What goes into each port." },
            "params": { "type": "object", "description": "What defines the result." },
            "run": run(),
            "matrix": matrix(),
            "protect": { "type": "boolean", "description": "Never rebuilt without the user's word." },
            "temporary": { "type": "boolean", "description": "Dropped when everything that reads it is done." },
            "outputs": { "type": "object", "additionalProperties": { "type": "string" },
                         "description": "Of the kind `command`: its ports." },
        },
        "allOf": by_kind,
    })
}

/// What a task of this kind may have.
fn of_kind(kind: &Kind) -> Value {
    let is_command = kind.name == "command";
    let mut properties = json!({ "params": params(kind) });
    if !is_command {
        properties["inputs"] = inputs(kind);
        properties["outputs"] = json!(false);
    }
    let mut then = json!({ "description": kind.summary, "properties": properties });
    if kind.ports.inputs.iter().any(is_required) {
        then["required"] = json!(["inputs"]);
    }
    json!({ "if": { "properties": { "kind": { "const": kind.name } }, "required": ["kind"] }, "then": then })
}

fn is_required(port: &Input) -> bool {
    matches!(port.arity, Arity::One | Arity::Many)
}

fn inputs(kind: &Kind) -> Value {
    let port = |port: &Input| {
        let formats = match port.formats.as_slice() {
            [] => String::new(),
            formats => format!(" ({})", formats.join(" or ")),
        };
        let table = json!({ "type": "object", "additionalProperties": { "type": "string" } });
        let array = json!({ "type": "array", "items": { "type": "string" } });
        let forms = match port.labelled {
            true => vec![table, variable()],
            false => vec![json!({ "type": "string" }), array, table],
        };
        let described = json!({ "description": format!("{}{formats}", port.doc), "anyOf": forms });
        (port.name.clone(), described)
    };
    let ports: Map<String, Value> = kind.ports.inputs.iter().map(port).collect();
    let required: Vec<&str> = (kind.ports.inputs.iter())
        .filter(|port| is_required(port))
        .map(|port| port.name.as_str())
        .collect();
    json!({ "type": "object", "properties": ports, "required": required, "additionalProperties": false })
}

fn params(kind: &Kind) -> Value {
    let mut params = relaxed(&kind.schema, &kind.name);
    if let Some(params) = params.as_object_mut() {
        for key in ["$schema", "$defs", "title"] {
            params.remove(key);
        }
        params.insert("additionalProperties".to_owned(), json!(false));
    }
    // Written as a table from the labels of a port.
    for (param, _) in &kind.ports.per_input {
        let forms = params.pointer_mut(&format!("/properties/{param}/anyOf"));
        if let Some(Value::Array(forms)) = forms {
            forms.push(json!({ "type": "object" }));
        }
    }
    params
}

fn definitions_of(kind: &Kind) -> Map<String, Value> {
    let definitions = kind.schema["$defs"].as_object();
    let named = |(name, schema): (&String, &Value)| {
        (format!("{}.{name}", kind.name), relaxed(schema, &kind.name))
    };
    definitions.into_iter().flatten().map(named).collect()
}

/// The schema with a var allowed for every value below it, and its references pointing at the definitions of this
/// kind.
fn relaxed(schema: &Value, kind: &str) -> Value {
    let Value::Object(fields) = schema else {
        return schema.clone();
    };
    let relax = |(key, value): (&String, &Value)| {
        let value = match (key.as_str(), value) {
            ("$ref", Value::String(name)) => {
                json!(name.replace("#/$defs/", &format!("#/$defs/{kind}.")))
            }
            ("properties", Value::Object(properties)) => {
                let each =
                    |(name, schema): (&String, &Value)| (name.clone(), or_variable(schema, kind));
                Value::Object(properties.iter().map(each).collect())
            }
            ("items" | "additionalProperties", Value::Object(_)) => or_variable(value, kind),
            ("anyOf" | "oneOf" | "allOf" | "prefixItems", Value::Array(forms)) => {
                forms.iter().map(|form| relaxed(form, kind)).collect()
            }
            _ => value.clone(),
        };
        (key.clone(), value)
    };
    Value::Object(fields.iter().map(relax).collect())
}

/// The schema of a value, or a var; what describes it stays outside.
fn or_variable(schema: &Value, kind: &str) -> Value {
    let mut described = Map::new();
    for key in ["description", "default"] {
        if let Some(value) = schema.get(key) {
            described.insert(key.to_owned(), value.clone());
        }
    }
    described.insert(
        "anyOf".to_owned(),
        json!([relaxed(schema, kind), variable()]),
    );
    Value::Object(described)
}

fn run() -> Value {
    let least_one = json!({ "anyOf": [{ "type": "integer", "minimum": 1 }, variable()] });
    json!({
        "type": "object",
        "description": "How the result is obtained; never part of what it is.",
        "additionalProperties": false,
        "properties": {
            "device": { "anyOf": [{ "enum": ["auto", "cpu", "gpu"] }, variable()] },
            "slots": { "type": "object", "additionalProperties": { "anyOf": [{ "type": "integer", "minimum": 0 }, variable()] } },
            "threads": least_one,
            "recompute": { "anyOf": [{ "type": "boolean" }, variable()] },
            "timeout": { "type": ["string", "integer"] },
            "attempts": least_one,
        },
    })
}

fn matrix() -> Value {
    let axis = json!({ "anyOf": [{ "type": "array", "minItems": 1 }, { "type": "object", "minProperties": 1 }, variable()] });
    json!({ "type": "object", "additionalProperties": axis, "description": "Variants of the task." })
}

fn source() -> Value {
    json!({
        "type": "object", "required": ["path"], "additionalProperties": false,
        "properties": {
            "path": { "type": "string", "description": "A file, a folder or a glob." },
            "format": { "type": "string" },
            "facts": { "type": "object", "description": "What is known of it: a value, `{ min, max }`, or `{ symbol }`." },
        },
    })
}

fn budget() -> Value {
    json!({
        "type": "object", "required": ["tasks"], "additionalProperties": false,
        "properties": {
            "about": { "type": "string" },
            "tasks": references(),
            "against": { "type": "string", "description": "The budget that it is compared with." },
            "flops": { "anyOf": [{ "type": "number", "minimum": 0 }, variable()], "description": "The most that they may take." },
        },
    })
}

fn resources() -> Value {
    json!({
        "type": "object",
        "description": "What the largest machine has.",
        "properties": { "memory": { "type": ["string", "integer"] } },
        "additionalProperties": { "anyOf": [{ "type": "integer", "minimum": 0 }, variable()] },
    })
}

fn profile() -> Value {
    let task = json!({
        "type": "object", "additionalProperties": false,
        "properties": { "params": { "type": "object" }, "run": run(), "matrix": matrix(), "protect": { "type": "boolean" },
                        "temporary": { "type": "boolean" } },
    });
    json!({
        "type": "object", "additionalProperties": false,
        "properties": {
            "vars": { "type": "object" },
            "task": { "type": "object", "additionalProperties": task },
            "resources": resources(),
        },
    })
}

fn plugin() -> Value {
    json!({
        "type": "object", "required": ["path"], "additionalProperties": false,
        "properties": { "path": { "type": "string" } },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_in_the_schema_with_its_params() {
        let kinds = kbuild_tasks::kinds();
        let schema = kananafile(&kinds);
        let tasks = schema["properties"]["task"]["additionalProperties"]["allOf"]
            .as_array()
            .unwrap();
        for (kind, task) in kinds.iter().zip(tasks) {
            let params = &task["then"]["properties"]["params"]["properties"];
            let names = |value: &Value| -> Vec<String> {
                let fields = value.as_object();
                fields
                    .into_iter()
                    .flatten()
                    .map(|(name, _)| name.clone())
                    .collect()
            };
            assert_eq!(
                names(params),
                names(&kind.schema["properties"]),
                "{}",
                kind.name
            );
        }
    }
}
