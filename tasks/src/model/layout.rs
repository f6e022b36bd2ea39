//! Which tensors a model has, and where each lies in one flat f32 arena.
//!
//! Weights, gradients and optimiser moments share this table. `q, k, v` lie side by side, and so do `gate, up`: one
//! matrix product makes all three, or both. It knows names and shapes, no values.

use std::collections::BTreeMap;
use std::ops::Range;

use super::config::{Config, Head};

/// One named tensor of the arena.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    /// Hugging Face name.
    pub name: String,
    /// `[out, in]` for matrices, `[d]` for norms; row-major.
    pub shape: Vec<usize>,
    /// Elements of the arena.
    pub range: Range<usize>,
}

impl Tensor {
    /// Matrices decay, norm weights do not.
    pub fn decays(&self) -> bool {
        self.shape.len() >= 2
    }
}

/// The tensors of one layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerRanges {
    /// `[d]`
    pub input_norm: Range<usize>,
    /// `[(H + 2G) hd, d]`: q, k, v
    pub qkv: Range<usize>,
    /// `[d, H hd]`
    pub o: Range<usize>,
    /// `[d]`
    pub post_norm: Range<usize>,
    /// `[2f, d]`: gate, up
    pub gate_up: Range<usize>,
    /// `[d, f]`
    pub down: Range<usize>,
}

impl LayerRanges {
    /// `input_norm`, `qkv`: what comes before attention, side by side.
    pub fn before_attention(&self) -> Range<usize> {
        self.input_norm.start..self.qkv.end
    }

    /// `o`, `post_norm`, `gate_up`, `down`: what comes after it.
    pub fn after_attention(&self) -> Range<usize> {
        self.o.start..self.down.end
    }
}

/// The table of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    tensors: Vec<Tensor>,
    by_name: BTreeMap<String, usize>,
    layers: Vec<LayerRanges>,
    embedding: Range<usize>,
    norm: Range<usize>,
    head: Range<usize>,
    len: usize,
}

impl Layout {
    pub fn new(config: &Config) -> Self {
        let mut table = Table::default();
        let (d, f) = (config.hidden_size, config.intermediate_size);
        let embedding = table.push("model.embed_tokens.weight", &[config.vocab_size, d]);
        let layers = (0..config.num_hidden_layers)
            .map(|layer| table.push_layer(layer, config, d, f))
            .collect();
        let norm = table.push("model.norm.weight", &[d]);
        let head = match config.head {
            Head::Score => table.push("score.weight", &[1, d]),
            Head::Language if config.tie_word_embeddings => embedding.clone(),
            Head::Language => table.push("lm_head.weight", &[config.vocab_size, d]),
        };
        let by_name = (table.tensors.iter().enumerate())
            .map(|(index, tensor)| (tensor.name.clone(), index))
            .collect();
        Self {
            tensors: table.tensors,
            by_name,
            layers,
            embedding,
            norm,
            head,
            len: table.len,
        }
    }

    /// Number of elements: the length of weights, gradients and moments.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Every tensor, in the order of the arena.
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    pub fn find(&self, name: &str) -> Option<&Tensor> {
        self.by_name.get(name).map(|index| &self.tensors[*index])
    }

    pub fn layer(&self, layer: usize) -> &LayerRanges {
        &self.layers[layer]
    }

    /// `[V, d]`
    pub fn embedding(&self) -> Range<usize> {
        self.embedding.clone()
    }

    /// `[d]`
    pub fn norm(&self) -> Range<usize> {
        self.norm.clone()
    }

    /// `[V, d]` (the embedding when tied), or `[1, d]` of a reward model.
    pub fn head(&self) -> Range<usize> {
        self.head.clone()
    }
}

#[derive(Default)]
struct Table {
    tensors: Vec<Tensor>,
    len: usize,
}

impl Table {
    fn push(&mut self, name: &str, shape: &[usize]) -> Range<usize> {
        let range = self.len..self.len + shape.iter().product::<usize>();
        self.len = range.end;
        self.tensors.push(Tensor {
            name: name.to_owned(),
            shape: shape.to_vec(),
            range: range.clone(),
        });
        range
    }

    fn push_layer(&mut self, layer: usize, config: &Config, d: usize, f: usize) -> LayerRanges {
        let (queries, keys) = (config.query_width(), config.key_width());
        let mut push = |name: &str, shape: &[usize]| {
            self.push(&format!("model.layers.{layer}.{name}.weight"), shape)
        };
        let input_norm = push("input_layernorm", &[d]);
        let q = push("self_attn.q_proj", &[queries, d]);
        push("self_attn.k_proj", &[keys, d]);
        let v = push("self_attn.v_proj", &[keys, d]);
        let o = push("self_attn.o_proj", &[d, queries]);
        let post_norm = push("post_attention_layernorm", &[d]);
        let gate = push("mlp.gate_proj", &[f, d]);
        let up = push("mlp.up_proj", &[f, d]);
        let down = push("mlp.down_proj", &[d, f]);
        LayerRanges {
            input_norm,
            qkv: q.start..v.end,
            o,
            post_norm,
            gate_up: gate.start..up.end,
            down,
        }
    }
}
