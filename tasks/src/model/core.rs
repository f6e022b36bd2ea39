//! The training core: one Llama run forwards and backwards over flat arenas, on any device.
//!
//! ```text
//! forward(weights, batch) ─▶ hidden() ─▶ lm_head(rows, loss) … ─▶ backward(weights, grads)
//! ```
//!
//! `lm_head` never stores `[N, V]`: it makes a chunk of logits, lets the caller turn them into their gradient in place,
//! and carries that on. It may be called several times between `forward` and `backward`; without `grads` it only shows
//! the logits. Gradients add to what is there, so that micro-batches accumulate. It owns no weights and no optimiser.

use std::ops::Range;
use std::sync::Arc;

use rayon::ThreadPool;

use super::batch::Batch;
use super::config::{Config, Head};
pub use super::cpu::LossFn;
use super::cpu::Stack;
use super::error::ModelError;
use super::layout::Layout;

/// Where the arithmetic happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    Cpu,
}

impl Device {
    /// Reads the device of a request.
    pub fn parse(name: &str) -> Result<Self, ModelError> {
        match name {
            "cpu" => Ok(Self::Cpu),
            other => Err(ModelError::invalid(
                format!("device `{other}` is not available in this build"),
                "run with `device = \"cpu\"`",
            )),
        }
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

/// One model's buffers and threads.
pub struct Core {
    config: Config,
    backend: Backend,
}

enum Backend {
    Cpu(Box<Stack>),
}

impl Core {
    /// A core for models of this shape. `threads` decides nothing but speed.
    pub fn new(config: &Config, device: Device, threads: usize) -> Result<Self, ModelError> {
        let Device::Cpu = device;
        Self::on_pool(config, thread_pool(threads)?)
    }

    /// A CPU core on threads that others use as well (a student and its teacher).
    pub fn on_pool(config: &Config, pool: Arc<ThreadPool>) -> Result<Self, ModelError> {
        config.validate()?;
        Ok(Self {
            config: config.clone(),
            backend: Backend::Cpu(Box::new(Stack::new(config, pool))),
        })
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    pub fn layout(&self) -> &Layout {
        self.cpu().layout()
    }

    /// The threads of this core, for work around it (optimiser, losses).
    pub fn pool(&self) -> &Arc<ThreadPool> {
        self.cpu().pool()
    }

    /// Runs the stack and keeps what `backward` needs.
    ///
    /// # Errors
    /// A token outside the vocabulary, or ends that do not fit.
    pub fn forward(&mut self, weights: &[f32], batch: &Batch) -> Result<(), ModelError> {
        batch.validate(self.config.vocab_size)?;
        self.cpu_mut().forward(weights, batch, true, None);
        Ok(())
    }

    /// Runs the stack for its hidden states alone, in the memory of one layer; `observer` sees every layer.
    pub fn forward_only(
        &mut self,
        weights: &[f32],
        batch: &Batch,
        observer: Option<Observer>,
    ) -> Result<(), ModelError> {
        batch.validate(self.config.vocab_size)?;
        self.cpu_mut().forward(weights, batch, false, observer);
        Ok(())
    }

    /// `[N, d]` after the final norm of the last forward pass.
    pub fn hidden(&self) -> &[f32] {
        self.cpu().hidden()
    }

    /// Shows the logits `[n, V]` of the given rows (any order, chunk by chunk) to `loss` as `(range, logits)`,
    /// `range` being the part of `rows` that is shown. With `grads`, what `loss` leaves in `logits` is taken as their gradient.
    pub fn lm_head(
        &mut self,
        weights: &[f32],
        grads: Option<&mut [f32]>,
        rows: &[usize],
        loss: LossFn,
    ) {
        assert!(
            self.config.head == Head::Language,
            "a reward model has no vocabulary head"
        );
        self.cpu_mut().head(weights, grads, rows, HEAD_CHUNK, loss);
    }

    /// Shows the scores `[n]` of the given rows, all at once; with `grads`, what `loss` leaves is their gradient.
    pub fn score_head(
        &mut self,
        weights: &[f32],
        grads: Option<&mut [f32]>,
        rows: &[usize],
        loss: &mut (dyn FnMut(&mut [f32]) + Send),
    ) {
        assert!(
            self.config.head == Head::Score,
            "a language model has no score head"
        );
        let mut all = |_: Range<usize>, scores: &mut [f32]| loss(scores);
        self.cpu_mut()
            .head(weights, grads, rows, rows.len(), &mut all);
    }

    /// Adds the gradient of everything that the heads were given since `forward` to `grads`. Once per `forward`.
    pub fn backward(&mut self, weights: &[f32], grads: &mut [f32]) {
        self.cpu_mut().backward(weights, grads);
    }

    fn cpu(&self) -> &Stack {
        let Backend::Cpu(stack) = &self.backend;
        stack
    }

    fn cpu_mut(&mut self) -> &mut Stack {
        let Backend::Cpu(stack) = &mut self.backend;
        stack
    }
}

/// Rows of logits that are alive at the same time. Enough for the gradient of the head matrix, which is read and
/// written once per chunk, not to wait for memory.
pub const HEAD_CHUNK: usize = 256;

/// A pool of its own for a core: what else runs in the process does not share it.
pub fn thread_pool(threads: usize) -> Result<Arc<ThreadPool>, ModelError> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads.max(1))
        .thread_name(|index| format!("core-{index}"))
        .build()
        .map(Arc::new)
        .map_err(|error| {
            ModelError::invalid(
                format!("cannot start {threads} threads: {error}"),
                "ask for fewer threads",
            )
        })
}
