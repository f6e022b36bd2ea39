//! How wide the buffers of a model are: the one table that the stack reserves from and that `memory` adds up.
//!
//! It knows no values and no device.

use std::ops::Range;

use crate::model::config::Config;
use crate::model::layout::{LayerRanges, Layout};
use crate::model::ops::{Heads, Matrix};

/// What a forward pass leaves behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Hidden states.
    Hidden,
    /// The residual stream before each layer: backward runs every layer forward again from there.
    Streams,
    /// Everything that backward reads.
    Everything,
}

impl Keep {
    /// Whether backward can follow.
    pub fn for_backward(self) -> bool {
        self != Self::Hidden
    }
}

/// Widths of one model's rows.
#[derive(Clone, Copy)]
pub struct Shape {
    pub layers: usize,
    pub d: usize,
    pub f: usize,
    pub eps: f32,
    pub heads: Heads,
}

impl Shape {
    pub fn of(config: &Config) -> Self {
        Self {
            layers: config.num_hidden_layers,
            d: config.hidden_size,
            f: config.intermediate_size,
            eps: config.rms_norm_eps as f32,
            heads: Heads {
                heads: config.num_attention_heads,
                groups: config.num_key_value_heads,
                head_dim: config.head_dim,
            },
        }
    }

    /// Layers whose activations are there at the same time: all, or one that all share.
    pub fn layers_held(&self, keep: Keep) -> usize {
        match keep {
            Keep::Everything => self.layers,
            Keep::Hidden | Keep::Streams => 1,
        }
    }

    /// Residual streams `[N, d]`: before each layer and after the last, or two that take turns.
    pub fn streams_held(&self, keep: Keep) -> usize {
        if keep.for_backward() {
            self.layers + 1
        } else {
            2
        }
    }

    /// Rows that a forward pass leaves behind of each layer that is held.
    pub fn kept_rows(&self) -> [usize; 6] {
        let (d, f, heads) = (self.d, self.f, self.heads);
        [d, heads.width(), heads.queries(), d, d, 2 * f]
    }

    /// Numbers of a row beside them, always f32.
    pub fn kept_numbers(&self) -> [usize; 3] {
        [1, 1, self.heads.heads]
    }

    /// Rows that a pass has once: input of the last product of a layer, hidden states, their gradient.
    pub fn pass_rows(&self, keep: Keep) -> [usize; 3] {
        [self.f, self.d, if keep.for_backward() { self.d } else { 0 }]
    }

    /// Rows of gradients on their way back.
    pub fn gradient_rows(&self) -> [usize; 5] {
        let (d, f, heads) = (self.d, self.f, self.heads);
        [d, d, f, heads.queries(), heads.width()]
    }

    /// Rows of a step of generation, beside those of a layer: both residual streams, input of the last product.
    pub fn step_rows(&self) -> [usize; 3] {
        [self.d, self.d, self.f]
    }

    /// Rows of a chunk at a head with so many outputs.
    pub fn head_rows(&self, outputs: usize, gradient: bool) -> [usize; 3] {
        [self.d, outputs, if gradient { self.d } else { 0 }]
    }
}

/// The matrices of a model.
pub struct Matrices {
    pub layers: Vec<LayerMatrices>,
    pub head: Matrix,
}

impl Matrices {
    pub fn of(layout: &Layout, shape: &Shape) -> Self {
        let of_layer = |layer| LayerMatrices::of(layout.layer(layer), shape);
        Self {
            layers: (0..shape.layers).map(of_layer).collect(),
            head: matrix(&layout.head(), shape.d),
        }
    }

    pub fn all(&self) -> Vec<Matrix> {
        let layers = self.layers.iter().flat_map(LayerMatrices::all);
        layers.chain([&self.head]).cloned().collect()
    }
}

/// The matrices of one layer.
pub struct LayerMatrices {
    pub qkv: Matrix,
    pub o: Matrix,
    pub gate_up: Matrix,
    pub down: Matrix,
}

impl LayerMatrices {
    pub fn of(ranges: &LayerRanges, shape: &Shape) -> Self {
        Self {
            qkv: matrix(&ranges.qkv, shape.d),
            o: matrix(&ranges.o, shape.heads.queries()),
            gate_up: matrix(&ranges.gate_up, shape.d),
            down: matrix(&ranges.down, shape.f),
        }
    }

    pub fn all(&self) -> [&Matrix; 4] {
        [&self.qkv, &self.o, &self.gate_up, &self.down]
    }
}

pub fn matrix(range: &Range<usize>, inputs: usize) -> Matrix {
    Matrix {
        range: range.clone(),
        outputs: range.len() / inputs,
        inputs,
    }
}
