//! Depth up-scaling: a deeper model out of copies of the layers of a model (SOLAR, arXiv 2312.15166; recipe 5).
//!
//! Embeddings, norms, head and configuration stay as they are, but for the number of layers. What training does with
//! the copies is not known here.

use kbuild_engine::facts::{Facts, Prediction};
use kbuild_engine::kind::{Arity, Complaint, Known, Ports, TaskKind};
use kbuild_engine::runner::{Context, Failure};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::layer_map::LayerMap;
use super::tokenizer_files;
use crate::facts;
use crate::measure::write_report;
use crate::model::{Config, Model, ModelError};

/// The `upscale` kind.
pub struct Upscale;

/// Exactly one of `layer_map`, `solar` and `identity_expand` says which layers are copied; `layers` alone asks for
/// SOLAR of that depth, beside another it checks the depth.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Params {
    /// New layer j copies old layer `layer_map[j]`.
    pub layer_map: Option<Vec<usize>>,
    /// SOLAR: the model without its last m layers, followed by the model without its first m layers.
    pub solar: Option<usize>,
    /// LLaMA-Pro: a copy behind each of these layers with zero outputs, so that the function is unchanged at first.
    pub identity_expand: Option<Vec<usize>>,
    /// Number of layers of the result.
    pub layers: Option<usize>,
}

impl Params {
    /// The map for a model of `n` layers.
    pub fn map(&self, n: usize) -> Result<LayerMap, String> {
        let map = match (&self.layer_map, self.solar, &self.identity_expand, self.layers) {
            (Some(source), None, None, _) => LayerMap::explicit(n, source),
            (None, Some(m), None, _) => LayerMap::solar(n, m),
            (None, None, Some(chosen), _) => LayerMap::identity_expand(n, chosen),
            (None, None, None, Some(target)) => LayerMap::solar_to(n, target),
            _ => Err("expected exactly one of `layer_map`, `solar` and `identity_expand`, or `layers` alone".to_owned()),
        }?;
        match self.layers {
            Some(target) if target != map.len() => Err(format!(
                "the map makes {} layers, `layers` asks for {target}",
                map.len()
            )),
            _ => Ok(map),
        }
    }
}

const HELP: &str = "for SOLAR write `layers = 6` (even) or `solar = 1`; any other map as `layer_map = [0, 1, 1, 2]`";

impl TaskKind for Upscale {
    const NAME: &'static str = "upscale";
    const VERSION: u32 = 1;
    const SUMMARY: &'static str = "Makes a deeper model out of copies of the layers of a model";

    type Params = Params;

    fn ports() -> Ports {
        Ports::new()
            .input(
                "model",
                "model",
                Arity::One,
                "the model whose layers are copied",
            )
            .output(
                "model",
                "model",
                "the deeper model, with the tokenizer files of its parent",
            )
            .output(
                "report",
                "report",
                "layer map and parameters before and after",
            )
    }

    fn predict(params: &Params, known: &Known<'_>) -> Result<Prediction, Vec<Complaint>> {
        let parent = known.one("model").cloned().unwrap_or_default();
        let mut deeper = parent.clone();
        match facts::size(&parent, "num_hidden_layers") {
            Some(n) => {
                let wrong = |message| vec![Complaint::new("params", message, HELP)];
                let map = params.map(n).map_err(wrong)?;
                deeper.set("num_hidden_layers", map.len() as u64);
            }
            None => match params.layers {
                Some(layers) => drop(deeper.set("num_hidden_layers", layers)),
                None => drop(deeper.0.remove("num_hidden_layers")),
            },
        }
        facts::set_parameters(&mut deeper);
        Ok(facts::prediction(
            facts::surgery(&parent, &deeper),
            [("model", deeper), ("report", Facts::default())],
        ))
    }

    fn run(params: Params, context: &mut Context) -> Result<(), Failure> {
        let source = context.one("model").path.clone();
        let parent = Model::load(&source)?;
        let map = params
            .map(parent.config.num_hidden_layers)
            .map_err(|message| Failure::input(message).help(HELP))?;
        let deeper = deepen(&parent, &map)?;
        let target = context.output("model").to_owned();
        deeper.save(&target)?;
        tokenizer_files::copy(&source, &target)?;
        tokenizer_files::state(context, "model", &deeper.config)?;
        let report = json!({
            "kind": Self::NAME,
            "layer_map": map.source,
            "silent": map.silent,
            "layers": {"before": parent.config.num_hidden_layers, "after": map.len()},
            "parameters": deeper.config.parameter_count(),
            "parameters_before": parent.config.parameter_count(),
            "tokens": 0,
        });
        write_report(context.output("report"), &report)
    }
}

/// The model whose layer `j` is layer `map.source[j]` of `parent`, bit for bit (but for the outputs of silent layers).
pub fn deepen(parent: &Model, map: &LayerMap) -> Result<Model, ModelError> {
    let config = Config {
        num_hidden_layers: map.len(),
        ..parent.config.clone()
    };
    Model::from_tensors(&config, |name, shape| {
        let Some((layer, rest)) = layer_and_rest(name) else {
            return tensor(parent, name).map(<[f32]>::to_vec);
        };
        if map.silent[layer] && is_residual_output(rest) {
            return Ok(vec![0.0; shape.iter().product()]);
        }
        let source = format!("model.layers.{}.{rest}", map.source[layer]);
        tensor(parent, &source).map(<[f32]>::to_vec)
    })
}

/// `model.layers.3.mlp.up_proj.weight` is `(3, "mlp.up_proj.weight")`.
pub(super) fn layer_and_rest(name: &str) -> Option<(usize, &str)> {
    let (layer, rest) = name.strip_prefix("model.layers.")?.split_once('.')?;
    Some((layer.parse().ok()?, rest))
}

fn is_residual_output(rest: &str) -> bool {
    matches!(rest, "self_attn.o_proj.weight" | "mlp.down_proj.weight")
}

/// A tensor of a model by name.
pub(super) fn tensor<'a>(model: &'a Model, name: &str) -> Result<&'a [f32], ModelError> {
    model
        .tensor(name)
        .ok_or_else(|| ModelError::invalid(format!("the model has no tensor `{name}`"), ""))
}
