//! The Llama stack over the list of operations: forward, heads, backward, update.
//!
//! It owns the memory of a model on its device: weights, gradients, moments, and what a forward pass leaves for
//! backward. It knows no device and no losses: a head calls the caller with logits and takes back their gradient.

mod decode;
mod layer;
mod logits;
pub(super) mod shape;

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use super::batch::Batch;
use super::config::Config;
use super::core::{Engine, HeadFn, Logits, Observer, Site};
use super::error::ModelError;
use super::layout::Layout;
use super::ops::Ops;
use super::optimizer::{AdamW, AdamWOptions, Moments, Rate};
use super::rope::RopeTable;
pub(super) use decode::{Decoding, ROWS};
use layer::{Activations, Gradients, OnLayer};
use logits::OnDevice;
use shape::{Keep, Matrices, Shape};

/// One model on one device.
pub(super) struct Stack<O: Ops> {
    ops: O,
    layout: Layout,
    shape: Shape,
    matrices: Matrices,
    weights: O::Weights,
    /// As long as the weights once there was anything to differentiate.
    grads: O::Buffer,
    optimizer: Option<Optimizer<O>>,
    rope: Arc<RopeTable>,
    /// Whether backward runs layers forward again.
    recompute: bool,
    /// What is left of the last forward pass.
    kept: Option<Keep>,
    /// Rows of the last forward pass.
    n: usize,
    /// Rows of the largest so far.
    most: usize,
    places: Option<O::Places>,
    layers: Vec<Activations<O>>,
    /// `[N, d]`: residual stream before each layer, and after the last; two that take turns if nothing is kept.
    streams: Vec<O::Buffer>,
    /// `[N, f]`
    act: O::Buffer,
    /// `[N, d]` after the final norm, and its gradient.
    hidden: O::Buffer,
    hidden_scale: O::Buffer,
    d_hidden: O::Buffer,
    back: Gradients<O>,
    head: HeadBuffers<O>,
}

/// What the vocabulary or score head works on, one chunk of rows at a time.
struct HeadBuffers<O: Ops> {
    /// `[n, d]`
    rows: O::Buffer,
    /// `[n, V]`
    logits: O::Buffer,
    /// `[n, d]`
    d_rows: O::Buffer,
}

struct Optimizer<O: Ops> {
    options: AdamWOptions,
    /// Updates done.
    step: u64,
    first: O::Buffer,
    second: O::Buffer,
    decayed: Vec<Range<usize>>,
}

impl<O: Ops> Stack<O> {
    pub fn new(ops: O, config: &Config, weights: Vec<f32>) -> Self {
        let layout = Layout::new(config);
        assert_eq!(weights.len(), layout.len(), "weights of another model");
        let shape = Shape::of(config);
        let matrices = Matrices::of(&layout, &shape);
        let none = || ops.zeros(0);
        Self {
            weights: ops.weights(&matrices.all(), weights),
            grads: none(),
            optimizer: None,
            rope: Arc::new(RopeTable::new(config)),
            recompute: false,
            kept: None,
            n: 0,
            most: 0,
            places: None,
            layers: Vec::new(),
            streams: Vec::new(),
            act: none(),
            hidden: none(),
            hidden_scale: none(),
            d_hidden: none(),
            back: Gradients::new(&ops),
            head: HeadBuffers {
                rows: none(),
                logits: none(),
                d_rows: none(),
            },
            layout,
            shape,
            matrices,
            ops,
        }
    }

    /// Lets go of all rows before longer ones are made: side by side they would take twice the memory.
    fn make_way(&mut self, rows: usize) {
        if rows <= self.most {
            return;
        }
        self.most = rows;
        self.layers.clear();
        self.streams.clear();
        self.back = Gradients::new(&self.ops);
        for buffer in [&mut self.act, &mut self.hidden, &mut self.d_hidden] {
            *buffer = self.ops.zeros(0);
        }
    }

