//! The Llama stack on a CPU: forward, head, backward over flat arenas.
//!
//! A layer is three groups of work: rows up to q, k, v; attention by sequence; rows from there to the next layer. Rows
//! are cut into chunks that stay in the cache from one operation to the next. All buffers live from step to step.
//! It knows no losses: the head calls the caller with logits and takes back their gradient.

use std::ops::Range;
use std::sync::Arc;

use rayon::ThreadPool;
use rayon::prelude::*;

use super::attention::{self, Shape};
use super::chunks::{ROWS, WeightGradient, add_parts, by_sequence, weight_gradients};
use super::matrix::{linear, linear_dx};
use super::scratch::with_scratch;
use super::{norm, rotate, row, swiglu};
use crate::model::batch::Batch;
use crate::model::config::Config;
use crate::model::core::{Observer, Site};
use crate::model::layout::{LayerRanges, Layout};
use crate::model::rope::RopeTable;

/// What a forward pass leaves behind of one layer. `N` rows each.
#[derive(Default)]
struct Activations {
    /// `[N, d]` after `input_layernorm`
    normed: Vec<f32>,
    normed_scale: Vec<f32>,
    /// `[N, (H + 2G) hd]` after RoPE
    qkv: Vec<f32>,
    /// `[N, H hd]` and `[N, H]`
    attended: Vec<f32>,
    lse: Vec<f32>,
    /// `[N, d]` residual stream between the branches
    middle: Vec<f32>,
    /// `[N, d]` after `post_attention_layernorm`
    post: Vec<f32>,
    post_scale: Vec<f32>,
    /// `[N, 2f]`; backward replaces it by its gradient
    gate_up: Vec<f32>,
}

/// Buffers of a step that no layer owns.
#[derive(Default)]
struct Buffers {
    /// `[N, f]`
    act: Vec<f32>,
    /// `[N, d]`: gradient of the residual stream, at a layer's output and between its branches
    d_stream: Vec<f32>,
    d_middle: Vec<f32>,
    /// `[N, H hd]`, `[N, (H + 2G) hd]`
    d_attended: Vec<f32>,
    d_qkv: Vec<f32>,
    /// `[chunks, d]`: gradients of a norm weight, by chunk
    parts: Vec<f32>,
    /// Head: `[n, d]`, `[n, V]`, `[n, d]`
    rows: Vec<f32>,
    logits: Vec<f32>,
    d_rows: Vec<f32>,
}

/// What the last forward pass allows.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Empty,
    /// Hidden states alone.
    Hidden,
    /// Everything that backward reads.
    Kept,
}

pub struct Stack {
    config: Config,
    layout: Layout,
    shape: Shape,
    pool: Arc<ThreadPool>,
    rope: RopeTable,
    state: State,
    /// The batch of the last forward pass.
    batch: Batch,
    positions: Vec<u32>,
    layers: Vec<Activations>,
    /// `[N, d]`: residual stream before each layer, and after the last.
    streams: Vec<Vec<f32>>,
    /// `[N, d]` after the final norm, and its gradient.
    hidden: Vec<f32>,
    hidden_scale: Vec<f32>,
    d_hidden: Vec<f32>,
    buffers: Buffers,
}

/// Turns the logits `[n, outputs]` of a range of the rows of a call into their gradient.
pub type LossFn<'a> = &'a mut (dyn FnMut(Range<usize>, &mut [f32]) + Send);

