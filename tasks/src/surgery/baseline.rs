//! Scores that look at no activation: random, and by weight norm. They are there to compare against.

use super::scores::Scores;
use super::upscale::tensor;
use crate::model::{Config, Model, ModelError, Rng};

/// Uniform random scores: a pure function of (shape, seed).
pub fn random(config: &Config, seed: u64) -> Scores {
    let layers = config.num_hidden_layers;
    let list = |axis: &str, layer: usize, length: usize| -> Vec<f64> {
        let rng = Rng::new(seed, &format!("prune/{axis}"));
        (0..length)
            .map(|index| rng.uniform(layer as u64, index as u64))
            .collect()
    };
    let lists = |axis: &str, length: usize| -> Vec<Vec<f64>> {
        (0..layers).map(|layer| list(axis, layer, length)).collect()
    };
    Scores {
        hidden: lists("hidden", config.hidden_size),
        ffn: lists("ffn", config.intermediate_size),
        heads: lists("heads", config.num_attention_heads),
        kv_heads: lists("kv_heads", config.num_key_value_heads),
        layers: list("layers", 0, layers),
        model: None,
    }
}

/// Norms of the weights that write what is scored: columns of `down_proj` and `o_proj`, rows of both for channels,
/// all of both for a layer.
pub fn magnitude(model: &Model) -> Result<Scores, ModelError> {
    let config = &model.config;
    let mut scores = Scores::default();
    for layer in 0..config.num_hidden_layers {
        let down = tensor(model, &format!("model.layers.{layer}.mlp.down_proj.weight"))?;
        let output = tensor(
            model,
            &format!("model.layers.{layer}.self_attn.o_proj.weight"),
        )?;
        let (f, width) = (config.intermediate_size, config.query_width());
        let heads = column_squares(output, width);
        let blocks = |block: usize| -> Vec<f64> {
            let sums = heads
                .chunks_exact(block)
                .map(|head| head.iter().sum::<f64>().sqrt());
            sums.collect()
        };
        scores
            .ffn
            .push(column_squares(down, f).iter().map(|x| x.sqrt()).collect());
        scores.heads.push(blocks(config.head_dim));
        scores
            .kv_heads
            .push(blocks(config.head_dim * config.heads_per_group()));
        let hidden = row_squares(down, f)
            .into_iter()
            .zip(row_squares(output, width));
        scores
            .hidden
            .push(hidden.map(|(a, b)| (a + b).sqrt()).collect());
        scores.layers.push((squares(down) + squares(output)).sqrt());
    }
    Ok(scores)
}

fn squares(values: &[f32]) -> f64 {
    values.iter().map(|x| f64::from(*x) * f64::from(*x)).sum()
}

fn row_squares(values: &[f32], width: usize) -> Vec<f64> {
    values.chunks_exact(width).map(squares).collect()
}

fn column_squares(values: &[f32], width: usize) -> Vec<f64> {
    let mut sums = vec![0.0; width];
    for row in values.chunks_exact(width) {
        for (sum, value) in sums.iter_mut().zip(row) {
            *sum += f64::from(*value) * f64::from(*value);
        }
    }
    sums
}
