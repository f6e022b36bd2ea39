//! Cases of weights without gradients: up-scaling, importance, pruning, and the accounting of shapes.

use std::collections::BTreeMap;

use kbuild_tasks::model::{Batch, Config, Model};
use kbuild_tasks::surgery::cut::{Kept, KeptLayer, Tie, cut};
use kbuild_tasks::surgery::importance::observe;
use kbuild_tasks::surgery::layer_map::LayerMap;
use kbuild_tasks::surgery::observe::{Aggregation, Aggregations, Tally};
use kbuild_tasks::surgery::prune::{Params, Ranking, keep};
use kbuild_tasks::surgery::scores::Scores;
use kbuild_tasks::surgery::selection::keep_largest;
use kbuild_tasks::surgery::upscale::deepen;
use safetensors::SafeTensors;
use serde_json::Value;

use super::{Case, Vectors, core_of};

pub const CASES: &[Case] = &[
    case("accounting/flops.json#cases/*", accounting),
    case("dus/dus.json#layer_maps", layer_maps),
    case("dus/dus.json#applied", up_scaled_model),
    case("dus/dus.json#identity_expansion", identity_expansion),
    case(
        "prune/prune.json#modelopt_L2NormHook_max_abs_err",
        importance_scores,
    ),
    case("prune/prune.json#scores", importance_scores),
    case("prune/prune.json#aggregation_variants", aggregations),
    case("prune/prune.json#targets", kept_indices),
    case("prune/prune.json#kept", kept_indices),
    case("prune/prune.json#network_wide_sum", network_wide_ranking),
    case("prune/prune.json#combined", combined_model),
    case("prune/prune.json#invariants", invariants),
    case("prune/prune.json#max_abs_change_vs_full", pruned_logits),
    case("prune/prune.json#negative", unaligned_heads),
];

const fn case(id: &'static str, run: fn(&Vectors)) -> Case {
    Case { id, run }
}

/// Tensors of a safetensors file as f64, and token ids as rows.
pub struct Tensors(Vec<u8>);

impl Tensors {
    pub fn open(vectors: &Vectors, name: &str) -> Self {
        Self(std::fs::read(vectors.path(name)).expect("a readable file"))
    }

    pub fn floats(&self, name: &str) -> Vec<f32> {
        let file = SafeTensors::deserialize(&self.0).expect("a safetensors file");
        let data = file.tensor(name).expect("the tensor is there").data();
        let (values, _) = data.as_chunks::<4>();
        values.iter().map(|raw| f32::from_le_bytes(*raw)).collect()
    }

    pub fn ids(&self, name: &str) -> Vec<Vec<u32>> {
        let file = SafeTensors::deserialize(&self.0).expect("a safetensors file");
        let view = file.tensor(name).expect("the tensor is there");
        let (values, _) = view.data().as_chunks::<8>();
        let ids: Vec<u32> = values
            .iter()
            .map(|raw| i64::from_le_bytes(*raw) as u32)
            .collect();
        ids.chunks(view.shape()[1]).map(<[u32]>::to_vec).collect()
    }
}

/// `[N, V]` of all positions.
fn logits(model: &Model, sequences: &[Vec<u32>]) -> Vec<f32> {
    let mut core = core_of(model);
    let batch = Batch::of(sequences);
    core.forward_only(&batch, None).expect("a forward pass");
    let rows: Vec<usize> = (0..batch.len()).collect();
    let mut all = Vec::new();
    core.lm_head(&rows, false, &mut |_, logits| {
        all.extend_from_slice(&logits.read());
    })
    .expect("logits");
    all
}

/// Mean cross entropy of every next token.
fn cross_entropy(model: &Model, sequences: &[Vec<u32>]) -> f64 {
    let (logits, v) = (logits(model, sequences), model.config.vocab_size);
    let (mut sum, mut count, mut row) = (0.0, 0.0, 0);
    for sequence in sequences {
        for (position, _) in sequence.iter().enumerate() {
            if let Some(target) = sequence.get(position + 1) {
                let own = &logits[row * v..(row + 1) * v];
                let z: f64 = own.iter().map(|x| f64::from(*x).exp()).sum();
                sum += z.ln() - f64::from(own[*target as usize]);
                count += 1.0;
            }
            row += 1;
        }
    }
    sum / count
}

