//! `config.json` of a Llama: shapes and constants, in the key styles of transformers 4 and 5.
//!
//! It knows no weights. Source: recipe.md 1; `LlamaConfig` of transformers 4.x and 5.x.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::error::ModelError;

/// The largest sizes of a model: above those of any that is known, and small enough to be multiplied.
pub const MOST_TOKENS: usize = 1 << 24;
pub const MOST_CHANNELS: usize = 1 << 20;
pub const MOST_LAYERS: usize = 1 << 12;
pub const MOST_HEADS: usize = 1 << 14;
pub const MOST_POSITIONS: usize = 1 << 24;
/// Entries of the table of rotary positions.
const MOST_ANGLES: usize = 1 << 31;

/// What stands on top of the stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Head {
    /// `LlamaForCausalLM`: logits over the vocabulary.
    Language,
    /// `LlamaForSequenceClassification` with one label: `score.weight [1, d]`, a reward.
    Score,
}

/// RoPE scaling of Llama 3.1 and later (`rope_type = "llama3"`).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Llama3Scaling {
    pub factor: f64,
    pub low_freq_factor: f64,
    pub high_freq_factor: f64,
    pub original_max_position_embeddings: usize,
}

/// Shape and constants of one Llama.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub vocab_size: usize,
    /// Width of the residual stream, `d`.
    pub hidden_size: usize,
    /// Width of the feed-forward layer, `f`.
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    /// Query heads, `H`.
    pub num_attention_heads: usize,
    /// Key/value heads, `G`; query head `h` reads key/value head `h / (H / G)`.
    pub num_key_value_heads: usize,
    /// Width of one head; `H * head_dim` need not be `d`.
    pub head_dim: usize,
    pub rms_norm_eps: f64,
    pub rope_theta: f64,
    pub rope_scaling: Option<Llama3Scaling>,
    pub max_position_embeddings: usize,
    /// The output matrix is the embedding matrix.
    pub tie_word_embeddings: bool,
    pub head: Head,
    pub initializer_range: f64,
    pub bos_token_id: Option<u32>,
    /// Tokens that end a generation.
    pub eos_token_id: Vec<u32>,
    pub pad_token_id: Option<u32>,
}

impl Config {
    /// Query heads per key/value head, `P`.
    pub fn heads_per_group(&self) -> usize {
        self.num_attention_heads / self.num_key_value_heads
    }

    /// `H * head_dim`: width of the queries and of the attention output.
    pub fn query_width(&self) -> usize {
        self.num_attention_heads * self.head_dim
    }

    /// `G * head_dim`: width of the keys, and of the values.
    pub fn key_width(&self) -> usize {
        self.num_key_value_heads * self.head_dim
    }

    /// The same trunk with a reward head instead of the vocabulary.
    pub fn with_score_head(&self) -> Self {
        Self {
            head: Head::Score,
            tie_word_embeddings: false,
            ..self.clone()
        }
    }

    /// Reads `config.json` in `directory`.
    pub fn load(directory: &Path) -> Result<Self, ModelError> {
        let path = directory.join("config.json");
        let text = std::fs::read_to_string(&path).map_err(|cause| ModelError::io(&path, cause))?;
        Self::from_json(&text).map_err(|error| error.within(&path))
    }

    /// Parses either key style (transformers 4: `rope_theta`, `rope_scaling`; 5: `rope_parameters`).
    pub fn from_json(text: &str) -> Result<Self, ModelError> {
        let raw: Raw = serde_json::from_str(text).map_err(|error| {
            ModelError::invalid(
                format!("not a Llama configuration: {error}"),
                "expected the `config.json` of a `LlamaForCausalLM`",
            )
        })?;
        let config = raw.into_config()?;
        config.validate()?;
        Ok(config)
    }

    /// `config.json` in the key style of transformers 4 (read by 5 as well), with `head_dim` and `torch_dtype` explicit.
    pub fn to_json(&self) -> String {
        let mut text =
            serde_json::to_string_pretty(&Written::of(self)).expect("a config has string keys");
        text.push('\n');
        text
    }

