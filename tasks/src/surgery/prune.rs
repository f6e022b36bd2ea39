//! Structured pruning: a narrower or shallower model out of the important parts of a model (Minitron, arXiv
//! 2407.14679; Kanana's refinements; recipe 6.2 to 6.4).
//!
//! How important a part is comes from `importance` (or from a baseline); what training recovers is not known here.

use kbuild_engine::facts::{Facts, Prediction};
use kbuild_engine::kind::{Arity, Complaint, Known, Ports, TaskKind};
use kbuild_engine::runner::{Context, Failure};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::cut::{Kept, KeptLayer, Tie, cut};
use super::scores::Scores;
use super::selection::{keep_aligned, keep_largest, sum};
use super::{baseline, tokenizer_files};
use crate::facts;
use crate::measure::write_report;
use crate::model::{Config, Model};

/// The `prune` kind.
pub struct Prune;

/// What is left out keeps its size.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Params {
    /// Channels of the residual stream to keep.
    pub hidden: Option<usize>,
    /// Feed-forward neurons to keep in each layer.
    pub ffn: Option<usize>,
    /// Query heads to keep in each layer: a multiple of the key/value heads.
    pub heads: Option<usize>,
    /// Key/value heads to keep in each layer, each with its query heads (Kanana never prunes them).
    pub kv_heads: Option<usize>,
    /// Layers to keep.
    pub layers: Option<usize>,
    /// Where scores come from: activations (the `importance` input), or a baseline to compare with.
    pub method: Method,
    /// Seed of `method = "random"`.
    pub seed: u64,
    /// Keep the same number of query heads in every group. `false` keeps the best heads of the layer wherever they
    /// are and lets them read other keys: wrong on purpose, for the ablation.
    pub gqa_aligned: bool,
    /// One ranking of channels for the network, or one per layer. `per_layer` breaks the residual stream: wrong on
    /// purpose, for the ablation.
    pub hidden_ranking: Ranking,
    /// Neurons are ranked in each layer, or by their sum over layers.
    pub ffn_ranking: Ranking,
    /// Heads are ranked in each layer, or by their sum over layers.
    pub heads_ranking: Ranking,
    /// What becomes of the output matrix.
    pub tie_embeddings: Tie,
}

/// The source of scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    #[default]
    Activation,
    Magnitude,
    Random,
}

/// Over what a ranking runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Ranking {
    /// Scores are summed over layers: the same indices everywhere.
    Sum,
    /// Each layer by itself.
    #[serde(alias = "per-layer")]
    PerLayer,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            hidden: None,
            ffn: None,
            heads: None,
            kv_heads: None,
            layers: None,
            method: Method::Activation,
            seed: 0,
            gqa_aligned: true,
            hidden_ranking: Ranking::Sum,
            ffn_ranking: Ranking::PerLayer,
            heads_ranking: Ranking::PerLayer,
            tie_embeddings: Tie::Keep,
        }
    }
}

/// Sizes of the pruned model, all of them stated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
struct Targets {
    hidden: usize,
    ffn: usize,
    heads: usize,
    kv_heads: usize,
    layers: usize,
}

/// Sizes of the parent, as far as they are known.
struct Parent<F: Fn(&str) -> Option<usize>>(F);

impl<F: Fn(&str) -> Option<usize>> Parent<F> {
    /// Every target that the parent cannot serve.
    fn complaints(&self, params: &Params) -> Vec<Complaint> {
        let axes = [
            ("hidden", params.hidden, "hidden_size"),
            ("ffn", params.ffn, "intermediate_size"),
            ("heads", params.heads, "num_attention_heads"),
            ("kv_heads", params.kv_heads, "num_key_value_heads"),
            ("layers", params.layers, "num_hidden_layers"),
        ];
        let mut found: Vec<Complaint> = axes
            .into_iter()
            .filter_map(|(name, target, size)| self.out_of_range(name, target?, size))
            .collect();
        found.extend(self.uneven_heads(params));
        found
    }

    fn out_of_range(&self, name: &str, target: usize, size: &str) -> Option<Complaint> {
        let at = format!("params.{name}");
        if target == 0 {
            let help = format!("leave `{name}` out to keep its size");
            return Some(Complaint::new(&at, "nothing would be left", help));
        }
        let width = (self.0)(size)?;
        (target > width).then(|| {
            Complaint::new(
                &at,
                format!("{target} is wider than the parent, whose `{size}` is {width}"),
                format!("ask for at most {width}"),
            )
        })
    }