fn largest_difference(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len(), "another shape");
    let differences = a.iter().zip(b).map(|(a, b)| f64::from((a - b).abs()));
    differences.fold(0.0, f64::max)
}

/// `max(10 × the library's error, 1e-5 + 1e-4 · |gold|)` of the recipe, for logits.
fn assert_logits(model: &Model, sequences: &[Vec<u32>], gold: &[f32], what: &str) {
    let got = logits(model, sequences);
    for (x, gold) in got.iter().zip(gold) {
        assert!(
            (x - gold).abs() <= 2e-5 + 1e-4 * gold.abs(),
            "{what}: {x} is not {gold}"
        );
    }
    assert_eq!(got.len(), gold.len(), "{what}");
}

pub fn numbers(value: &Value) -> Vec<f64> {
    value
        .as_array()
        .expect("a list")
        .iter()
        .map(|x| x.as_f64().expect("a number"))
        .collect()
}

fn indices(value: &Value) -> Vec<usize> {
    numbers(value).into_iter().map(|x| x as usize).collect()
}

fn assert_close(got: &[f64], want: &[f64], tolerance: f64, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (x, gold) in got.iter().zip(want) {
        assert!(
            (x - gold).abs() <= tolerance + 1e-4 * gold.abs(),
            "{what}: {x} is not {gold}"
        );
    }
}

fn accounting(vectors: &Vectors) {
    let file = vectors.json("accounting/flops.json");
    for (name, case) in file["cases"].as_object().expect("cases") {
        let shape = |key: &str| case["config"][key].as_u64().expect("a size") as usize;
        let config = serde_json::json!({
            "vocab_size": shape("V"), "hidden_size": shape("d"), "intermediate_size": shape("f"),
            "num_hidden_layers": shape("L"), "num_attention_heads": shape("H"),
            "num_key_value_heads": shape("G"), "head_dim": shape("hd"),
            "tie_word_embeddings": case["config"]["tied"],
        });
        let config = Config::from_json(&config.to_string()).expect("a configuration");
        let whole = |key: &str| case[key].as_u64().expect("a whole number");
        assert_eq!(config.parameter_count(), whole("params_total"), "{name}");
        assert_eq!(
            config.non_embedding_parameter_count(),
            whole("params_non_embedding"),
            "{name}"
        );
        assert_eq!(
            config.matmul_parameter_count(),
            whole("matmul_params"),
            "{name}"
        );
        assert_eq!(
            config.flops_per_token_6n(),
            whole("flops_per_token_6N_total"),
            "{name}"
        );
        let s = shape("s");
        assert_eq!(
            config.flops_per_token_palm(s),
            whole("flops_per_token_palm"),
            "{name}"
        );
        let per_token = config.flops_megatron([s]) / s as u64;
        assert_eq!(
            per_token,
            whole("flops_per_token_megatron_causal"),
            "{name}"
        );
        assert_eq!(
            per_token / 3,
            whole("forward_only_per_token_megatron_causal"),
            "{name}"
        );
        let batch = case["megatron_batch"]["batch"].as_u64().expect("a size") as usize;
        let of_batch = config.flops_megatron(vec![s; batch]);
        assert_eq!(
            Some(of_batch),
            case["megatron_batch"]["flops"].as_u64(),
            "{name}"
        );
        let packed = config.flops_megatron(indices(&case["megatron_packed"]["doc_lengths"]));
        assert_eq!(
            Some(packed),
            case["megatron_packed"]["flops"].as_u64(),
            "{name}"
        );
    }
}

fn layer_maps(vectors: &Vectors) {
    let file = vectors.json("dus/dus.json");
    for (name, map) in file["layer_maps"].as_object().expect("maps") {
        let (n, m) = name.split_once(",m=").expect("n=…,m=…");
        let n = n.trim_start_matches("n=").parse().expect("a number");
        let m = m.parse().expect("a number");
        let solar = LayerMap::solar(n, m).expect("a map");
        assert_eq!(solar.source, indices(map), "{name}");
        assert_eq!(LayerMap::solar_to(n, 2 * (n - m)), Ok(solar), "{name}");
    }
}

