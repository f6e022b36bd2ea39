//! Importance scores by axis, and the file that holds them.
//!
//! The file is safetensors of F64: `layers.<i>.hidden [d]`, `.ffn [f]`, `.heads [H]`, `.kv_heads [G]` for every layer,
//! and `layers [L]`. Higher is more important. How they were measured, and on which weights, is
//! in the metadata.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use kbuild_engine::digest::Digest;
use kbuild_engine::runner::{AtPath, Failure};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::Value;

use crate::model::{Config, Model};

/// Scores of a model.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Scores {
    /// `[L][d]`: channels, at the two norms of each layer together.
    pub hidden: Vec<Vec<f64>>,
    /// `[L][f]`
    pub ffn: Vec<Vec<f64>>,
    /// `[L][H]`
    pub heads: Vec<Vec<f64>>,
    /// `[L][G]`
    pub kv_heads: Vec<Vec<f64>>,
    /// `[L]`
    pub layers: Vec<f64>,
    /// Digest of the weights that were measured; absent in a file from elsewhere.
    pub model: Option<String>,
}

const AXES: [&str; 4] = ["hidden", "ffn", "heads", "kv_heads"];

impl Scores {
    /// Checks that there is a score for every part of a model.
    pub fn fit(&self, config: &Config) -> Result<(), Failure> {
        let wanted = [
            config.hidden_size,
            config.intermediate_size,
            config.num_attention_heads,
            config.num_key_value_heads,
        ];
        let layers = config.num_hidden_layers;
        let fits = self.layers.len() == layers
            && self.axes().into_iter().zip(wanted).all(|(lists, length)| {
                lists.len() == layers && lists.iter().all(|list| list.len() == length)
            });
        match fits {
            true => Ok(()),
            false => Err(measured_on("a model of another shape")),
        }
    }

    /// The same, and that they are of these very weights, where the file says of which.
    pub fn check_model(&self, model: &Model) -> Result<(), Failure> {
        self.fit(&model.config)?;
        match &self.model {
            Some(of) if *of != digest_of(model) => {
                Err(measured_on("other weights of the same shape"))
            }
            _ => Ok(()),
        }
    }

    fn axes(&self) -> [&Vec<Vec<f64>>; 4] {
        [&self.hidden, &self.ffn, &self.heads, &self.kv_heads]
    }

    /// Writes the file; `measured` says how the scores came about.
    pub fn save(&self, path: &Path, measured: &Value) -> Result<(), Failure> {
        let mut tensors = BTreeMap::from([("layers".to_owned(), bytes_of(&self.layers))]);
        for (axis, lists) in AXES.into_iter().zip(self.axes()) {
            for (layer, list) in lists.iter().enumerate() {
                tensors.insert(format!("layers.{layer}.{axis}"), bytes_of(list));
            }
        }
        let views = tensors.iter().map(|(name, bytes)| {
            let view = TensorView::new(Dtype::F64, vec![bytes.len() / 8], bytes);
            (name, view.expect("a list of whole numbers of f64"))
        });
        // One entry alone: the order of several would be that of a hash map.
        let metadata = HashMap::from([("measured".to_owned(), measured.to_string())]);
        let bytes = safetensors::serialize(views, Some(metadata))
            .map_err(|error| Failure::input(format!("`{}`: {error}", path.display())))?;
        std::fs::write(path, bytes).at(path)
    }

    /// Reads the file.
    pub fn load(path: &Path) -> Result<Self, Failure> {
        let bytes = std::fs::read(path).at(path)?;
        let bad = |what: String| {
            Failure::input(format!("`{}`: {what}", path.display()))
                .help("expected the output of `importance`")
        };
        let file = SafeTensors::deserialize(&bytes).map_err(|error| bad(error.to_string()))?;
        let list = |name: &str| {
            let view = file.tensor(name).map_err(|error| bad(error.to_string()))?;
            if view.dtype() != Dtype::F64 {
                return Err(bad(format!("`{name}` is {:?}, expected F64", view.dtype())));
            }
            Ok(values_of(view.data()))
        };
        let layers = list("layers")?;
        let axis = |axis: &str| -> Result<Vec<Vec<f64>>, Failure> {
            (0..layers.len())
                .map(|layer| list(&format!("layers.{layer}.{axis}")))
                .collect()
        };
        let [hidden, ffn, heads, kv_heads] = AXES.map(axis);
        let (_, header) =
            SafeTensors::read_metadata(&bytes).map_err(|error| bad(error.to_string()))?;
        let measured = header.metadata().as_ref();
        let measured =
            measured.and_then(|entries| serde_json::from_str(entries.get("measured")?).ok());
        let measured: Value = measured.unwrap_or_default();
        Ok(Self {
            hidden: hidden?,
            ffn: ffn?,
            heads: heads?,
            kv_heads: kv_heads?,
            layers,
            model: measured["model"].as_str().map(str::to_owned),
        })
    }
}

/// Digest of all weights as f32, in the order of the layout: of models of one shape, which one it is.
pub fn digest_of(model: &Model) -> String {
    Digest::of(bytemuck::cast_slice(&model.weights)).to_hex()
}

fn measured_on(what: &str) -> Failure {
    Failure::input(format!("the importance was measured on {what}"))
        .help("give `prune` the importance of the very model that it prunes")
}

fn bytes_of(values: &[f64]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

fn values_of(bytes: &[u8]) -> Vec<f64> {
    let (values, _) = bytes.as_chunks::<8>();
    values.iter().map(|raw| f64::from_le_bytes(*raw)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_loads_and_twice_gives_the_same_bytes() {
        let scores = Scores {
            hidden: vec![vec![1.0, 2.0], vec![3.0, 4.0]],
            ffn: vec![vec![0.1], vec![0.2]],
            heads: vec![vec![5.0], vec![6.0]],
            kv_heads: vec![vec![7.0], vec![8.0]],
            layers: vec![0.5, 0.25],
            model: None,
        };
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("importance.safetensors");
        scores
            .save(&path, &serde_json::json!({"samples": 3, "a": 1}))
            .unwrap();
        let first = std::fs::read(&path).unwrap();
        assert_eq!(Scores::load(&path).unwrap(), scores);
        scores
            .save(&path, &serde_json::json!({"samples": 3, "a": 1}))
            .unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), first);
        std::fs::write(&path, &first[..40]).unwrap();
        assert!(Scores::load(&path).unwrap_err().help.contains("importance"));
    }

    #[test]
    fn scores_are_of_certain_weights() {
        let json = r#"{"vocab_size": 8, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1,
            "num_attention_heads": 2}"#;
        let config = Config::from_json(json).unwrap();
        let [one, other] = [1, 2].map(|seed| Model::init(&config, seed).unwrap());
        let mut scores = super::super::baseline::magnitude(&one).unwrap();
        assert!(scores.check_model(&other).is_ok(), "nobody says of which");
        scores.model = Some(digest_of(&one));
        assert!(scores.check_model(&one).is_ok());
        let failure = scores.check_model(&other).unwrap_err();
        assert!(failure.message.contains("other weights"), "{failure}");
    }
}
