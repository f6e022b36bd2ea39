//! The training core: one Llama on one device, run forwards and backwards.
//!
//! ```text
//! clear_grads ─▶ forward(batch) ─▶ lm_head(rows, loss) … ─▶ backward ─▶ … more micro-batches … ─▶ update(rate)
//! ```
//!
//! `lm_head` never stores `[N, V]`: it makes a chunk of logits, lets the caller turn them into their gradient in place,
//! and carries that on. It may be called several times between `forward` and `backward`; without a gradient it only
//! shows the logits. Gradients add up until they are cleared. Weights, gradients and moments live where the device can
//! reach them; nothing here or above knows which one that is.

use std::any::Any;
use std::borrow::Cow;
use std::ops::Range;
use std::path::Path;

use rayon::ThreadPool;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::batch::Batch;
use super::config::{Config, Head};
use super::cpu::Cpu;
use super::cpu::decode::DecodeWeights;
use super::cuda::{Cuda, Element, Gpu, WIDEST_HEAD, WIDEST_STREAM};
use super::decode;
use super::error::ModelError;
use super::layout::Layout;
use super::loss::{Distillation, Sums};
use super::ops::Ops;
use super::ops::timed::{Timed, Times};
use super::optimizer::{AdamW, AdamWOptions, Moments, Rate};
use super::stack::{Decoding, Stack};
use super::weights::{Model, save_weights};

/// Where the arithmetic happens: an opened device, shared by all that clone it.
#[derive(Clone)]
pub struct Device(Place);

#[derive(Clone)]
enum Place {
    Cpu(Cpu),
    /// A card, and the processor for what is not done there.
    Gpu(Cuda, Cpu),
}

/// Number format of the arithmetic: part of the result, never chosen by the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Numerics {
    /// Everything in f32.
    F32,
    /// Activations and products in bf16, sums, losses, weights and moments in f32. On a GPU alone.
    Bf16,
}

impl Numerics {
    /// As it is written in a Kananafile.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        }
    }
}

impl Device {
    /// Opens the device of a request, in f32. `threads` decides nothing but speed.
    pub fn open(name: &str, threads: usize) -> Result<Self, ModelError> {
        match name {
            "cpu" => Self::cpu(threads),
            "gpu" => Self::gpu(threads),
            other => Err(ModelError::invalid(
                format!("there is no device `{other}`"),
                "`cpu` or `gpu`",
            )),
        }
    }

    /// The processor, with threads of its own: what else runs in the process does not share them.
    pub fn cpu(threads: usize) -> Result<Self, ModelError> {
        Ok(Self(Place::Cpu(Cpu::open(threads)?)))
    }

    /// The first card that is visible, in f32.
    pub fn gpu(threads: usize) -> Result<Self, ModelError> {
        let cuda = Cuda::new(Gpu::open()?, Element::F32);
        Ok(Self(Place::Gpu(cuda, Cpu::open(threads)?)))
    }

    /// The same device with another number format.
    ///
    /// # Errors
    /// The processor computes in f32 alone.
    pub fn in_numerics(self, numerics: Numerics) -> Result<Self, ModelError> {
        match (self.0, numerics) {
            (Place::Cpu(cpu), Numerics::F32) => Ok(Self(Place::Cpu(cpu))),
            (Place::Cpu(_), Numerics::Bf16) => Err(ModelError::invalid(
                "`numerics = \"bf16\"` needs a GPU",
                "`kbuild doctor` says what is missing; `numerics = \"f32\"` runs on the processor",
            )),
            (Place::Gpu(cuda, cpu), Numerics::F32) => {
                Ok(Self(Place::Gpu(cuda.with(Element::F32), cpu)))
            }
            (Place::Gpu(cuda, cpu), Numerics::Bf16) => {
                Ok(Self(Place::Gpu(cuda.with(Element::Bf16), cpu)))
            }
        }
    }

    /// The threads of this device, for work around it.
    pub fn pool(&self) -> &ThreadPool {
        let (Place::Cpu(cpu) | Place::Gpu(_, cpu)) = &self.0;
        cpu.pool()
    }

    /// Floating-point operations a second of the best loop that the processor knows, by measurement; none for a card.
    pub fn peak_flops(&self) -> Option<f64> {
        match &self.0 {
            Place::Cpu(cpu) => Some(cpu.peak_flops()),
            Place::Gpu(..) => None,
        }
    }

    fn engine(&self, model: Model, times: Option<Times>) -> Result<Box<dyn Engine>, ModelError> {
        match &self.0 {
            Place::Cpu(cpu) => Ok(stack(cpu.clone(), model, times)),
            Place::Gpu(cuda, _) => {
                check_shape(&model.config)?;
                Ok(stack(cuda.clone(), model, times))
            }
        }
    }

