//! One layer, forwards and backwards.

use std::ops::Range;

use super::shape::{LayerMatrices, Shape};
use crate::model::layout::LayerRanges;
use crate::model::ops::{Matrix, Ops};

/// What a forward pass leaves behind of one layer. `N` rows each.
pub struct Activations<O: Ops> {
    /// `[N, d]` after `input_layernorm`
    pub normed: O::Buffer,
    pub normed_scale: O::Buffer,
    /// `[N, (H + 2G) hd]` after RoPE
    pub qkv: O::Buffer,
    /// `[N, H hd]` and `[N, H]`
    pub attended: O::Buffer,
    pub lse: O::Buffer,
    /// `[N, d]` residual stream between the branches
    pub middle: O::Buffer,
    /// `[N, d]` after `post_attention_layernorm`
    pub post: O::Buffer,
    pub post_scale: O::Buffer,
    /// `[N, 2f]`; backward replaces it by its gradient
    pub gate_up: O::Buffer,
}

/// Gradients on their way back through the layers.
pub struct Gradients<O: Ops> {
    /// `[N, d]`: of the residual stream
    pub stream: O::Buffer,
    /// `[N, d]`: of the input of a branch
    pub branch: O::Buffer,
    /// `[N, f]`
    pub act: O::Buffer,
    /// `[N, H hd]`
    pub attended: O::Buffer,
    /// `[N, (H + 2G) hd]`
    pub qkv: O::Buffer,
}

impl<O: Ops> Activations<O> {
    pub fn new(ops: &O) -> Self {
        let none = || ops.zeros(0);
        Self {
            normed: none(),
            normed_scale: none(),
            qkv: none(),
            attended: none(),
            lse: none(),
            middle: none(),
            post: none(),
            post_scale: none(),
            gate_up: none(),
        }
    }

    /// In the order of [`Shape::kept_rows`].
    pub fn rows_mut(&mut self) -> [&mut O::Buffer; 6] {
        [
            &mut self.normed,
            &mut self.qkv,
            &mut self.attended,
            &mut self.middle,
            &mut self.post,
            &mut self.gate_up,
        ]
    }

    /// In the order of [`Shape::kept_numbers`].
    pub fn numbers_mut(&mut self) -> [&mut O::Buffer; 3] {
        [&mut self.normed_scale, &mut self.post_scale, &mut self.lse]
    }
}

impl<O: Ops> Gradients<O> {
    pub fn new(ops: &O) -> Self {
        let none = || ops.zeros(0);
        Self {
            stream: none(),
            branch: none(),
            act: none(),
            attended: none(),
            qkv: none(),
        }
    }

    /// In the order of [`Shape::gradient_rows`].
    pub fn rows_mut(&mut self) -> [&mut O::Buffer; 5] {
        [
            &mut self.stream,
            &mut self.branch,
            &mut self.act,
            &mut self.attended,
            &mut self.qkv,
        ]
    }
}

/// One layer of a pass over `n` rows.
pub struct OnLayer<'a, O: Ops> {
    pub ops: &'a O,
    pub shape: Shape,
    pub n: usize,
    pub weights: &'a O::Weights,
    pub ranges: &'a LayerRanges,
    pub matrices: &'a LayerMatrices,
    pub places: &'a O::Places,
}