    /// `generation_config.json`: what `generate` of transformers reads.
    pub fn generation_json(&self) -> String {
        let written = Generation {
            bos_token_id: self.bos_token_id,
            eos_token_id: OneOrMany::of(&self.eos_token_id),
            pad_token_id: self.pad_token_id,
        };
        let mut text = serde_json::to_string_pretty(&written).expect("a config has string keys");
        text.push('\n');
        text
    }

    /// Checks that the numbers make a model. The first that does not is reported.
    pub fn validate(&self) -> Result<(), ModelError> {
        self.validate_sizes()?;
        self.validate_limits()?;
        self.validate_heads()?;
        self.validate_constants()?;
        self.validate_tokens()
    }

    fn validate_sizes(&self) -> Result<(), ModelError> {
        let sizes = [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("num_key_value_heads", self.num_key_value_heads),
            ("head_dim", self.head_dim),
            ("max_position_embeddings", self.max_position_embeddings),
        ];
        match sizes.iter().find(|(_, size)| *size == 0) {
            Some((name, _)) => Err(ModelError::invalid(
                format!("`{name}` is 0"),
                format!("set `{name}` to a positive number"),
            )),
            None => Ok(()),
        }
    }

    /// Sizes far above those of any model are mistakes, and products of them do not fit into numbers.
    pub fn validate_limits(&self) -> Result<(), ModelError> {
        let sizes = [
            ("vocab_size", self.vocab_size, MOST_TOKENS),
            ("hidden_size", self.hidden_size, MOST_CHANNELS),
            ("intermediate_size", self.intermediate_size, MOST_CHANNELS),
            ("num_hidden_layers", self.num_hidden_layers, MOST_LAYERS),
            ("num_attention_heads", self.num_attention_heads, MOST_HEADS),
            ("num_key_value_heads", self.num_key_value_heads, MOST_HEADS),
            ("head_dim", self.head_dim, MOST_HEADS),
            (
                "max_position_embeddings",
                self.max_position_embeddings,
                MOST_POSITIONS,
            ),
        ];
        let products = [
            (
                "num_attention_heads` times `head_dim",
                self.num_attention_heads.saturating_mul(self.head_dim),
                MOST_CHANNELS,
            ),
            (
                "num_key_value_heads` times `head_dim",
                self.num_key_value_heads.saturating_mul(self.head_dim),
                MOST_CHANNELS,
            ),
            (
                "max_position_embeddings` times `head_dim",
                self.max_position_embeddings.saturating_mul(self.head_dim),
                MOST_ANGLES,
            ),
        ];
        let mut all = sizes.iter().chain(&products);
        match all.find(|(_, size, most)| size > most) {
            Some((name, size, most)) => Err(ModelError::invalid(
                format!("`{name}` is {size}, at most {most} is possible"),
                format!("correct `{name}`"),
            )),
            None => Ok(()),
        }
    }

    fn validate_heads(&self) -> Result<(), ModelError> {
        let (heads, groups) = (self.num_attention_heads, self.num_key_value_heads);
        if !heads.is_multiple_of(groups) {
            return Err(ModelError::invalid(
                format!("{heads} attention heads cannot share {groups} key/value heads evenly"),
                "make `num_attention_heads` a multiple of `num_key_value_heads`",
            ));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(ModelError::invalid(
                format!(
                    "`head_dim` is {}, RoPE turns pairs of channels",
                    self.head_dim
                ),
                "use an even `head_dim`",
            ));
        }
        Ok(())
    }

    fn validate_constants(&self) -> Result<(), ModelError> {
        let positive = [
            ("rms_norm_eps", self.rms_norm_eps),
            ("rope_theta", self.rope_theta),
        ];
        for (name, value) in positive {
            if !(value.is_finite() && value > 0.0) {
                return Err(ModelError::invalid(
                    format!("`{name}` is {value}, expected a positive number"),
                    format!("correct `{name}`"),
                ));
            }
        }
        if !(self.initializer_range.is_finite() && self.initializer_range >= 0.0) {
            return Err(ModelError::invalid(
                format!(
                    "`initializer_range` is {}, expected a standard deviation",
                    self.initializer_range
                ),
                "use 0.02",
            ));
        }
        match self.rope_scaling {
            Some(scaling) if !scaling.is_usable() => Err(ModelError::invalid(
                "`rope_scaling` needs `factor` >= 1, 0 < `low_freq_factor` < `high_freq_factor` and a positive `original_max_position_embeddings`",
                "copy `rope_scaling` from a Llama 3 configuration",
            )),
            _ => Ok(()),
        }
    }

