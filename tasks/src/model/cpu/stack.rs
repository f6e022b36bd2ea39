//! The Llama stack on a CPU: forward, head, backward over flat arenas.
//!
//! It orders the work; `layer` and `backward` do it. It knows no losses: the head calls the caller with logits and
//! takes back their gradient.

use std::ops::Range;
use std::sync::Arc;

use rayon::ThreadPool;
use rayon::prelude::*;

use super::backward::{self, Arenas};
use super::buffers::{Activations, Dims, Gradients, HeadBuffers};
use super::chunks::{ROWS, add_weight_gradient_in_slabs};
use super::layer::{self, LayerWeights, Places};
use super::matrix::{linear, linear_dx, transpose};
use super::{norm, row};
use crate::model::batch::Batch;
use crate::model::config::Config;
use crate::model::core::{Observer, Site};
use crate::model::layout::Layout;
use crate::model::rope::RopeTable;

/// Turns the logits `[n, outputs]` of a range of the rows of a call into their gradient.
pub type LossFn<'a> = &'a mut (dyn FnMut(Range<usize>, &mut [f32]) + Send);

/// Rows of a head chunk that one task multiplies.
const HEAD_ROWS: usize = 128;

/// What the last forward pass allows.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Empty,
    /// Hidden states alone.
    Hidden,
    /// Everything that backward reads.
    Kept,
}

/// One model's buffers.
pub struct Stack {
    dims: Dims,
    n_layers: usize,
    layout: Layout,
    pool: Arc<ThreadPool>,
    rope: RopeTable,
    state: State,
    /// The batch of the last forward pass.
    batch: Batch,
    positions: Vec<u32>,
    /// The arena of the last forward pass with every matrix transposed.
    transposed: Vec<f32>,
    layers: Vec<Activations>,
    /// `[N, d]`: residual stream before each layer, and after the last; two that take turns if nothing is kept.
    streams: Vec<Vec<f32>>,
    /// `[N, f]`
    act: Vec<f32>,
    /// `[N, d]` after the final norm, and its gradient.
    hidden: Vec<f32>,
    hidden_scale: Vec<f32>,
    d_hidden: Vec<f32>,
    gradients: Gradients,
    head: HeadBuffers,
}

impl Stack {
    pub fn new(config: &Config, pool: Arc<ThreadPool>) -> Self {
        Self {
            dims: Dims::of(config),
            n_layers: config.num_hidden_layers,
            layout: Layout::new(config),
            pool,
            rope: RopeTable::new(config),
            state: State::Empty,
            batch: Batch::new(),
            positions: Vec::new(),
            transposed: Vec::new(),
            layers: Vec::new(),
            streams: Vec::new(),
            act: Vec::new(),
            hidden: Vec::new(),
            hidden_scale: Vec::new(),
            d_hidden: Vec::new(),
            gradients: Gradients::default(),
            head: HeadBuffers::default(),
        }
    }

    pub fn pool(&self) -> &Arc<ThreadPool> {
        &self.pool
    }

    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    pub fn hidden(&self) -> &[f32] {
        assert!(self.state != State::Empty, "nothing was run forward yet");
        &self.hidden
    }

    /// Runs the stack; keeps what backward needs if `keep`.
    pub fn forward(
        &mut self,
        weights: &[f32],
        batch: &Batch,
        keep: bool,
        observer: Option<Observer>,
    ) {
        assert_eq!(weights.len(), self.layout.len(), "weights of another model");
        let pool = Arc::clone(&self.pool);
        self.take_batch(batch, keep);
        pool.install(|| {
            self.transpose(weights);
            self.embed(weights);
            self.forward_layers(weights, keep, observer);
            self.final_norm(weights);
        });
    }

