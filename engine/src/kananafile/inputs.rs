//! Inputs: what the references of a task mean.
//!
//! `"data/*.zst"` is a source, `":task"` and `":task.port"` are outputs, a matrix stands for all its variants in
//! order; arrays of those, or tables that give them labels.

use std::collections::BTreeMap;

use rustc_hash::FxHashMap;

use super::draft::{Draft, DraftBinding, DraftPort, Target};
use super::expand::{Entry, canonical_variant};
use super::node::{Key, Node, Span, Val, listed};
use super::paths;
use super::problem::{Report, did_you_mean};
use super::schema::text;
use super::source;
use crate::artifact::Shape;
use crate::kind::{Arity, Input, Kinds, Output};

/// What references can name.
pub struct References<'a, 'k> {
    pub drafts: &'a [Draft<'k>],
    /// Tasks and variants → drafts.
    pub names: &'a FxHashMap<&'a str, Vec<usize>>,
    pub sources: &'a BTreeMap<String, source::Named>,
    pub goals: &'a [(Key, Node)],
    pub kinds: &'a Kinds,
    pub report: &'a Report,
}

/// A reference to tasks, as far as it was understood.
struct Named<'a> {
    drafts: &'a [usize],
    port: Option<&'a str>,
}

impl References<'_, '_> {
    /// The inputs of a draft, in the order of its ports; everything that is wrong is reported.
    pub fn inputs(&self, draft: &Draft<'_>, entry: &Entry) -> Vec<DraftPort> {
        let is_broken = entry.inputs.as_ref().is_some_and(Node::is_broken);
        if draft.kind.is_none() || is_broken {
            return Vec::new();
        }
        let written = entry.inputs.as_ref().map_or(&[][..], Node::entries);
        let mut is_misspelt = false;
        for (key, _) in written {
            if draft.ports.find_input(&key.name).is_none() {
                is_misspelt = true;
                let message = format!("{} has no input `{}`", self.kind_of(draft), key.name);
                let ports = draft.ports.inputs.iter().map(|port| port.name.as_str());
                let help = did_you_mean(&key.name, ports);
                self.report.error(key.span, message, help);
            }
        }
        let port = |port: &Input| {
            let found = written.iter().find(|(key, _)| key.name == port.name);
            match found {
                Some((key, node)) => Some(self.port(port, key, node)),
                None if is_misspelt => None,
                None => {
                    self.require(draft, port);
                    None
                }
            }
        };
        let ports = draft.ports.inputs.iter().filter_map(port);
        // A port without inputs is a port that is not in use.
        ports.filter(|port| !port.bindings.is_empty()).collect()
    }

    /// The drafts that a goal or a reference names, whatever their port.
    pub fn tasks(&self, reference: &str, span: Span) -> Vec<usize> {
        let Some(name) = reference.strip_prefix(':') else {
            let message = format!("`{reference}` is not a task");
            let help = format!("a task is written with a colon: `:{reference}`");
            self.report.error(span, message, help);
            return Vec::new();
        };
        let Some(named) = self.find(name) else {
            self.unknown(name, span);
            return Vec::new();
        };
        if let Some(port) = named.port {
            for draft in named.drafts {
                self.output(&self.drafts[*draft], reference, Some(port), &[], span);
            }
        }
        named.drafts.to_vec()
    }

    fn kind_of(&self, draft: &Draft<'_>) -> String {
        let name = draft.kind.map_or("", |kind| kind.name.as_str());
        format!("`{name}`")
    }

    fn require(&self, draft: &Draft<'_>, port: &Input) {
        if port.arity.fits(0) {
            return;
        }
        let message = format!("task `{}` lacks the input `{}`", draft.name, port.name);
        let format = match port.formats.as_slice() {
            [] => String::new(),
            formats => format!(" ({})", formats.join(" or ")),
        };
        let doc = if port.doc.is_empty() { "" } else { ": " };
        let help = format!("add `inputs.{}`{format}{doc}{}", port.name, port.doc);
        self.report.error(draft.span, message, help);
    }

    fn port(&self, port: &Input, key: &Key, node: &Node) -> DraftPort {
        let bindings = self.bindings(port, node);
        let count = bindings.len();
        let is_broken = bindings.iter().any(|b| b.target == Target::Broken) || node.is_broken();
        if !port.arity.fits(count) && !is_broken {
            let takes = match port.arity {
                Arity::One => "exactly one artifact",
                Arity::Optional => "at most one artifact",
                Arity::Many | Arity::Any => "at least one artifact",
            };
            let message = format!("input `{}` takes {takes}, found {count}", port.name);
            let help = self.one_of_many(port, &bindings);
            self.report.error(node.span, message, help);
        }
        DraftPort {
            name: port.name.clone(),
            span: if node.span.end > node.span.start {
                node.span
            } else {
                key.span
            },
            bindings,
        }
    }

