//! The training loop of every kind: gradient of a step, clip, schedule, AdamW, metrics, checkpoints.
//!
//! An [`Objective`] is a pure function from step to loss and gradient; the loop owns weights, optimiser and time. What
//! it saves and when decides nothing: a resumed run and an uninterrupted one are equal bit for bit.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use kbuild_engine::runner::{AtPath, Context, Failure};
use serde_json::Value;

use super::checkpoint::{self, Fits};
use super::params::Training;
use crate::model::optimizer::Rate;
use crate::model::{AdamW, Core, Device, InstructionSet, Model, Numerics};

/// What is trained.
pub trait Objective {
    /// Optimiser steps of the whole run.
    fn steps(&self) -> u64;

    /// Tokens that steps before `step` send through the trained model.
    fn tokens_before(&self, step: u64) -> u64;

    /// Adds the gradient of the loss of step `step` to those of `core`, which are 0 at first.
    fn step(&mut self, step: u64, core: &mut Core) -> Result<StepReport, Failure>;
}

/// What one step was.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StepReport {
    /// Mean over the whole step.
    pub loss: f64,
    /// Loss tokens, or pairs, of the whole step: what the loss was divided by. 0: nothing to learn, no update.
    pub counted: u64,
    /// More numbers for the metrics.
    pub extra: BTreeMap<&'static str, f64>,
}

/// A finished run: the model and its optimiser stay where they were trained, so that nothing is there twice.
pub struct Trained {
    pub core: Core,
    /// The lines of the metrics artifact.
    pub metrics: String,
}

/// Trains `model` from the newest usable checkpoint, or from the start with `optimizer` where there is none.
///
/// # Errors
/// Interrupted (after saving), a gradient that is not finite.
pub fn train(
    context: &mut Context,
    training: &Training,
    device: &Device,
    model: Model,
    optimizer: Option<AdamW>,
    objective: &mut dyn Objective,
) -> Result<Trained, Failure> {
    let steps = objective.steps();
    let mut run = Run::start(context, training, model, optimizer, device, steps)?;
    let total = objective.tokens_before(steps);
    let mut saves = Saves::new();
    while run.step < steps {
        context.progress(objective.tokens_before(run.step), total, "tokens");
        if context.should_stop() {
            run.try_save(context);
            return Err(Failure::interrupted());
        }
        run.one_step(context, objective, steps)?;
        if saves.due() && run.step < steps {
            saves.timed(|| run.try_save(context));
        }
    }
    context.progress(total, total, "tokens");
    if let Err(failure) = checkpoint::clear(context.partial()) {
        context.note(format!("a checkpoint stays that nobody needs: {failure}"));
    }
    Ok(Trained {
        core: run.core,
        metrics: run.metrics,
    })
}

struct Run<'a> {
    training: &'a Training,
    environment: String,
    core: Core,
    metrics: String,
    step: u64,
}

impl<'a> Run<'a> {
    fn start(
        context: &mut Context,
        training: &'a Training,
        model: Model,
        optimizer: Option<AdamW>,
        device: &Device,
        steps: u64,
    ) -> Result<Self, Failure> {
        let environment = environment(context.device());
        let fits = Fits {
            environment: &environment,
            model: &model,
            steps,
        };
        let options = training.adamw();
        let (found, notes) = checkpoint::load(context.partial(), &fits, options);
        for note in &notes {
            context.note(note.clone());
        }
        if found.is_none() && !notes.is_empty() {
            context.note("training starts over");
        }
        let (model, optimizer, metrics, step) = match found {
            Some(found) => {
                context.note(format!("continues after step {}", found.step));
                drop((model, optimizer));
                (found.model, found.optimizer, found.metrics, found.step)
            }
            None => {
                let fresh = optimizer.unwrap_or_else(|| AdamW::new(&model.layout, options));
                (model, fresh, String::new(), 0)
            }
        };
        let mut core = Core::new(model, device)?;
        core.recompute(context.recompute());
        core.start(optimizer);
        Ok(Self {
            training,
            environment,
            core,
            metrics,
            step,
        })
    }

    fn one_step(
        &mut self,
        context: &mut Context,
        objective: &mut dyn Objective,
        steps: u64,
    ) -> Result<(), Failure> {
        self.core.clear_grads();
        let report = objective.step(self.step, &mut self.core)?;
        let lr = self.training.peak() * self.training.schedule(steps).factor(self.step);
        let norm = if report.counted == 0 {
            0.0
        } else {
            self.update(lr, &report)?
        };
        let tokens = objective.tokens_before(self.step + 1);
        let line = line(self.step, tokens, lr, norm, &report);
        context.metric(self.step, "loss", report.loss);
        context.metric(self.step, "lr", lr);
        self.metrics.push_str(&line);
        self.metrics.push('\n');
        self.step += 1;
        Ok(())
    }

