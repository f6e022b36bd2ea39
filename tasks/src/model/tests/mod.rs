//! What no single operation can promise: the whole core against the plain reference, and bit for bit against itself.

mod bits;
mod decoding;
mod gradients;
mod steps;

use super::loss::Distillation;
use super::ops::Ops;
use super::optimizer::Rate;
use super::reference::Reference;
use super::*;
use candle_core::Tensor;

struct Dims {
    vocab: usize,
    d: usize,
    f: usize,
    layers: usize,
    heads: usize,
    groups: usize,
    hd: usize,
    tied: bool,
}

fn config(dims: &Dims) -> Config {
    Config {
        vocab_size: dims.vocab,
        hidden_size: dims.d,
        intermediate_size: dims.f,
        num_hidden_layers: dims.layers,
        num_attention_heads: dims.heads,
        num_key_value_heads: dims.groups,
        head_dim: dims.hd,
        rms_norm_eps: 1e-5,
        rope_theta: 100.0,
        rope_scaling: None,
        max_position_embeddings: 1024,
        tie_word_embeddings: dims.tied,
        head: Head::Language,
        initializer_range: 0.3,
        bos_token_id: Some(1),
        eos_token_id: vec![2],
        pad_token_id: None,
    }
}

/// Odd sizes, grouped queries, one key head for all (tied), `H hd ≠ d`, heads that fill no vector.
fn shapes() -> Vec<Config> {
    let grouped = Dims {
        vocab: 37,
        d: 20,
        f: 27,
        layers: 2,
        heads: 6,
        groups: 2,
        hd: 6,
        tied: false,
    };
    let multi_query = Dims {
        vocab: 53,
        d: 33,
        f: 18,
        layers: 3,
        heads: 4,
        groups: 1,
        hd: 16,
        tied: true,
    };
    let full = Dims {
        vocab: 64,
        d: 32,
        f: 48,
        layers: 1,
        heads: 2,
        groups: 2,
        hd: 2,
        tied: false,
    };
    [grouped, multi_query, full].iter().map(config).collect()
}

/// Weights with norms away from 1, so that their gradients are tested.
fn model(config: &Config, seed: u64) -> Model {
    let mut model = Model::init(config, seed).unwrap();
    let rng = Rng::new(seed, "norms");
    for tensor in model.layout.tensors().to_vec() {
        if !tensor.decays() {
            for (at, value) in model.weights[tensor.range.clone()].iter_mut().enumerate() {
                *value = 1.0 + 0.3 * rng.normal(tensor.range.start as u64, at as u64) as f32;
            }
        }
    }
    model
}

fn sequences(config: &Config, lengths: &[usize]) -> Vec<Vec<u32>> {
    let rng = Rng::new(9, "tokens");
    (lengths.iter().enumerate())
        .map(|(at, length)| {
            (0..*length as u64)
                .map(|i| rng.below(at as u64, i, config.vocab_size as u64) as u32)
                .collect()
        })
        .collect()
}

/// Rows that predict their successor, and what they predict.
fn targets(batch: &Batch) -> (Vec<usize>, Vec<u32>) {
    batch
        .sequences()
        .flat_map(|rows| rows.start..rows.end - 1)
        .map(|row| (row, batch.tokens[row + 1]))
        .unzip()
}

fn core(model: &Model, threads: usize) -> Core {
    Core::new(model.clone(), &Device::cpu(threads).unwrap()).unwrap()
}

/// Loss sum of cross entropy with weight 1 / N and z-loss; its gradient is in the core.
fn cross_entropy_step(core: &mut Core, batch: &Batch, z: f64) -> f64 {
    let (rows, targets) = targets(batch);
    let weight = 1.0 / rows.len() as f64;
    let mut total = 0.0;
    core.clear_grads();
    core.forward(batch).unwrap();
    core.lm_head(&rows, true, &mut |range, logits| {
        let sums = logits.cross_entropy(&targets[range], weight, z, true);
        total += weight * (sums.cross_entropy + z * sums.z);
    })
    .unwrap();
    core.backward().unwrap();
    total
}

fn norm(values: &[f32]) -> f64 {
    let squares = values.iter().map(|value| f64::from(*value).powi(2));
    squares.sum::<f64>().sqrt()
}

fn assert_close(found: &[f32], expected: &[f64], what: &str) {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(0.0f64, |a, b| a.max(b.abs()));
    for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
        let error = (f64::from(*found) - expected).abs();
        assert!(
            error <= 1e-5 * largest + 1e-4 * expected.abs(),
            "{what} {at}: {found} {expected}"
        );
    }
}