fn up_scaled_model(vectors: &Vectors) {
    let case = &vectors.json("dus/dus.json")["applied"];
    let parent = load(vectors, case["model"].as_str().expect("a model"));
    let map =
        LayerMap::explicit(parent.config.num_hidden_layers, &indices(&case["map"])).expect("a map");
    let deeper = deepen(&parent, &map).expect("a model");
    for tensor in deeper.layout.tensors() {
        let source = source_name(&tensor.name, &map);
        let (got, want) = (deeper.tensor(&tensor.name), parent.tensor(&source));
        assert!(
            got.is_some() && got == want,
            "`{}` is not `{source}`",
            tensor.name
        );
    }
    let tensors = Tensors::open(vectors, "dus/dus.safetensors");
    let ids = tensors.ids("input_ids");
    assert_logits(&deeper, &ids, &tensors.floats("logits"), "up-scaled");
    let loss = cross_entropy(&deeper, &ids);
    assert!(
        (loss - case["logits_ce"].as_f64().expect("a loss")).abs() < 1e-4,
        "{loss}"
    );
}

fn source_name(name: &str, map: &LayerMap) -> String {
    let Some((layer, rest)) = name
        .strip_prefix("model.layers.")
        .and_then(|n| n.split_once('.'))
    else {
        return name.to_owned();
    };
    let layer: usize = layer.parse().expect("a layer");
    format!("model.layers.{}.{rest}", map.source[layer])
}

fn identity_expansion(vectors: &Vectors) {
    let file = vectors.json("dus/dus.json");
    let case = &file["identity_expansion"];
    let parent = load(vectors, file["applied"]["model"].as_str().expect("a model"));
    let silent: Vec<bool> = serde_json::from_value(case["zeroed"].clone()).expect("flags");
    let source = indices(&case["source_layers"]);
    let chosen: Vec<usize> = source
        .iter()
        .zip(&silent)
        .filter(|(_, silent)| **silent)
        .map(|(layer, _)| *layer)
        .collect();
    let map = LayerMap::identity_expand(parent.config.num_hidden_layers, &chosen).expect("a map");
    assert_eq!((&map.source, &map.silent), (&source, &silent));
    let ids = Tensors::open(vectors, "dus/dus.safetensors").ids("input_ids");
    let deeper = deepen(&parent, &map).expect("a model");
    assert_eq!(
        logits(&deeper, &ids),
        logits(&parent, &ids),
        "the function is unchanged, bit for bit"
    );
}

fn load(vectors: &Vectors, model: &str) -> Model {
    Model::load(&vectors.path(model)).expect("a model")
}

/// The pruning case: parent, calibration and what the library says.
struct Pruning {
    case: Value,
    tensors: Tensors,
    parent: Model,
}

impl Pruning {
    fn open(vectors: &Vectors) -> Self {
        let case = vectors.json("prune/prune.json");
        Self {
            parent: load(vectors, case["model"].as_str().expect("a model")),
            tensors: Tensors::open(vectors, "prune/prune.safetensors"),
            case,
        }
    }

    fn scores(&self, how: Aggregations, micro_batch: usize) -> Scores {
        let mut core = core_of(&self.parent);
        let mut tally = Tally::new(&self.parent.config, how);
        for chunk in self.tensors.ids("calibration_ids").chunks(micro_batch) {
            observe(&mut core, &Batch::of(chunk), &mut tally).expect("a forward pass");
        }
        tally.scores()
    }

    fn default_scores(&self) -> Scores {
        self.scores(DEFAULT, 2)
    }

    fn target(&self, name: &str) -> usize {
        self.case["targets"][name].as_u64().expect("a target") as usize
    }

    fn kept(&self, params: &Params) -> Kept {
        keep(params, &self.default_scores(), &self.parent.config).expect("targets that fit")
    }

    fn cut(&self, params: &Params) -> Model {
        cut(&self.parent, &self.kept(params), params.tie_embeddings).expect("a model")
    }

