//! Composites: a task of such a kind is replaced by its steps, named `<task>/<step>`.
//!
//! Steps take their run settings, protection, temporariness and place from the composite. They may be composites themselves.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::check::place_of;
use super::draft::{Draft, DraftBinding, DraftPort, Output, Table, Target, executor};
use super::params;
use super::problem::Report;
use crate::kind::{Body, Expansion, Input, Kind, Step, StepInput};

/// How deep composites may nest; deeper is a kind that expands into itself.
const DEPTH: usize = 16;

/// Adds the steps of every composite behind the drafts. What a composite delivers is noted in [`Draft::provides`].
pub fn expand_all<'k>(drafts: &mut Vec<Draft<'k>>, table: Table<'k>, report: &Report) {
    let mut index = 0;
    while index < drafts.len() {
        if let Some(expansion) = expand(drafts, index, report) {
            let parent = drafts[index].clone();
            let first = drafts.len();
            let steps = Steps {
                parent: &parent,
                index,
                first,
                steps: &expansion.steps,
                table,
                report,
            };
            drafts.extend(steps.drafts());
            drafts[index].provides = steps.provides(&drafts[first..], &expansion.outputs);
        }
        index += 1;
    }
}

/// The output of a task that stands behind an output of a composite, through any number of composites.
pub fn follow(drafts: &[Draft<'_>], (mut draft, mut port): Output) -> Option<Output> {
    while drafts[draft].is_composite() {
        let name = &drafts[draft].ports.outputs.get(port)?.name;
        (draft, port) = *drafts[draft].provides.as_ref()?.get(name)?;
    }
    Some((draft, port))
}

fn expand(drafts: &[Draft<'_>], index: usize, report: &Report) -> Option<Expansion> {
    let draft = &drafts[index];
    let Body::Composite { expand, .. } = &draft.kind?.body else {
        return None;
    };
    let params = draft.params.clone()?;
    let mut bindings = draft.inputs.iter().flat_map(|port| &port.bindings);
    let is_broken = bindings.any(|binding| binding.target == Target::Broken);
    if is_broken || !is_bound(draft) {
        return None;
    }
    if depth(drafts, index) > DEPTH {
        let message = format!("`{}` expands into itself", draft.name);
        report.error(draft.span, message, "this is a defect of its kind");
        return None;
    }
    let count = |port: &Input| draft.port(&port.name).map_or(0, |port| port.bindings.len());
    let counts = draft
        .ports
        .inputs
        .iter()
        .map(|port| (port.name.clone(), count(port)))
        .collect();
    match expand(params, &counts) {
        Ok(expansion) => Some(expansion),
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

/// True when every port has as many artifacts as it needs; what lacks was reported.
fn is_bound(draft: &Draft<'_>) -> bool {
    draft.ports.inputs.iter().all(|port| {
        let count = draft.port(&port.name).map_or(0, |port| port.bindings.len());
        port.arity.fits(count)
    })
}

fn depth(drafts: &[Draft<'_>], index: usize) -> usize {
    std::iter::successors(Some(index), |index| drafts[*index].parent).count()
}

struct Steps<'a, 'k> {
    parent: &'a Draft<'k>,
    /// Index of the composite.
    index: usize,
    /// Index of the first step.
    first: usize,
    steps: &'a [Step],
    table: Table<'k>,
    report: &'a Report,
}

impl<'k> Steps<'_, 'k> {
    fn drafts(&self) -> Vec<Draft<'k>> {
        self.steps.iter().map(|step| self.draft(step)).collect()
    }

    fn draft(&self, step: &Step) -> Draft<'k> {
        let kind = self.table.get(&step.kind);
        if kind.is_none() {
            self.defect(&format!(
                "step `{}` has the unknown kind `{}`",
                step.name, step.kind
            ));
        }
        let mut draft = Draft {
            name: format!("{}/{}", self.parent.name, step.name),
            span: self.parent.span,
            position: self.parent.position,
            parent: Some(self.index),
            kind,
            ports: kind.map_or_else(Cow::default, |kind| Cow::Borrowed(&kind.ports)),
            params: None,
            written: None,
            inputs: kind.map_or_else(Vec::new, |kind| self.inputs(step, kind)),
            run: self.parent.run.clone(),
            written_run: None,
            protect: self.parent.protect,
            temporary: self.parent.temporary,
            executor: executor(kind),
            provides: None,
        };
        params::resolve(&mut draft, Some(step.params.clone()), self.report);
        draft
    }

    fn inputs(&self, step: &Step, kind: &Kind) -> Vec<DraftPort> {
        let is_known = |port: &&String| kind.ports.find_input(port).is_some();
        for port in step.inputs.keys().filter(|port| !is_known(port)) {
            let message = format!(
                "`{}` has no input `{port}` (step `{}`)",
                step.kind, step.name
            );
            self.defect(&message);
        }
        let port = |port: &Input| self.port(step, port);
        let ports = kind.ports.inputs.iter().map(port);
        ports.filter(|port| !port.bindings.is_empty()).collect()
    }

    fn port(&self, step: &Step, port: &Input) -> DraftPort {
        let inputs = step.inputs.get(&port.name).map_or(&[][..], Vec::as_slice);
        let bindings: Vec<DraftBinding> = inputs
            .iter()
            .flat_map(|input| self.bindings(input, port))
            .collect();
        if !port.arity.fits(bindings.len()) {
            let message = format!(
                "step `{}` has {} artifacts on `{}`",
                step.name,
                bindings.len(),
                port.name
            );
            self.defect(&message);
        }
        DraftPort {
            name: port.name.clone(),
            span: self.parent.span,
            bindings,
        }
    }

    fn bindings(&self, input: &StepInput, port: &Input) -> Vec<DraftBinding> {
        let outer = |name: &str| {
            self.parent
                .port(name)
                .map_or(&[][..], |port| &port.bindings)
        };
        match input {
            StepInput::Outer(name) => outer(name).to_vec(),
            StepInput::OuterNth(name, n) => outer(name).get(*n).cloned().into_iter().collect(),
            StepInput::Step(step, output) => {
                let found = self.output(step, output, &port.formats);
                let target = found.map_or(Target::Broken, Target::Output);
                vec![DraftBinding {
                    label: step.clone(),
                    span: self.parent.span,
                    target,
                }]
            }
        }
    }

    fn output(&self, step: &str, port: &str, accepts: &[String]) -> Option<Output> {
        let offset = self.steps.iter().position(|other| other.name == step);
        let kind = offset.and_then(|offset| self.table.get(&self.steps[offset].kind));
        let outputs = kind.map_or(&[][..], |kind| &kind.ports.outputs);
        let index = outputs.iter().position(|output| output.name == port);
        let (Some(offset), Some(index)) = (offset, index) else {
            self.defect(&format!("there is no output `{port}` of a step `{step}`"));
            return None;
        };
        let format = &outputs[index].format;
        if !accepts.is_empty() && !accepts.contains(format) {
            let expected = accepts.join("|");
            self.defect(&format!(
                "`{step}.{port}` is `{format}`, expected `{expected}`"
            ));
            return None;
        }
        Some((self.first + offset, index))
    }

    fn provides(
        &self,
        drafts: &[Draft<'_>],
        outputs: &BTreeMap<String, (String, String)>,
    ) -> Option<BTreeMap<String, Output>> {
        let mut provides = BTreeMap::new();
        for port in &self.parent.ports.outputs {
            let Some((step, output)) = outputs.get(&port.name) else {
                self.defect(&format!("nothing provides the output `{}`", port.name));
                return None;
            };
            let provider = self.output(step, output, std::slice::from_ref(&port.format))?;
            debug_assert!(provider.0 - self.first < drafts.len());
            provides.insert(port.name.clone(), provider);
        }
        Some(provides)
    }

    fn defect(&self, message: &str) {
        let kind = self.parent.kind.map_or("", |kind| kind.name.as_str());
        let message = format!("`{kind}` expands wrongly: {message}");
        self.report
            .error(self.parent.span, message, "this is a defect of the kind");
    }
}
