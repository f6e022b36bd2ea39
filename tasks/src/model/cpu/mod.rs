//! The list of operations on CPUs: f32, own kernels, rayon.
//!
//! Results depend neither on the number of threads nor on the instruction set: every element of a product is one chain
//! of fused operations in a fixed order, other work is cut at fixed places, and partial sums are added in the order of
//! the pieces.

mod attention;
mod chunks;
pub(super) mod decode;
pub mod isa;
mod losses;
mod norm;
mod optimizer;
mod packed;
mod product;
mod rotate;
pub(super) mod row;
mod scratch;
mod swiglu;
mod target;
mod tile;

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use rayon::ThreadPool;
use rayon::prelude::*;

use super::batch::{Batch, Row};
use super::error::ModelError;
use super::loss::{Distillation, Sums};
use super::ops::{AdamWStep, Heads, Matrix, Ops};
use super::rope::RopeTable;
use super::sampler::{Choice, Sampler, Sampling};
pub(super) use losses::log_sum_exp;

use chunks::{REDUCTION_CHUNK, ROWS, ordered_sum};
use packed::Panels;
use product::{Into, Left, Right, multiply, multiply_in_pieces};

/// The backend of CPUs.
#[derive(Clone)]
pub struct Cpu {
    pool: Arc<ThreadPool>,
}

impl Cpu {
    /// A pool of its own: what else runs in the process does not share it.
    pub fn open(threads: usize) -> Result<Self, ModelError> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads.max(1))
            .thread_name(|index| format!("core-{index}"))
            .build();
        let pool = pool.map(Arc::new).map_err(|error| {
            ModelError::invalid(
                format!("cannot start {threads} threads: {error}"),
                "ask for fewer threads",
            )
        })?;
        Ok(Self { pool })
    }

    pub fn pool(&self) -> &ThreadPool {
        &self.pool
    }

    /// Operations a second of the innermost loop of products on data in the first cache, all threads at once.
    pub fn peak_flops(&self) -> f64 {
        const ROUNDS: usize = 2000;
        let (m, n, k) = (12, 32, 128);
        let once = || {
            let start = Instant::now();
            self.pool.broadcast(|_| {
                let (a, b, mut c) = (
                    vec![1.0f32; m * k],
                    vec![1.0f32; k * n],
                    vec![0.0f32; m * n],
                );
                for _ in 0..ROUNDS {
                    multiply(&mut c, n, Into::Add, Left::new(&a, k), Right::Rows(&b), k);
                }
                c[0]
            });
            start.elapsed().as_secs_f64()
        };
        let best = (0..20).map(|_| once()).fold(f64::INFINITY, f64::min);
        (2 * m * n * k * ROUNDS * self.pool.current_num_threads()) as f64 / best
    }
}

/// Weights, and every matrix in the panels that [`Ops::linear`] reads.
pub struct Weights {
    values: Vec<f32>,
    panels: Vec<(Matrix, Panels)>,
}

impl Weights {
    fn pack(&mut self) {
        let values = &self.values;
        (self.panels.par_iter_mut()).for_each(|(of, panels)| {
            panels.pack(&values[of.range.clone()], of.inputs, of.inputs);
        });
    }

    fn panels_of(&self, matrix: &Matrix) -> &Panels {
        let at = (self.panels).binary_search_by_key(&matrix.range.start, |(of, _)| of.range.start);
        &self.panels[at.expect("a matrix of these weights")].1
    }
}

/// Where tokens stand.
pub struct Places {
    tokens: Vec<u32>,
    positions: Vec<u32>,
    /// Of the sequences of a batch.
    ends: Vec<usize>,
    /// First row of the slot of every token, in a cache.
    starts: Vec<usize>,
    rope: Arc<RopeTable>,
}

impl Places {
    /// Of every token, the rows of a cache that its sequence has up to itself.
    fn in_cache(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        let tokens = self.starts.iter().zip(&self.positions);
        tokens.map(|(start, position)| *start..*start + *position as usize + 1)
    }
}

impl Ops for Cpu {
    type Buffer = Vec<f32>;
    type View<'a> = &'a [f32];
    type ViewMut<'a> = &'a mut [f32];
    type Weights = Weights;
    type Places = Places;
    type Indices = Vec<u32>;

    fn zeros(&self, len: usize) -> Vec<f32> {
        vec![0.0; len]
    }

    fn upload(&self, values: Vec<f32>) -> Vec<f32> {
        values
    }

    fn len(buffer: &Vec<f32>) -> usize {
        buffer.len()
    }

    fn view(buffer: &Vec<f32>, range: Range<usize>) -> &[f32] {
        &buffer[range]
    }

    fn view_mut(buffer: &mut Vec<f32>, range: Range<usize>) -> &mut [f32] {
        &mut buffer[range]
    }

