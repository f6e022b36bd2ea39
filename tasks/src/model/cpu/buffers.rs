//! The memory of a step: what a forward pass leaves behind, and gradients on their way back. It lives from step to
//! step and grows when a batch is larger than all before.

use super::attention::Shape;
use super::chunks::lane_rows;
use crate::model::config::Config;
use crate::model::layout::Layout;

/// Widths of one model's rows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dims {
    pub d: usize,
    pub f: usize,
    /// `H hd`
    pub queries: usize,
    /// `(H + G) hd`: the columns of `qkv` that RoPE turns.
    pub turned: usize,
    /// `(H + 2G) hd`
    pub qkv: usize,
    pub eps: f32,
    pub shape: Shape,
}

impl Dims {
    pub fn of(config: &Config) -> Self {
        let shape = Shape {
            heads: config.num_attention_heads,
            groups: config.num_key_value_heads,
            head_dim: config.head_dim,
        };
        Self {
            d: config.hidden_size,
            f: config.intermediate_size,
            queries: config.query_width(),
            turned: config.query_width() + config.key_width(),
            qkv: shape.width(),
            eps: config.rms_norm_eps as f32,
            shape,
        }
    }
}

/// What a forward pass leaves behind of one layer. `N` rows each.
#[derive(Default)]
pub(super) struct Activations {
    /// `[N, d]` after `input_layernorm`
    pub normed: Vec<f32>,
    pub normed_scale: Vec<f32>,
    /// `[N, (H + 2G) hd]` after RoPE
    pub qkv: Vec<f32>,
    /// `[N, H hd]` and `[N, H]`
    pub attended: Vec<f32>,
    pub lse: Vec<f32>,
    /// `[N, d]` residual stream between the branches
    pub middle: Vec<f32>,
    /// `[N, d]` after `post_attention_layernorm`
    pub post: Vec<f32>,
    pub post_scale: Vec<f32>,
    /// `[N, 2f]`; backward replaces it by its gradient
    pub gate_up: Vec<f32>,
}

impl Activations {
    pub fn resize(&mut self, n: usize, dims: &Dims) {
        for (buffer, width) in [
            (&mut self.normed, dims.d),
            (&mut self.normed_scale, 1),
            (&mut self.qkv, dims.qkv),
            (&mut self.attended, dims.queries),
            (&mut self.lse, dims.shape.heads),
            (&mut self.middle, dims.d),
            (&mut self.post, dims.d),
            (&mut self.post_scale, 1),
            (&mut self.gate_up, 2 * dims.f),
        ] {
            buffer.resize(n * width, 0.0);
        }
    }
}

/// Gradients on their way back through the layers.
#[derive(Default)]
pub(super) struct Gradients {
    /// `[N, d]`: of the residual stream at a layer's output, then at its input
    pub stream: Vec<f32>,
    /// `[N, d]`: of the residual stream between the branches
    pub middle: Vec<f32>,
    /// `[N, H hd]`
    pub attended: Vec<f32>,
    /// `[N, (H + 2G) hd]`
    pub qkv: Vec<f32>,
    /// Weight gradients of one layer, for every lane but the first
    pub parts: Vec<f32>,
}

impl Gradients {
    pub fn resize(&mut self, n: usize, dims: &Dims, layout: &Layout) {
        for (buffer, width) in [
            (&mut self.stream, dims.d),
            (&mut self.middle, dims.d),
            (&mut self.attended, dims.queries),
            (&mut self.qkv, dims.qkv),
        ] {
            buffer.resize(n * width, 0.0);
        }
        let layer = layout.layer(0);
        let lanes = n.div_ceil(lane_rows(n)).max(1);
        let longest = layer
            .after_attention()
            .len()
            .max(layer.before_attention().len());
        self.parts.resize((lanes - 1) * longest, 0.0);
    }
}

/// What the vocabulary or score head works on, one chunk of rows at a time.
#[derive(Default)]
pub(super) struct HeadBuffers {
    /// `[n, d]`
    pub rows: Vec<f32>,
    /// `[n, V]`
    pub logits: Vec<f32>,
    /// `[n, d]`
    pub d_rows: Vec<f32>,
}