impl Stack {
    pub fn new(config: &Config, pool: Arc<ThreadPool>) -> Self {
        Self {
            config: config.clone(),
            layout: Layout::new(config),
            shape: Shape {
                heads: config.num_attention_heads,
                groups: config.num_key_value_heads,
                head_dim: config.head_dim,
            },
            pool,
            rope: RopeTable::new(config),
            state: State::Empty,
            batch: Batch::new(),
            positions: Vec::new(),
            layers: Vec::new(),
            streams: Vec::new(),
            hidden: Vec::new(),
            hidden_scale: Vec::new(),
            d_hidden: Vec::new(),
            buffers: Buffers::default(),
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
        pool.install(|| self.forward_layers(weights, keep, observer));
    }

    fn take_batch(&mut self, batch: &Batch, keep: bool) {
        self.batch.clone_from(batch);
        self.positions.clear();
        for rows in self.batch.sequences() {
            self.positions.extend(0..rows.len() as u32);
        }
        self.rope.extend_to(batch.longest());
        let (n, d, layers) = (
            batch.len(),
            self.config.hidden_size,
            self.config.num_hidden_layers,
        );
        self.state = if keep { State::Kept } else { State::Hidden };
        self.layers
            .resize_with(if keep { layers } else { 1 }, Activations::default);
        self.streams
            .resize_with(if keep { layers + 1 } else { 2 }, Vec::new);
        for layer in &mut self.layers {
            layer.resize(n, &self.config, self.shape);
        }
        for stream in &mut self.streams {
            stream.resize(n * d, 0.0);
        }
        self.hidden.resize(n * d, 0.0);
        self.hidden_scale.resize(n, 0.0);
        self.buffers
            .act
            .resize(n * self.config.intermediate_size, 0.0);
        if keep {
            self.d_hidden.clear();
            self.d_hidden.resize(n * d, 0.0);
        }
    }

    fn forward_layers(&mut self, weights: &[f32], keep: bool, mut observer: Option<Observer>) {
        let d = self.config.hidden_size;
        let embedding = &weights[self.layout.embedding()];
        for (row, token) in self.streams[0].chunks_exact_mut(d).zip(&self.batch.tokens) {
            row.copy_from_slice(&embedding[*token as usize * d..][..d]);
        }
        for layer in 0..self.config.num_hidden_layers {
            let (at, from) = if keep { (layer, layer) } else { (0, layer % 2) };
            let to = if keep { layer + 1 } else { (layer + 1) % 2 };
            let mut output = std::mem::take(&mut self.streams[to]);
            let input = &self.streams[from];
            let ranges = self.layout.layer(layer);
            let kept = &mut self.layers[at];
            before_attention(
                kept,
                input,
                weights,
                ranges,
                &self.config,
                &self.rope,
                &self.positions,
            );
            attend(kept, &self.batch.ends, self.shape);
            let act = &mut self.buffers.act;
            after_attention(&mut output, act, kept, input, weights, ranges, &self.config);
            if let Some(observe) = observer.as_mut() {
                observe(layer, Site::LayerInput, input);
                observe(layer, Site::InputNorm, &kept.normed);
                observe(layer, Site::Attended, &kept.attended);
                observe(layer, Site::PostNorm, &kept.post);
                observe(layer, Site::Activated, act);
                observe(layer, Site::LayerOutput, &output);
            }
            self.streams[to] = output;
        }
        self.final_norm(weights, keep);
    }

    fn last_stream(&self) -> usize {
        match self.state {
            State::Kept => self.config.num_hidden_layers,
            _ => self.config.num_hidden_layers % 2,
        }
    }

    fn final_norm(&mut self, weights: &[f32], _keep: bool) {
        let (d, eps) = (self.config.hidden_size, self.config.rms_norm_eps as f32);
        let w = &weights[self.layout.norm()];
        let stream = &self.streams[self.last_stream()];
        (self.hidden.par_chunks_mut(ROWS * d))
            .zip(self.hidden_scale.par_chunks_mut(ROWS))
            .zip(stream.par_chunks(ROWS * d))
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
                self.head_chunk(weights, grads.as_deref_mut(), rows, index * chunk, loss);
            }
        });
    }

    fn head_chunk(
        &mut self,
        weights: &[f32],
        grads: Option<&mut [f32]>,
        rows: &[usize],
        first: usize,
        loss: LossFn,
    ) {
        let d = self.config.hidden_size;
        let range = self.layout.head();
        let w = &weights[range.clone()];
        let outputs = w.len() / d;
        let buffers = &mut self.buffers;
        buffers.rows.clear();
        for row in rows {
            buffers.rows.extend_from_slice(&self.hidden[row * d..][..d]);
        }
        buffers.logits.resize(rows.len() * outputs, 0.0);
        (buffers.logits.par_chunks_mut(HEAD_ROWS * outputs))
            .zip(buffers.rows.par_chunks(HEAD_ROWS * d))
            .for_each(|(logits, h)| linear(logits, h, w, d, outputs));
        loss(first..first + rows.len(), &mut buffers.logits);
        let Some(grads) = grads else { return };
        buffers.d_rows.resize(rows.len() * d, 0.0);
        (buffers.d_rows.par_chunks_mut(HEAD_ROWS * d))
            .zip(buffers.logits.par_chunks(HEAD_ROWS * outputs))
            .for_each(|(d_h, d_logits)| linear_dx(d_h, d_logits, w, d, outputs));
        for (row, d_row) in rows.iter().zip(buffers.d_rows.chunks_exact(d)) {
            row::add(&mut self.d_hidden[row * d..][..d], d_row);
        }
        weight_gradients([WeightGradient {
            dw: &mut grads[range],
            dy: &buffers.logits,
            x: &buffers.rows,
            inputs: d,
            outputs,
        }]);
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
        pool.install(|| self.backward_layers(weights, grads));
    }

    fn backward_layers(&mut self, weights: &[f32], grads: &mut [f32]) {
        let n = self.batch.len();
        self.buffers
            .resize_for_backward(n, &self.config, self.shape);
        self.final_norm_backward(weights, grads);
        for layer in (0..self.config.num_hidden_layers).rev() {
            let ranges = self.layout.layer(layer).clone();
            let kept = &mut self.layers[layer];
            let buffers = &mut self.buffers;
            feed_forward_backward(kept, buffers, weights, grads, &ranges, &self.config);
            attention_backward(kept, buffers, weights, grads, &ranges, &self.config);
            attend_backward(kept, buffers, &self.batch.ends, self.shape);
            let input = &self.streams[layer];
            rotate_back(buffers, &self.rope, &self.positions, &self.config);
            input_backward(kept, buffers, input, weights, grads, &ranges, &self.config);
        }
        let d = self.config.hidden_size;
        let d_embedding = &mut grads[self.layout.embedding()];
        let rows = self.buffers.d_stream.chunks_exact(d);
        for (d_row, token) in rows.zip(&self.batch.tokens) {
            row::add(&mut d_embedding[*token as usize * d..][..d], d_row);
        }
    }

    fn final_norm_backward(&mut self, weights: &[f32], grads: &mut [f32]) {
        let range = self.layout.norm();
        let stream = &self.streams[self.config.num_hidden_layers];
        self.buffers.d_stream.fill(0.0);
        norm_backward(
            &mut self.buffers.d_stream,
            &mut self.buffers.parts,
            &mut grads[range.clone()],
            &self.d_hidden,
            stream,
            &weights[range],
            &self.hidden_scale,
        );
    }
}