    fn update(&mut self, lr: f64, report: &StepReport) -> Result<f64, Failure> {
        let rate = Rate {
            now: lr,
            peak: self.training.peak(),
        };
        let norm = self.core.update(rate)?;
        if norm.is_finite() && report.loss.is_finite() {
            return Ok(norm);
        }
        Err(Failure::input(format!(
            "training diverged at step {}: loss {}, gradient norm {norm}",
            self.step, report.loss
        ))
        .help("lower `lr`, lengthen `warmup`, or look at the data of this step"))
    }

    /// A checkpoint that cannot be written costs time after an interruption, and nothing else: training goes on, and
    /// the one before stays.
    fn try_save(&self, context: &mut Context) {
        if let Err(failure) = self.save(context) {
            context.note(format!(
                "no checkpoint was saved at step {}: {failure}",
                self.step
            ));
        }
    }

    fn save(&self, context: &mut Context) -> Result<(), Failure> {
        checkpoint::save(
            context.partial(),
            &self.environment,
            self.step,
            &self.core,
            &self.metrics,
        )?;
        context.checkpoint(self.step);
        Ok(())
    }
}

/// One line of the metrics, names in order.
fn line(step: u64, tokens: u64, lr: f64, norm: f64, report: &StepReport) -> String {
    let mut fields: BTreeMap<&str, Value> = BTreeMap::from([
        ("step", step.into()),
        ("tokens", tokens.into()),
        ("loss", report.loss.into()),
        ("lr", lr.into()),
        ("grad_norm", norm.into()),
        ("counted", report.counted.into()),
    ]);
    fields.extend(
        report
            .extra
            .iter()
            .map(|(name, value)| (*name, Value::from(*value))),
    );
    serde_json::json!(fields).to_string()
}

/// Device, instruction set and version of the arithmetic: within one of these, results are equal bit for bit.
pub fn environment(device: &str) -> String {
    format!(
        "{device}/{}/{}",
        InstructionSet::chosen().name(),
        env!("CARGO_PKG_VERSION")
    )
}

/// When to save: every few seconds, and never for more than a twentieth of the time.
struct Saves {
    last: Instant,
    wait: Duration,
}

impl Saves {
    const SHORTEST: Duration = Duration::from_secs(5);

    fn new() -> Self {
        Self {
            last: Instant::now(),
            wait: Self::SHORTEST,
        }
    }

    fn due(&self) -> bool {
        self.last.elapsed() >= self.wait
    }

    fn timed(&mut self, save: impl FnOnce()) {
        let start = Instant::now();
        save();
        self.last = Instant::now();
        self.wait = Self::SHORTEST.max(20 * start.elapsed());
    }
}

/// The device that a task was given, with the threads that it may use.
pub fn device(context: &Context, numerics: Numerics) -> Result<Device, Failure> {
    let device = Device::open(context.device(), context.threads())?;
    Ok(device.in_numerics(numerics)?)
}

/// Writes the metrics of a run to the port `metrics`.
pub fn write_metrics(context: &mut Context, metrics: &str) -> Result<(), Failure> {
    let path = context.output("metrics");
    std::fs::write(path, metrics).at(path)?;
    context.fact("metrics", "steps", metrics.lines().count());
    Ok(())
}

/// Groups consecutive items into micro-batches of at most `limit` tokens; a longer item is alone.
pub fn micro_batches(lengths: &[usize], limit: usize) -> Vec<std::ops::Range<usize>> {
    let mut groups = Vec::new();
    let (mut start, mut tokens) = (0, 0);
    for (index, &length) in lengths.iter().enumerate() {
        if index > start && tokens + length > limit {
            groups.push(start..index);
            (start, tokens) = (index, 0);
        }
        tokens += length;
    }
    if start < lengths.len() {
        groups.push(start..lengths.len());
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn micro_batches_hold_every_item_once_in_order() {
        assert_eq!(micro_batches(&[3, 3, 3, 9, 1], 6), [0..2, 2..3, 3..4, 4..5]);
        assert!(micro_batches(&[], 6).is_empty());
        assert_eq!(micro_batches(&[1, 1], 100), vec![0..2; 1]);
    }
}
