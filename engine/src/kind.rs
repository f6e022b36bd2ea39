//! Kinds: the sorts of work that a Kananafile can name, as rows of one table.
//!
//! A kind is its ports, its typed params and its code. The engine reads ports and params; it never looks into the
//! code, which runs in a child process. Built-in kinds implement [`TaskKind`], composites [`CompositeKind`]; plugins
//! come from a `kind.toml`. All of them become a [`Kind`].

use std::collections::BTreeMap;
use std::path::Path;

use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::artifact::Shape;
use crate::facts::{Facts, Prediction};
use crate::runner::{Context, Failure};

/// What travels through a port, as a name that both ends must agree on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Format {
    pub name: &'static str,
    pub shape: Shape,
    /// File name extension of a file or of each shard, without the dot; empty for directories.
    pub extension: &'static str,
    pub doc: &'static str,
}

/// How many artifacts an input port takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arity {
    One,
    Optional,
    /// One or more, in order.
    Many,
    /// None or more, in order.
    Any,
}

impl Arity {
    /// Whether a port of this arity can hold `count` artifacts.
    pub fn fits(self, count: usize) -> bool {
        match self {
            Self::One => count == 1,
            Self::Optional => count <= 1,
            Self::Many => count >= 1,
            Self::Any => true,
        }
    }
}

/// An input port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    pub name: String,
    /// Names of the formats that are accepted; empty accepts every format.
    pub formats: Vec<String>,
    pub arity: Arity,
    /// The kind works on this port part by part; all mapped inputs of a kind are aligned (same number of parts).
    pub mapped: bool,
    /// The labels of the inputs are part of the result (a report says which curve is which). The port is then given
    /// as a table `{ label = ":task" }` and the labels are in the manifest. On other ports labels only resolve
    /// params that are written per input.
    pub labelled: bool,
    pub doc: String,
}

/// An output port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    pub name: String,
    pub format: String,
    /// One part of output for each part of the mapped inputs.
    pub mapped: bool,
    pub doc: String,
}

/// The ports of a kind, and the params that are written per input.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ports {
    pub inputs: Vec<Input>,
    pub outputs: Vec<Output>,
    /// `(param, port)`: the Kananafile gives the param as a table from the names of that port's inputs; the kind sees
    /// an array in the order of the port, so that the names are not in the key.
    pub per_input: Vec<(String, String)>,
}

impl Ports {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn input(mut self, name: &str, format: &str, arity: Arity, doc: &str) -> Self {
        let formats = format
            .split('|')
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .collect();
        let (name, doc) = (name.to_owned(), doc.to_owned());
        self.inputs.push(Input {
            name,
            formats,
            arity,
            mapped: false,
            labelled: false,
            doc,
        });
        self
    }

    pub fn output(mut self, name: &str, format: &str, doc: &str) -> Self {
        let (name, format, doc) = (name.to_owned(), format.to_owned(), doc.to_owned());
        self.outputs.push(Output {
            name,
            format,
            mapped: false,
            doc,
        });
        self
    }

    /// Marks the named ports, inputs and outputs, as mapped part by part.
    pub fn mapped(mut self, names: &[&str]) -> Self {
        self.inputs
            .iter_mut()
            .filter(|port| names.contains(&port.name.as_str()))
            .for_each(|port| port.mapped = true);
        self.outputs
            .iter_mut()
            .filter(|port| names.contains(&port.name.as_str()))
            .for_each(|port| port.mapped = true);
        self
    }

    /// Marks the named input as labelled.
    pub fn labelled(mut self, name: &str) -> Self {
        self.inputs
            .iter_mut()
            .filter(|port| port.name == name)
            .for_each(|port| port.labelled = true);
        self
    }

    /// Declares that `param` is written as a table from the names of the inputs of `port`.
    pub fn per_input(mut self, param: &str, port: &str) -> Self {
        self.per_input.push((param.to_owned(), port.to_owned()));
        self
    }

    pub fn find_input(&self, name: &str) -> Option<&Input> {
        self.inputs.iter().find(|port| port.name == name)
    }

    pub fn find_output(&self, name: &str) -> Option<&Output> {
        self.outputs.iter().find(|port| port.name == name)
    }

    pub fn is_mapped(&self) -> bool {
        self.inputs.iter().any(|port| port.mapped)
    }
}

/// What a kind finds wrong with a task before it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Complaint {
    /// Where in the task: `params.heads`, `inputs.teacher`; empty for the task itself.
    pub at: String,
    pub message: String,
    pub help: String,
}

