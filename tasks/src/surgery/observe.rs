//! Importance from activations: what each channel, neuron, head and layer does on calibration text.
//!
//! For an activation `x[b, s, c]`: `A_c = sqrt(Σ_b (mean_s |x[b, s, c]|)²)` (modelopt 0.47 `L2NormHook`, the best row of
//! Kanana's table 15). Sums run over sequences in order, in f64, and the root is taken once at the end, so that scores
//! do not depend on how sequences are grouped into micro-batches. Layers are the exception: theirs is a mean over
//! micro-batches of `1 − mean cos(input, output)`.
//!
//! Knows no model: rows of numbers in, scores out.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::scores::Scores;
use crate::model::{Batch, Config};

/// How positions of one sequence, and sequences of the calibration set, become one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Aggregation {
    /// Mean of absolute values (over positions), plain mean (over sequences).
    Mean,
    /// Root of the sum of squares.
    L2,
}

/// Aggregation over positions, then over sequences.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Aggregations {
    pub sequence: Aggregation,
    pub batch: Aggregation,
}

/// The score of each of `C` channels of one activation.
#[derive(Debug, Clone)]
pub struct Channels {
    how: Aggregations,
    /// `[C]`: sum over sequences, of squares for L2.
    sum: Vec<f64>,
    sequences: usize,
}

impl Channels {
    pub fn new(width: usize, how: Aggregations) -> Self {
        Self {
            how,
            sum: vec![0.0; width],
            sequences: 0,
        }
    }

    /// Adds the activations of whole sequences; `rows` is `[N, C]`.
    pub fn add(&mut self, rows: &[f32], batch: &Batch) {
        let width = self.sum.len();
        for range in batch.sequences() {
            let positions = range.len();
            let own = &rows[range.start * width..range.end * width];
            let values = aggregate_positions(own, width, positions, self.how.sequence);
            for (sum, value) in self.sum.iter_mut().zip(values) {
                *sum += match self.how.batch {
                    Aggregation::L2 => value * value,
                    Aggregation::Mean => value,
                };
            }
            self.sequences += 1;
        }
    }

    /// `[C]`
    pub fn scores(&self) -> Vec<f64> {
        let finish = |sum: &f64| match self.how.batch {
            Aggregation::L2 => sum.sqrt(),
            Aggregation::Mean => sum / self.sequences.max(1) as f64,
        };
        self.sum.iter().map(finish).collect()
    }
}

/// `[C]`: one number per channel of a sequence of `positions` rows.
fn aggregate_positions(rows: &[f32], width: usize, positions: usize, how: Aggregation) -> Vec<f64> {
    let mut sum = vec![0.0; width];
    for row in rows.chunks_exact(width) {
        for (sum, value) in sum.iter_mut().zip(row) {
            let value = f64::from(value.abs());
            *sum += match how {
                Aggregation::Mean => value,
                Aggregation::L2 => value * value,
            };
        }
    }
    for sum in &mut sum {
        *sum = match how {
            Aggregation::Mean => *sum / positions.max(1) as f64,
            Aggregation::L2 => sum.sqrt(),
        };
    }
    sum
}

/// Norm of each block of `width` scores: heads and groups from the channels of the attention output (group-major).
pub fn block_norms(scores: &[f64], width: usize) -> Vec<f64> {
    scores
        .chunks_exact(width)
        .map(|block| block.iter().map(|x| x * x).sum::<f64>().sqrt())
        .collect()
}

/// `1 − mean cos(x, y)` over the rows of one micro-batch; a row of zeros counts as unchanged.
pub fn layer_change(x: &[f32], y: &[f32], width: usize) -> f64 {
    let cosines = x
        .chunks_exact(width)
        .zip(y.chunks_exact(width))
        .map(|(x, y)| {
            let dot = |a: &[f32], b: &[f32]| -> f64 {
                a.iter()
                    .zip(b)
                    .map(|(a, b)| f64::from(*a) * f64::from(*b))
                    .sum()
            };
            let norms = (dot(x, x) * dot(y, y)).sqrt();
            if norms > 0.0 { dot(x, y) / norms } else { 1.0 }
        });
    let rows = (x.len() / width.max(1)).max(1);
    1.0 - cosines.sum::<f64>() / rows as f64
}

/// Everything that is being measured of a model.
pub struct Tally {
    hidden: [Vec<Channels>; 2],
    ffn: Vec<Channels>,
    attention: Vec<Channels>,
    /// Sum over micro-batches.
    layers: Vec<f64>,
    batches: usize,
    head_dim: usize,
    heads_per_group: usize,
    width: usize,
}