    fn take_batch(&mut self, batch: &Batch, keep: Keep) {
        self.places = None;
        self.make_way(batch.len());
        Arc::make_mut(&mut self.rope).extend_to(batch.longest());
        self.places = Some(self.ops.places(batch, &self.rope));
        self.n = batch.len();
        self.kept = Some(keep);
        let (ops, n, shape) = (&self.ops, self.n, self.shape);
        self.layers.truncate(shape.layers_held(keep));
        self.layers
            .resize_with(shape.layers_held(keep), || Activations::new(ops));
        self.streams.truncate(shape.streams_held(keep));
        self.streams
            .resize_with(shape.streams_held(keep), || ops.zeros(0));
        for layer in &mut self.layers {
            for (buffer, width) in layer.rows_mut().into_iter().zip(shape.kept_rows()) {
                reserve_rows(ops, buffer, n * width);
            }
            for (buffer, width) in layer.numbers_mut().into_iter().zip(shape.kept_numbers()) {
                reserve(ops, buffer, n * width);
            }
        }
        for stream in &mut self.streams {
            reserve_rows(ops, stream, n * shape.d);
        }
        let pass = [&mut self.act, &mut self.hidden, &mut self.d_hidden];
        for (buffer, width) in pass.into_iter().zip(shape.pass_rows(keep)) {
            reserve_rows(ops, buffer, n * width);
        }
        reserve(ops, &mut self.hidden_scale, n);
        if keep.for_backward() {
            ops.clear(O::view_mut(&mut self.d_hidden, 0..n * shape.d));
        }
    }

    fn forward_layers(&mut self, keep: Keep, mut observer: Option<Observer>) {
        let (ops, n, d) = (&self.ops, self.n, self.shape.d);
        let places = self.places.as_ref().expect("a batch was taken");
        let values = O::values(&self.weights);
        let table = O::view(values, self.layout.embedding());
        ops.embed(O::view_mut(&mut self.streams[0], 0..n * d), table, places);
        for layer in 0..self.shape.layers {
            let streams = [layer, layer + 1].map(|at| at % self.streams.len());
            let [input, output] = (self.streams.get_disjoint_mut(streams)).expect("two streams");
            let on = OnLayer {
                ops,
                shape: self.shape,
                n,
                weights: &self.weights,
                ranges: self.layout.layer(layer),
                matrices: &self.matrices.layers[layer],
                places,
            };
            let kept = &mut self.layers[layer % self.shape.layers_held(keep)];
            on.forward(kept, output, &mut self.act, input);
            if let Some(observe) = observer.as_mut() {
                let Shape { f, heads, .. } = self.shape;
                for (site, buffer, width) in [
                    (Site::LayerInput, &*input, d),
                    (Site::InputNorm, &kept.normed, d),
                    (Site::Attended, &kept.attended, heads.queries()),
                    (Site::PostNorm, &kept.post, d),
                    (Site::Activated, &self.act, f),
                    (Site::LayerOutput, &*output, d),
                ] {
                    observe(layer, site, &ops.read(O::view(buffer, 0..n * width)));
                }
            }
        }
        let last = self.shape.layers % self.streams.len();
        ops.rms_norm(
            O::view_mut(&mut self.hidden, 0..n * d),
            O::view_mut(&mut self.hidden_scale, 0..n),
            O::view(&self.streams[last], 0..n * d),
            O::view(values, self.layout.norm()),
            self.shape.eps,
        );
    }