/// Rows of a head chunk that one task multiplies.
const HEAD_ROWS: usize = 128;

impl Activations {
    fn resize(&mut self, n: usize, config: &Config, shape: Shape) {
        let (d, f) = (config.hidden_size, config.intermediate_size);
        for (buffer, len) in [
            (&mut self.normed, n * d),
            (&mut self.normed_scale, n),
            (&mut self.qkv, n * shape.width()),
            (&mut self.attended, n * config.query_width()),
            (&mut self.lse, n * shape.heads),
            (&mut self.middle, n * d),
            (&mut self.post, n * d),
            (&mut self.post_scale, n),
            (&mut self.gate_up, n * 2 * f),
        ] {
            buffer.resize(len, 0.0);
        }
    }
}

impl Buffers {
    fn resize_for_backward(&mut self, n: usize, config: &Config, shape: Shape) {
        let d = config.hidden_size;
        for (buffer, len) in [
            (&mut self.d_stream, n * d),
            (&mut self.d_middle, n * d),
            (&mut self.d_attended, n * config.query_width()),
            (&mut self.d_qkv, n * shape.width()),
            (&mut self.parts, n.div_ceil(ROWS) * d),
        ] {
            buffer.resize(len, 0.0);
        }
    }
}

/// `input_layernorm`, q, k, v, RoPE.
fn before_attention(
    kept: &mut Activations,
    input: &[f32],
    weights: &[f32],
    ranges: &LayerRanges,
    config: &Config,
    rope: &RopeTable,
    positions: &[u32],
) {
    let (d, eps) = (config.hidden_size, config.rms_norm_eps as f32);
    let turned = config.query_width() + config.key_width();
    let width = turned + config.key_width();
    let (w_norm, w) = (
        &weights[ranges.input_norm.clone()],
        &weights[ranges.qkv.clone()],
    );
    (
        kept.normed.par_chunks_mut(ROWS * d),
        kept.normed_scale.par_chunks_mut(ROWS),
        kept.qkv.par_chunks_mut(ROWS * width),
        input.par_chunks(ROWS * d),
        positions.par_chunks(ROWS),
    )
        .into_par_iter()
        .for_each(|(normed, scale, qkv, input, positions)| {
            norm::forward(normed, scale, input, w_norm, eps);
            linear(qkv, normed, w, d, width);
            for (row, position) in qkv.chunks_exact_mut(width).zip(positions) {
                let (cos, sin) = rope.at(*position as usize);
                rotate::forward(&mut row[..turned], cos, sin);
            }
        });
}