    fn validate_tokens(&self) -> Result<(), ModelError> {
        let ids = self
            .bos_token_id
            .iter()
            .chain(&self.eos_token_id)
            .chain(&self.pad_token_id);
        match ids.into_iter().find(|id| **id as usize >= self.vocab_size) {
            Some(id) => Err(ModelError::invalid(
                format!(
                    "special token {id} lies outside a vocabulary of {}",
                    self.vocab_size
                ),
                "correct `bos_token_id`, `eos_token_id`, `pad_token_id` or `vocab_size`",
            )),
            None => Ok(()),
        }
    }
}

impl Llama3Scaling {
    fn is_usable(&self) -> bool {
        let numbers = [self.factor, self.low_freq_factor, self.high_freq_factor];
        numbers.iter().all(|number| number.is_finite())
            && self.factor >= 1.0
            && self.low_freq_factor > 0.0
            && self.high_freq_factor > self.low_freq_factor
            && self.original_max_position_embeddings > 0
    }
}

/// `config.json` as it is found in the wild.
#[derive(Deserialize)]
struct Raw {
    #[serde(default)]
    architectures: Option<Vec<String>>,
    #[serde(default)]
    model_type: Option<String>,
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    hidden_act: Option<String>,
    rms_norm_eps: Option<f64>,
    max_position_embeddings: Option<usize>,
    tie_word_embeddings: Option<bool>,
    attention_bias: Option<bool>,
    mlp_bias: Option<bool>,
    initializer_range: Option<f64>,
    bos_token_id: Option<OneOrMany>,
    eos_token_id: Option<OneOrMany>,
    pad_token_id: Option<OneOrMany>,
    rope_theta: Option<f64>,
    rope_scaling: Option<Value>,
    rope_parameters: Option<Value>,
    id2label: Option<serde_json::Map<String, Value>>,
    num_labels: Option<usize>,
}

impl Raw {
    fn into_config(self) -> Result<Config, ModelError> {
        let head = self.head()?;
        self.refuse_other_models()?;
        let heads = self.num_attention_heads;
        let rope = self.rope()?;
        Ok(Config {
            vocab_size: self.vocab_size,
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size,
            num_hidden_layers: self.num_hidden_layers,
            num_attention_heads: heads,
            num_key_value_heads: self.num_key_value_heads.unwrap_or(heads),
            head_dim: self.head_dim.unwrap_or(self.hidden_size / heads.max(1)),
            rms_norm_eps: self.rms_norm_eps.unwrap_or(1e-6),
            rope_theta: rope.0,
            rope_scaling: rope.1,
            max_position_embeddings: self.max_position_embeddings.unwrap_or(2048),
            tie_word_embeddings: head == Head::Language && self.tie_word_embeddings == Some(true),
            head,
            initializer_range: self.initializer_range.unwrap_or(0.02),
            bos_token_id: first(self.bos_token_id),
            eos_token_id: self.eos_token_id.map(OneOrMany::list).unwrap_or_default(),
            pad_token_id: first(self.pad_token_id),
        })
    }

    fn head(&self) -> Result<Head, ModelError> {
        let name = self
            .architectures
            .as_ref()
            .and_then(|names| names.first())
            .map(String::as_str);
        match name {
            None | Some("LlamaForCausalLM") => Ok(Head::Language),
            Some("LlamaForSequenceClassification") => {
                let labels = self.id2label.as_ref().map(serde_json::Map::len);
                match self.num_labels.or(labels) {
                    Some(1) => Ok(Head::Score),
                    labels => Err(ModelError::invalid(
                        format!(
                            "a reward model has one label, found {}",
                            labels.map_or("none stated".to_owned(), |n| n.to_string())
                        ),
                        "set `id2label` to one label",
                    )),
                }
            }
            Some(other) => Err(unsupported(
                "architectures",
                other,
                "`LlamaForCausalLM` or `LlamaForSequenceClassification`",
            )),
        }
    }

