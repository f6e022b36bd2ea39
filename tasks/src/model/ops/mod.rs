//! The operations of the training core: one list, one name and one doc each, and any number of backends.
//!
//! [`Ops`] is the list. [`Plain`](plain::Plain) computes it slowly and obviously and is the specification; `cpu::Cpu`
//! computes it fast on processors. What is above the list (stack, losses' callers, optimiser state, checkpoints,
//! sampling) is generic over it and cannot tell which one runs. `ops/tests.rs` is written once and run on each.
//!
//! All numbers are f32, row-major, without gaps. Letters: `N` rows (tokens of all sequences of a batch), `d` width of
//! the residual stream, `f` of the feed-forward layer, `H` query heads, `G` key/value heads, `hd` width of a head, `V`
//! vocabulary. A backend may compute in other precision where its `numerics` say so, and store [`Ops::activations`] in it.
//!
//! Every operation is deterministic: the same bits whatever the number of threads or blocks (no float atomics), and a
//! row of a result depends on its own row of the inputs alone. Calls may be asynchronous; the first error since is
//! reported by [`Ops::sync`].

pub mod plain;
pub mod timed;

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use super::batch::{Batch, Row};
use super::error::ModelError;
use super::loss::{Distillation, Sums};
use super::rope::RopeTable;
use super::sampler::{Choice, Sampling};

/// A matrix `[outputs, inputs]` in an arena of weights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matrix {
    pub range: Range<usize>,
    pub outputs: usize,
    pub inputs: usize,
}

/// The shape of attention: a row of `qkv` is `[H hd | G hd | G hd]`, a row of its output `[H hd]`; query head `h` reads
/// key head `h / (H / G)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heads {
    pub heads: usize,
    pub groups: usize,
    pub head_dim: usize,
}

impl Heads {
    /// `H hd`
    pub fn queries(&self) -> usize {
        self.heads * self.head_dim
    }

    /// `(H + G) hd`: the columns that RoPE turns.
    pub fn turned(&self) -> usize {
        (self.heads + self.groups) * self.head_dim
    }

    /// `(H + 2G) hd`
    pub fn width(&self) -> usize {
        (self.heads + 2 * self.groups) * self.head_dim
    }

    /// `2G hd`: the columns that a cache keeps, keys and values.
    pub fn kept(&self) -> usize {
        2 * self.groups * self.head_dim
    }

    /// `1 / sqrt(hd)`
    pub fn scale(&self) -> f32 {
        1.0 / (self.head_dim as f32).sqrt()
    }
}

/// Constants of one AdamW update (torch semantics), from options, learning rate, step and norm:
/// `g ← clip g`, `m ← β₁ m + (1 − β₁) g`, `v ← β₂ v + (1 − β₂) g²`, `w ← keep w − rate m / (root sqrt(v) + eps)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWStep {
    pub clip: f32,
    /// `1 − decay`, of elements that decay; 1 for all others.
    pub keep: f32,
    pub beta1: f32,
    pub rest1: f32,
    pub beta2: f32,
    pub rest2: f32,
    /// Learning rate over `1 − β₁^t`.
    pub rate: f32,
    /// `1 / sqrt(1 − β₂^t)`
    pub root: f32,
    pub eps: f32,
}