impl Tally {
    pub fn new(config: &Config, how: Aggregations) -> Self {
        let layers = config.num_hidden_layers;
        let channels = |width: usize| vec![Channels::new(width, how); layers];
        Self {
            hidden: [channels(config.hidden_size), channels(config.hidden_size)],
            ffn: channels(config.intermediate_size),
            attention: channels(config.query_width()),
            layers: vec![0.0; layers],
            batches: 0,
            head_dim: config.head_dim,
            heads_per_group: config.heads_per_group(),
            width: config.hidden_size,
        }
    }

    /// Output of the input norm, `[N, d]`.
    pub fn input_norm(&mut self, layer: usize, rows: &[f32], batch: &Batch) {
        self.hidden[0][layer].add(rows, batch);
    }

    /// Output of the norm before the feed-forward layer, `[N, d]`.
    pub fn post_norm(&mut self, layer: usize, rows: &[f32], batch: &Batch) {
        self.hidden[1][layer].add(rows, batch);
    }

    /// Input of `o_proj`, `[N, H·hd]`.
    pub fn attention(&mut self, layer: usize, rows: &[f32], batch: &Batch) {
        self.attention[layer].add(rows, batch);
    }

    /// Input of `down_proj`: `silu(gate) · up`, `[N, f]`.
    pub fn intermediate(&mut self, layer: usize, rows: &[f32], batch: &Batch) {
        self.ffn[layer].add(rows, batch);
    }

    /// The residual stream before and after a layer, `[N, d]` each.
    pub fn block(&mut self, layer: usize, before: &[f32], after: &[f32]) {
        self.layers[layer] += layer_change(before, after, self.width);
    }

    /// One micro-batch is complete.
    pub fn end_batch(&mut self) {
        self.batches += 1;
    }

    pub fn scores(&self) -> Scores {
        let attention: Vec<Vec<f64>> = self.attention.iter().map(Channels::scores).collect();
        let blocks = |width: usize| -> Vec<Vec<f64>> {
            attention
                .iter()
                .map(|scores| block_norms(scores, width))
                .collect()
        };
        let hidden = self.hidden[0]
            .iter()
            .zip(&self.hidden[1])
            .map(|(first, second)| {
                let both = first.scores().into_iter().zip(second.scores());
                both.map(|(a, b)| a + b).collect()
            });
        Scores {
            hidden: hidden.collect(),
            ffn: self.ffn.iter().map(Channels::scores).collect(),
            heads: blocks(self.head_dim),
            kv_heads: blocks(self.head_dim * self.heads_per_group),
            layers: (self.layers.iter())
                .map(|sum| sum / self.batches.max(1) as f64)
                .collect(),
            model: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOW: Aggregations = Aggregations {
        sequence: Aggregation::Mean,
        batch: Aggregation::L2,
    };

    fn rows(n: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 37 % 19) as f32 - 9.0) / 7.0).collect()
    }

    #[test]
    fn scores_do_not_depend_on_the_split_into_batches() {
        let (sequences, width) = ([vec![1u32; 4], vec![1; 4], vec![1; 2]], 3);
        let all = rows(30);
        let mut whole = Channels::new(width, HOW);
        whole.add(&all, &Batch::of(&sequences));
        let mut split = Channels::new(width, HOW);
        split.add(&all[..12], &Batch::of(&sequences[..1]));
        split.add(&all[12..], &Batch::of(&sequences[1..]));
        assert_eq!(whole.scores(), split.scores());
    }

    #[test]
    fn mean_over_positions_then_root_over_sequences() {
        let mut channels = Channels::new(1, HOW);
        channels.add(
            &[1.0, -3.0, 5.0, 1.0],
            &Batch::of([vec![0u32; 2], vec![0; 2]]),
        );
        let want = (2.0f64.powi(2) + 3.0f64.powi(2)).sqrt();
        assert!((channels.scores()[0] - want).abs() < 1e-12);
    }

    #[test]
    fn a_layer_that_changes_nothing_scores_zero() {
        let x = rows(12);
        assert!(layer_change(&x, &x, 3).abs() < 1e-12);
        let turned: Vec<f32> = x.iter().map(|v| -v).collect();
        assert!((layer_change(&x, &turned, 3) - 2.0).abs() < 1e-12);
    }
}