impl Complaint {
    pub fn new(at: &str, message: impl Into<String>, help: impl Into<String>) -> Self {
        Self {
            at: at.to_owned(),
            message: message.into(),
            help: help.into(),
        }
    }
}

/// What is known of a task's inputs when nothing has run: by port, `(label, facts)` in order.
#[derive(Debug, Clone, Default)]
pub struct Known<'a> {
    /// Name of the task: the stem of the symbols it makes (`tok.tokenizer`).
    pub task: &'a str,
    pub inputs: BTreeMap<String, Vec<(String, Facts)>>,
    /// Whether it runs on a GPU, as far as its run settings say: what it costs depends on it, what it makes never does.
    pub on_gpu: bool,
    /// Whether it is asked to compute again what it need not keep: the same holds of that.
    pub recompute: bool,
}

impl Known<'_> {
    pub fn many(&self, port: &str) -> &[(String, Facts)] {
        self.inputs.get(port).map_or(&[], Vec::as_slice)
    }

    /// The facts of the first artifact of a port, if the port is in use.
    pub fn one(&self, port: &str) -> Option<&Facts> {
        self.many(port).first().map(|(_, facts)| facts)
    }
}

/// A sort of work that is built into the program.
pub trait TaskKind: 'static {
    const NAME: &'static str;
    /// Raised whenever the same params and inputs give other bytes.
    const VERSION: u32;
    /// One line for `kbuild kinds`.
    const SUMMARY: &'static str;

    /// Every param with its default (`#[serde(default, deny_unknown_fields)]`); doc comments become the reference.
    /// Floats are `f64`. `Option` for what has no default.
    type Params: Serialize + DeserializeOwned + JsonSchema;

    fn ports() -> Ports;

    /// Facts and cost of a task, without running it. Every complaint is shown; nothing is guessed.
    fn predict(_params: &Self::Params, _known: &Known<'_>) -> Result<Prediction, Vec<Complaint>> {
        Ok(Prediction::default())
    }

    /// Does the work, in a child process.
    fn run(params: Self::Params, context: &mut Context) -> Result<(), Failure>;
}

/// A kind that is a pure expansion into other tasks.
pub trait CompositeKind: 'static {
    const NAME: &'static str;
    const SUMMARY: &'static str;

    type Params: Serialize + DeserializeOwned + JsonSchema;

    fn ports() -> Ports;

    /// The steps that a task of this kind stands for. `inputs` counts the artifacts bound to each port.
    fn expand(
        params: Self::Params,
        inputs: &BTreeMap<String, usize>,
    ) -> Result<Expansion, Vec<Complaint>>;
}

/// What a composite stands for.
#[derive(Debug, Clone, Default)]
pub struct Expansion {
    pub steps: Vec<Step>,
    /// Output port of the composite → step and port that provide it.
    pub outputs: BTreeMap<String, (String, String)>,
}

/// One task of an expansion; it is named `<composite>/<name>`.
#[derive(Debug, Clone)]
pub struct Step {
    pub name: String,
    pub kind: String,
    pub params: Map<String, Value>,
    pub inputs: BTreeMap<String, Vec<StepInput>>,
}

/// Where a step's input comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StepInput {
    /// All that is bound to this input port of the composite.
    Outer(String),
    /// Only the n-th (from 0) of what is bound to this input port of the composite.
    OuterNth(String, usize),
    /// An output port of another step: `(step, port)`.
    Step(String, String),
}

/// A row of the table: everything the engine must know of a kind.
pub struct Kind {
    pub name: String,
    pub version: u32,
    pub summary: String,
    pub ports: Ports,
    /// JSON Schema (an object) of the params, with defaults and descriptions.
    pub schema: Value,
    pub body: Body,
}