    fn refuse_other_models(&self) -> Result<(), ModelError> {
        if let Some(name) = self.model_type.as_deref().filter(|name| *name != "llama") {
            return Err(unsupported("model_type", name, "`llama`"));
        }
        if let Some(name) = self.hidden_act.as_deref().filter(|name| *name != "silu") {
            return Err(unsupported("hidden_act", name, "`silu`"));
        }
        if self.attention_bias == Some(true) {
            return Err(unsupported("attention_bias", "true", "`false`"));
        }
        if self.mlp_bias == Some(true) {
            return Err(unsupported("mlp_bias", "true", "`false`"));
        }
        Ok(())
    }

    fn rope(&self) -> Result<(f64, Option<Llama3Scaling>), ModelError> {
        let table = self
            .rope_parameters
            .as_ref()
            .or(self.rope_scaling.as_ref())
            .filter(|table| !table.is_null());
        let theta = table
            .and_then(|table| table.get("rope_theta"))
            .and_then(Value::as_f64)
            .or(self.rope_theta)
            .unwrap_or(10000.0);
        let Some(table) = table else {
            return Ok((theta, None));
        };
        let kind = table.get("rope_type").or_else(|| table.get("type"));
        match kind.and_then(Value::as_str) {
            None | Some("default") => Ok((theta, None)),
            Some("llama3") => serde_json::from_value(table.clone())
                .map(|scaling| (theta, Some(scaling)))
                .map_err(|error| {
                    ModelError::invalid(
                        format!("RoPE scaling `llama3` is incomplete: {error}"),
                        "copy `rope_scaling` from a Llama 3 configuration",
                    )
                }),
            Some(other) => Err(unsupported("rope_type", other, "`default` or `llama3`")),
        }
    }
}

fn unsupported(key: &str, found: &str, expected: &str) -> ModelError {
    ModelError::invalid(
        format!("`{key}` is `{found}`, expected {expected}"),
        "only plain Llama models can be used here",
    )
}

fn first(ids: Option<OneOrMany>) -> Option<u32> {
    ids.and_then(|ids| ids.list().first().copied())
}

/// Token ids are written as a number or a list; negative numbers stand for none.
#[derive(Clone, Serialize, Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(i64),
    Many(Vec<i64>),
}

impl OneOrMany {
    fn list(self) -> Vec<u32> {
        let ids = match self {
            Self::One(id) => vec![id],
            Self::Many(ids) => ids,
        };
        ids.into_iter()
            .filter(|id| *id >= 0)
            .map(|id| u32::try_from(id).unwrap_or(u32::MAX))
            .collect()
    }

    fn of(ids: &[u32]) -> Option<Self> {
        match ids {
            [] => None,
            [id] => Some(Self::One(i64::from(*id))),
            ids => Some(Self::Many(ids.iter().map(|id| i64::from(*id)).collect())),
        }
    }
}