    fn uneven_heads(&self, params: &Params) -> Option<Complaint> {
        let groups = params
            .kv_heads
            .or_else(|| (self.0)("num_key_value_heads"))?;
        let heads = params.heads.filter(|_| groups > 0)?;
        if heads % groups != 0 {
            return Some(Complaint::new(
                "params.heads",
                format!("{heads} heads cannot be shared evenly by {groups} key/value heads"),
                format!("use a multiple of {groups}"),
            ));
        }
        let own = (self.0)("num_attention_heads")? / (self.0)("num_key_value_heads")?.max(1);
        (heads / groups > own).then(|| {
            Complaint::new(
                "params.heads",
                format!(
                    "{} heads in each of {groups} groups, the parent has {own}",
                    heads / groups
                ),
                format!("ask for at most {}", own * groups),
            )
        })
    }

    /// Known only where every size is.
    fn targets(&self, params: &Params) -> Option<Targets> {
        let groups = (self.0)("num_key_value_heads")?;
        let own = (self.0)("num_attention_heads")? / groups.max(1);
        let kv_heads = params.kv_heads.unwrap_or(groups);
        Some(Targets {
            hidden: params.hidden.or_else(|| (self.0)("hidden_size"))?,
            ffn: params.ffn.or_else(|| (self.0)("intermediate_size"))?,
            heads: params.heads.unwrap_or(own * kv_heads),
            kv_heads,
            layers: params.layers.or_else(|| (self.0)("num_hidden_layers"))?,
        })
    }
}

impl TaskKind for Prune {
    const NAME: &'static str = "prune";
    const VERSION: u32 = 1;
    const SUMMARY: &'static str =
        "Cuts a model down to its most important channels, neurons, heads and layers";

    type Params = Params;

    fn ports() -> Ports {
        Ports::new()
            .input("model", "model", Arity::One, "the model to cut down")
            .input(
                "importance",
                "importance",
                Arity::Optional,
                "scores of that model; needed by `method = \"activation\"`",
            )
            .output(
                "model",
                "model",
                "the smaller model, with the tokenizer files of its parent",
            )
            .output(
                "report",
                "report",
                "kept indices, shape and parameters before and after",
            )
    }

    fn predict(params: &Params, known: &Known<'_>) -> Result<Prediction, Vec<Complaint>> {
        let parent = known.one("model").cloned().unwrap_or_default();
        let sizes = Parent(|name: &str| facts::size(&parent, name));
        let mut complaints = sizes.complaints(params);
        complaints.extend(facts::shape_complaint(known, "model", "importance"));
        if params.method == Method::Activation && known.many("importance").is_empty() {
            complaints.push(Complaint::new(
                "inputs.importance",
                "`method = \"activation\"` needs scores",
                "bind the output of an `importance` task on the same model",
            ));
        }
        facts::answer(complaints, || {
            let mut small = parent.clone();
            set_targets(&mut small, sizes.targets(params).as_ref(), params);
            facts::prediction(
                facts::surgery(&parent, &small),
                [("model", small), ("report", Facts::default())],
            )
        })
    }

    fn run(params: Params, context: &mut Context) -> Result<(), Failure> {
        let source = context.one("model").path.clone();
        let parent = Model::load(&source)?;
        let scores = scores(&params, &parent, context)?;
        scores.check_model(&parent)?;
        let kept = keep(&params, &scores, &parent.config)?;
        let small = cut(&parent, &kept, params.tie_embeddings)?;
        let target = context.output("model").to_owned();
        small.save(&target)?;
        tokenizer_files::copy(&source, &target)?;
        tokenizer_files::state(context, "model", &small.config)?;
        let report = report(&params, &parent.config, &small.config, &kept);
        write_report(context.output("report"), &report)
    }
}

fn set_targets(small: &mut Facts, targets: Option<&Targets>, params: &Params) {
    let sizes = targets.map(|targets| {
        [
            ("hidden_size", targets.hidden),
            ("intermediate_size", targets.ffn),
            ("num_attention_heads", targets.heads),
            ("num_key_value_heads", targets.kv_heads),
            ("num_hidden_layers", targets.layers),
        ]
    });
    for (name, size) in sizes.into_iter().flatten() {
        small.set(name, size as u64);
    }
    if params.tie_embeddings == Tie::Average {
        small.set("tie_word_embeddings", true);
    }
    if targets.is_none() {
        let sizes = [
            "hidden_size",
            "intermediate_size",
            "num_attention_heads",
            "num_key_value_heads",
            "num_hidden_layers",
        ];
        small.0.retain(|name, _| !sizes.contains(&name.as_str()));
    }
    facts::set_parameters(small);
}

