//! Cutting a model down to the channels, neurons, heads and layers that are kept.
//!
//! Every kept value is copied, none computed (but for an averaged tied embedding). Which ones to keep is `selection`'s.

use serde::{Deserialize, Serialize};

use super::upscale::{layer_and_rest, tensor};
use crate::model::{Config, Head, Model, ModelError};

/// What stays of one layer; indices of the parent, ascending.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptLayer {
    /// Index of the layer in the parent.
    pub layer: usize,
    /// Feed-forward neurons.
    pub ffn: Vec<usize>,
    /// Query heads, numbered over the whole layer.
    pub heads: Vec<usize>,
    /// Key/value heads.
    pub kv_heads: Vec<usize>,
    /// Channels of the residual stream; the same in every layer, or the cut model computes something else entirely.
    pub hidden: Vec<usize>,
}

/// What stays of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    pub layers: Vec<KeptLayer>,
    /// Channels at the embedding.
    pub embedding: Vec<usize>,
    /// Channels at the final norm and the head.
    pub head: Vec<usize>,
}

impl Kept {
    /// The configuration of what is kept of `parent`.
    pub fn config(&self, parent: &Config, tied: bool) -> Config {
        let first = self.layers.first();
        let count =
            |list: fn(&KeptLayer) -> &Vec<usize>| first.map_or(0, |layer| list(layer).len());
        Config {
            hidden_size: self.embedding.len(),
            intermediate_size: count(|layer| &layer.ffn),
            num_attention_heads: count(|layer| &layer.heads),
            num_key_value_heads: count(|layer| &layer.kv_heads),
            num_hidden_layers: self.layers.len(),
            tie_word_embeddings: tied,
            ..parent.clone()
        }
    }
}

/// How the output matrix of the cut model comes about.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Tie {
    /// Tied or not, as the parent is.
    #[default]
    Keep,
    /// One matrix: the mean of embedding and output matrix (Kanana, 4.5B to 2.1B).
    Average,
}

/// The parent, cut to what is kept.
pub fn cut(parent: &Model, kept: &Kept, tie: Tie) -> Result<Model, ModelError> {
    let averaged = tie == Tie::Average && !parent.config.tie_word_embeddings;
    let tied = parent.config.tie_word_embeddings || averaged;
    let config = kept.config(&parent.config, tied && parent.config.head == Head::Language);
    let source = |name: &str| tensor(parent, name);
    let d = parent.config.hidden_size;
    Model::from_tensors(&config, |name, _| match name {
        "model.embed_tokens.weight" if averaged => {
            let mean = mean(source(name)?, source("lm_head.weight")?);
            Ok(columns(&mean, d, &kept.embedding))
        }
        "model.embed_tokens.weight" => Ok(columns(source(name)?, d, &kept.embedding)),
        "model.norm.weight" | "lm_head.weight" | "score.weight" => {
            Ok(columns(source(name)?, d, &kept.head))
        }
        _ => {
            let (layer, rest) = layer_and_rest(name).ok_or_else(|| {
                ModelError::invalid(format!("no rule cuts the tensor `{name}`"), "")
            })?;
            let kept = &kept.layers[layer];
            let values = source(&format!("model.layers.{}.{rest}", kept.layer))?;
            Ok(cut_layer(values, rest, kept, &parent.config))
        }
    })
}

fn cut_layer(values: &[f32], rest: &str, kept: &KeptLayer, parent: &Config) -> Vec<f32> {
    let (d, hd) = (parent.hidden_size, parent.head_dim);
    match rest {
        "self_attn.q_proj.weight" => {
            columns(&rows(values, d, &blocks(&kept.heads, hd)), d, &kept.hidden)
        }
        "self_attn.k_proj.weight" | "self_attn.v_proj.weight" => columns(
            &rows(values, d, &blocks(&kept.kv_heads, hd)),
            d,
            &kept.hidden,
        ),
        "self_attn.o_proj.weight" => {
            let width = parent.query_width();
            let kept_rows = rows(values, width, &kept.hidden);
            columns(&kept_rows, width, &blocks(&kept.heads, hd))
        }
        "mlp.gate_proj.weight" | "mlp.up_proj.weight" => {
            columns(&rows(values, d, &kept.ffn), d, &kept.hidden)
        }
        "mlp.down_proj.weight" => {
            let width = parent.intermediate_size;
            columns(&rows(values, width, &kept.hidden), width, &kept.ffn)
        }
        _ => columns(values, d, &kept.hidden),
    }
}

/// Indices of the `width` rows of each block.
fn blocks(kept: &[usize], width: usize) -> Vec<usize> {
    kept.iter()
        .flat_map(|block| block * width..(block + 1) * width)
        .collect()
}

/// The kept rows of a row-major matrix of `width` columns.
fn rows(values: &[f32], width: usize, kept: &[usize]) -> Vec<f32> {
    kept.iter()
        .flat_map(|row| &values[row * width..(row + 1) * width])
        .copied()
        .collect()
}

/// The kept columns of a row-major matrix of `width` columns (a vector is one row).
fn columns(values: &[f32], width: usize, kept: &[usize]) -> Vec<f32> {
    values
        .chunks_exact(width)
        .flat_map(|row| kept.iter().map(|column| row[*column]))
        .collect()
}

fn mean(a: &[f32], b: &[f32]) -> Vec<f32> {
    a.iter().zip(b).map(|(a, b)| (a + b) / 2.0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_and_columns_of_a_matrix() {
        let matrix = [0.0, 1.0, 2.0, 10.0, 11.0, 12.0, 20.0, 21.0, 22.0];
        assert_eq!(rows(&matrix, 3, &[0, 2]), [0.0, 1.0, 2.0, 20.0, 21.0, 22.0]);
        assert_eq!(columns(&matrix, 3, &[1]), [1.0, 11.0, 21.0]);
        assert_eq!(blocks(&[0, 2], 2), [0, 1, 4, 5]);
    }
}