fn attend(kept: &mut Activations, ends: &[usize], shape: Shape) {
    let out = by_sequence(&mut kept.attended, ends, shape.heads * shape.head_dim);
    let lse = by_sequence(&mut kept.lse, ends, shape.heads);
    let qkv = &kept.qkv;
    (out, lse, ends)
        .into_par_iter()
        .enumerate()
        .for_each(|(at, (out, lse, end))| {
            let start = if at == 0 { 0 } else { ends[at - 1] };
            let rows = start * shape.width()..end * shape.width();
            attention::forward(out, lse, &qkv[rows], shape);
        });
}

/// `o_proj`, residual, `post_attention_layernorm`, SwiGLU, `down_proj`, residual.
fn after_attention(
    output: &mut [f32],
    act: &mut [f32],
    kept: &mut Activations,
    input: &[f32],
    weights: &[f32],
    ranges: &LayerRanges,
    config: &Config,
) {
    let (d, f, eps) = (
        config.hidden_size,
        config.intermediate_size,
        config.rms_norm_eps as f32,
    );
    let queries = config.query_width();
    let w = |range: &Range<usize>| &weights[range.clone()];
    (
        output.par_chunks_mut(ROWS * d),
        act.par_chunks_mut(ROWS * f),
        kept.middle.par_chunks_mut(ROWS * d),
        kept.post.par_chunks_mut(ROWS * d),
        kept.post_scale.par_chunks_mut(ROWS),
        kept.gate_up.par_chunks_mut(ROWS * 2 * f),
        kept.attended.par_chunks(ROWS * queries),
        input.par_chunks(ROWS * d),
    )
        .into_par_iter()
        .for_each(
            |(output, act, middle, post, scale, gate_up, attended, input)| {
                linear(middle, attended, w(&ranges.o), queries, d);
                row::add(middle, input);
                norm::forward(post, scale, middle, w(&ranges.post_norm), eps);
                linear(gate_up, post, w(&ranges.gate_up), d, 2 * f);
                swiglu::forward(act, gate_up, f);
                linear(output, act, w(&ranges.down), f, d);
                row::add(output, middle);
            },
        );
}

/// From `d_stream` at the layer's output to `d_middle`, and the gradients of the feed-forward branch.
fn feed_forward_backward(
    kept: &mut Activations,
    buffers: &mut Buffers,
    weights: &[f32],
    grads: &mut [f32],
    ranges: &LayerRanges,
    config: &Config,
) {
    let (d, f) = (config.hidden_size, config.intermediate_size);
    let w = |range: &Range<usize>| &weights[range.clone()];
    let w_norm = w(&ranges.post_norm);
    buffers.parts.fill(0.0);
    (
        buffers.d_middle.par_chunks_mut(ROWS * d),
        buffers.parts.par_chunks_mut(d),
        buffers.act.par_chunks_mut(ROWS * f),
        kept.gate_up.par_chunks_mut(ROWS * 2 * f),
        buffers.d_stream.par_chunks(ROWS * d),
        kept.middle.par_chunks(ROWS * d),
        kept.post_scale.par_chunks(ROWS),
    )
        .into_par_iter()
        .for_each(|(d_middle, part, act, gate_up, d_out, middle, scale)| {
            with_scratch(act.len() + d_out.len(), |scratch| {
                let (d_act, d_post) = scratch.split_at_mut(act.len());
                linear_dx(d_act, d_out, w(&ranges.down), f, d);
                swiglu::backward(gate_up, act, d_act, f);
                linear_dx(d_post, gate_up, w(&ranges.gate_up), d, 2 * f);
                d_middle.copy_from_slice(d_out);
                norm::backward(d_middle, part, d_post, middle, w_norm, scale);
            });
        });
    add_parts(&mut grads[ranges.post_norm.clone()], &buffers.parts);
    let [d_gate_up, d_down] = grads
        .get_disjoint_mut([ranges.gate_up.clone(), ranges.down.clone()])
        .expect("tensors do not overlap");
    weight_gradients([
        WeightGradient {
            dw: d_gate_up,
            dy: &kept.gate_up,
            x: &kept.post,
            inputs: d,
            outputs: 2 * f,
        },
        WeightGradient {
            dw: d_down,
            dy: &buffers.d_stream,
            x: &buffers.act,
            inputs: f,
            outputs: d,
        },
    ]);
}

