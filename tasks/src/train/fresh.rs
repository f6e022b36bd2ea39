//! The shape of a fresh model, from the params that a person writes.

use kbuild_engine::kind::Complaint;
use kbuild_engine::runner::Failure;

use crate::model::{Config, Head, config};

/// What was given of a shape.
#[derive(Debug, Clone, Default)]
pub struct Shape {
    pub hidden: Option<usize>,
    pub layers: Option<usize>,
    pub heads: Option<usize>,
    pub kv_heads: Option<usize>,
    pub head_dim: Option<usize>,
    pub ffn: Option<usize>,
    pub tie_embeddings: Option<bool>,
    pub rope_theta: Option<f64>,
    pub max_positions: Option<usize>,
    pub init_std: Option<f64>,
}

impl Shape {
    /// The configuration of a model of this shape; special tokens are the caller's.
    ///
    /// # Errors
    /// A size that is missing, or sizes that make no model.
    pub fn config(&self, vocab_size: usize, seq_len: usize) -> Result<Config, Failure> {
        let given = |value: Option<usize>, name: &str| {
            value.filter(|&size| size > 0).ok_or_else(|| {
                Failure::input(format!("a fresh model needs `{name}`"))
                    .help("give `hidden`, `layers` and `heads`, or bind `inputs.init` to a model")
            })
        };
        if let Some((name, size, most)) = self.above_limit() {
            return Err(
                Failure::input(format!("`{name}` is {size}, at most {most} is possible"))
                    .help(format!("correct `{name}`")),
            );
        }
        let hidden = given(self.hidden, "hidden")?;
        let heads = given(self.heads, "heads")?;
        let head_dim = match self.head_dim {
            Some(head_dim) => head_dim,
            None if hidden % heads == 0 => hidden / heads,
            None => {
                return Err(Failure::input(format!(
                    "`hidden` = {hidden} is no multiple of `heads` = {heads}"
                ))
                .help("give `head_dim`, or other sizes"));
            }
        };
        let config = Config {
            vocab_size,
            hidden_size: hidden,
            intermediate_size: self
                .ffn
                .unwrap_or((8 * hidden).div_ceil(3).next_multiple_of(16)),
            num_hidden_layers: given(self.layers, "layers")?,
            num_attention_heads: heads,
            num_key_value_heads: self.kv_heads.unwrap_or(heads),
            head_dim,
            rms_norm_eps: 1e-5,
            rope_theta: self.rope_theta.unwrap_or(10_000.0),
            rope_scaling: None,
            max_position_embeddings: self.max_positions.unwrap_or(seq_len),
            tie_word_embeddings: self.tie_embeddings.unwrap_or(false),
            head: Head::Language,
            initializer_range: self.init_std.unwrap_or(0.02),
            bos_token_id: None,
            eos_token_id: Vec::new(),
            pad_token_id: None,
        };
        config.validate()?;
        if seq_len > config.max_position_embeddings {
            return Err(Failure::input(format!(
                "`seq_len` is {seq_len}, `max_positions` {}",
                config.max_position_embeddings
            ))
            .help("give the model at least `seq_len` positions"));
        }
        Ok(config)
    }

    /// The first size above what any model has, by its param, and the most it can be.
    pub fn above_limit(&self) -> Option<(&'static str, usize, usize)> {
        let sizes = [
            ("hidden", self.hidden, config::MOST_CHANNELS),
            ("layers", self.layers, config::MOST_LAYERS),
            ("heads", self.heads, config::MOST_HEADS),
            ("kv_heads", self.kv_heads, config::MOST_HEADS),
            ("head_dim", self.head_dim, config::MOST_HEADS),
            ("ffn", self.ffn, config::MOST_CHANNELS),
            ("max_positions", self.max_positions, config::MOST_POSITIONS),
        ];
        let mut given = sizes
            .into_iter()
            .filter_map(|(name, size, most)| Some((name, size?, most)));
        given.find(|(_, size, most)| size > most)
    }

    /// Shape params beside a model that is continued.
    pub fn complaints_beside_init(&self) -> Vec<Complaint> {
        let given = [
            ("hidden", self.hidden.is_some()),
            ("layers", self.layers.is_some()),
            ("heads", self.heads.is_some()),
            ("kv_heads", self.kv_heads.is_some()),
            ("head_dim", self.head_dim.is_some()),
            ("ffn", self.ffn.is_some()),
            ("tie_embeddings", self.tie_embeddings.is_some()),
            ("rope_theta", self.rope_theta.is_some()),
            ("max_positions", self.max_positions.is_some()),
            ("init_std", self.init_std.is_some()),
        ];
        let complaint = |(name, _): (&str, bool)| {
            Complaint::new(
                &format!("params.{name}"),
                format!("`{name}` is the shape of a fresh model, and `init` is bound"),
                "remove it; the shape is the given model's",
            )
        };
        given
            .into_iter()
            .filter(|(_, given)| *given)
            .map(complaint)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_sizes_make_a_model() {
        let shape = Shape {
            hidden: Some(96),
            layers: Some(3),
            heads: Some(4),
            ..Shape::default()
        };
        let config = shape.config(500, 64).unwrap();
        assert_eq!((config.head_dim, config.num_key_value_heads), (24, 4));
        assert_eq!(config.intermediate_size, 256);
        assert_eq!(config.max_position_embeddings, 64);
    }

    #[test]
    fn sizes_that_make_no_model_are_told() {
        let message = |shape: Shape| shape.config(500, 64).unwrap_err().message;
        let shape = Shape {
            hidden: Some(96),
            layers: Some(3),
            heads: Some(4),
            ..Shape::default()
        };
        assert!(message(Shape::default()).contains("needs `hidden`"));
        let groups = Shape {
            kv_heads: Some(3),
            ..shape.clone()
        };
        assert!(message(groups).contains("key/value heads"));
        let short = Shape {
            max_positions: Some(32),
            ..shape.clone()
        };
        assert!(message(short).contains("seq_len"));
        assert_eq!(shape.complaints_beside_init().len(), 3);
    }
}
