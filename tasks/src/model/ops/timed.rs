//! A backend that takes the time of every operation of another.
//!
//! For backends whose operations are done when their calls return.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::{AdamWStep, Heads, Matrix, Ops};
use crate::model::batch::{Batch, Row};
use crate::model::error::ModelError;
use crate::model::loss::{Distillation, Sums};
use crate::model::rope::RopeTable;
use crate::model::sampler::{Choice, Sampling};

/// Time by the name of an operation.
pub type Times = Arc<Mutex<BTreeMap<&'static str, Duration>>>;

/// Runs `ops` and adds to `times`.
#[derive(Clone)]
pub struct Timed<O> {
    pub ops: O,
    pub times: Times,
}

impl<O> Timed<O> {
    fn timed<R>(&self, name: &'static str, work: impl FnOnce(&O) -> R) -> R {
        let start = Instant::now();
        let result = work(&self.ops);
        if let Ok(mut times) = self.times.lock() {
            *times.entry(name).or_default() += start.elapsed();
        }
        result
    }
}

impl<O: Ops> Ops for Timed<O> {
    type Buffer = O::Buffer;
    type View<'a> = O::View<'a>;
    type ViewMut<'a> = O::ViewMut<'a>;
    type Weights = O::Weights;
    type Places = O::Places;
    type Indices = O::Indices;

    const HEAD_ROWS: usize = O::HEAD_ROWS;

    fn zeros(&self, len: usize) -> Self::Buffer {
        self.ops.zeros(len)
    }

    fn activations(&self, len: usize) -> Self::Buffer {
        self.ops.activations(len)
    }

    fn upload(&self, values: Vec<f32>) -> Self::Buffer {
        self.ops.upload(values)
    }

    fn len(buffer: &Self::Buffer) -> usize {
        O::len(buffer)
    }

