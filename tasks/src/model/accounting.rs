//! Parameters and floating-point operations of a model, by the three formulas in use. Always say which.
//!
//! Source: recipe.md 11.4; Kaplan et al. 2020; Chowdhery et al. 2022 (PaLM), appendix B; Megatron-LM
//! `num_floating_point_operations`.

use super::config::{Config, Head};

/// The size that a model of so many parameters goes by: a tenth of a billion, below a billion a million (8.03 billion
/// parameters are an 8.0B, 634.7 million a 635M); a small one by all of them. Kanana counts its FLOPs with these (report
/// p. 2, figure 1).
pub fn nominal_size(parameters: u64) -> f64 {
    let unit = match parameters {
        1_000_000_000.. => 1e8,
        100_000_000.. => 1e6,
        _ => 1.0,
    };
    (parameters as f64 / unit).round() * unit
}

impl Config {
    /// All weights: embeddings, layers, norms, head.
    pub fn parameter_count(&self) -> u64 {
        let embeddings = self.vocab_size * self.hidden_size;
        let head = match self.head {
            Head::Score => self.hidden_size,
            Head::Language if self.tie_word_embeddings => 0,
            Head::Language => embeddings,
        };
        (embeddings + head) as u64 + self.non_embedding_parameter_count()
    }

    /// Layers and norms alone.
    pub fn non_embedding_parameter_count(&self) -> u64 {
        let norms = (2 * self.num_hidden_layers + 1) * self.hidden_size;
        self.layer_matrices() + norms as u64
    }

    /// Weights that are multiplied with every token, `M`: all matrices but the embedding look-up.
    pub fn matmul_parameter_count(&self) -> u64 {
        let outputs = match self.head {
            Head::Language => self.vocab_size,
            Head::Score => 1,
        };
        self.layer_matrices() + (outputs * self.hidden_size) as u64
    }

    fn layer_matrices(&self) -> u64 {
        let attention = 2 * self.hidden_size * (self.query_width() + self.key_width());
        let feed_forward = 3 * self.hidden_size * self.intermediate_size;
        (self.num_hidden_layers * (attention + feed_forward)) as u64
    }

    /// Training FLOPs per token, `6 N` with all weights (Kaplan et al.; what Kanana reports).
    pub fn flops_per_token_6n(&self) -> u64 {
        6 * self.parameter_count()
    }

    /// Training FLOPs per token, `6 M + 12 L H hd S`: attention without the causal discount (PaLM, nanochat).
    pub fn flops_per_token_palm(&self, sequence: usize) -> u64 {
        6 * self.matmul_parameter_count() + 12 * self.attention_width() * sequence as u64
    }

    /// Training FLOPs of sequences of these lengths, causal: `6 M Σ S + 6 L H hd Σ S²` (Megatron-LM).
    /// A forward pass alone is a third of it.
    pub fn flops_megatron(&self, lengths: impl IntoIterator<Item = usize>) -> u64 {
        lengths
            .into_iter()
            .map(|length| length as u64)
            .map(|length| {
                6 * self.matmul_parameter_count() * length
                    + 6 * self.attention_width() * length * length
            })
            .sum()
    }

    fn attention_width(&self) -> u64 {
        (self.num_hidden_layers * self.query_width()) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::nominal_size;

    #[test]
    fn a_size_is_what_a_model_is_called() {
        for (parameters, size) in [
            (8_030_261_248, 8.0e9),
            (9_775_300_608, 9.8e9),
            (2_086_979_328, 2.1e9),
            (634_700_000, 635e6),
            (1_262_720, 1_262_720.0),
        ] {
            assert_eq!(nominal_size(parameters), size);
        }
    }
}
