//! A model in memory: configuration, table, and all weights in one flat f32 arena.
//!
//! It initialises, and reads and writes Hugging Face directories. Tokenizer files are the caller's.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use memmap2::Mmap;
use rayon::prelude::*;
use safetensors::{Dtype, SafeTensors, View};

use super::config::{Config, Head};
use super::error::ModelError;
use super::layout::{Layout, Tensor};
use super::rng::Rng;

/// Files above this many bytes are split, as transformers does.
const SHARD_BYTES: usize = 5_000_000_000;

/// A Llama with its weights.
#[derive(Debug, Clone)]
pub struct Model {
    pub config: Config,
    pub layout: Layout,
    /// `layout.len()` values.
    pub weights: Vec<f32>,
}

impl Model {
    /// Fresh weights: N(0, `initializer_range`), the outputs of both residual branches divided by sqrt(2L) (GPT-2),
    /// norms 1, a score head N(0, 1 / (d + 1)) (Stiennon et al. 2020). A pure function of (config, seed).
    pub fn init(config: &Config, seed: u64) -> Result<Self, ModelError> {
        config.validate()?;
        let layout = Layout::new(config);
        let mut weights = vec![0.0; layout.len()];
        for tensor in layout.tensors() {
            initialise(tensor, config, seed, &mut weights[tensor.range.clone()]);
        }
        Ok(Self {
            config: config.clone(),
            layout,
            weights,
        })
    }

    /// A model whose tensors `make` gives by name and shape, each of exactly that many values.
    pub fn from_tensors(
        config: &Config,
        mut make: impl FnMut(&str, &[usize]) -> Result<Vec<f32>, ModelError>,
    ) -> Result<Self, ModelError> {
        config.validate()?;
        let layout = Layout::new(config);
        let mut weights = Vec::with_capacity(layout.len());
        for tensor in layout.tensors() {
            let values = make(&tensor.name, &tensor.shape)?;
            if values.len() != tensor.range.len() {
                return Err(ModelError::invalid(
                    format!(
                        "`{}` has {} values, its shape {:?} wants {}",
                        tensor.name,
                        values.len(),
                        tensor.shape,
                        tensor.range.len()
                    ),
                    "make the tensor in the shape of the configuration",
                ));
            }
            weights.extend(values);
        }
        Ok(Self {
            config: config.clone(),
            layout,
            weights,
        })
    }

    /// The trunk of this model under a fresh reward head.
    pub fn with_score_head(&self, seed: u64) -> Result<Self, ModelError> {
        let config = self.config.with_score_head();
        let fresh = Self::init(&config, seed)?;
        Self::from_tensors(&config, |name, _| {
            let values = match self.tensor(name) {
                Some(values) if name != "score.weight" => values,
                _ => fresh.tensor(name).unwrap_or(&[]),
            };
            Ok(values.to_vec())
        })
    }

    /// The values of a tensor by Hugging Face name.
    pub fn tensor(&self, name: &str) -> Option<&[f32]> {
        self.layout
            .find(name)
            .map(|tensor| &self.weights[tensor.range.clone()])
    }

    pub fn tensor_mut(&mut self, name: &str) -> Option<&mut [f32]> {
        self.layout
            .find(name)
            .map(|tensor| &mut self.weights[tensor.range.clone()])
    }

    /// Reads a Hugging Face directory: `config.json` and `model.safetensors`, or shards with an index; f32, bf16, f16.
    pub fn load(directory: &Path) -> Result<Self, ModelError> {
        let config = Config::load(directory)?;
        let files = weight_files(directory)?;
        check_bytes(directory, &config, &files)?;
        let layout = Layout::new(&config);
        let mut weights = vec![0.0; layout.len()];
        let mut read = BTreeSet::new();
        for path in files {
            read_file(&path, &config, &layout, &mut weights, &mut read)?;
        }
        let missing = (layout.tensors().iter()).find(|tensor| !read.contains(&tensor.name));
        if let Some(tensor) = missing {
            return Err(ModelError::file(
                directory,
                format!("no file holds `{}`", tensor.name),
                "the weights do not belong to this `config.json`, or a shard is missing",
            ));
        }
        Ok(Self {
            config,
            layout,
            weights,
        })
    }

    /// Writes `config.json`, `generation_config.json` and f32 weights into an existing directory.
    pub fn save(&self, directory: &Path) -> Result<(), ModelError> {
        save_weights(directory, &self.config, &self.layout, &self.weights)
    }
}

/// See [`Model::save`]; the weights may be anybody's.
pub(super) fn save_weights(
    directory: &Path,
    config: &Config,
    layout: &Layout,
    weights: &[f32],
) -> Result<(), ModelError> {
    save_in_shards(directory, config, layout, weights, SHARD_BYTES)
}