    /// Brings the weights of a model to where they are decoded with.
    pub(super) fn decoding<'a>(
        &self,
        model: &'a Model,
    ) -> Result<Box<dyn decode::Weights + 'a>, ModelError> {
        match &self.0 {
            Place::Cpu(_) => Ok(Box::new(DecodeWeights::new(
                &model.config,
                &model.layout,
                &model.weights,
            ))),
            Place::Gpu(cuda, _) => {
                check_shape(&model.config)?;
                let weights = Decoding::new(cuda.clone(), model);
                cuda.sync()?;
                Ok(Box::new(weights))
            }
        }
    }

    /// Whether it is a card: it does one thing after the other, each with all of itself.
    pub(super) fn is_gpu(&self) -> bool {
        matches!(self.0, Place::Gpu(..))
    }
}

fn check_shape(config: &Config) -> Result<(), ModelError> {
    for (what, width, widest) in [
        ("heads of width", config.head_dim, WIDEST_HEAD),
        (
            "a residual stream of width",
            config.hidden_size,
            WIDEST_STREAM,
        ),
    ] {
        if width > widest {
            return Err(ModelError::invalid(
                format!("{what} {width} on a GPU"),
                format!("at most {widest}, or `device = \"cpu\"`"),
            ));
        }
    }
    Ok(())
}

fn stack<O: Ops>(ops: O, model: Model, times: Option<Times>) -> Box<dyn Engine> {
    let Model {
        config, weights, ..
    } = model;
    match times {
        None => Box::new(Stack::new(ops, &config, weights)),
        Some(times) => Box::new(Stack::new(Timed { ops, times }, &config, weights)),
    }
}

/// Places of a layer that an observer sees, each `[N, width]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Site {
    /// Residual stream before the layer, `d`.
    LayerInput,
    /// Output of `input_layernorm`, `d`.
    InputNorm,
    /// Input of `o_proj`, `H hd`.
    Attended,
    /// Output of `post_attention_layernorm`, `d`.
    PostNorm,
    /// Input of `down_proj`, `f`.
    Activated,
    /// Residual stream after the layer, `d`.
    LayerOutput,
}

/// Sees activations while a forward pass makes them: `(layer, site, values)`.
pub type Observer<'a> = &'a mut (dyn FnMut(usize, Site, &[f32]) + Send);

/// Sees the logits of a part of the rows of a call; what it leaves is taken as their gradient.
pub type HeadFn<'a> = &'a mut (dyn FnMut(Range<usize>, &mut dyn Logits) + Send);

/// A chunk of logits `[n, V]`, wherever they are. One target a row; see [`Ops`](super::ops::Ops) for the losses.
pub trait Logits {
    fn cross_entropy(&mut self, targets: &[u32], weight: f64, z_loss: f64, gradient: bool) -> Sums;
    fn distillation(
        &mut self,
        teacher: &Kept,
        targets: &[u32],
        options: Distillation,
        weight: f64,
        gradient: bool,
    ) -> Sums;
    fn log_probabilities(&self, targets: &[u32]) -> Vec<f64>;
    fn log_probability_gradient(&mut self, targets: &[u32], coefficients: &[f64]);
    /// A copy where they are, for a student.
    fn keep(&self) -> Kept;
    fn read(&self) -> Cow<'_, [f32]>;
    fn write(&mut self, values: &[f32]);
}

/// Logits that were kept on their device.
pub struct Kept(pub(super) Box<dyn Any + Send>);

/// What a [`Core`] asks of a stack, whatever backend it runs on.
pub(super) trait Engine: Send + Sync {
    fn layout(&self) -> &Layout;
    fn weights(&self) -> Cow<'_, [f32]>;
    fn grads(&self) -> Cow<'_, [f32]>;
    fn write_grads(&mut self, values: &[f32]);
    fn clear_grads(&mut self);
    fn recompute(&mut self, recompute: bool);
    fn forward(
        &mut self,
        batch: &Batch,
        keep: bool,
        observer: Option<Observer>,
    ) -> Result<(), ModelError>;
    fn hidden(&self) -> Cow<'_, [f32]>;
    fn head(
        &mut self,
        rows: &[usize],
        whole: bool,
        gradient: bool,
        loss: HeadFn,
    ) -> Result<(), ModelError>;
    fn backward(&mut self) -> Result<(), ModelError>;
    fn start(&mut self, optimizer: AdamW);
    fn update(&mut self, rate: Rate) -> Result<f64, ModelError>;
    fn moments(&self) -> Option<(AdamWOptions, Moments<'_>)>;
    /// Waits for everything; the first failure so far.
    fn sync(&self) -> Result<(), ModelError>;
}

/// One model on a device.
pub struct Core {
    config: Config,
    engine: Box<dyn Engine>,
}

impl Core {
    /// Brings a model to a device.
    pub fn new(model: Model, device: &Device) -> Result<Self, ModelError> {
        Self::bring(model, device, None)
    }

    /// The same, with the time of every operation added to `times`.
    pub fn timed(model: Model, device: &Device, times: Times) -> Result<Self, ModelError> {
        Self::bring(model, device, Some(times))
    }