    fn take_batch(&mut self, batch: &Batch, keep: bool) {
        self.batch.clone_from(batch);
        self.positions.clear();
        for rows in self.batch.sequences() {
            self.positions.extend(0..rows.len() as u32);
        }
        self.rope.extend_to(batch.longest());
        let (n, d) = (batch.len(), self.dims.d);
        let (layers, streams) = if keep {
            (self.n_layers, self.n_layers + 1)
        } else {
            (1, 2)
        };
        self.state = if keep { State::Kept } else { State::Hidden };
        self.layers.resize_with(layers, Activations::default);
        self.streams.resize_with(streams, Vec::new);
        for layer in &mut self.layers {
            layer.resize(n, &self.dims);
        }
        for stream in &mut self.streams {
            stream.resize(n * d, 0.0);
        }
        self.act.resize(n * self.dims.f, 0.0);
        self.hidden.resize(n * d, 0.0);
        self.hidden_scale.resize(n, 0.0);
        self.d_hidden.clear();
        if keep {
            self.d_hidden.resize(n * d, 0.0);
        }
    }

    fn transpose(&mut self, weights: &[f32]) {
        self.transposed.resize(weights.len(), 0.0);
        let Dims { d, f, queries, .. } = self.dims;
        let layers = (0..self.n_layers).map(|layer| self.layout.layer(layer));
        let matrices = layers.flat_map(|layer| {
            [
                (layer.qkv.clone(), d),
                (layer.o.clone(), queries),
                (layer.gate_up.clone(), d),
                (layer.down.clone(), f),
            ]
        });
        for (range, inputs) in matrices.chain([(self.layout.head(), d)]) {
            transpose(&mut self.transposed[range.clone()], &weights[range], inputs);
        }
    }

    fn embed(&mut self, weights: &[f32]) {
        let d = self.dims.d;
        let embedding = &weights[self.layout.embedding()];
        for (row, token) in self.streams[0].chunks_exact_mut(d).zip(&self.batch.tokens) {
            row.copy_from_slice(&embedding[*token as usize * d..][..d]);
        }
    }

    fn forward_layers(&mut self, weights: &[f32], keep: bool, mut observer: Option<Observer>) {
        let places = Places {
            positions: &self.positions,
            ends: &self.batch.ends,
            rope: &self.rope,
        };
        for layer in 0..self.n_layers {
            let (at, from) = if keep { (layer, layer) } else { (0, layer % 2) };
            let to = if keep { layer + 1 } else { (layer + 1) % 2 };
            let mut output = std::mem::take(&mut self.streams[to]);
            let (input, kept) = (&self.streams[from], &mut self.layers[at]);
            let weights = LayerWeights {
                weights,
                transposed: &self.transposed,
                ranges: self.layout.layer(layer),
            };
            layer::before_attention(kept, input, weights, places, &self.dims);
            layer::attend(kept, places.ends, &self.dims);
            layer::after_attention(&mut output, &mut self.act, kept, input, weights, &self.dims);
            if let Some(observe) = observer.as_mut() {
                observe(layer, Site::LayerInput, input);
                observe(layer, Site::InputNorm, &kept.normed);
                observe(layer, Site::Attended, &kept.attended);
                observe(layer, Site::PostNorm, &kept.post);
                observe(layer, Site::Activated, &self.act);
                observe(layer, Site::LayerOutput, &output);
            }
            self.streams[to] = output;
        }
    }

    fn final_norm(&mut self, weights: &[f32]) {
        let (d, eps) = (self.dims.d, self.dims.eps);
        let w = &weights[self.layout.norm()];
        let last = match self.state {
            State::Kept => self.n_layers,
            State::Hidden | State::Empty => self.n_layers % 2,
        };
        (self.hidden.par_chunks_mut(ROWS * d))
            .zip(self.hidden_scale.par_chunks_mut(ROWS))
            .zip(self.streams[last].par_chunks(ROWS * d))
            .for_each(|((y, scale), x)| norm::forward(y, scale, x, w, eps));
    }