fn save_in_shards(
    directory: &Path,
    config: &Config,
    layout: &Layout,
    weights: &[f32],
    shard_bytes: usize,
) -> Result<(), ModelError> {
    write(&directory.join("config.json"), &config.to_json())?;
    if config.head == Head::Language {
        let path = directory.join("generation_config.json");
        write(&path, &config.generation_json())?;
    }
    let shards = shards(layout.tensors(), shard_bytes);
    if let [all] = shards.as_slice() {
        return write_shard(&directory.join("model.safetensors"), all, weights);
    }
    let count = shards.len();
    let mut map = BTreeMap::new();
    for (index, shard) in shards.iter().enumerate() {
        let name = format!("model-{:05}-of-{count:05}.safetensors", index + 1);
        write_shard(&directory.join(&name), shard, weights)?;
        map.extend(
            shard
                .iter()
                .map(|tensor| (tensor.name.clone(), name.clone())),
        );
    }
    let total = 4 * weights.len();
    let index = serde_json::json!({"metadata": {"total_size": total}, "weight_map": map});
    write(
        &directory.join("model.safetensors.index.json"),
        &format!("{index:#}\n"),
    )
}

fn write_shard(path: &Path, tensors: &[&Tensor], weights: &[f32]) -> Result<(), ModelError> {
    let views = tensors.iter().map(|tensor| {
        let values = &weights[tensor.range.clone()];
        (&tensor.name, F32View::new(&tensor.shape, values))
    });
    write_safetensors(path, views)
}

/// Writes named f32 tensors with the metadata that transformers expects.
pub(super) fn write_safetensors<'a, S: AsRef<str> + Ord + std::fmt::Display>(
    path: &Path,
    views: impl Iterator<Item = (S, F32View<'a>)>,
) -> Result<(), ModelError> {
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let views: Vec<(S, F32View<'a>)> = views.collect();
    safetensors::serialize_to_file(views, Some(metadata), path).map_err(|error| match error {
        safetensors::SafeTensorError::IoError(cause) => ModelError::io(path, cause),
        other => ModelError::file(path, other.to_string(), ""),
    })
}

/// f32 values as the little-endian bytes of a safetensors file.
pub(super) struct F32View<'a> {
    shape: Vec<usize>,
    values: &'a [f32],
}

impl<'a> F32View<'a> {
    pub(super) fn new(shape: &[usize], values: &'a [f32]) -> Self {
        Self {
            shape: shape.to_vec(),
            values,
        }
    }
}

impl View for F32View<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        // What lies in memory as it is written needs no copy.
        if cfg!(target_endian = "little") {
            return Cow::Borrowed(bytemuck::cast_slice(self.values));
        }
        let bytes = self.values.iter().flat_map(|value| value.to_le_bytes());
        Cow::Owned(bytes.collect())
    }

    fn data_len(&self) -> usize {
        4 * self.values.len()
    }
}

fn initialise(tensor: &Tensor, config: &Config, seed: u64, values: &mut [f32]) {
    let scale = match tensor.name.as_str() {
        _ if tensor.shape.len() == 1 => return values.fill(1.0),
        "score.weight" => 1.0 / ((config.hidden_size + 1) as f64).sqrt(),
        name if name.ends_with("o_proj.weight") || name.ends_with("down_proj.weight") => {
            config.initializer_range / ((2 * config.num_hidden_layers) as f64).sqrt()
        }
        _ => config.initializer_range,
    };
    let rng = Rng::new(seed, &format!("init/{}", tensor.name));
    (values.par_iter_mut().enumerate())
        .for_each(|(index, value)| *value = (scale * rng.normal(0, index as u64)) as f32);
}

fn write(path: &Path, text: &str) -> Result<(), ModelError> {
    std::fs::write(path, text).map_err(|cause| ModelError::io(path, cause))
}

/// Tensors in order, as many to a file as fit.
fn shards(tensors: &[Tensor], shard_bytes: usize) -> Vec<Vec<&Tensor>> {
    let mut shards: Vec<Vec<&Tensor>> = vec![Vec::new()];
    let mut filled = 0;
    for tensor in tensors {
        let bytes = 4 * tensor.range.len();
        if filled > 0 && filled + bytes > shard_bytes {
            shards.push(Vec::new());
            filled = 0;
        }
        filled += bytes;
        shards
            .last_mut()
            .expect("there is always a shard")
            .push(tensor);
    }
    shards
}