    /// Several paths can be one artifact where each would be a part of it.
    fn one_of_many(&self, port: &Input, bindings: &[DraftBinding]) -> &'static str {
        let is_source = |binding: &DraftBinding| matches!(binding.target, Target::Source(_));
        let has_parts = |format: &String| {
            let known = self.kinds.format(format);
            known.is_some_and(|format| format.shape == Shape::Shards)
        };
        match bindings.iter().all(is_source) && port.formats.iter().any(has_parts) {
            true => {
                "a glob (`\"data/*.jsonl\"`) or a directory is one artifact, and each file a part of it"
            }
            false => "",
        }
    }

    fn bindings(&self, port: &Input, node: &Node) -> Vec<DraftBinding> {
        let is_table = matches!(node.value, Val::Table(_));
        if port.labelled && !is_table && !node.is_broken() {
            let message = format!("input `{}` needs labels", port.name);
            let help = format!("write a table: `{} = {{ label = \":task\" }}`", port.name);
            self.report.error(node.span, message, help);
        }
        let mut found = Vec::new();
        match &node.value {
            Val::Table(entries) => {
                for (key, node) in entries.iter() {
                    self.reference(port, Some(&key.name), node, &mut found);
                }
            }
            Val::List(items) => {
                for item in items.iter() {
                    self.reference(port, None, item, &mut found);
                }
            }
            _ => self.reference(port, None, node, &mut found),
        }
        found
    }

    /// One reference: one artifact, or one for each variant.
    fn reference(
        &self,
        port: &Input,
        label: Option<&str>,
        node: &Node,
        found: &mut Vec<DraftBinding>,
    ) {
        let broken = |label: &str| DraftBinding {
            label: label.to_owned(),
            span: node.span,
            target: Target::Broken,
        };
        let Some(reference) = text(node, "an input", self.report) else {
            return found.push(broken(label.unwrap_or_default()));
        };
        let Some(name) = reference.strip_prefix(':') else {
            return found.push(self.source(reference, label, port, node.span));
        };
        if let Some(named) = self.sources.get(name) {
            return found.push(self.named_source(named, label, port, node.span));
        }
        let Some(named) = self.find(name) else {
            self.unknown(name, node.span);
            return found.push(broken(label.unwrap_or(name)));
        };
        let is_group = named.drafts.len() > 1;
        let bind = |index: &usize| {
            let target = &self.drafts[*index];
            let label = match (label, named.port) {
                (Some(label), _) if is_group => {
                    let variant = target.name.split_once('@');
                    format!("{label}@{}", variant.map_or("", |(_, variant)| variant))
                }
                (Some(label), _) => label.to_owned(),
                (None, Some(port)) => format!("{}.{port}", target.name),
                (None, None) => target.name.clone(),
            };
            let output = self.output(target, reference, named.port, &port.formats, node.span);
            DraftBinding {
                label,
                span: node.span,
                target: output.map_or(Target::Broken, |port| Target::Output((*index, port))),
            }
        };
        found.extend(named.drafts.iter().map(bind));
    }

    fn source(&self, path: &str, label: Option<&str>, port: &Input, span: Span) -> DraftBinding {
        if self.names.contains_key(path) {
            let message = format!("`{path}` is read as a path");
            let help = format!("a task is written with a colon: `:{path}`");
            self.report.warning(span, message, help);
        }
        let folder = paths::folder(&self.report.path_of(span.file));
        let pattern = paths::join(&folder, path);
        let target = if path.is_empty() {
            let message = format!("input `{}` is empty", port.name);
            let help = "write a path, a glob, or `:task`";
            self.report.error(span, message, help);
            Target::Broken
        } else {
            Target::Source(pattern)
        };
        DraftBinding {
            label: label.unwrap_or(path).to_owned(),
            span,
            target,
        }
    }

    fn named_source(
        &self,
        named: &source::Named,
        label: Option<&str>,
        port: &Input,
        span: Span,
    ) -> DraftBinding {
        let name = &named.name.name;
        let is_refused =
            |format: &&String| !port.formats.is_empty() && !port.formats.contains(format);
        let target = match named.format.as_ref().filter(is_refused) {
            Some(format) => {
                let expected = listed(port.formats.iter().map(String::as_str));
                let message = format!("expected {expected}, found `{format}` from `:{name}`");
                self.report.error(span, message, "");
                Target::Broken
            }
            None => Target::Source(named.pattern.clone()),
        };
        DraftBinding {
            label: label.unwrap_or(name).to_owned(),
            span,
            target,
        }
    }

    fn find<'a>(&'a self, name: &'a str) -> Option<Named<'a>> {
        let whole = |name: &str| {
            let drafts = self.names.get(name);
            drafts.or_else(|| self.names.get(canonical_variant(name).as_str()))
        };
        if let Some(drafts) = whole(name) {
            return Some(Named { drafts, port: None });
        }
        let (task, port) = name.rsplit_once('.')?;
        let drafts = whole(task)?;
        let port = Some(port);
        Some(Named { drafts, port })
    }

    fn unknown(&self, name: &str, span: Span) {
        let message = format!("no task is called `{name}`");
        let is_goal = self.goals.iter().any(|(key, _)| key.name == name);
        let is_source = self.sources.contains_key(name);
        let help = if is_goal {
            format!("`{name}` is a goal; name its task")
        } else if is_source {
            format!("`{name}` is a source, which nothing makes")
        } else {
            let task = name.split_once('.').map_or(name, |(task, _)| task);
            let mut names: Vec<&str> = self.names.keys().copied().collect();
            names.sort_unstable();
            let sources = self.sources.keys().map(String::as_str);
            did_you_mean(task, names.into_iter().chain(sources))
        };
        self.report.error(span, message, help);
    }

    /// The output port of `target` that a reference means: the one it names, or the only one that fits.
    fn output(
        &self,
        target: &Draft<'_>,
        reference: &str,
        port: Option<&str>,
        accepts: &[String],
        span: Span,
    ) -> Option<usize> {
        target.kind?;
        let outputs = &target.ports.outputs;
        let index = match port {
            Some(port) => self.named_output(target, outputs, port, span)?,
            None if outputs.len() == 1 => 0,
            None => self.fitting_output(outputs, reference, accepts, span)?,
        };
        let format = &outputs[index].format;
        if !accepts.is_empty() && !accepts.contains(format) {
            let expected = listed(accepts.iter().map(String::as_str));
            let message = format!("expected {expected}, found `{format}` from `{reference}`");
            let fits = outputs.iter().filter(|o| accepts.contains(&o.format));
            let fits = listed(fits.map(|output| output.name.as_str()));
            let help = match fits.as_str() {
                "" => String::new(),
                fits => format!("`{}` has the output {fits}", target.name),
            };
            self.report.error(span, message, help);
            return None;
        }
        Some(index)
    }

    fn named_output(
        &self,
        target: &Draft<'_>,
        outputs: &[Output],
        port: &str,
        span: Span,
    ) -> Option<usize> {
        let index = outputs.iter().position(|output| output.name == port);
        if index.is_none() {
            let message = format!("task `{}` has no output `{port}`", target.name);
            let names = outputs.iter().map(|output| output.name.as_str());
            self.report.error(span, message, did_you_mean(port, names));
        }
        index
    }

    fn fitting_output(
        &self,
        outputs: &[Output],
        reference: &str,
        accepts: &[String],
        span: Span,
    ) -> Option<usize> {
        let fits: Vec<usize> = (0..outputs.len())
            .filter(|index| accepts.is_empty() || accepts.contains(&outputs[*index].format))
            .collect();
        if let [only] = fits.as_slice() {
            return Some(*only);
        }
        let described = |output: &Output| format!("{} ({})", output.name, output.format);
        let (message, candidates): (String, Vec<String>) = if fits.is_empty() {
            let expected = listed(accepts.iter().map(String::as_str));
            let message = format!("expected {expected}, and no output of `{reference}` is that");
            (message, outputs.iter().map(described).collect())
        } else {
            let message = format!("`{reference}` has several outputs that fit");
            let fits = fits.iter().map(|index| described(&outputs[*index]));
            (message, fits.collect())
        };
        let first = fits.first().map(|index| outputs[*index].name.as_str());
        let help = match (first, candidates.is_empty()) {
            (Some(first), _) => format!(
                "name one, as in `{reference}.{first}`: {}",
                listed(candidates.iter().map(String::as_str))
            ),
            (None, false) => format!("it has {}", listed(candidates.iter().map(String::as_str))),
            (None, true) => "it has no outputs".to_owned(),
        };
        self.report.error(span, message, help);
        None
    }
}
