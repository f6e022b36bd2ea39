//! The JSON Schema that `kbuild schema` prints is one, takes every Kananafile that is here, and refuses wrong ones.

mod common;

use std::path::Path;

use boon::{Compiler, SchemaIndex, Schemas, ValidationError};
use serde_json::Value;

/// The schema as editors get it.
struct Schema {
    schemas: Schemas,
    index: SchemaIndex,
}

impl Schema {
    /// Compiled, which needs a schema that follows its meta-schema.
    fn printed() -> Self {
        let text = common::Project::with(&[]).ok(&["schema"]).stdout();
        let schema = serde_json::from_str(&text).expect("the schema is JSON");
        Self::compile(schema).unwrap_or_else(|wrong| panic!("{wrong:#}"))
    }

    fn compile(schema: Value) -> Result<Self, Box<boon::CompileError>> {
        let (mut schemas, mut compiler) = (Schemas::new(), Compiler::new());
        compiler.add_resource("kananafile.json", schema)?;
        let index = compiler.compile("kananafile.json", &mut schemas)?;
        Ok(Self { schemas, index })
    }

    /// What an editor would underline in a text: the places, and everything that is said.
    fn underlined(&self, text: &str) -> (Vec<String>, String) {
        let value: Value = toml::from_str(text).expect("the text is TOML");
        let mut found = Vec::new();
        let wrong = self.schemas.validate(&value, self.index).err();
        wrong.iter().for_each(|wrong| places(wrong, &mut found));
        (
            found,
            wrong.map_or_else(String::new, |wrong| format!("{wrong:#}")),
        )
    }
}

fn places(wrong: &ValidationError<'_, '_>, found: &mut Vec<String>) {
    found.push(wrong.instance_location.to_string());
    wrong.causes.iter().for_each(|cause| places(cause, found));
}

#[test]
fn a_schema_that_is_none_is_refused() {
    let wrong = serde_json::json!({ "properties": { "task": { "type": "tabel" } } });
    assert!(Schema::compile(wrong).is_err());
}

#[test]
fn every_kananafile_here_fits() {
    let schema = Schema::printed();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let found = ["Kananafile", "*.kanana", "*/*/Kananafile", "*/*/*.kanana"]
        .map(|pattern| glob::glob(&root.join(pattern).to_string_lossy()).expect("a pattern"));
    let mut paths: Vec<_> = found.into_iter().flatten().flatten().collect();
    assert!(paths.len() > 6, "{paths:?}");
    let scaffold = common::Project::with(&[]);
    scaffold.ok(&["init"]);
    paths.push(scaffold.path("Kananafile"));
    for path in paths {
        let text = std::fs::read_to_string(&path).expect("the file is text");
        let (places, said) = schema.underlined(&text);
        assert!(places.is_empty(), "{}: {said}", path.display());
    }
}

#[test]
fn wrong_ones_are_underlined_where_they_are_wrong() {
    let schema = Schema::printed();
    let task = "kananafile = 1\n[task.a]\nkind = \"filter\"\ninputs.documents = \"a\"\n";
    assert_eq!(schema.underlined(task).0, Vec::<String>::new());
    for (place, text) in [
        ("/kananafile", "kananafile = 2"),
        ("", "kananafile = 1\n[tasks.a]\nkind = \"filter\""),
        ("/task/a", "kananafile = 1\n[task.a]\nparams.x = 1"),
        (
            "/task/a/kind",
            "kananafile = 1\n[task.a]\nkind = \"fliter\"",
        ),
        ("/task/a", &format!("{task}input.documents = \"a\"")),
        ("/task/a/inputs", &format!("{task}inputs.document = \"a\"")),
        ("/task/a/params", &format!("{task}params.x = 1")),
        (
            "/task/a/run/attempts",
            &format!("{task}run.attempts = \"two\""),
        ),
        ("/goal/all", "kananafile = 1\n[goal]\nall = 1"),
    ] {
        let (places, said) = schema.underlined(text);
        let is_there = places[1..].iter().any(|found| found == place);
        assert!(is_there, "{text}\n{place}: {said}");
    }
}