    fn heads(&self) -> Params {
        let groups = self.parent.config.num_key_value_heads;
        Params {
            heads: Some(groups * self.target("heads_per_group")),
            ..Params::default()
        }
    }

    fn ffn(&self) -> Params {
        Params {
            ffn: Some(self.target("ffn")),
            ..Params::default()
        }
    }

    fn groups(&self) -> Params {
        Params {
            kv_heads: Some(self.target("groups")),
            ..Params::default()
        }
    }

    fn hidden(&self) -> Params {
        Params {
            hidden: Some(self.target("hidden")),
            ..Params::default()
        }
    }

    fn layers(&self) -> Params {
        Params {
            layers: Some(self.target("layers")),
            ..Params::default()
        }
    }

    fn combined(&self) -> Params {
        Params {
            hidden: self.hidden().hidden,
            layers: self.layers().layers,
            ffn: self.ffn().ffn,
            ..self.heads()
        }
    }

    /// The names of the file, and how `prune` makes them.
    fn variants(&self) -> BTreeMap<&'static str, Params> {
        let network_wide = Params {
            ffn: self.ffn().ffn,
            ffn_ranking: Ranking::Sum,
            heads_ranking: Ranking::Sum,
            ..self.heads()
        };
        let unaligned = Params {
            gqa_aligned: false,
            ..self.heads()
        };
        let tied = Params {
            tie_embeddings: Tie::Average,
            ..Params::default()
        };
        BTreeMap::from([
            ("full", Params::default()),
            ("ffn", self.ffn()),
            ("heads", self.heads()),
            ("groups", self.groups()),
            ("hidden", self.hidden()),
            ("layers", self.layers()),
            ("combined", self.combined()),
            ("tied_by_average", tied),
            ("ffn_heads_networkwide", network_wide),
            ("heads_unaligned_global_topk_NEGATIVE", unaligned),
        ])
    }
}

const DEFAULT: Aggregations = Aggregations {
    sequence: Aggregation::Mean,
    batch: Aggregation::L2,
};

fn importance_scores(vectors: &Vectors) {
    let pruning = Pruning::open(vectors);
    let gold = &pruning.case["scores"];
    let tolerance = 10.0
        * pruning.case["modelopt_L2NormHook_max_abs_err"]
            .as_f64()
            .expect("an error");
    let scores = pruning.default_scores();
    let hidden = kbuild_tasks::surgery::selection::sum(&scores.hidden);
    assert_close(&hidden, &numbers(&gold["hidden"]), tolerance, "hidden");
    assert_close(
        &scores.layers,
        &numbers(&gold["layer_scores_mean"]),
        tolerance,
        "layers",
    );
    for (layer, gold) in gold["layers"].as_object().expect("layers") {
        let at: usize = layer.parse().expect("a layer");
        assert_close(
            &scores.ffn[at],
            &numbers(&gold["ffn_intermediate"]),
            tolerance,
            "ffn",
        );
        assert_close(
            &scores.heads[at],
            &numbers(&gold["heads"]),
            tolerance,
            "heads",
        );
        assert_close(
            &scores.kv_heads[at],
            &numbers(&gold["kv_groups_aligned"]),
            tolerance,
            "groups",
        );
        let wrong = numbers(&gold["kv_groups_misaligned_view_DO_NOT_USE"]);
        let apart = scores.kv_heads[at]
            .iter()
            .zip(&wrong)
            .any(|(x, wrong)| (x - wrong).abs() > 1e-2);
        assert!(
            apart,
            "the groups of layer {at} are those of the misaligned view"
        );
    }
    scores_do_not_depend_on_the_micro_batch(&pruning, &scores);
    layers_left_out(&pruning);
}

fn scores_do_not_depend_on_the_micro_batch(pruning: &Pruning, scores: &Scores) {
    let whole = pruning.scores(DEFAULT, usize::MAX);
    assert_eq!((&whole.hidden, &whole.ffn), (&scores.hidden, &scores.ffn));
    assert_eq!(
        (&whole.heads, &whole.kv_heads),
        (&scores.heads, &scores.kv_heads)
    );
}