/// The files that hold the weights of a directory.
fn weight_files(directory: &Path) -> Result<BTreeSet<PathBuf>, ModelError> {
    let index = directory.join("model.safetensors.index.json");
    if !index.exists() {
        return Ok(BTreeSet::from([directory.join("model.safetensors")]));
    }
    let text = std::fs::read_to_string(&index).map_err(|cause| ModelError::io(&index, cause))?;
    let parsed: ShardIndex = serde_json::from_str(&text).map_err(|error| {
        ModelError::file(
            &index,
            error.to_string(),
            "the index of a sharded model has a `weight_map`",
        )
    })?;
    let mut files = BTreeSet::new();
    for name in parsed.weight_map.values() {
        let inside = Path::new(name)
            .file_name()
            .is_some_and(|file| file == name.as_str());
        if !inside {
            return Err(ModelError::file(
                &index,
                format!("`{name}` is not the name of a file beside the index"),
                "name the shards only",
            ));
        }
        files.insert(directory.join(name));
    }
    Ok(files)
}

/// Before memory is taken for what `config.json` describes: the files must be large enough to hold it.
fn check_bytes(
    directory: &Path,
    config: &Config,
    files: &BTreeSet<PathBuf>,
) -> Result<(), ModelError> {
    /// Bytes of the narrowest value that is read.
    const NARROWEST: u64 = 2;
    let mut bytes = 0;
    for path in files {
        let metadata = std::fs::metadata(path).map_err(|cause| ModelError::io(path, cause))?;
        bytes += metadata.len();
    }
    let parameters = config.parameter_count();
    // What is small is read, and its first fault is told by name.
    if parameters.saturating_mul(NARROWEST) > bytes.max(1 << 20) {
        return Err(ModelError::file(
            &directory.join("config.json"),
            format!("it describes {parameters} weights, the files beside it have {bytes} bytes"),
            "the weights do not belong to this `config.json`, or were cut short",
        ));
    }
    Ok(())
}

#[derive(serde::Deserialize)]
struct ShardIndex {
    weight_map: BTreeMap<String, String>,
}

fn read_file(
    path: &Path,
    config: &Config,
    layout: &Layout,
    weights: &mut [f32],
    read: &mut BTreeSet<String>,
) -> Result<(), ModelError> {
    let bytes = map(path)?;
    let file = parse(path, &bytes)?;
    for (name, view) in file.iter() {
        let Some(tensor) = layout.find(name) else {
            if is_redundant(name, config) {
                continue;
            }
            return Err(ModelError::file(
                path,
                format!("`{name}` has no place in this model"),
                "the weights do not belong to this `config.json`",
            ));
        };
        if view.shape() != tensor.shape {
            return Err(ModelError::file(
                path,
                format!(
                    "`{name}` has shape {:?}, `config.json` wants {:?}",
                    view.shape(),
                    tensor.shape
                ),
                "the weights do not belong to this `config.json`",
            ));
        }
        let values = &mut weights[tensor.range.clone()];
        convert(view.dtype(), view.data(), values).map_err(|message| {
            ModelError::file(
                path,
                format!("`{name}`: {message}"),
                "save the model as f32, bf16 or f16",
            )
        })?;
        read.insert(name.to_owned());
    }
    Ok(())
}

/// Tensors that some writers save although the model does not have them: a tied head, old RoPE buffers.
fn is_redundant(name: &str, config: &Config) -> bool {
    (name == "lm_head.weight" && config.tie_word_embeddings)
        || name.ends_with(".rotary_emb.inv_freq")
}

pub(super) fn parse<'a>(path: &Path, bytes: &'a [u8]) -> Result<SafeTensors<'a>, ModelError> {
    SafeTensors::deserialize(bytes).map_err(|error| {
        ModelError::file(
            path,
            format!("not a whole safetensors file: {error}"),
            "the file is damaged or was cut short; make it again",
        )
    })
}

pub(super) fn map(path: &Path) -> Result<Mmap, ModelError> {
    let file = File::open(path).map_err(|cause| ModelError::io(path, cause))?;
    // SAFETY: the map is read-only and dropped before this module returns. Models live in a store whose files are
    // never changed in place; a foreign writer that truncates one meanwhile ends this process, not the build.
    #[allow(unsafe_code)]
    let map = unsafe { Mmap::map(&file) };
    map.map_err(|cause| ModelError::io(path, cause))
}

/// Little-endian values of a safetensors dtype as f32.
pub(super) fn convert(dtype: Dtype, bytes: &[u8], values: &mut [f32]) -> Result<(), String> {
    match dtype {
        Dtype::F32 => fill(values, bytes, f32::from_le_bytes),
        Dtype::BF16 => fill(values, bytes, |raw| bf16::from_le_bytes(raw).to_f32()),
        Dtype::F16 => fill(values, bytes, |raw| f16::from_le_bytes(raw).to_f32()),
        other => return Err(format!("dtype {other:?} is not read")),
    }
    Ok(())
}