    fn read<'a>(&self, view: Self::View<'a>) -> Cow<'a, [f32]> {
        view.into()
    }

    fn write(&self, view: &mut [f32], values: &[f32]) {
        view.copy_from_slice(values);
    }

    fn clear(&self, y: &mut [f32]) {
        let chunks = y.par_chunks_mut(REDUCTION_CHUNK);
        self.enter(|| chunks.for_each(|y| y.fill(0.0)));
    }

    fn copy(&self, y: &mut [f32], x: &[f32]) {
        let chunks = y.par_chunks_mut(REDUCTION_CHUNK);
        let chunks = chunks.zip(x.par_chunks(REDUCTION_CHUNK));
        self.enter(|| chunks.for_each(|(y, x)| y.copy_from_slice(x)));
    }

    fn weights(&self, matrices: &[Matrix], values: Vec<f32>) -> Weights {
        let packed = |of: &Matrix| Panels::of(&values[of.range.clone()], of.inputs);
        let mut panels: Vec<_> = self.enter(|| {
            let each = matrices.par_iter().map(|of| (of.clone(), packed(of)));
            each.collect()
        });
        panels.sort_by_key(|(of, _)| of.range.start);
        Weights { values, panels }
    }

    fn values(weights: &Weights) -> &Vec<f32> {
        &weights.values
    }

    fn indices(&self, values: &[u32]) -> Vec<u32> {
        values.to_vec()
    }

    fn places(&self, batch: &Batch, rope: &Arc<RopeTable>) -> Places {
        Places {
            tokens: batch.tokens.clone(),
            positions: (batch.sequences())
                .flat_map(|rows| 0..rows.len() as u32)
                .collect(),
            ends: batch.ends.clone(),
            starts: Vec::new(),
            rope: Arc::clone(rope),
        }
    }

    fn places_in_cache(&self, rows: &[Row], capacity: usize, rope: &Arc<RopeTable>) -> Places {
        Places {
            tokens: rows.iter().map(|row| row.token).collect(),
            positions: rows.iter().map(|row| row.position as u32).collect(),
            ends: Vec::new(),
            starts: rows.iter().map(|row| row.slot * capacity).collect(),
            rope: Arc::clone(rope),
        }
    }

    fn sync(&self) -> Result<(), ModelError> {
        Ok(())
    }

    fn enter<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        self.pool.install(work)
    }

    fn embed(&self, x: &mut [f32], table: &[f32], places: &Places) {
        self.gather(x, table, &places.tokens);
    }

    fn embed_backward(&self, d_table: &mut [f32], dx: &[f32], places: &Places) {
        self.gather_backward(d_table, dx, &places.tokens);
    }

    fn gather(&self, y: &mut [f32], x: &[f32], rows: &Vec<u32>) {
        let d = y.len() / rows.len().max(1);
        for (y, row) in y.chunks_exact_mut(d.max(1)).zip(rows) {
            y.copy_from_slice(&x[*row as usize * d..][..d]);
        }
    }

    fn gather_backward(&self, dx: &mut [f32], dy: &[f32], rows: &Vec<u32>) {
        let d = dy.len() / rows.len().max(1);
        for (dy, row) in dy.chunks_exact(d.max(1)).zip(rows) {
            row::add(&mut dx[*row as usize * d..][..d], dy);
        }
    }

    fn rms_norm(&self, y: &mut [f32], scale: &mut [f32], x: &[f32], w: &[f32], eps: f32) {
        let wide = ROWS * w.len();
        (y.par_chunks_mut(wide))
            .zip(scale.par_chunks_mut(ROWS))
            .zip(x.par_chunks(wide))
            .for_each(|((y, scale), x)| norm::forward(y, scale, x, w, eps));
    }

    fn rms_norm_backward(
        &self,
        dx: &mut [f32],
        dw: &mut [f32],
        dy: &[f32],
        x: &[f32],
        w: &[f32],
        scale: &[f32],
    ) {
        let wide = ROWS * w.len();
        let chunks = dx.par_chunks_mut(wide).zip(dy.par_chunks(wide));
        let chunks = chunks.zip(x.par_chunks(wide)).zip(scale.par_chunks(ROWS));
        let parts: Vec<Vec<f32>> = chunks
            .map(|(((dx, dy), x), scale)| {
                let mut dw = vec![0.0; w.len()];
                norm::backward(dx, &mut dw, dy, x, w, scale);
                dw
            })
            .collect();
        for part in parts {
            row::add(dw, &part);
        }
    }

    fn swiglu(&self, act: &mut [f32], gate_up: &[f32], f: usize) {
        (act.par_chunks_mut(ROWS * f)
            .zip(gate_up.par_chunks(ROWS * 2 * f)))
        .for_each(|(act, gate_up)| swiglu::forward(act, gate_up, f));
    }

    fn swiglu_backward(&self, gate_up: &mut [f32], act: &mut [f32], d_act: &[f32], f: usize) {
        (gate_up.par_chunks_mut(ROWS * 2 * f))
            .zip(act.par_chunks_mut(ROWS * f))
            .zip(d_act.par_chunks(ROWS * f))
            .for_each(|((gate_up, act), d_act)| swiglu::backward(gate_up, act, d_act, f));
    }

    fn linear(
        &self,
        y: &mut [f32],
        base: Option<&[f32]>,
        x: &[f32],
        weights: &Weights,
        matrix: &Matrix,
    ) {
        let (panels, k) = (Right::Panels(weights.panels_of(matrix)), matrix.inputs);
        let into = base.map_or(Into::Replace, |base| {
            self.copy(y, base);
            Into::Add
        });
        multiply_in_pieces(y, matrix.outputs, into, Left::new(x, k), panels, k);
    }

    fn linear_dx(&self, dx: &mut [f32], dy: &[f32], weights: &Weights, matrix: &Matrix) {
        let (w, k) = (&weights.values[matrix.range.clone()], matrix.outputs);
        let (dy, w) = (Left::new(dy, k), Right::Rows(w));
        multiply_in_pieces(dx, matrix.inputs, Into::Replace, dy, w, k);
    }

    fn linear_dw(&self, dw: &mut [f32], dy: &[f32], x: &[f32], inputs: usize) {
        let (n, outputs) = (x.len() / inputs, dw.len() / inputs);
        let dy = Left::transposed(dy, outputs);
        multiply_in_pieces(dw, inputs, Into::Add, dy, Right::Rows(x), n);
    }

    fn rope(&self, qkv: &mut [f32], heads: Heads, places: &Places) {
        turn(qkv, heads, places, rotate::forward);
    }

    fn rope_backward(&self, d_qkv: &mut [f32], heads: Heads, places: &Places) {
        turn(d_qkv, heads, places, rotate::backward);
    }

    fn attention(
        &self,
        out: &mut [f32],
        lse: &mut [f32],
        qkv: &[f32],
        heads: Heads,
        places: &Places,
    ) {
        attention::forward(out, lse, qkv, heads, &places.ends);
    }

    fn attention_backward(
        &self,
        d_qkv: &mut [f32],
        d_out: &[f32],
        out: &[f32],
        lse: &[f32],
        qkv: &[f32],
        heads: Heads,
        places: &Places,
    ) {
        attention::backward(d_qkv, d_out, out, lse, qkv, heads, &places.ends);
    }

    fn append(&self, cache: &mut [f32], qkv: &[f32], heads: Heads, places: &Places) {
        let rows = qkv.chunks_exact(heads.width()).zip(places.in_cache());
        for (row, kept) in rows {
            let at = (kept.end - 1) * heads.kept()..kept.end * heads.kept();
            cache[at].copy_from_slice(&row[heads.queries()..]);
        }
    }

    fn attention_in_cache(
        &self,
        out: &mut [f32],
        qkv: &[f32],
        cache: &[f32],
        heads: Heads,
        places: &Places,
    ) {
        let rows = out.chunks_exact_mut(heads.queries());
        let rows = rows.zip(qkv.chunks_exact(heads.width()));
        for ((out, qkv), kept) in rows.zip(places.in_cache()) {
            let kept = kept.start * heads.kept()..kept.end * heads.kept();
            decode::attend(out, &qkv[..heads.queries()], &cache[kept], heads);
        }
    }

    fn cross_entropy(
        &self,
        logits: &mut [f32],
        targets: &[u32],
        weight: f64,
        z_loss: f64,
        gradient: bool,
    ) -> Sums {
        losses::cross_entropy(logits, targets, weight, z_loss, gradient)
    }

    fn distillation(
        &self,
        logits: &mut [f32],
        teacher: &[f32],
        targets: &[u32],
        options: Distillation,
        weight: f64,
        gradient: bool,
    ) -> Sums {
        losses::distillation(logits, teacher, targets, options, weight, gradient)
    }

    fn log_probabilities(&self, logits: &[f32], targets: &[u32]) -> Vec<f64> {
        losses::log_probabilities(logits, targets)
    }

    fn log_probability_gradient(&self, logits: &mut [f32], targets: &[u32], coefficients: &[f64]) {
        losses::log_probability_gradient(logits, targets, coefficients);
    }

    fn sample(&self, logits: &[f32], sampling: &Sampling, uniform: &[f64]) -> Vec<Choice> {
        Sampler::default().choose_all(logits, sampling, uniform)
    }

    fn sum_of_squares(&self, x: &[f32]) -> f64 {
        self.enter(|| ordered_sum(x, row::sum_of_squares))
    }

    fn adamw(
        &self,
        weights: &mut Weights,
        m: &mut Vec<f32>,
        v: &mut Vec<f32>,
        g: &Vec<f32>,
        step: AdamWStep,
        decayed: &[Range<usize>],
    ) {
        self.enter(|| {
            optimizer::update(&mut weights.values, m, v, g, step, decayed);
            weights.pack();
        });
    }
}

fn turn(qkv: &mut [f32], heads: Heads, places: &Places, row: fn(&mut [f32], &[f32], &[f32])) {
    let width = heads.width();
    let chunks = qkv.par_chunks_mut(ROWS * width);
    (chunks.zip(places.positions.par_chunks(ROWS))).for_each(|(qkv, positions)| {
        for (qkv, position) in qkv.chunks_exact_mut(width).zip(positions) {
            let (cos, sin) = places.rope.at(*position as usize);
            row(&mut qkv[..heads.turned()], cos, sin);
        }
    });
}