    fn head_chunk(
        &mut self,
        rows: &[usize],
        gradient: bool,
        loss: &mut dyn FnMut(&mut dyn Logits),
    ) {
        let (ops, n, d) = (&self.ops, rows.len(), self.shape.d);
        let outputs = self.matrices.head.outputs;
        let indices: Vec<u32> = rows.iter().map(|row| *row as u32).collect();
        let indices = ops.indices(&indices);
        let head = &mut self.head;
        let buffers = [&mut head.rows, &mut head.logits, &mut head.d_rows];
        let widths = self.shape.head_rows(outputs, gradient);
        for (buffer, width) in buffers.into_iter().zip(widths) {
            reserve_rows(ops, buffer, n * width);
        }
        let hidden = O::view(&self.hidden, 0..self.n * d);
        ops.gather(O::view_mut(&mut head.rows, 0..n * d), hidden, &indices);
        ops.linear(
            O::view_mut(&mut head.logits, 0..n * outputs),
            None,
            O::view(&head.rows, 0..n * d),
            &self.weights,
            &self.matrices.head,
        );
        loss(&mut OnDevice {
            ops,
            logits: &mut head.logits,
            len: n * outputs,
        });
        if !gradient {
            return;
        }
        ops.linear_dx(
            O::view_mut(&mut head.d_rows, 0..n * d),
            O::view(&head.logits, 0..n * outputs),
            &self.weights,
            &self.matrices.head,
        );
        ops.gather_backward(
            O::view_mut(&mut self.d_hidden, 0..self.n * d),
            O::view(&head.d_rows, 0..n * d),
            &indices,
        );
        ops.linear_dw(
            O::view_mut(&mut self.grads, self.matrices.head.range.clone()),
            O::view(&head.logits, 0..n * outputs),
            O::view(&head.rows, 0..n * d),
            d,
        );
    }

    fn backward_layers(&mut self, keep: Keep) {
        let (ops, n, d) = (&self.ops, self.n, self.shape.d);
        let back = &mut self.back;
        let widths = self.shape.gradient_rows();
        for (buffer, width) in back.rows_mut().into_iter().zip(widths) {
            reserve_rows(ops, buffer, n * width);
        }
        let places = self.places.as_ref().expect("a batch was taken");
        ops.clear(O::view_mut(&mut back.stream, 0..n * d));
        ops.rms_norm_backward(
            O::view_mut(&mut back.stream, 0..n * d),
            O::view_mut(&mut self.grads, self.layout.norm()),
            O::view(&self.d_hidden, 0..n * d),
            O::view(&self.streams[self.shape.layers], 0..n * d),
            O::view(O::values(&self.weights), self.layout.norm()),
            O::view(&self.hidden_scale, 0..n),
        );
        for layer in (0..self.shape.layers).rev() {
            let on = OnLayer {
                ops,
                shape: self.shape,
                n,
                weights: &self.weights,
                ranges: self.layout.layer(layer),
                matrices: &self.matrices.layers[layer],
                places,
            };
            let input = &self.streams[layer];
            let kept = &mut self.layers[layer % self.shape.layers_held(keep)];
            // Of the last layer everything is still there.
            if keep == Keep::Streams && layer + 1 < self.shape.layers {
                on.activate(kept, input);
            }
            on.backward(back, &mut self.grads, &mut self.act, kept, input);
        }
        ops.embed_backward(
            O::view_mut(&mut self.grads, self.layout.embedding()),
            O::view(&back.stream, 0..n * d),
            places,
        );
    }
}

impl<O: Ops> Engine for Stack<O> {
    fn layout(&self) -> &Layout {
        &self.layout
    }

