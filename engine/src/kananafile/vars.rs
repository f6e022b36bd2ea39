//! Vars: `${name}` in any string, and what it stands for.
//!
//! A string that is nothing but `${name}` becomes the var itself, with its type; inside a longer string a var is
//! written out. `$$` is a dollar.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::node::{Key, Node, Val, parse_value};
use super::problem::{Report, did_you_mean};
use super::schema::Profile;

/// How far vars may stand for vars.
const DEEPEST: usize = 64;
/// Bytes that a var may stand for: a var that names another twice is twice as long.
const HEAVIEST: usize = 1 << 20;

/// Vars with their final values, and which of them were used.
#[derive(Debug, Default)]
pub struct Vars {
    values: BTreeMap<String, (Key, Node)>,
    used: RefCell<BTreeSet<String>>,
}

impl Vars {
    /// Declared vars, overridden by profiles and then by `--set`, with references among them resolved.
    pub fn new(
        declared: &[(Key, Node)],
        profiles: &[&Profile],
        set: &[(String, String)],
        report: &Report,
    ) -> Self {
        let mut raw: BTreeMap<String, (Key, Node)> = declared
            .iter()
            .map(|(key, node)| (key.name.clone(), (key.clone(), node.clone())))
            .collect();
        for (key, node) in profiles.iter().flat_map(|profile| &profile.vars) {
            override_from_profile(&mut raw, key, node, report);
        }
        for (name, text) in set {
            override_from_set(&mut raw, name, text, report);
        }
        let mut vars = Self::default();
        for name in raw.keys() {
            vars.resolve(name, &raw, &mut Vec::new(), report);
        }
        vars
    }

    fn resolve(
        &mut self,
        name: &str,
        raw: &BTreeMap<String, (Key, Node)>,
        path: &mut Vec<String>,
        report: &Report,
    ) {
        let Some((key, node)) = raw.get(name).filter(|_| !self.values.contains_key(name)) else {
            return;
        };
        path.push(name.to_owned());
        let mut node = node.clone();
        if path.len() > DEEPEST {
            let message = format!("vars stand for each other more than {DEEPEST} deep");
            report.error(key.span, message, "");
            node = Node::broken(node.span);
        }
        for other in mentioned(&node) {
            if path.contains(&other) {
                let circle = [path.as_slice(), &[other]].concat().join(" → ");
                report.error(key.span, format!("vars in a circle: {circle}"), "");
                node = Node::broken(node.span);
                break;
            }
            self.resolve(&other, raw, path, report);
        }
        let mut node = self.substitute(&node, &[], report);
        if weight(&node) > HEAVIEST {
            let message = format!("`{name}` stands for more than {HEAVIEST} bytes");
            report.error(
                key.span,
                message,
                "a var that names another twice doubles it",
            );
            node = Node::broken(node.span);
        }
        path.pop();
        self.values.insert(name.to_owned(), (key.clone(), node));
    }

    /// `node` with every `${…}` below it replaced; `matrix` holds the values of this variant.
    pub fn substitute(&self, node: &Node, matrix: &[(String, Node)], report: &Report) -> Node {
        if !has_dollar(node) {
            return node.clone();
        }
        let value = match &node.value {
            Val::Text(text) => return self.fill(text, node, matrix, report),
            Val::List(items) => Val::List(
                items
                    .iter()
                    .map(|item| self.substitute(item, matrix, report))
                    .collect(),
            ),
            Val::Table(entries) => Val::Table(
                entries
                    .iter()
                    .map(|(key, node)| (key.clone(), self.substitute(node, matrix, report)))
                    .collect(),
            ),
            other => other.clone(),
        };
        let span = node.span;
        Node { span, value }
    }

    fn fill(&self, text: &str, node: &Node, matrix: &[(String, Node)], report: &Report) -> Node {
        let span = node.span;
        let pieces = pieces(text);
        if let [Piece::Var(name)] = pieces.as_slice() {
            let found = self.lookup(name, node, matrix, report);
            return found.map_or(Node::broken(span), |value| Node {
                span,
                value: value.value.clone(),
            });
        }
        let mut filled = String::new();
        for piece in pieces {
            match piece {
                Piece::Text(text) => filled.push_str(text),
                Piece::Open => {
                    report.error(span, "`${` without `}`", "a dollar is written `$$`");
                    return Node::broken(span);
                }
                Piece::Var(name) => match self.written(name, node, matrix, report) {
                    Some(text) => filled.push_str(&text),
                    None => return Node::broken(span),
                },
            }
        }
        let value = Val::Text(filled);
        Node { span, value }
    }

    fn written(
        &self,
        name: &str,
        node: &Node,
        matrix: &[(String, Node)],
        report: &Report,
    ) -> Option<String> {
        let value = self.lookup(name, node, matrix, report)?;
        if value.is_broken() {
            return None;
        }
        let text = value.to_text();
        if text.is_none() {
            let found = value.type_name();
            let message = format!("`{name}` is {found} and cannot stand inside a string");
            let help = format!("a string that is only `${{{name}}}` becomes {found}");
            report.error(node.span, message, help);
        }
        text
    }