/// From `d_middle` to `d_attended`, and the gradient of `o_proj`.
fn attention_backward(
    kept: &Activations,
    buffers: &mut Buffers,
    weights: &[f32],
    grads: &mut [f32],
    ranges: &LayerRanges,
    config: &Config,
) {
    let (d, queries) = (config.hidden_size, config.query_width());
    let w = &weights[ranges.o.clone()];
    (buffers.d_attended.par_chunks_mut(ROWS * queries))
        .zip(buffers.d_middle.par_chunks(ROWS * d))
        .for_each(|(d_attended, d_middle)| linear_dx(d_attended, d_middle, w, queries, d));
    weight_gradients([WeightGradient {
        dw: &mut grads[ranges.o.clone()],
        dy: &buffers.d_middle,
        x: &kept.attended,
        inputs: queries,
        outputs: d,
    }]);
}

fn attend_backward(kept: &Activations, buffers: &mut Buffers, ends: &[usize], shape: Shape) {
    let d_qkv = by_sequence(&mut buffers.d_qkv, ends, shape.width());
    let d_attended = &buffers.d_attended;
    (d_qkv, ends)
        .into_par_iter()
        .enumerate()
        .for_each(|(at, (d_qkv, end))| {
            let rows = if at == 0 { 0 } else { ends[at - 1] }..*end;
            let of = |width: usize| rows.start * width..rows.end * width;
            let queries = of(shape.heads * shape.head_dim);
            attention::backward(
                d_qkv,
                &d_attended[queries.clone()],
                &kept.attended[queries],
                &kept.lse[of(shape.heads)],
                &kept.qkv[of(shape.width())],
                shape,
            );
        });
}

fn rotate_back(buffers: &mut Buffers, rope: &RopeTable, positions: &[u32], config: &Config) {
    let turned = config.query_width() + config.key_width();
    let width = turned + config.key_width();
    (buffers.d_qkv.par_chunks_mut(ROWS * width))
        .zip(positions.par_chunks(ROWS))
        .for_each(|(d_qkv, positions)| {
            for (row, position) in d_qkv.chunks_exact_mut(width).zip(positions) {
                let (cos, sin) = rope.at(*position as usize);
                rotate::backward(&mut row[..turned], cos, sin);
            }
        });
}

/// From `d_qkv` and `d_middle` to `d_stream` at the layer's input, and the gradients of q, k, v.
fn input_backward(
    kept: &Activations,
    buffers: &mut Buffers,
    input: &[f32],
    weights: &[f32],
    grads: &mut [f32],
    ranges: &LayerRanges,
    config: &Config,
) {
    let d = config.hidden_size;
    let width = config.query_width() + 2 * config.key_width();
    let (w_norm, w) = (
        &weights[ranges.input_norm.clone()],
        &weights[ranges.qkv.clone()],
    );
    buffers.parts.fill(0.0);
    (
        buffers.d_stream.par_chunks_mut(ROWS * d),
        buffers.parts.par_chunks_mut(d),
        buffers.d_qkv.par_chunks(ROWS * width),
        buffers.d_middle.par_chunks(ROWS * d),
        input.par_chunks(ROWS * d),
        kept.normed_scale.par_chunks(ROWS),
    )
        .into_par_iter()
        .for_each(|(d_stream, part, d_qkv, d_middle, input, scale)| {
            with_scratch(d_stream.len(), |d_normed| {
                linear_dx(d_normed, d_qkv, w, d, width);
                d_stream.copy_from_slice(d_middle);
                norm::backward(d_stream, part, d_normed, input, w_norm, scale);
            });
        });
    add_parts(&mut grads[ranges.input_norm.clone()], &buffers.parts);
    weight_gradients([WeightGradient {
        dw: &mut grads[ranges.qkv.clone()],
        dy: &buffers.d_qkv,
        x: &kept.normed,
        inputs: d,
        outputs: width,
    }]);
}

fn norm_backward(
    dx: &mut [f32],
    parts: &mut [f32],
    dw: &mut [f32],
    dy: &[f32],
    x: &[f32],
    w: &[f32],
    scales: &[f32],
) {
    let d = w.len();
    parts.fill(0.0);
    (
        dx.par_chunks_mut(ROWS * d),
        parts.par_chunks_mut(d),
        dy.par_chunks(ROWS * d),
        x.par_chunks(ROWS * d),
        scales.par_chunks(ROWS),
    )
        .into_par_iter()
        .for_each(|(dx, part, dy, x, scales)| norm::backward(dx, part, dy, x, w, scales));
    add_parts(dw, parts);
}