    fn weights(&self) -> Cow<'_, [f32]> {
        self.ops
            .read(O::view(O::values(&self.weights), 0..self.layout.len()))
    }

    fn grads(&self) -> Cow<'_, [f32]> {
        let len = O::len(&self.grads);
        self.ops.read(O::view(&self.grads, 0..len))
    }

    fn write_grads(&mut self, values: &[f32]) {
        reserve(&self.ops, &mut self.grads, self.layout.len());
        let all = 0..self.layout.len();
        self.ops.write(O::view_mut(&mut self.grads, all), values);
    }

    fn clear_grads(&mut self) {
        let len = self.layout.len();
        reserve(&self.ops, &mut self.grads, len);
        self.ops.clear(O::view_mut(&mut self.grads, 0..len));
    }

    fn recompute(&mut self, recompute: bool) {
        self.recompute = recompute;
    }

    fn forward(
        &mut self,
        batch: &Batch,
        keep: bool,
        observer: Option<Observer>,
    ) -> Result<(), ModelError> {
        let keep = match (keep, self.recompute) {
            (false, _) => Keep::Hidden,
            (true, true) => Keep::Streams,
            (true, false) => Keep::Everything,
        };
        self.take_batch(batch, keep);
        entered(self, |stack| stack.forward_layers(keep, observer))
    }

    fn hidden(&self) -> Cow<'_, [f32]> {
        assert!(self.kept.is_some(), "nothing was run forward yet");
        let len = self.n * self.shape.d;
        self.ops.read(O::view(&self.hidden, 0..len))
    }

    fn head(
        &mut self,
        rows: &[usize],
        whole: bool,
        gradient: bool,
        loss: HeadFn,
    ) -> Result<(), ModelError> {
        let kept = self.kept.expect("nothing was run forward yet");
        assert!(
            !gradient || kept.for_backward(),
            "gradients need a forward pass that keeps"
        );
        let len = self.layout.len();
        assert!(
            !gradient || O::len(&self.grads) == len,
            "gradients were never cleared"
        );
        let chunk = if whole {
            rows.len().max(1)
        } else {
            O::HEAD_ROWS
        };
        entered(self, |stack| {
            for (index, rows) in rows.chunks(chunk).enumerate() {
                let first = index * chunk;
                let range = first..first + rows.len();
                stack.head_chunk(rows, gradient, &mut |logits| loss(range.clone(), logits));
            }
        })
    }

    fn backward(&mut self) -> Result<(), ModelError> {
        let kept = (self.kept.filter(|kept| kept.for_backward()))
            .expect("backward needs a forward pass that keeps");
        let len = self.layout.len();
        assert_eq!(O::len(&self.grads), len, "gradients were never cleared");
        // Activations are replaced by gradients on the way: a second pass would read nonsense.
        self.kept = Some(Keep::Hidden);
        entered(self, |stack| stack.backward_layers(kept))
    }

    fn start(&mut self, optimizer: AdamW) {
        assert_eq!(
            optimizer.first.len(),
            self.layout.len(),
            "moments of another model"
        );
        self.optimizer = Some(Optimizer {
            options: optimizer.options,
            step: optimizer.step,
            first: self.ops.upload(optimizer.first),
            second: self.ops.upload(optimizer.second),
            decayed: optimizer.options.decayed(&self.layout),
        });
    }

    fn update(&mut self, rate: Rate) -> Result<f64, ModelError> {
        let (ops, len) = (&self.ops, self.layout.len());
        let optimizer = self.optimizer.as_mut().expect("an optimiser was started");
        let norm = ops.sum_of_squares(O::view(&self.grads, 0..len)).sqrt();
        // Everything up to the norm is done; the update goes on beside what comes next.
        ops.sync()?;
        if norm.is_finite() {
            optimizer.step += 1;
            ops.adamw(
                &mut self.weights,
                &mut optimizer.first,
                &mut optimizer.second,
                &self.grads,
                optimizer.options.at(optimizer.step, rate, norm),
                &optimizer.decayed,
            );
        }
        Ok(norm)
    }

    fn moments(&self) -> Option<(AdamWOptions, Moments<'_>)> {
        let all = |buffer| self.ops.read(O::view(buffer, 0..O::len(buffer)));
        self.optimizer.as_ref().map(|optimizer| {
            let moments = Moments {
                step: optimizer.step,
                first: all(&optimizer.first),
                second: all(&optimizer.second),
            };
            (optimizer.options, moments)
        })
    }

    fn sync(&self) -> Result<(), ModelError> {
        self.ops.sync()
    }
}

/// Runs work over a stack from where its backend starts operations fastest, and waits for it.
fn entered<O: Ops>(
    stack: &mut Stack<O>,
    work: impl FnOnce(&mut Stack<O>) + Send,
) -> Result<(), ModelError> {
    let ops = stack.ops.clone();
    ops.enter(|| work(stack));
    ops.sync()
}

/// Makes sure that a buffer has room; what was in it is lost when it has not.
fn reserve<O: Ops>(ops: &O, buffer: &mut O::Buffer, len: usize) {
    if O::len(buffer) < len {
        *buffer = ops.zeros(len);
    }
}

/// The same for what travels between operations.
fn reserve_rows<O: Ops>(ops: &O, buffer: &mut O::Buffer, len: usize) {
    if O::len(buffer) < len {
        *buffer = ops.activations(len);
    }
}