impl<O: Ops> OnLayer<'_, O> {
    fn all<'b>(&self, buffer: &'b O::Buffer, width: usize) -> O::View<'b> {
        O::view(buffer, 0..self.n * width)
    }

    fn all_mut<'b>(&self, buffer: &'b mut O::Buffer, width: usize) -> O::ViewMut<'b> {
        O::view_mut(buffer, 0..self.n * width)
    }

    fn vector(&self, range: &Range<usize>) -> O::View<'_> {
        O::view(O::values(self.weights), range.clone())
    }

    fn add_dw(&self, grads: &mut O::Buffer, matrix: &Matrix, dy: O::View<'_>, x: O::View<'_>) {
        let dw = O::view_mut(grads, matrix.range.clone());
        self.ops.linear_dw(dw, dy, x, matrix.inputs);
    }

    /// From the input of the layer to its output.
    pub fn forward(
        &self,
        kept: &mut Activations<O>,
        output: &mut O::Buffer,
        act: &mut O::Buffer,
        input: &O::Buffer,
    ) {
        self.activate(kept, input);
        self.narrow(kept, output, act);
    }

    /// From what attention gave to the output of the layer.
    pub fn finish(
        &self,
        kept: &mut Activations<O>,
        output: &mut O::Buffer,
        act: &mut O::Buffer,
        input: &O::Buffer,
    ) {
        self.widen(kept, input);
        self.narrow(kept, output, act);
    }

    /// From the middle of the feed-forward branch to the output of the layer.
    fn narrow(&self, kept: &Activations<O>, output: &mut O::Buffer, act: &mut O::Buffer) {
        let (ops, Shape { d, f, .. }) = (self.ops, self.shape);
        ops.swiglu(self.all_mut(act, f), self.all(&kept.gate_up, 2 * f), f);
        ops.linear(
            self.all_mut(output, d),
            Some(self.all(&kept.middle, d)),
            self.all(act, f),
            self.weights,
            &self.matrices.down,
        );
    }

    /// Everything that backward reads of the layer, from its input: what forward leaves, and the same bits.
    pub fn activate(&self, kept: &mut Activations<O>, input: &O::Buffer) {
        let (ops, heads) = (self.ops, self.shape.heads);
        self.project(kept, input);
        ops.rope(
            self.all_mut(&mut kept.qkv, heads.width()),
            heads,
            self.places,
        );
        ops.attention(
            self.all_mut(&mut kept.attended, heads.queries()),
            self.all_mut(&mut kept.lse, heads.heads),
            self.all(&kept.qkv, heads.width()),
            heads,
            self.places,
        );
        self.widen(kept, input);
    }

    /// From the input of the layer to its queries, keys and values, before RoPE.
    pub fn project(&self, kept: &mut Activations<O>, input: &O::Buffer) {
        let (ops, heads) = (self.ops, self.shape.heads);
        let Shape { d, eps, .. } = self.shape;
        ops.rms_norm(
            self.all_mut(&mut kept.normed, d),
            self.all_mut(&mut kept.normed_scale, 1),
            self.all(input, d),
            self.vector(&self.ranges.input_norm),
            eps,
        );
        ops.linear(
            self.all_mut(&mut kept.qkv, heads.width()),
            None,
            self.all(&kept.normed, d),
            self.weights,
            &self.matrices.qkv,
        );
    }

    /// From what attention gave to the middle of the feed-forward branch.
    fn widen(&self, kept: &mut Activations<O>, input: &O::Buffer) {
        let (ops, weights, of) = (self.ops, self.weights, self.matrices);
        let Shape {
            d, f, eps, heads, ..
        } = self.shape;
        let attended = self.all(&kept.attended, heads.queries());
        ops.linear(
            self.all_mut(&mut kept.middle, d),
            Some(self.all(input, d)),
            attended,
            weights,
            &of.o,
        );
        ops.rms_norm(
            self.all_mut(&mut kept.post, d),
            self.all_mut(&mut kept.post_scale, 1),
            self.all(&kept.middle, d),
            self.vector(&self.ranges.post_norm),
            eps,
        );
        let gate_up = self.all_mut(&mut kept.gate_up, 2 * f);
        ops.linear(gate_up, None, self.all(&kept.post, d), weights, &of.gate_up);
    }

    /// From the gradient of the layer's output to that of its input, both in `back.stream`.
    pub fn backward(
        &self,
        back: &mut Gradients<O>,
        grads: &mut O::Buffer,
        act: &mut O::Buffer,
        kept: &mut Activations<O>,
        input: &O::Buffer,
    ) {
        let (ops, weights, of, ranges) = (self.ops, self.weights, self.matrices, self.ranges);
        let Shape { d, f, heads, .. } = self.shape;
        // Feed-forward branch.
        ops.linear_dx(
            self.all_mut(&mut back.act, f),
            self.all(&back.stream, d),
            weights,
            &of.down,
        );
        ops.swiglu_backward(
            self.all_mut(&mut kept.gate_up, 2 * f),
            self.all_mut(act, f),
            self.all(&back.act, f),
            f,
        );
        self.add_dw(grads, &of.down, self.all(&back.stream, d), self.all(act, f));
        ops.linear_dx(
            self.all_mut(&mut back.branch, d),
            self.all(&kept.gate_up, 2 * f),
            weights,
            &of.gate_up,
        );
        self.add_dw(
            grads,
            &of.gate_up,
            self.all(&kept.gate_up, 2 * f),
            self.all(&kept.post, d),
        );
        ops.rms_norm_backward(
            self.all_mut(&mut back.stream, d),
            O::view_mut(grads, ranges.post_norm.clone()),
            self.all(&back.branch, d),
            self.all(&kept.middle, d),
            self.vector(&ranges.post_norm),
            self.all(&kept.post_scale, 1),
        );
        // Attention branch.
        let queries = heads.queries();
        ops.linear_dx(
            self.all_mut(&mut back.attended, queries),
            self.all(&back.stream, d),
            weights,
            &of.o,
        );
        self.add_dw(
            grads,
            &of.o,
            self.all(&back.stream, d),
            self.all(&kept.attended, queries),
        );
        ops.attention_backward(
            self.all_mut(&mut back.qkv, heads.width()),
            self.all(&back.attended, queries),
            self.all(&kept.attended, queries),
            self.all(&kept.lse, heads.heads),
            self.all(&kept.qkv, heads.width()),
            heads,
            self.places,
        );
        ops.rope_backward(
            self.all_mut(&mut back.qkv, heads.width()),
            heads,
            self.places,
        );
        ops.linear_dx(
            self.all_mut(&mut back.branch, d),
            self.all(&back.qkv, heads.width()),
            weights,
            &of.qkv,
        );
        self.add_dw(
            grads,
            &of.qkv,
            self.all(&back.qkv, heads.width()),
            self.all(&kept.normed, d),
        );
        ops.rms_norm_backward(
            self.all_mut(&mut back.stream, d),
            O::view_mut(grads, ranges.input_norm.clone()),
            self.all(&back.branch, d),
            self.all(input, d),
            self.vector(&ranges.input_norm),
            self.all(&kept.normed_scale, 1),
        );
    }
}