    fn bring(model: Model, device: &Device, times: Option<Times>) -> Result<Self, ModelError> {
        model.config.validate()?;
        Ok(Self {
            config: model.config.clone(),
            engine: device.engine(model, times)?,
        })
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    pub fn layout(&self) -> &Layout {
        self.engine.layout()
    }

    /// The weights as they are now.
    pub fn weights(&self) -> Cow<'_, [f32]> {
        self.engine.weights()
    }

    /// Writes the model as it is now, as [`Model::save`] does, without a copy where its weights lie in reach.
    pub fn save(&self, directory: &Path) -> Result<(), ModelError> {
        let weights = self.weights();
        // A device that failed gives no weights.
        self.engine.sync()?;
        save_weights(directory, &self.config, self.layout(), &weights)
    }

    /// A copy of the model as it is now.
    pub fn model(&self) -> Model {
        Model {
            config: self.config.clone(),
            layout: self.layout().clone(),
            weights: self.weights().into_owned(),
        }
    }

    /// Keeps of each forward pass the residual streams alone from now on, or everything again. `backward` then runs each
    /// layer forward a second time: the same bits, in less memory.
    pub fn recompute(&mut self, recompute: bool) {
        self.engine.recompute(recompute);
    }

    /// Runs the stack and keeps what `backward` needs.
    ///
    /// # Errors
    /// A token outside the vocabulary, or ends that do not fit.
    pub fn forward(&mut self, batch: &Batch) -> Result<(), ModelError> {
        batch.validate(self.config.vocab_size)?;
        self.engine.forward(batch, true, None)
    }

    /// Runs the stack for its hidden states alone, in the memory of one layer; `observer` sees every layer.
    pub fn forward_only(
        &mut self,
        batch: &Batch,
        observer: Option<Observer>,
    ) -> Result<(), ModelError> {
        batch.validate(self.config.vocab_size)?;
        self.engine.forward(batch, false, observer)
    }

    /// `[N, d]` after the final norm of the last forward pass.
    pub fn hidden(&self) -> Cow<'_, [f32]> {
        self.engine.hidden()
    }

    /// Shows the logits `[n, V]` of the given rows (any order, chunk by chunk) to `loss` as `(range, logits)`,
    /// `range` being the part of `rows` that is shown. With `gradient`, what `loss` leaves is taken as their gradient.
    pub fn lm_head(
        &mut self,
        rows: &[usize],
        gradient: bool,
        loss: HeadFn,
    ) -> Result<(), ModelError> {
        assert!(
            self.config.head == Head::Language,
            "a reward model has no vocabulary head"
        );
        self.engine.head(rows, false, gradient, loss)
    }

    /// Shows the scores `[n]` of the given rows, all at once; with `gradient`, what `loss` leaves is their gradient.
    pub fn score_head(
        &mut self,
        rows: &[usize],
        gradient: bool,
        loss: &mut (dyn FnMut(&mut [f32]) + Send),
    ) -> Result<(), ModelError> {
        assert!(
            self.config.head == Head::Score,
            "a language model has no score head"
        );
        self.engine.head(rows, true, gradient, &mut |_, scores| {
            let mut values = scores.read().into_owned();
            loss(&mut values);
            scores.write(&values);
        })
    }

    /// Sets all gradients to 0: the beginning of an optimiser step.
    pub fn clear_grads(&mut self) {
        self.engine.clear_grads();
    }

    /// Adds the gradient of everything that the heads were given since `forward`. Once per `forward`.
    pub fn backward(&mut self) -> Result<(), ModelError> {
        self.engine.backward()
    }

    /// Gradients so far, in the order of the arena.
    pub fn grads(&self) -> Cow<'_, [f32]> {
        self.engine.grads()
    }

    /// Replaces the gradients by values made elsewhere.
    pub fn write_grads(&mut self, values: &[f32]) {
        self.engine.write_grads(values);
    }

    /// Begins, or goes on with, a run of updates.
    pub fn start(&mut self, optimizer: AdamW) {
        self.engine.start(optimizer);
    }

    /// Clips the gradients and updates the weights; the norm before clipping.
    ///
    /// A norm that is not finite changes nothing: the caller sees it and decides.
    pub fn update(&mut self, rate: Rate) -> Result<f64, ModelError> {
        self.engine.update(rate)
    }

    /// The state of the optimiser as it is now, if one was started: not copied where it lies in reach.
    pub fn moments(&self) -> Result<Option<Moments<'_>>, ModelError> {
        let moments = self.engine.moments().map(|(_, moments)| moments);
        self.engine.sync()?;
        Ok(moments)
    }

    /// A copy of the optimiser as it is now, if one was started.
    pub fn optimizer(&self) -> Option<AdamW> {
        let (options, moments) = self.engine.moments()?;
        Some(AdamW {
            options,
            step: moments.step,
            first: moments.first.into_owned(),
            second: moments.second.into_owned(),
        })
    }
}
