//! The last look: facts are carried from task to task, and what holds together becomes the graph.

use std::collections::BTreeMap;
use std::mem::take;

use rustc_hash::FxHashMap;

use super::composite::follow;
use super::draft::{Draft, DraftPort, Output, Target};
use super::node::Span;
use super::order;
use super::paths;
use super::problem::Report;
use crate::artifact::Shape;
use crate::facts::{Facts, Prediction};
use crate::graph::{
    Binding, Device, Executor, Graph, InputPort, Origin, OutputPort, RunSettings, Source, SourceId,
    Task, TaskId,
};
use crate::kind::{Body, Kinds, Known};

/// Puts drafts in order and asks each kind what it knows of its outputs. Complaints are reported.
/// `declared` holds what the file says of sources, by pattern.
pub fn predict(
    drafts: &[Draft<'_>],
    declared: &BTreeMap<&str, &Facts>,
    report: &Report,
) -> Checked {
    let order = order::order(drafts);
    let mut predictions = vec![Prediction::default(); drafts.len()];
    for index in &order {
        let facts = |target: &Target| facts_of(drafts, target, &predictions, declared);
        if let Some(prediction) = prediction(&drafts[*index], &facts, report) {
            predictions[*index] = prediction;
        }
    }
    Checked { order, predictions }
}

/// Drafts in topological order, and what is known of each.
pub struct Checked {
    pub order: Vec<usize>,
    pub predictions: Vec<Prediction>,
}

fn prediction(
    draft: &Draft<'_>,
    facts_of: &dyn Fn(&Target) -> Facts,
    report: &Report,
) -> Option<Prediction> {
    let Body::BuiltIn { predict, .. } = &draft.kind?.body else {
        return None;
    };
    let facts = |port: &DraftPort| {
        let bindings = port.bindings.iter();
        bindings
            .map(|b| (b.label.clone(), facts_of(&b.target)))
            .collect()
    };
    let known = Known {
        task: &draft.name,
        inputs: draft
            .inputs
            .iter()
            .map(|port| (port.name.clone(), facts(port)))
            .collect(),
        on_gpu: on_gpu(&draft.run),
        recompute: draft.run.recompute,
    };
    match predict(draft.params.as_ref()?, &known) {
        Ok(prediction) => Some(prediction),
        Err(complaints) => {
            for complaint in complaints {
                let span = place_of(draft, &complaint.at);
                let message = format!("{}{}", draft.prefix(), complaint.message);
                report.error(span, message, complaint.help);
            }
            None
        }
    }
}

/// With `auto` a task runs on a GPU where it asks for one.
fn on_gpu(run: &RunSettings) -> bool {
    let asks = run.slots.get("gpu").is_some_and(|slots| *slots > 0);
    match run.device {
        Device::Gpu => true,
        Device::Auto => asks,
        Device::Cpu => false,
    }
}

fn facts_of(
    drafts: &[Draft<'_>],
    target: &Target,
    predictions: &[Prediction],
    declared: &BTreeMap<&str, &Facts>,
) -> Facts {
    let output = match target {
        Target::Output(output) => output,
        Target::Source(pattern) => {
            let facts = declared.get(pattern.as_str());
            return facts.map_or_else(Facts::default, |facts| (*facts).clone());
        }
        Target::Broken => return Facts::default(),
    };
    let found = follow(drafts, *output).and_then(|(draft, port)| {
        let name = &drafts[draft].ports.outputs[port].name;
        predictions[draft].outputs.get(name)
    });
    found.cloned().unwrap_or_default()
}

/// The place that a complaint means: `params.heads`, `inputs.teacher`, or the task itself.
pub fn place_of(draft: &Draft<'_>, at: &str) -> Span {
    let name = |rest: &str| -> String {
        let end = rest.find(['.', '[']).unwrap_or(rest.len());
        rest[..end].to_owned()
    };
    if let Some(param) = at.strip_prefix("params.") {
        return draft.param_span(&name(param));
    }
    if let Some(port) = at.strip_prefix("inputs.") {
        let port = draft.port(&name(port));
        return port.map_or(draft.span, |port| port.span);
    }
    match at {
        "params" => draft.params_span(),
        _ => draft.span,
    }
}

/// Turns drafts into the graph. What cannot be turned is reported; `None` if there is any.
pub struct Assembly<'a, 'k> {
    pub drafts: Vec<Draft<'k>>,
    pub kinds: &'a Kinds,
    pub report: &'a Report,
    sources: Vec<Source>,
    source_ids: FxHashMap<(String, Option<Shape>), SourceId>,
    ids: Vec<Option<TaskId>>,
}

impl<'a, 'k> Assembly<'a, 'k> {
    pub fn new(
        drafts: Vec<Draft<'k>>,
        checked: &Checked,
        kinds: &'a Kinds,
        report: &'a Report,
    ) -> Self {
        let mut ids = vec![None; drafts.len()];
        for (id, index) in (0..).map(TaskId).zip(&checked.order) {
            ids[*index] = Some(id);
        }
        Self {
            drafts,
            kinds,
            report,
            sources: Vec::new(),
            source_ids: FxHashMap::default(),
            ids,
        }
    }

    /// The task that provides an output.
    pub fn provider(&self, output: Output) -> Option<(TaskId, u32)> {
        let (draft, port) = follow(&self.drafts, output)?;
        Some((self.ids[draft]?, u32::try_from(port).ok()?))
    }

    /// The tasks that a draft stands for: itself, or all steps of a composite.
    pub fn tasks(&self, index: usize) -> Vec<TaskId> {
        let is_below = |draft: usize| {
            let mut ancestors =
                std::iter::successors(Some(draft), |draft| self.drafts[*draft].parent);
            ancestors.any(|ancestor| ancestor == index)
        };
        if let Some(id) = self.ids[index] {
            return vec![id];
        }
        let below = (index..self.drafts.len()).filter(|draft| is_below(*draft));
        let mut tasks: Vec<TaskId> = below.filter_map(|draft| self.ids[draft]).collect();
        tasks.sort_unstable();
        tasks
    }

    /// The graph, or `None` if something was reported.
    pub fn graph(
        mut self,
        checked: Checked,
        goals: BTreeMap<String, Vec<TaskId>>,
        groups: BTreeMap<String, Vec<TaskId>>,
    ) -> Option<Graph> {
        let Checked {
            order,
            mut predictions,
        } = checked;
        let n_tasks = order.len();
        let mut tasks = Vec::with_capacity(n_tasks);
        for index in order {
            let prediction = take(&mut predictions[index]);
            tasks.extend(self.task(index, prediction));
        }
        let is_whole = tasks.len() == n_tasks && !self.report.has_errors();
        is_whole.then(|| Graph::new(tasks, self.sources, goals, groups))
    }

    /// The task that a draft becomes; what only tasks need is moved out of the draft.
    fn task(&mut self, index: usize, prediction: Prediction) -> Option<Task> {
        let kind = self.drafts[index].kind?;
        let inputs = take(&mut self.drafts[index].inputs).into_iter();
        let inputs: Option<Vec<InputPort>> = inputs.map(|port| self.input(index, port)).collect();
        let outputs = self.outputs(&self.drafts[index]);
        let draft = &mut self.drafts[index];
        Some(Task {
            name: take(&mut draft.name),
            kind: kind.name.clone(),
            version: kind.version,
            params: draft.params.take()?,
            inputs: inputs?,
            outputs,
            executor: std::mem::replace(&mut draft.executor, Executor::BuiltIn),
            run: take(&mut draft.run),
            protect: draft.protect,
            temporary: draft.temporary,
            prediction,
            place: self.report.place(draft.span),
        })
    }

    fn input(&mut self, index: usize, port: DraftPort) -> Option<InputPort> {
        let declared = self.drafts[index].ports.find_input(&port.name)?;
        let (mapped, labelled) = (declared.mapped, declared.labelled);
        let shape = self.shape_of(&declared.formats);
        let mut bindings = Vec::with_capacity(port.bindings.len());
        for binding in port.bindings {
            let from = match binding.target {
                Target::Source(pattern) => {
                    self.fits(&pattern, shape, binding.span);
                    Origin::Source(self.source(pattern, shape))
                }
                Target::Output(output) => {
                    let (task, port) = self.provider(output)?;
                    Origin::Task { task, port }
                }
                Target::Broken => return None,
            };
            let label = binding.label;
            bindings.push(Binding { label, from });
        }
        Some(InputPort {
            name: port.name,
            mapped,
            labelled,
            bindings,
        })
    }

    /// The layout that some formats have in common.
    fn shape_of(&self, formats: &[String]) -> Option<Shape> {
        let mut shapes = formats.iter().map(|name| self.shape(name));
        let first = shapes.next()??;
        shapes.all(|shape| shape == Some(first)).then_some(first)
    }

    fn shape(&self, format: &str) -> Option<Shape> {
        match format {
            "file" => Some(Shape::File),
            "directory" => Some(Shape::Directory),
            name => self.kinds.format(name).map(|format| format.shape),
        }
    }

    fn fits(&self, pattern: &str, shape: Option<Shape>, span: Span) {
        let takes = match shape {
            Some(Shape::File) => "one file",
            Some(Shape::Directory) => "one directory",
            Some(Shape::Shards) | None => return,
        };
        if paths::is_glob(pattern) {
            let message = format!("this input takes {takes}, and `{pattern}` names any number");
            self.report.error(span, message, "write the path itself");
        }
    }

    fn source(&mut self, pattern: String, shape: Option<Shape>) -> SourceId {
        let sources = &mut self.sources;
        let add = |(pattern, shape): &(String, Option<Shape>)| {
            let (pattern, shape) = (pattern.clone(), *shape);
            sources.push(Source { pattern, shape });
            SourceId(u32::try_from(sources.len() - 1).expect("fewer than 2^32 sources"))
        };
        let id = self.source_ids.entry((pattern, shape));
        *id.or_insert_with_key(add)
    }

    fn outputs(&self, draft: &Draft<'_>) -> Vec<OutputPort> {
        let extension = |format: &str| {
            let known = self.kinds.format(format);
            known.map_or_else(String::new, |format| format.extension.to_owned())
        };
        let outputs = draft.ports.outputs.iter();
        outputs
            .map(|port| OutputPort {
                name: port.name.clone(),
                format: port.format.clone(),
                shape: self.shape(&port.format).unwrap_or(Shape::File),
                extension: extension(&port.format),
                mapped: port.mapped,
            })
            .collect()
    }
}