    fn view(buffer: &Self::Buffer, range: Range<usize>) -> Self::View<'_> {
        O::view(buffer, range)
    }

    fn view_mut(buffer: &mut Self::Buffer, range: Range<usize>) -> Self::ViewMut<'_> {
        O::view_mut(buffer, range)
    }

    fn read<'a>(&self, view: Self::View<'a>) -> Cow<'a, [f32]> {
        self.ops.read(view)
    }

    fn write(&self, view: Self::ViewMut<'_>, values: &[f32]) {
        self.ops.write(view, values);
    }

    fn weights(&self, matrices: &[Matrix], values: Vec<f32>) -> Self::Weights {
        self.ops.weights(matrices, values)
    }

    fn values(weights: &Self::Weights) -> &Self::Buffer {
        O::values(weights)
    }

    fn indices(&self, values: &[u32]) -> Self::Indices {
        self.ops.indices(values)
    }

    fn sync(&self) -> Result<(), ModelError> {
        self.ops.sync()
    }

    fn enter<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        self.ops.enter(work)
    }

    fn clear(&self, y: Self::ViewMut<'_>) {
        self.timed("clear", |ops| ops.clear(y))
    }

    fn copy(&self, y: Self::ViewMut<'_>, x: Self::View<'_>) {
        self.timed("copy", |ops| ops.copy(y, x))
    }

    fn places(&self, batch: &Batch, rope: &Arc<RopeTable>) -> Self::Places {
        self.timed("places", |ops| ops.places(batch, rope))
    }

    fn places_in_cache(
        &self,
        rows: &[Row],
        capacity: usize,
        rope: &Arc<RopeTable>,
    ) -> Self::Places {
        self.timed("places_in_cache", |ops| {
            ops.places_in_cache(rows, capacity, rope)
        })
    }

    fn embed(&self, x: Self::ViewMut<'_>, table: Self::View<'_>, places: &Self::Places) {
        self.timed("embed", |ops| ops.embed(x, table, places))
    }

    fn embed_backward(
        &self,
        d_table: Self::ViewMut<'_>,
        dx: Self::View<'_>,
        places: &Self::Places,
    ) {
        self.timed("embed_backward", |ops| {
            ops.embed_backward(d_table, dx, places)
        })
    }

    fn gather(&self, y: Self::ViewMut<'_>, x: Self::View<'_>, rows: &Self::Indices) {
        self.timed("gather", |ops| ops.gather(y, x, rows))
    }

    fn gather_backward(&self, dx: Self::ViewMut<'_>, dy: Self::View<'_>, rows: &Self::Indices) {
        self.timed("gather_backward", |ops| ops.gather_backward(dx, dy, rows))
    }

    fn rms_norm(
        &self,
        y: Self::ViewMut<'_>,
        scale: Self::ViewMut<'_>,
        x: Self::View<'_>,
        w: Self::View<'_>,
        eps: f32,
    ) {
        self.timed("rms_norm", |ops| ops.rms_norm(y, scale, x, w, eps))
    }

    fn rms_norm_backward(
        &self,
        dx: Self::ViewMut<'_>,
        dw: Self::ViewMut<'_>,
        dy: Self::View<'_>,
        x: Self::View<'_>,
        w: Self::View<'_>,
        scale: Self::View<'_>,
    ) {
        self.timed("rms_norm_backward", |ops| {
            ops.rms_norm_backward(dx, dw, dy, x, w, scale)
        })
    }

    fn swiglu(&self, act: Self::ViewMut<'_>, gate_up: Self::View<'_>, f: usize) {
        self.timed("swiglu", |ops| ops.swiglu(act, gate_up, f))
    }

    fn swiglu_backward(
        &self,
        gate_up: Self::ViewMut<'_>,
        act: Self::ViewMut<'_>,
        d_act: Self::View<'_>,
        f: usize,
    ) {
        self.timed("swiglu_backward", |ops| {
            ops.swiglu_backward(gate_up, act, d_act, f)
        })
    }

    fn linear(
        &self,
        y: Self::ViewMut<'_>,
        base: Option<Self::View<'_>>,
        x: Self::View<'_>,
        weights: &Self::Weights,
        matrix: &Matrix,
    ) {
        self.timed("linear", |ops| ops.linear(y, base, x, weights, matrix))
    }

    fn linear_dx(
        &self,
        dx: Self::ViewMut<'_>,
        dy: Self::View<'_>,
        weights: &Self::Weights,
        matrix: &Matrix,
    ) {
        self.timed("linear_dx", |ops| ops.linear_dx(dx, dy, weights, matrix))
    }

    fn linear_dw(
        &self,
        dw: Self::ViewMut<'_>,
        dy: Self::View<'_>,
        x: Self::View<'_>,
        inputs: usize,
    ) {
        self.timed("linear_dw", |ops| ops.linear_dw(dw, dy, x, inputs))
    }

    fn rope(&self, qkv: Self::ViewMut<'_>, heads: Heads, places: &Self::Places) {
        self.timed("rope", |ops| ops.rope(qkv, heads, places))
    }

    fn rope_backward(&self, d_qkv: Self::ViewMut<'_>, heads: Heads, places: &Self::Places) {
        self.timed("rope_backward", |ops| {
            ops.rope_backward(d_qkv, heads, places)
        })
    }

    fn attention(
        &self,
        out: Self::ViewMut<'_>,
        lse: Self::ViewMut<'_>,
        qkv: Self::View<'_>,
        heads: Heads,
        places: &Self::Places,
    ) {
        self.timed("attention", |ops| {
            ops.attention(out, lse, qkv, heads, places)
        })
    }

    fn attention_backward(
        &self,
        d_qkv: Self::ViewMut<'_>,
        d_out: Self::View<'_>,
        out: Self::View<'_>,
        lse: Self::View<'_>,
        qkv: Self::View<'_>,
        heads: Heads,
        places: &Self::Places,
    ) {
        self.timed("attention_backward", |ops| {
            ops.attention_backward(d_qkv, d_out, out, lse, qkv, heads, places)
        })
    }

    fn append(
        &self,
        cache: Self::ViewMut<'_>,
        qkv: Self::View<'_>,
        heads: Heads,
        places: &Self::Places,
    ) {
        self.timed("append", |ops| ops.append(cache, qkv, heads, places))
    }

    fn attention_in_cache(
        &self,
        out: Self::ViewMut<'_>,
        qkv: Self::View<'_>,
        cache: Self::View<'_>,
        heads: Heads,
        places: &Self::Places,
    ) {
        self.timed("attention_in_cache", |ops| {
            ops.attention_in_cache(out, qkv, cache, heads, places)
        })
    }

    fn cross_entropy(
        &self,
        logits: Self::ViewMut<'_>,
        targets: &[u32],
        weight: f64,
        z_loss: f64,
        gradient: bool,
    ) -> Sums {
        self.timed("cross_entropy", |ops| {
            ops.cross_entropy(logits, targets, weight, z_loss, gradient)
        })
    }

    fn distillation(
        &self,
        logits: Self::ViewMut<'_>,
        teacher: Self::View<'_>,
        targets: &[u32],
        options: Distillation,
        weight: f64,
        gradient: bool,
    ) -> Sums {
        self.timed("distillation", |ops| {
            ops.distillation(logits, teacher, targets, options, weight, gradient)
        })
    }

    fn log_probabilities(&self, logits: Self::View<'_>, targets: &[u32]) -> Vec<f64> {
        self.timed("log_probabilities", |ops| {
            ops.log_probabilities(logits, targets)
        })
    }

    fn log_probability_gradient(
        &self,
        logits: Self::ViewMut<'_>,
        targets: &[u32],
        coefficients: &[f64],
    ) {
        self.timed("log_probability_gradient", |ops| {
            ops.log_probability_gradient(logits, targets, coefficients)
        })
    }

    fn sample(&self, logits: Self::View<'_>, sampling: &Sampling, uniform: &[f64]) -> Vec<Choice> {
        self.timed("sample", |ops| ops.sample(logits, sampling, uniform))
    }

    fn sum_of_squares(&self, x: Self::View<'_>) -> f64 {
        self.timed("sum_of_squares", |ops| ops.sum_of_squares(x))
    }

    fn adamw(
        &self,
        weights: &mut Self::Weights,
        m: &mut Self::Buffer,
        v: &mut Self::Buffer,
        g: &Self::Buffer,
        step: AdamWStep,
        decayed: &[Range<usize>],
    ) {
        self.timed("adamw", |ops| ops.adamw(weights, m, v, g, step, decayed))
    }
}