fn layers_left_out(pruning: &Pruning) {
    let gold = &pruning.case["scores"]["layer_removed_ce_on_test_ids"];
    let ids = pruning.tensors.ids("test_ids");
    let everything = pruning.kept(&Params::default());
    for (layer, gold) in gold["removed"].as_object().expect("losses") {
        let mut kept = everything.clone();
        kept.layers.remove(layer.parse().expect("a layer"));
        let model = cut(&pruning.parent, &kept, Tie::Keep).expect("a model");
        let loss = cross_entropy(&model, &ids);
        assert!(
            (loss - gold.as_f64().expect("a loss")).abs() < 1e-3,
            "{layer}: {loss} is not {gold}"
        );
    }
}

fn aggregations(vectors: &Vectors) {
    let pruning = Pruning::open(vectors);
    for (name, gold) in pruning.case["aggregation_variants"]
        .as_object()
        .expect("variants")
    {
        let (batch, sequence) = name.split_once(',').expect("batch=…,seq=…");
        let parse = |text: &str| match text.split('=').nth(1) {
            Some("L2") => Aggregation::L2,
            _ => Aggregation::Mean,
        };
        let how = Aggregations {
            sequence: parse(sequence),
            batch: parse(batch),
        };
        let scores = pruning.scores(how, 2);
        let hidden = kbuild_tasks::surgery::selection::sum(&scores.hidden);
        assert_close(&hidden, &numbers(&gold["hidden"]), 1e-5, name);
        for (layer, gold) in gold["layers"].as_object().expect("layers") {
            let at: usize = layer.parse().expect("a layer");
            assert_close(&scores.ffn[at], &numbers(&gold["ffn"]), 1e-5, name);
            assert_close(
                &scores.heads[at],
                &numbers(&gold["heads_modelopt"]),
                1e-5,
                name,
            );
        }
    }
}

fn kept_indices(vectors: &Vectors) {
    let pruning = Pruning::open(vectors);
    let gold = &pruning.case["kept"];
    let per_group = pruning.parent.config.heads_per_group();
    let of = |kept: &Kept, list: fn(&KeptLayer) -> &Vec<usize>| -> Vec<Vec<usize>> {
        kept.layers
            .iter()
            .map(|layer| list(layer).clone())
            .collect()
    };
    let by_layer = |value: &Value| -> Vec<Vec<usize>> {
        let layers = value.as_object().expect("layers").len();
        (0..layers)
            .map(|layer| indices(&value[layer.to_string()]))
            .collect()
    };
    let ffn = pruning.kept(&pruning.ffn());
    assert_eq!(of(&ffn, |layer| &layer.ffn), by_layer(&gold["ffn"]));
    let groups = pruning.kept(&pruning.groups());
    assert_eq!(
        of(&groups, |layer| &layer.kv_heads),
        by_layer(&gold["kv_groups"])
    );
    let hidden = pruning.kept(&pruning.hidden());
    assert!(
        of(&hidden, |layer| &layer.hidden)
            .iter()
            .all(|kept| *kept == indices(&gold["hidden"]))
    );
    let layers: Vec<usize> = pruning
        .kept(&pruning.layers())
        .layers
        .iter()
        .map(|layer| layer.layer)
        .collect();
    assert_eq!(layers, indices(&gold["layers"]));
    for (layer, kept) in pruning.kept(&pruning.heads()).layers.iter().enumerate() {
        let local = &gold["heads_local_index_per_group"][layer.to_string()];
        let want = local
            .as_object()
            .expect("groups")
            .iter()
            .flat_map(|(group, local)| {
                let first = group.parse::<usize>().expect("a group") * per_group;
                indices(local).into_iter().map(move |head| first + head)
            });
        assert_eq!(kept.heads, want.collect::<Vec<_>>(), "layer {layer}");
    }
}

fn network_wide_ranking(vectors: &Vectors) {
    let pruning = Pruning::open(vectors);
    let gold = &pruning.case["network_wide_sum"];
    let scores = pruning.default_scores();
    let sum = kbuild_tasks::surgery::selection::sum(&scores.ffn);
    assert_close(&sum, &numbers(&gold["ffn_sum"]), 1e-5, "ffn");
    assert_eq!(
        keep_largest(&sum, pruning.target("ffn")),
        indices(&gold["ffn_kept"])
    );
    let heads = kbuild_tasks::surgery::selection::sum(&scores.heads);
    assert_close(&heads, &numbers(&gold["head_sum"]), 1e-5, "heads");
    let params = Params {
        ffn_ranking: Ranking::Sum,
        ..pruning.ffn()
    };
    let kept = pruning.kept(&params);
    assert!(
        kept.layers
            .iter()
            .all(|layer| layer.ffn == indices(&gold["ffn_kept"]))
    );
}