type Resolve = Box<dyn Fn(Value) -> Result<Value, String> + Send + Sync>;
type Predict = Box<dyn Fn(&Value, &Known<'_>) -> Result<Prediction, Vec<Complaint>> + Send + Sync>;
type Run = Box<dyn Fn(Value, &mut Context) -> Result<(), Failure> + Send + Sync>;
type Expand =
    Box<dyn Fn(Value, &BTreeMap<String, usize>) -> Result<Expansion, Vec<Complaint>> + Send + Sync>;

/// The code of a kind.
pub enum Body {
    /// Runs in a child process that re-executes this program.
    BuiltIn {
        resolve: Resolve,
        predict: Predict,
        run: Run,
    },
    /// Expands into other tasks.
    Composite { resolve: Resolve, expand: Expand },
    /// The `command` kind: any program, its ports declared by the task itself.
    Command,
    /// A program described by a `kind.toml`.
    Plugin(crate::kananafile::Plugin),
}

impl Kind {
    /// The row of a built-in kind.
    pub fn task<K: TaskKind>() -> Self {
        Self {
            name: K::NAME.to_owned(),
            version: K::VERSION,
            summary: K::SUMMARY.to_owned(),
            ports: K::ports(),
            schema: schemars::schema_for!(K::Params).to_value(),
            body: Body::BuiltIn {
                resolve: Box::new(resolve::<K::Params>),
                predict: Box::new(|params, known| K::predict(&typed(params), known)),
                run: Box::new(|params, context| K::run(typed(&params), context)),
            },
        }
    }

    /// The row of the `command` kind, which every program offers.
    pub fn command() -> Self {
        let strings = |doc: &str| json!({ "type": "array", "items": { "type": "string" }, "description": doc });
        let properties = json!({
            "argv": strings("program and arguments, with `{inputs.NAME}`, `{outputs.NAME}` and `{partial}` for paths"),
            "files": strings("files of the project whose content decides the result"),
            "env": strings("environment variables that are passed on and decide the result"),
        });
        Self {
            name: "command".to_owned(),
            version: 1,
            summary: "any program, with ports that the task declares".to_owned(),
            ports: Ports::default(),
            schema: json!({ "type": "object", "properties": properties, "required": ["argv"] }),
            body: Body::Command,
        }
    }

    /// The row of a composite kind.
    pub fn composite<K: CompositeKind>() -> Self {
        Self {
            name: K::NAME.to_owned(),
            version: 0,
            summary: K::SUMMARY.to_owned(),
            ports: K::ports(),
            schema: schemars::schema_for!(K::Params).to_value(),
            body: Body::Composite {
                resolve: Box::new(resolve::<K::Params>),
                expand: Box::new(|params, inputs| K::expand(typed(&params), inputs)),
            },
        }
    }
}

/// Fills in defaults and gives every param its type: what comes out is what is hashed.
fn resolve<P: Serialize + DeserializeOwned>(params: Value) -> Result<Value, String> {
    let typed: P = serde_json::from_value(params).map_err(|error| error.to_string())?;
    serde_json::to_value(typed).map_err(|error| error.to_string())
}

/// Params that `resolve` has made always read back.
fn typed<P: DeserializeOwned>(params: &Value) -> P {
    serde_json::from_value(params.clone()).expect("resolved params read back")
}

/// How two files of a format compare that were made in different numeric environments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Likeness {
    /// Within the tolerance of the format.
    pub is_close: bool,
    /// For people: how far apart they are.
    pub detail: String,
}

/// Compares two files of a format, given the name that they have in their artifact; `Err` says why they cannot be
/// compared.
pub type Compare = fn(name: &str, a: &Path, b: &Path) -> Result<Likeness, String>;

/// The table of kinds and formats that a program offers.
#[derive(Default)]
pub struct Kinds {
    kinds: BTreeMap<String, Kind>,
    formats: BTreeMap<&'static str, Format>,
    comparers: BTreeMap<&'static str, Compare>,
}

impl Kinds {
    /// A table of these kinds and formats, and of `command`.
    pub fn new(kinds: Vec<Kind>, formats: Vec<Format>) -> Self {
        let kinds = kinds
            .into_iter()
            .chain([Kind::command()])
            .map(|kind| (kind.name.clone(), kind))
            .collect();
        let formats = formats
            .into_iter()
            .map(|format| (format.name, format))
            .collect();
        Self {
            kinds,
            formats,
            comparers: BTreeMap::new(),
        }
    }

    /// The same table with a comparison for files of a format.
    pub fn comparing(mut self, format: &'static str, compare: Compare) -> Self {
        self.comparers.insert(format, compare);
        self
    }

    /// How files of a format are compared; none: only byte by byte.
    pub fn comparer(&self, format: &str) -> Option<Compare> {
        self.comparers.get(format).copied()
    }

    pub fn get(&self, name: &str) -> Option<&Kind> {
        self.kinds.get(name)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Kind> {
        self.kinds.values()
    }

    pub fn format(&self, name: &str) -> Option<&Format> {
        self.formats.get(name)
    }

    pub fn formats(&self) -> impl Iterator<Item = &Format> {
        self.formats.values()
    }
}