    /// Applies the head matrix to the given rows of the hidden states, `chunk` rows at a time. With `grads`, the
    /// gradients that `loss` leaves are carried to the head matrix and to the hidden states.
    pub fn head(
        &mut self,
        weights: &[f32],
        mut grads: Option<&mut [f32]>,
        rows: &[usize],
        chunk: usize,
        loss: LossFn,
    ) {
        assert!(self.state != State::Empty, "nothing was run forward yet");
        assert!(
            grads.is_none() || self.state == State::Kept,
            "gradients need a forward pass that keeps"
        );
        let pool = Arc::clone(&self.pool);
        pool.install(|| {
            for (index, rows) in rows.chunks(chunk.max(1)).enumerate() {
                let first = index * chunk;
                self.head_forward(rows);
                loss(first..first + rows.len(), &mut self.head.logits);
                if let Some(grads) = grads.as_deref_mut() {
                    self.head_backward(weights, grads, rows);
                }
            }
        });
    }

    fn head_forward(&mut self, rows: &[usize]) {
        let d = self.dims.d;
        let wt = &self.transposed[self.layout.head()];
        let outputs = wt.len() / d;
        let head = &mut self.head;
        head.rows.clear();
        for row in rows {
            head.rows.extend_from_slice(&self.hidden[row * d..][..d]);
        }
        head.logits.resize(rows.len() * outputs, 0.0);
        (head.logits.par_chunks_mut(HEAD_ROWS * outputs))
            .zip(head.rows.par_chunks(HEAD_ROWS * d))
            .for_each(|(logits, h)| linear(logits, h, wt, d, outputs));
    }

    fn head_backward(&mut self, weights: &[f32], grads: &mut [f32], rows: &[usize]) {
        let d = self.dims.d;
        let w = &weights[self.layout.head()];
        let outputs = w.len() / d;
        let head = &mut self.head;
        head.d_rows.resize(rows.len() * d, 0.0);
        (head.d_rows.par_chunks_mut(HEAD_ROWS * d))
            .zip(head.logits.par_chunks(HEAD_ROWS * outputs))
            .for_each(|(d_h, d_logits)| linear_dx(d_h, d_logits, w, d, outputs));
        for (row, d_row) in rows.iter().zip(head.d_rows.chunks_exact(d)) {
            row::add(&mut self.d_hidden[row * d..][..d], d_row);
        }
        let dw = &mut grads[self.layout.head()];
        add_weight_gradient_in_slabs(dw, &head.logits, &head.rows, d);
    }

    /// Adds the gradient of everything that the heads were given to `grads`. Once per forward pass.
    pub fn backward(&mut self, weights: &[f32], grads: &mut [f32]) {
        assert!(
            self.state == State::Kept,
            "backward needs a forward pass that keeps"
        );
        assert_eq!(grads.len(), self.layout.len(), "gradients of another model");
        // Activations are replaced by gradients on the way: a second pass would read nonsense.
        self.state = State::Hidden;
        let pool = Arc::clone(&self.pool);
        pool.install(|| self.backward_layers(&mut Arenas { weights, grads }));
    }

    fn backward_layers(&mut self, arenas: &mut Arenas) {
        let (gradients, dims) = (&mut self.gradients, &self.dims);
        gradients.resize(self.batch.len(), dims, &self.layout);
        let places = Places {
            positions: &self.positions,
            ends: &self.batch.ends,
            rope: &self.rope,
        };
        let (last, scales) = (&self.streams[self.n_layers], &self.hidden_scale);
        let range = self.layout.norm();
        backward::final_norm(gradients, &self.d_hidden, last, scales, arenas, range);
        for layer in (0..self.n_layers).rev() {
            let (ranges, kept) = (self.layout.layer(layer), &mut self.layers[layer]);
            let input = &self.streams[layer];
            backward::after_attention(kept, gradients, arenas, ranges, dims);
            backward::attend(kept, gradients, places.ends, dims);
            backward::before_attention(kept, gradients, input, arenas, ranges, places, dims);
        }
        let d_embedding = &mut arenas.grads[self.layout.embedding()];
        let rows = gradients.stream.chunks_exact(dims.d);
        for (d_row, token) in rows.zip(&self.batch.tokens) {
            row::add(
                &mut d_embedding[*token as usize * dims.d..][..dims.d],
                d_row,
            );
        }
    }
}