fn combined_model(vectors: &Vectors) {
    let pruning = Pruning::open(vectors);
    let name = pruning.case["combined"]
        .as_str()
        .and_then(|text| text.split(' ').next());
    let want = load(vectors, name.expect("a model"));
    let got = pruning.cut(&pruning.combined());
    assert_eq!(got.config, want.config);
    for tensor in want.layout.tensors() {
        assert!(
            got.tensor(&tensor.name) == want.tensor(&tensor.name),
            "`{}`",
            tensor.name
        );
    }
}

fn invariants(vectors: &Vectors) {
    let pruning = Pruning::open(vectors);
    let ids = pruning.tensors.ids("test_ids");
    for params in [pruning.ffn(), pruning.heads(), pruning.groups()] {
        let kept = pruning.kept(&params);
        let masked = masked(&pruning.parent, &kept);
        let difference =
            largest_difference(&logits(&pruning.cut(&params), &ids), &logits(&masked, &ids));
        assert!(difference < 1e-5, "{difference}");
    }
    let everything = pruning.cut(&Params::default());
    assert_eq!(everything.config, pruning.parent.config);
    assert!(
        everything.weights == pruning.parent.weights,
        "keeping everything changes no bit"
    );
}

/// The parent with the columns of everything that is not kept set to zero in `o_proj` and `down_proj`.
fn masked(parent: &Model, kept: &Kept) -> Model {
    let mut model = parent.clone();
    let hd = parent.config.head_dim;
    for layer in &kept.layers {
        let heads: Vec<usize> = layer
            .heads
            .iter()
            .flat_map(|head| head * hd..(head + 1) * hd)
            .collect();
        let name = |rest: &str| format!("model.layers.{}.{rest}.weight", layer.layer);
        mask(
            &mut model,
            &name("self_attn.o_proj"),
            parent.config.query_width(),
            &heads,
        );
        mask(
            &mut model,
            &name("mlp.down_proj"),
            parent.config.intermediate_size,
            &layer.ffn,
        );
    }
    model
}

fn mask(model: &mut Model, name: &str, width: usize, kept: &[usize]) {
    for row in model
        .tensor_mut(name)
        .expect("a tensor")
        .chunks_exact_mut(width)
    {
        for (column, value) in row.iter_mut().enumerate() {
            if !kept.contains(&column) {
                *value = 0.0;
            }
        }
    }
}

fn pruned_logits(vectors: &Vectors) {
    let pruning = Pruning::open(vectors);
    let ids = pruning.tensors.ids("test_ids");
    let full = pruning.tensors.floats("logits.full");
    for (name, params) in pruning.variants() {
        let gold = pruning.tensors.floats(&format!("logits.{name}"));
        assert_logits(&pruning.cut(&params), &ids, &gold, name);
        if let Some(change) = pruning.case["max_abs_change_vs_full"][name].as_f64() {
            let got = largest_difference(&gold, &full);
            assert!(
                (got - change).abs() <= 0.01 * change,
                "{name}: {got} is not {change}"
            );
        }
    }
}

fn unaligned_heads(vectors: &Vectors) {
    let pruning = Pruning::open(vectors);
    let ids = pruning.tensors.ids("test_ids");
    let aligned = logits(&pruning.cut(&pruning.heads()), &ids);
    let wrong = pruning
        .tensors
        .floats("logits.heads_unaligned_global_topk_NEGATIVE");
    let apart = largest_difference(&aligned, &wrong);
    let gold = pruning.case["negative"]["unaligned_heads_vs_aligned_max_abs"]
        .as_f64()
        .expect("a number");
    assert!((apart - gold).abs() <= 0.01 * gold, "{apart} is not {gold}");
}
