//! TOML as a tree with places: what the parser read, before anybody knows what it means.

use std::fmt::Write;
use std::ops::Range;
use std::rc::Rc;

use serde_json::{Map, Number, Value};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::Report;
use super::read::read;

/// Bytes of one of the files that were read.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    pub file: u32,
    pub start: u32,
    pub end: u32,
}

impl Span {
    pub fn new(file: u32, bytes: Range<usize>) -> Self {
        Self {
            file,
            start: bytes.start.try_into().unwrap_or(u32::MAX),
            end: bytes.end.try_into().unwrap_or(u32::MAX),
        }
    }
}

/// A value and where it was written.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    pub span: Span,
    pub value: Val,
}

/// A value. Tables keep the order in which they were written. A copy shares what is below: a file of many tasks is
/// filled in without being copied.
#[derive(Debug, Clone, PartialEq)]
pub enum Val {
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    List(Rc<[Node]>),
    Table(Rc<[(Key, Node)]>),
    /// Something that was reported already: whoever meets it stays silent.
    Broken,
}

/// The key of a table entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    pub name: String,
    pub span: Span,
}

impl Node {
    pub fn broken(span: Span) -> Self {
        Self {
            span,
            value: Val::Broken,
        }
    }

    /// Its type, with article: `a string`.
    pub fn type_name(&self) -> &'static str {
        match self.value {
            Val::Bool(_) => "a boolean",
            Val::Int(_) => "an integer",
            Val::Float(_) => "a float",
            Val::Text(_) => "a string",
            Val::List(_) => "an array",
            Val::Table(_) => "a table",
            Val::Broken => "unusable",
        }
    }

    pub fn is_broken(&self) -> bool {
        matches!(self.value, Val::Broken)
    }

    /// The entries of a table; none for anything else.
    pub fn entries(&self) -> &[(Key, Node)] {
        match &self.value {
            Val::Table(entries) => entries,
            _ => &[],
        }
    }

    pub fn get(&self, name: &str) -> Option<&Node> {
        let entry = self.entries().iter().find(|(key, _)| key.name == name);
        entry.map(|(_, node)| node)
    }

    /// The key of this name, anywhere below.
    pub fn find_key(&self, name: &str) -> Option<&Key> {
        match &self.value {
            Val::Table(entries) => entries.iter().find_map(|(key, node)| {
                let here = (key.name == name).then_some(key);
                here.or_else(|| node.find_key(name))
            }),
            Val::List(items) => items.iter().find_map(|item| item.find_key(name)),
            _ => None,
        }
    }

    /// As JSON; `None` if anything below is broken.
    pub fn to_json(&self) -> Option<Value> {
        Some(match &self.value {
            Val::Bool(flag) => Value::Bool(*flag),
            Val::Int(number) => Value::from(*number),
            Val::Float(number) => Value::Number(Number::from_f64(*number)?),
            Val::Text(text) => Value::String(text.clone()),
            Val::List(items) => items.iter().map(Node::to_json).collect::<Option<_>>()?,
            Val::Table(entries) => {
                let fields = entries
                    .iter()
                    .map(|(key, node)| Some((key.name.clone(), node.to_json()?)));
                Value::Object(fields.collect::<Option<Map<_, _>>>()?)
            }
            Val::Broken => return None,
        })
    }

    /// A scalar as people write it, floats in their shortest form; `None` for arrays and tables.
    pub fn to_text(&self) -> Option<String> {
        match &self.value {
            Val::Text(text) => Some(text.clone()),
            Val::Bool(_) | Val::Int(_) | Val::Float(_) => Some(self.to_json()?.to_string()),
            _ => None,
        }
    }
}

/// The table that a file holds; broken if it is not TOML, which is reported.
pub fn parse(file: u32, text: &str, report: &Report) -> Node {
    read(file, text).unwrap_or_else(|| parse_telling(file, text, report))
}

/// The same with the `toml` crate, which takes its time and says what is wrong: the reference of [`read`].
pub fn parse_telling(file: u32, text: &str, report: &Report) -> Node {
    let place = |bytes| Span::new(file, bytes);
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let span = place(error.span().unwrap_or(0..0));
        report.error(span, format!("not TOML: {}", error.message()), "");
    }
    if !errors.is_empty() {
        return Node::broken(place(0..0));
    }
    let reader = Reader {
        place: &place,
        report,
    };
    reader.table(table.get_ref(), place(table.span()))
}

/// A value on its own, as `--set` takes it: TOML, or else plain text. TOML that has no place in a Kananafile is what is
/// said of it.
pub fn parse_value(text: &str, span: Span) -> Result<Node, String> {
    let Ok(value) = DeValue::parse(text) else {
        let value = Val::Text(text.to_owned());
        return Ok(Node { span, value });
    };
    let silent = Report::default();
    let reader = Reader {
        place: &|_| span,
        report: &silent,
    };
    let node = reader.value(&value);
    match silent.finish().into_iter().next() {
        Some(problem) => Err(problem.message),
        None => Ok(node),
    }
}

struct Reader<'a> {
    place: &'a dyn Fn(Range<usize>) -> Span,
    report: &'a Report,
}

impl Reader<'_> {
    fn table(&self, table: &DeTable<'_>, span: Span) -> Node {
        let mut entries: Vec<(Key, Node)> = table
            .iter()
            .map(|(key, value)| {
                let (name, span) = (key.get_ref().to_string(), (self.place)(key.span()));
                (Key { name, span }, self.value(value))
            })
            .collect();
        entries.sort_by_key(|(key, _)| key.span);
        let value = Val::Table(entries.into());
        Node { span, value }
    }

    fn value(&self, value: &Spanned<DeValue<'_>>) -> Node {
        let span = (self.place)(value.span());
        let value = match value.get_ref() {
            DeValue::Boolean(flag) => Val::Bool(*flag),
            DeValue::String(text) => Val::Text(text.to_string()),
            DeValue::Integer(digits) => {
                match i64::from_str_radix(digits.as_str(), digits.radix()) {
                    Ok(number) => Val::Int(number),
                    Err(_) => self.refuse(span, "this integer does not fit into 64 bits"),
                }
            }
            DeValue::Float(digits) => match digits.as_str().parse::<f64>() {
                Ok(number) if number.is_finite() => Val::Float(number),
                _ => self.refuse(span, "only finite numbers have a place in a Kananafile"),
            },
            DeValue::Datetime(_) => self.refuse(span, "dates have no place in a Kananafile"),
            DeValue::Array(items) => Val::List(items.iter().map(|item| self.value(item)).collect()),
            DeValue::Table(table) => return self.table(table, span),
        };
        Node { span, value }
    }

    fn refuse(&self, span: Span, message: &str) -> Val {
        self.report.error(span, message, "write it as a string");
        Val::Broken
    }
}

/// Names in backticks, separated by commas: `` `a`, `b` ``.
pub fn listed<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let mut text = String::new();
    for name in names {
        let comma = if text.is_empty() { "" } else { ", " };
        let _ = write!(text, "{comma}`{name}`");
    }
    text
}
