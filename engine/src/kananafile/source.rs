//! Named sources: `[source.NAME]` says where a source lies, and what is known of it before anybody has seen it.
//!
//! Declared facts are believed until a task that reads the source measures something else.

use std::collections::BTreeMap;

use serde_json::Value;

use super::expand;
use super::node::{Key, Node, Span, Val};
use super::paths;
use super::plugin::check_format;
use super::problem::Report;
use super::schema::{fields, table, text};
use super::vars::Vars;
use crate::facts::{Fact, Facts};
use crate::kind::Kinds;

/// A source that has a name.
#[derive(Debug, Clone)]
pub struct Named {
    pub name: Key,
    /// Relative to the root folder.
    pub pattern: String,
    /// Where the pattern is written.
    pub span: Span,
    pub format: Option<String>,
    pub facts: Facts,
}

/// Every `[source.NAME]`, by name.
pub fn read(
    declared: &[(Key, Node)],
    kinds: &Kinds,
    vars: &Vars,
    report: &Report,
) -> BTreeMap<String, Named> {
    let named = |(key, node): &(Key, Node)| {
        expand::is_allowed(key, "source", &[], report).then_some(())?;
        let node = vars.substitute(node, &[], report);
        Some((key.name.clone(), source(key, &node, kinds, report)?))
    };
    declared.iter().filter_map(named).collect()
}

fn source(key: &Key, node: &Node, kinds: &Kinds, report: &Report) -> Option<Named> {
    let what = format!("source `{}`", key.name);
    table(node, &what, report)?;
    let fields = fields(node, &["path", "format", "facts"], &what, report);
    let Some(path) = fields.get("path") else {
        let help = "add `path = \"…\"`: a file, a folder or a glob";
        report.error(key.span, format!("{what} has no path"), help);
        return None;
    };
    let folder = paths::folder(&report.path_of(key.span.file));
    let format = fields.get("format").and_then(|node| {
        let format = text(node, "`format`", report)?;
        check_format(format, node.span, kinds, report);
        Some(format.to_owned())
    });
    Some(Named {
        name: key.clone(),
        pattern: paths::join(&folder, text(path, "`path`", report)?),
        span: path.span,
        format,
        facts: fields
            .get("facts")
            .map_or_else(Facts::default, |node| facts(node, report)),
    })
}

fn facts(node: &Node, report: &Report) -> Facts {
    let entries = table(node, "`facts`", report).unwrap_or_default();
    let fact = |(key, node): &(Key, Node)| Some((key.name.clone(), fact(key, node, report)?));
    Facts(entries.iter().filter_map(fact).collect())
}

/// `3`, `"text"` or `true` is known, `{ min = 1, max = 9 }` bounded, `{ symbol = "llama-3" }` the same as everything
/// else of that symbol.
fn fact(key: &Key, node: &Node, report: &Report) -> Option<Fact> {
    let read = match &node.value {
        Val::Broken => return None,
        Val::Table(_) => {
            let field = |name: &str| node.get(name).and_then(Node::to_json);
            let number = |name: &str| field(name).as_ref().and_then(Value::as_u64);
            let symbol = field("symbol")
                .as_ref()
                .and_then(Value::as_str)
                .map(str::to_owned);
            match (number("min"), number("max"), symbol, node.entries().len()) {
                (Some(min), Some(max), None, 2) if min <= max => Some(Fact::Bounded { min, max }),
                (None, None, Some(symbol), 1) => Some(Fact::Symbol(symbol)),
                _ => None,
            }
        }
        Val::List(_) => None,
        _ => node.to_json().map(Fact::Known),
    };
    if read.is_none() {
        let message = format!("`{}` is not a fact", key.name);
        let help = "write a number, a string, `true` or `false`; `{ min = 1, max = 9 }`; or `{ symbol = \"llama-3\" }`";
        report.error(node.span, message, help);
    }
    read
}