/// The list. Views are written `[shape]`.
pub trait Ops: Clone + Send + Sync + 'static {
    /// Numbers in the memory of the device.
    type Buffer: Send + Sync + 'static;
    /// Some consecutive numbers of a buffer.
    type View<'a>;
    type ViewMut<'a>;
    /// An arena of weights, with whatever form of it products read best (packed, bf16).
    type Weights: Send + Sync;
    /// Where tokens stand, of a batch or in a cache: ids, positions, sequences, angles.
    type Places: Send + Sync;
    /// Row numbers or token ids.
    type Indices: Send + Sync;

    /// Rows of logits that are alive at the same time. Enough for the gradient of the head matrix, which is read and
    /// written once per chunk, not to wait for memory.
    const HEAD_ROWS: usize = 512;

    // Memory.

    /// A buffer of zeros.
    fn zeros(&self, len: usize) -> Self::Buffer;
    /// A buffer of zeros for what travels between operations (rows of a layer, logits, their gradients), in the number
    /// format of the backend. Scales, sums, weights, gradients of weights and moments are always f32.
    fn activations(&self, len: usize) -> Self::Buffer {
        self.zeros(len)
    }
    /// A buffer of these values.
    fn upload(&self, values: Vec<f32>) -> Self::Buffer;
    fn len(buffer: &Self::Buffer) -> usize;
    fn view(buffer: &Self::Buffer, range: Range<usize>) -> Self::View<'_>;
    fn view_mut(buffer: &mut Self::Buffer, range: Range<usize>) -> Self::ViewMut<'_>;
    /// The values, once everything before is done.
    fn read<'a>(&self, view: Self::View<'a>) -> Cow<'a, [f32]>;
    fn write(&self, view: Self::ViewMut<'_>, values: &[f32]);
    /// `y = 0`
    fn clear(&self, y: Self::ViewMut<'_>);
    /// `y = x`
    fn copy(&self, y: Self::ViewMut<'_>, x: Self::View<'_>);
    /// Weights with these matrices; what lies between them are vectors.
    fn weights(&self, matrices: &[Matrix], values: Vec<f32>) -> Self::Weights;
    /// The arena of weights.
    fn values(weights: &Self::Weights) -> &Self::Buffer;
    fn indices(&self, values: &[u32]) -> Self::Indices;
    /// `rope` holds the angles of at least `batch.longest()` positions.
    fn places(&self, batch: &Batch, rope: &Arc<RopeTable>) -> Self::Places;
    /// Places of rows in a cache whose slots have `capacity` rows each. `rope` holds the angles of their positions.
    fn places_in_cache(&self, rows: &[Row], capacity: usize, rope: &Arc<RopeTable>)
    -> Self::Places;
    /// Waits for everything; the first error since the last call.
    fn sync(&self) -> Result<(), ModelError>;
    /// Runs a series of operations from where they start fastest.
    fn enter<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        work()
    }

    // Rows.

    /// `x [N, d]`: row `i` is row `token_i` of `table [V, d]`.
    fn embed(&self, x: Self::ViewMut<'_>, table: Self::View<'_>, places: &Self::Places);
    /// `d_table [V, d]`: row `token_i` += `dx_i`, in the order of `i`.
    fn embed_backward(&self, d_table: Self::ViewMut<'_>, dx: Self::View<'_>, places: &Self::Places);
    /// `y [n, d]`: row `i` is row `rows_i` of `x`.
    fn gather(&self, y: Self::ViewMut<'_>, x: Self::View<'_>, rows: &Self::Indices);
    /// `dx`: row `rows_i` += row `i` of `dy [n, d]`; a row may appear several times, the order is that of `i`.
    fn gather_backward(&self, dx: Self::ViewMut<'_>, dy: Self::View<'_>, rows: &Self::Indices);
    /// RMSNorm (Zhang and Sennrich 2019): `y = x s w`, `s = 1 / sqrt(mean(x²) + eps)`. `x, y [N, d]`, `scale [N]` gets
    /// `s`, `w [d]`.
    fn rms_norm(
        &self,
        y: Self::ViewMut<'_>,
        scale: Self::ViewMut<'_>,
        x: Self::View<'_>,
        w: Self::View<'_>,
        eps: f32,
    );
    /// `dx += s (dy w − x̂ mean(dy w x̂))`, `dw += Σ dy x̂`, `x̂ = s x`. `dx, dy, x [N, d]`, `dw, w [d]`, `scale [N]`.
    fn rms_norm_backward(
        &self,
        dx: Self::ViewMut<'_>,
        dw: Self::ViewMut<'_>,
        dy: Self::View<'_>,
        x: Self::View<'_>,
        w: Self::View<'_>,
        scale: Self::View<'_>,
    );
    /// SwiGLU (Shazeer 2020): `act [N, f] = silu(gate) up`, a row of `gate_up` is `[gate f | up f]`.
    fn swiglu(&self, act: Self::ViewMut<'_>, gate_up: Self::View<'_>, f: usize);
    /// Replaces `gate_up [N, 2f]` by its gradient and makes `act [N, f]` again, from `d_act [N, f]`.
    fn swiglu_backward(
        &self,
        gate_up: Self::ViewMut<'_>,
        act: Self::ViewMut<'_>,
        d_act: Self::View<'_>,
        f: usize,
    );

    // Products.

    /// `y [N, out] = base + x [N, in] · Wᵀ`, without a base the product alone.
    fn linear(
        &self,
        y: Self::ViewMut<'_>,
        base: Option<Self::View<'_>>,
        x: Self::View<'_>,
        weights: &Self::Weights,
        matrix: &Matrix,
    );
    /// `dx [N, in] = dy [N, out] · W`
    fn linear_dx(
        &self,
        dx: Self::ViewMut<'_>,
        dy: Self::View<'_>,
        weights: &Self::Weights,
        matrix: &Matrix,
    );
    /// `dw [out, in] += dyᵀ · x`, `dy [N, out]`, `x [N, in]`
    fn linear_dw(
        &self,
        dw: Self::ViewMut<'_>,
        dy: Self::View<'_>,
        x: Self::View<'_>,
        inputs: usize,
    );

    // Attention.

    /// Turns the query and key heads of `qkv [N, (H + 2G) hd]` in place by the angles of their positions (Su et al.
    /// 2021, halves of a head: `[a, b] → [a cos − b sin, b cos + a sin]`); values stay.
    fn rope(&self, qkv: Self::ViewMut<'_>, heads: Heads, places: &Self::Places);
    /// The transpose of [`Ops::rope`]: turns gradients back.
    fn rope_backward(&self, d_qkv: Self::ViewMut<'_>, heads: Heads, places: &Self::Places);
    /// `out [N, H hd]`: `softmax(q kᵀ / sqrt(hd)) v` over the positions up to its own in the same sequence.
    /// `lse [N, H]` gets the logarithm of the softmax's denominator (of `e^score`), which backward reads.
    fn attention(
        &self,
        out: Self::ViewMut<'_>,
        lse: Self::ViewMut<'_>,
        qkv: Self::View<'_>,
        heads: Heads,
        places: &Self::Places,
    );
    /// `d_qkv [N, (H + 2G) hd]` from `d_out [N, H hd]`; `out`, `lse`, `qkv` as [`Ops::attention`] left them.
    #[allow(clippy::too_many_arguments)]
    fn attention_backward(
        &self,
        d_qkv: Self::ViewMut<'_>,
        d_out: Self::View<'_>,
        out: Self::View<'_>,
        lse: Self::View<'_>,
        qkv: Self::View<'_>,
        heads: Heads,
        places: &Self::Places,
    );

    /// Puts the keys and values of `qkv [N, (H + 2G) hd]`, after RoPE, into `cache [slots · capacity, 2G hd]`: its last
    /// columns, each row at its place. Here and in the next, places are those of [`Ops::places_in_cache`].
    fn append(
        &self,
        cache: Self::ViewMut<'_>,
        qkv: Self::View<'_>,
        heads: Heads,
        places: &Self::Places,
    );
    /// [`Ops::attention`] to what a cache holds: `out [N, H hd]` from the queries of `qkv [N, (H + 2G) hd]`, each over
    /// the rows of its slot up to its own position.
    fn attention_in_cache(
        &self,
        out: Self::ViewMut<'_>,
        qkv: Self::View<'_>,
        cache: Self::View<'_>,
        heads: Heads,
        places: &Self::Places,
    );

    // Losses over `logits [n, V]`, one target a row.

    /// Cross entropy with z-loss. With `gradient`, logits become `weight · d(CE + z_loss (ln Z)²)`; else they stay.
    fn cross_entropy(
        &self,
        logits: Self::ViewMut<'_>,
        targets: &[u32],
        weight: f64,
        z_loss: f64,
        gradient: bool,
    ) -> Sums;
    /// `α KL(p_T ‖ p_S) + (1 − α) CE` of student logits to a teacher's; with `gradient`, student logits become `weight`
    /// times their gradient.
    fn distillation(
        &self,
        logits: Self::ViewMut<'_>,
        teacher: Self::View<'_>,
        targets: &[u32],
        options: Distillation,
        weight: f64,
        gradient: bool,
    ) -> Sums;
    /// `ln p(target)` of every row.
    fn log_probabilities(&self, logits: Self::View<'_>, targets: &[u32]) -> Vec<f64>;
    /// Replaces logits by the gradient of `Σ coefficientᵢ ln pᵢ(targetᵢ)`.
    fn log_probability_gradient(
        &self,
        logits: Self::ViewMut<'_>,
        targets: &[u32],
        coefficients: &[f64],
    );

    // Choice.

    /// A token for every row of `logits [n, V]`, which are f32: the one that the row's number of `uniform [n]`, in [0, 1),
    /// picks. See [`Sampler`](super::sampler::Sampler).
    fn sample(&self, logits: Self::View<'_>, sampling: &Sampling, uniform: &[f64]) -> Vec<Choice>;

    // Optimiser.

    /// `Σ xᵢ²`
    fn sum_of_squares(&self, x: Self::View<'_>) -> f64;
    /// One update of all weights; `m, v, g` as long as the arena, `decayed` ascending and disjoint. Whatever form of the
    /// weights products read is made anew.
    fn adamw(
        &self,
        weights: &mut Self::Weights,
        m: &mut Self::Buffer,
        v: &mut Self::Buffer,
        g: &Self::Buffer,
        step: AdamWStep,
        decayed: &[Range<usize>],
    );
}