fn fill<const WIDTH: usize>(values: &mut [f32], bytes: &[u8], read: fn([u8; WIDTH]) -> f32) {
    let (chunks, _) = bytes.as_chunks::<WIDTH>();
    for (value, raw) in values.iter_mut().zip(chunks) {
        *value = read(*raw);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        Config::from_json(
            r#"{"vocab_size": 11, "hidden_size": 6, "intermediate_size": 5, "num_hidden_layers": 2,
            "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4, "eos_token_id": 2}"#,
        )
        .unwrap()
    }

    #[test]
    fn what_is_saved_loads_bit_for_bit_whole_or_in_shards() {
        let model = Model::init(&config(), 3).unwrap();
        for shard_bytes in [SHARD_BYTES, 500] {
            let directory = tempfile::tempdir().unwrap();
            let (
                path,
                Model {
                    config,
                    layout,
                    weights,
                },
            ) = (directory.path(), &model);
            save_in_shards(path, config, layout, weights, shard_bytes).unwrap();
            let loaded = Model::load(directory.path()).unwrap();
            assert_eq!(loaded.config, model.config);
            assert_eq!(loaded.weights, model.weights);
            let index = directory.path().join("model.safetensors.index.json");
            assert_eq!(index.exists(), shard_bytes == 500);
        }
    }

    #[test]
    fn saving_twice_gives_the_same_bytes() {
        let model = Model::init(&config(), 3).unwrap();
        let bytes = || {
            let directory = tempfile::tempdir().unwrap();
            model.save(directory.path()).unwrap();
            ["config.json", "model.safetensors"]
                .map(|name| std::fs::read(directory.path().join(name)).unwrap())
        };
        assert_eq!(bytes(), bytes());
    }

    #[test]
    fn weights_of_another_model_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        Model::init(&config(), 3)
            .unwrap()
            .save(directory.path())
            .unwrap();
        let mut other = config();
        let mut error_with = |change: fn(&mut Config)| {
            other = config();
            change(&mut other);
            std::fs::write(directory.path().join("config.json"), other.to_json()).unwrap();
            Model::load(directory.path()).unwrap_err().to_string()
        };
        assert!(error_with(|config| config.num_hidden_layers = 3).contains("no file holds"));
        assert!(error_with(|config| config.num_hidden_layers = 1).contains("has no place"));
        assert!(error_with(|config| config.intermediate_size = 7).contains("has shape"));
    }

    #[test]
    fn a_cut_file_is_an_error_not_a_panic() {
        let directory = tempfile::tempdir().unwrap();
        Model::init(&config(), 3)
            .unwrap()
            .save(directory.path())
            .unwrap();
        let path = directory.path().join("model.safetensors");
        let bytes = std::fs::read(&path).unwrap();
        for keep in [0, 4, 100, bytes.len() - 1] {
            std::fs::write(&path, &bytes[..keep]).unwrap();
            let error = Model::load(directory.path()).unwrap_err();
            assert!(error.to_string().contains("model.safetensors"), "{error}");
        }
    }

    #[test]
    fn half_precision_weights_are_widened() {
        let mut values = [0.0; 2];
        convert(Dtype::BF16, &[0x80, 0x3f, 0x20, 0xc0], &mut values).unwrap();
        assert_eq!(values, [1.0, -2.5]);
        convert(Dtype::F16, &[0x00, 0x3c, 0x00, 0xc1], &mut values).unwrap();
        assert_eq!(values, [1.0, -2.5]);
        assert!(convert(Dtype::I64, &[0; 16], &mut values).is_err());
    }

    #[test]
    fn init_depends_on_seed_and_name_alone() {
        let model = Model::init(&config(), 3).unwrap();
        assert_eq!(model.weights, Model::init(&config(), 3).unwrap().weights);
        assert_ne!(model.weights, Model::init(&config(), 4).unwrap().weights);
        let mut deeper = config();
        deeper.num_hidden_layers = 5;
        let deeper = Model::init(&deeper, 3).unwrap();
        let name = "model.layers.1.self_attn.q_proj.weight";
        assert_eq!(model.tensor(name), deeper.tensor(name));
        assert_eq!(model.tensor("model.norm.weight").unwrap(), [1.0; 6]);
    }

    #[test]
    fn a_reward_model_keeps_the_trunk() {
        let model = Model::init(&config(), 3).unwrap();
        let reward = model.with_score_head(1).unwrap();
        assert_eq!(
            reward.tensor("model.embed_tokens.weight"),
            model.tensor("model.embed_tokens.weight")
        );
        assert_eq!(reward.tensor("score.weight").unwrap().len(), 6);
        assert!(reward.tensor("lm_head.weight").is_none());
        let directory = tempfile::tempdir().unwrap();
        reward.save(directory.path()).unwrap();
        let loaded = Model::load(directory.path()).unwrap();
        assert_eq!(loaded.weights, reward.weights);
    }
}
