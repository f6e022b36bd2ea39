//! The JSON Schema of a Kananafile, put together from the schemas of the kinds: for editors that check TOML.

use kbuild_engine::kind::{Kind, Kinds};
use serde_json::{Map, Value, json};

/// Schema of a whole Kananafile. Params may hold `${…}` wherever they hold a value, so their types are a hint to
/// editors; `kbuild check` has the last word.
pub fn kananafile(kinds: &Kinds) -> Value {
    let tasks: Vec<Value> = kinds.iter().map(task).collect();
    let names: Vec<&str> = kinds.iter().map(|kind| kind.name.as_str()).collect();
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Kananafile",
        "type": "object",
        "required": ["kananafile"],
        "additionalProperties": false,
        "properties": {
            "kananafile": { "const": 1, "description": "Version of this form." },
            "include": { "type": "array", "items": { "type": "string" }, "description": "More files of this form." },
            "vars": { "type": "object", "description": "Values for `${name}`." },
            "goal": { "type": "object", "additionalProperties": references(),
                      "description": "Names that people ask for." },
            "task": {
                "type": "object",
                "additionalProperties": {
                    "type": "object",
                    "required": ["kind"],
                    "properties": { "kind": { "type": "string", "examples": names }, "run": run(),
                                    "matrix": { "type": "object" }, "protect": { "type": "boolean" } },
                    "allOf": tasks,
                },
            },
            "profile": { "type": "object", "additionalProperties": {
                "type": "object", "additionalProperties": false,
                "properties": { "vars": { "type": "object" }, "task": { "type": "object" } } } },
            "plugin": { "type": "object", "additionalProperties": {
                "type": "object", "required": ["path"], "properties": { "path": { "type": "string" } } } },
        },
    })
}

/// What a task of this kind may have.
fn task(kind: &Kind) -> Value {
    let inputs: Map<String, Value> = kind
        .ports
        .inputs
        .iter()
        .map(|port| (port.name.clone(), json!({ "description": port.doc })))
        .collect();
    let params: Map<String, Value> = kind.schema["properties"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, param)| {
            let described =
                json!({ "description": param["description"], "default": param["default"] });
            (name.clone(), described)
        })
        .collect();
    json!({
        "if": { "properties": { "kind": { "const": kind.name } } },
        "then": {
            "description": kind.summary,
            "properties": {
                "inputs": { "type": "object", "properties": inputs },
                "params": { "type": "object", "properties": params },
            },
        },
    })
}

fn run() -> Value {
    json!({
        "type": "object",
        "additionalProperties": false,
        "properties": {
            "device": { "enum": ["auto", "cpu", "gpu"] },
            "slots": { "type": "object" },
            "threads": { "type": "integer", "minimum": 1 },
            "timeout": { "type": ["string", "integer"] },
            "attempts": { "type": "integer", "minimum": 1 },
        },
    })
}

fn references() -> Value {
    json!({ "anyOf": [{ "type": "string" }, { "type": "array", "items": { "type": "string" } }] })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_in_the_schema() {
        let kinds = kbuild_tasks::kinds();
        let schema = kananafile(&kinds);
        let tasks = schema["properties"]["task"]["additionalProperties"]["allOf"]
            .as_array()
            .unwrap();
        assert_eq!(tasks.len(), kinds.iter().count());
    }
}