fn targets(params: &Params, config: &Config) -> Result<Targets, Failure> {
    let parent = Parent(|name: &str| {
        Some(match name {
            "hidden_size" => config.hidden_size,
            "intermediate_size" => config.intermediate_size,
            "num_attention_heads" => config.num_attention_heads,
            "num_key_value_heads" => config.num_key_value_heads,
            _ => config.num_hidden_layers,
        })
    });
    if let Some(complaint) = parent.complaints(params).into_iter().next() {
        let message = format!("`{}`: {}", complaint.at, complaint.message);
        return Err(Failure::input(message).help(complaint.help));
    }
    Ok(parent
        .targets(params)
        .expect("every size of a loaded model is known"))
}

fn scores(params: &Params, parent: &Model, context: &Context) -> Result<Scores, Failure> {
    match (params.method, context.optional("importance")) {
        (Method::Activation, Some(file)) => Scores::load(&file.path),
        (Method::Activation, None) => Err(Failure::input(
            "`method = \"activation\"` needs the input `importance`",
        )),
        (Method::Magnitude, _) => Ok(baseline::magnitude(parent)?),
        (Method::Random, _) => Ok(baseline::random(&parent.config, params.seed)),
    }
}

/// What to keep of a model of this configuration.
///
/// # Errors
/// Targets that the model cannot serve, or scores of another model.
pub fn keep(params: &Params, scores: &Scores, config: &Config) -> Result<Kept, Failure> {
    scores.fit(config)?;
    Ok(select(params, targets(params, config)?, scores, config))
}

fn select(params: &Params, targets: Targets, scores: &Scores, config: &Config) -> Kept {
    let ranked = |lists: &[Vec<f64>], ranking: Ranking| match ranking {
        Ranking::Sum => vec![sum(lists); lists.len()],
        Ranking::PerLayer => lists.to_vec(),
    };
    let hidden = ranked(&scores.hidden, params.hidden_ranking);
    let ffn = ranked(&scores.ffn, params.ffn_ranking);
    let heads = ranked(&scores.heads, params.heads_ranking);
    let kv_heads = ranked(&scores.kv_heads, params.heads_ranking);
    let per_group = targets.heads / targets.kv_heads;
    let layers: Vec<KeptLayer> = keep_largest(&scores.layers, targets.layers)
        .into_iter()
        .map(|layer| {
            let groups = keep_largest(&kv_heads[layer], targets.kv_heads);
            let heads = if params.gqa_aligned {
                keep_aligned(&heads[layer], &groups, config.heads_per_group(), per_group)
            } else {
                keep_largest(&heads[layer], targets.heads)
            };
            KeptLayer {
                layer,
                ffn: keep_largest(&ffn[layer], targets.ffn),
                heads,
                kv_heads: groups,
                hidden: keep_largest(&hidden[layer], targets.hidden),
            }
        })
        .collect();
    // Channels that differ by layer have no common embedding or head: the nearest layer decides.
    let channels = |layer: Option<&KeptLayer>| layer.map_or(Vec::new(), |l| l.hidden.clone());
    Kept {
        embedding: channels(layers.first()),
        head: channels(layers.last()),
        layers,
    }
}

fn report(params: &Params, parent: &Config, small: &Config, kept: &Kept) -> Value {
    let shape = |config: &Config| {
        json!({
            "hidden": config.hidden_size,
            "ffn": config.intermediate_size,
            "heads": config.num_attention_heads,
            "kv_heads": config.num_key_value_heads,
            "head_dim": config.head_dim,
            "layers": config.num_hidden_layers,
            "tied": config.tie_word_embeddings,
        })
    };
    json!({
        "kind": Prune::NAME,
        "method": params.method,
        "gqa_aligned": params.gqa_aligned,
        "hidden_ranking": params.hidden_ranking,
        "shape": {"before": shape(parent), "after": shape(small)},
        "parameters": small.parameter_count(),
        "parameters_before": parent.parameter_count(),
        "flops_per_token": small.flops_per_token_6n(),
        "flops_per_token_before": parent.flops_per_token_6n(),
        "tokens": 0,
        "kept": kept,
    })
}