/// `config.json` as it is written: a struct, so that the order of keys is ours whatever features serde_json has.
#[derive(Serialize)]
struct Written {
    architectures: [&'static str; 1],
    attention_bias: bool,
    attention_dropout: f64,
    bos_token_id: Option<u32>,
    eos_token_id: Option<OneOrMany>,
    head_dim: usize,
    hidden_act: &'static str,
    hidden_size: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    id2label: Option<OneLabel>,
    initializer_range: f64,
    intermediate_size: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    label2id: Option<OneLabelId>,
    max_position_embeddings: usize,
    mlp_bias: bool,
    model_type: &'static str,
    num_attention_heads: usize,
    num_hidden_layers: usize,
    num_key_value_heads: usize,
    pad_token_id: Option<u32>,
    rms_norm_eps: f64,
    rope_scaling: Option<WrittenScaling>,
    rope_theta: f64,
    tie_word_embeddings: bool,
    torch_dtype: &'static str,
    use_cache: bool,
    vocab_size: usize,
}

#[derive(Serialize)]
struct OneLabel {
    #[serde(rename = "0")]
    zero: &'static str,
}

#[derive(Serialize)]
struct OneLabelId {
    #[serde(rename = "LABEL_0")]
    label: u32,
}

#[derive(Serialize)]
struct WrittenScaling {
    rope_type: &'static str,
    #[serde(flatten)]
    scaling: Llama3Scaling,
}

#[derive(Serialize)]
struct Generation {
    #[serde(skip_serializing_if = "Option::is_none")]
    bos_token_id: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    eos_token_id: Option<OneOrMany>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pad_token_id: Option<u32>,
}

impl Written {
    fn of(config: &Config) -> Self {
        let score = config.head == Head::Score;
        Self {
            architectures: [if score {
                "LlamaForSequenceClassification"
            } else {
                "LlamaForCausalLM"
            }],
            attention_bias: false,
            attention_dropout: 0.0,
            bos_token_id: config.bos_token_id,
            eos_token_id: OneOrMany::of(&config.eos_token_id),
            head_dim: config.head_dim,
            hidden_act: "silu",
            hidden_size: config.hidden_size,
            id2label: score.then_some(OneLabel { zero: "LABEL_0" }),
            initializer_range: config.initializer_range,
            intermediate_size: config.intermediate_size,
            label2id: score.then_some(OneLabelId { label: 0 }),
            max_position_embeddings: config.max_position_embeddings,
            mlp_bias: false,
            model_type: "llama",
            num_attention_heads: config.num_attention_heads,
            num_hidden_layers: config.num_hidden_layers,
            num_key_value_heads: config.num_key_value_heads,
            pad_token_id: config.pad_token_id,
            rms_norm_eps: config.rms_norm_eps,
            rope_scaling: config.rope_scaling.map(|scaling| WrittenScaling {
                rope_type: "llama3",
                scaling,
            }),
            rope_theta: config.rope_theta,
            tie_word_embeddings: config.tie_word_embeddings,
            torch_dtype: "float32",
            use_cache: true,
            vocab_size: config.vocab_size,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = r#"{"vocab_size": 32, "hidden_size": 12, "intermediate_size": 20,
        "num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 3, "rms_norm_eps": 1e-5"#;

    fn parse(more: &str) -> Result<Config, ModelError> {
        Config::from_json(&format!("{SMALL}{more}}}"))
    }

    #[test]
    fn what_is_written_reads_back() {
        let mut config = parse(
            r#", "eos_token_id": [2, 5], "rope_parameters": {"rope_type": "llama3", "rope_theta": 200.0,
            "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}"#,
        )
        .unwrap();
        assert_eq!(config.head_dim, 2);
        assert_eq!(config.rope_theta, 200.0);
        assert_eq!(config.eos_token_id, [2, 5]);
        assert_eq!(Config::from_json(&config.to_json()).unwrap(), config);
        config.head = Head::Score;
        assert_eq!(Config::from_json(&config.to_json()).unwrap(), config);
    }

    #[test]
    fn both_key_styles_mean_the_same() {
        let four = parse(r#", "rope_theta": 500000.0, "rope_scaling": null"#).unwrap();
        let five =
            parse(r#", "rope_parameters": {"rope_theta": 500000.0, "rope_type": "default"}"#)
                .unwrap();
        assert_eq!(four, five);
    }

    #[test]
    fn what_is_not_a_plain_llama_is_refused_with_a_way_out() {
        for (more, expected) in [
            (r#", "hidden_act": "gelu""#, "`hidden_act` is `gelu`"),
            (r#", "attention_bias": true"#, "`attention_bias` is `true`"),
            (r#", "model_type": "mistral""#, "`model_type` is `mistral`"),
            (r#", "eos_token_id": 32"#, "special token 32 lies outside"),
            (
                r#", "rope_scaling": {"type": "yarn"}"#,
                "`rope_type` is `yarn`",
            ),
            (r#", "head_dim": 3"#, "RoPE turns pairs"),
            (r#", "head_dim": 0"#, "`head_dim` is 0"),
            (
                r#", "architectures": ["LlamaForSequenceClassification"]"#,
                "a reward model has one label",
            ),
        ] {
            let error = parse(more).unwrap_err();
            assert!(error.to_string().contains(expected), "{more}: {error}");
            assert!(!error.help().is_empty());
        }
        let uneven = SMALL.replace(
            "\"num_key_value_heads\": 3",
            "\"num_key_value_heads\": 4, \"head_dim\": 2",
        ) + "}";
        let error = Config::from_json(&uneven).unwrap_err().to_string();
        assert!(error.contains("cannot share"), "{error}");
    }
}