    fn lookup<'a>(
        &'a self,
        name: &str,
        node: &Node,
        matrix: &'a [(String, Node)],
        report: &Report,
    ) -> Option<&'a Node> {
        if let Some(axis) = name.strip_prefix("matrix.") {
            let found = matrix.iter().find(|(name, _)| name == axis);
            if found.is_none() {
                let message = format!("there is no matrix axis `{axis}` here");
                let axes = matrix.iter().map(|(name, _)| name.as_str());
                report.error(node.span, message, did_you_mean(axis, axes));
            }
            return found.map(|(_, value)| value);
        }
        self.used.borrow_mut().insert(name.to_owned());
        let found = self.values.get(name);
        if found.is_none() {
            let message = format!("no var is called `{name}`");
            let names = self.values.keys().map(String::as_str);
            report.error(node.span, message, did_you_mean(name, names));
        }
        found.map(|(_, value)| value)
    }

    /// Warns of vars that nothing mentions.
    pub fn warn_unused(&self, report: &Report) {
        let used = self.used.borrow();
        for (name, (key, _)) in &self.values {
            if !used.contains(name) {
                report.warning(key.span, format!("var `{name}` is never used"), "");
            }
        }
    }

    pub fn to_json(&self) -> BTreeMap<String, Value> {
        let values = self.values.iter();
        values
            .filter_map(|(name, (_, node))| Some((name.clone(), node.to_json()?)))
            .collect()
    }
}

/// Bytes of texts and number of values below a node.
fn weight(node: &Node) -> usize {
    match &node.value {
        Val::Text(text) => text.len(),
        Val::List(items) => items.iter().map(weight).sum::<usize>() + 1,
        Val::Table(entries) => entries.iter().map(|(_, node)| weight(node)).sum::<usize>() + 1,
        _ => 1,
    }
}

fn override_from_profile(
    vars: &mut BTreeMap<String, (Key, Node)>,
    key: &Key,
    node: &Node,
    report: &Report,
) {
    let names: Vec<String> = vars.keys().cloned().collect();
    match vars.get_mut(&key.name) {
        Some((_, value)) => *value = node.clone(),
        None => report.error(
            key.span,
            format!("no var is called `{}`", key.name),
            did_you_mean(&key.name, names.iter().map(String::as_str)),
        ),
    }
}

fn override_from_set(
    vars: &mut BTreeMap<String, (Key, Node)>,
    name: &str,
    text: &str,
    report: &Report,
) {
    let names: Vec<String> = vars.keys().cloned().collect();
    let Some((_, old)) = vars.get_mut(name) else {
        let message = format!("`--set {name}={text}`: no var is called `{name}`");
        let help = did_you_mean(name, names.iter().map(String::as_str));
        return report.error_nowhere(message, help);
    };
    let plain = Node {
        span: old.span,
        value: Val::Text(text.to_owned()),
    };
    let new = match (parse_value(text, old.span), &old.value) {
        (Ok(new), Val::Text(_)) if matches!(new.value, Val::Text(_)) => new,
        (_, Val::Text(_)) => plain,
        (Ok(new), _) => new,
        (Err(cause), _) => {
            return report.error_nowhere(format!("`--set {name}={text}`: {cause}"), "");
        }
    };
    let widens = matches!((&old.value, &new.value), (Val::Float(_), Val::Int(_)));
    if !widens && old.type_name() != new.type_name() && !mentions(old) {
        let (was, is) = (old.type_name(), new.type_name());
        let message = format!("`--set {name}={text}`: var `{name}` is {was}, found {is}");
        return report.error_nowhere(message, "");
    }
    *old = new;
}

/// Whether there is anything to replace below a node.
fn has_dollar(node: &Node) -> bool {
    match &node.value {
        Val::Text(text) => text.contains('$'),
        Val::List(items) => items.iter().any(has_dollar),
        Val::Table(entries) => entries.iter().any(|(_, node)| has_dollar(node)),
        _ => false,
    }
}

fn mentions(node: &Node) -> bool {
    !mentioned(node).is_empty()
}

/// Vars that are mentioned below a node.
fn mentioned(node: &Node) -> Vec<String> {
    match &node.value {
        Val::Text(text) => pieces(text)
            .into_iter()
            .filter_map(|piece| match piece {
                Piece::Var(name) => Some(name.to_owned()),
                Piece::Text(_) | Piece::Open => None,
            })
            .collect(),
        Val::List(items) => items.iter().flat_map(mentioned).collect(),
        Val::Table(entries) => entries
            .iter()
            .flat_map(|(_, node)| mentioned(node))
            .collect(),
        _ => Vec::new(),
    }
}

enum Piece<'a> {
    Text(&'a str),
    Var(&'a str),
    /// `${` that nothing closes.
    Open,
}

fn pieces(text: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(dollar) = rest.find('$') {
        let (before, after) = rest.split_at(dollar);
        if !before.is_empty() {
            pieces.push(Piece::Text(before));
        }
        if let Some(name) = after.strip_prefix("${") {
            let Some(end) = name.find('}') else {
                pieces.push(Piece::Open);
                return pieces;
            };
            pieces.push(Piece::Var(&name[..end]));
            rest = &name[end + 1..];
        } else {
            pieces.push(Piece::Text("$"));
            rest = after.strip_prefix("$$").unwrap_or(&after[1..]);
        }
    }
    if !rest.is_empty() {
        pieces.push(Piece::Text(rest));
    }
    pieces
}
