//! Cases of the training core: forward, gradients, AdamW, rope, generation, schedules, accounting.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{Device as CandleDevice, safetensors};
use kbuild_tasks::model::optimizer::Rate;
use kbuild_tasks::model::rope::{RopeTable, inverse_frequencies};
use kbuild_tasks::model::sampler::Sampler;
use kbuild_tasks::model::schedule::Ramp;
use kbuild_tasks::model::{
    AdamW, AdamWOptions, Batch, Config, Core, Finish, GenerateOptions, Llama3Scaling, Model,
    Sampling, Schedule, generate,
};
use serde_json::Value;

use super::{Case, Vectors, core_of, device, global_norm};

pub const CASES: &[Case] = &[
    Case {
        id: "forward/a.json#*",
        run: |vectors| forward(vectors, "a"),
    },
    Case {
        id: "forward/b.json#*",
        run: |vectors| forward(vectors, "b"),
    },
    Case {
        id: "rope/rope.json#cases/*",
        run: rope,
    },
    Case {
        id: "generate/generate.json#greedy",
        run: greedy,
    },
    Case {
        id: "generate/generate.json#stop",
        run: stop,
    },
    Case {
        id: "generate/generate.json#sampler",
        run: sampler,
    },
    Case {
        id: "schedule/schedule.json#*",
        run: schedules,
    },
    Case {
        id: "accounting/flops.json#cases/*",
        run: accounting,
    },
];

/// Accepted distance of a number: ten times what f32 costs the library, or 1e-5 + 1e-4 of the value.
fn accept(expected: f64, library_error: f64) -> f64 {
    (10.0 * library_error).max(1e-5 + 1e-4 * expected.abs())
}

fn assert_near(found: f64, expected: f64, library_error: f64, what: &str) {
    assert!(
        (found - expected).abs() <= accept(expected, library_error),
        "{what}: {found}, expected {expected}"
    );
}

fn number(value: &Value) -> f64 {
    value
        .as_f64()
        .unwrap_or_else(|| panic!("{value} is not a number"))
}

fn numbers(value: &Value) -> Vec<f64> {
    value
        .as_array()
        .expect("a list")
        .iter()
        .map(number)
        .collect()
}

fn tokens(value: &Value) -> Vec<u32> {
    numbers(value).into_iter().map(|id| id as u32).collect()
}

fn size(value: &Value) -> usize {
    number(value) as usize
}

/// The tensors of a file as f32 (integers too).
struct Tensors(std::collections::HashMap<String, candle_core::Tensor>);

impl Tensors {
    fn open(path: &Path) -> Self {
        Self(safetensors::load(path, &CandleDevice::Cpu).expect("a readable safetensors file"))
    }

    fn floats(&self, name: &str) -> Vec<f32> {
        let tensor = self.0.get(name).unwrap_or_else(|| panic!("no `{name}`"));
        tensor
            .flatten_all()
            .and_then(|flat| flat.to_vec1())
            .expect("f32 values")
    }

    fn rows(&self, name: &str) -> Vec<Vec<i64>> {
        self.0[name].to_vec2().expect("rows of integers")
    }
}

/// Right-padded rows as one packed batch, with what maps it back.
struct Padded {
    batch: Batch,
    /// Row of the padded `[B, S]` for every packed row.
    places: Vec<usize>,
    /// Packed rows that predict, and what.
    rows: Vec<usize>,
    targets: Vec<u32>,
    /// Sequence of every predicting row.
    sequence: Vec<usize>,
}

impl Padded {
    fn read(tensors: &Tensors) -> Self {
        let ids = tensors.rows("input_ids");
        let mask = tensors.rows("attention_mask");
        let labels = tensors.rows("labels");
        let mut padded = Self {
            batch: Batch::new(),
            places: Vec::new(),
            rows: Vec::new(),
            targets: Vec::new(),
            sequence: Vec::new(),
        };
        for (at, ((ids, mask), labels)) in ids.iter().zip(&mask).zip(&labels).enumerate() {
            let real: Vec<usize> = (0..ids.len()).filter(|i| mask[*i] == 1).collect();
            let start = padded.batch.len();
            let sequence: Vec<u32> = real.iter().map(|i| ids[*i] as u32).collect();
            padded.batch.push(&sequence);
            padded
                .places
                .extend(real.iter().map(|i| at * ids.len() + i));
            for (position, column) in real.iter().enumerate() {
                let label = labels.get(column + 1).copied().unwrap_or(-100);
                if label >= 0 {
                    padded.rows.push(start + position);
                    padded.targets.push(label as u32);
                    padded.sequence.push(at);
                }
            }
        }
        padded
    }
}

fn forward(vectors: &Vectors, name: &str) {
    let json = vectors.json(&format!("forward/{name}.json"));
    let tensors = Tensors::open(&vectors.path(&format!("forward/{name}.safetensors")));
    let model_path = json["model"].as_str().expect("a model");
    let model = Model::load(&vectors.path(model_path)).expect("the model loads");
    let padded = Padded::read(&tensors);
    assert_eq!(padded.rows.len(), size(&json["n_loss_tokens"]));
    let errors = &json["hf_fp32_max_abs_err"];
    let mut core = core_of(&model);
    check_hidden(&mut core, &padded, &tensors, number(&errors["logits"]));
    check_logits(&mut core, &padded, &tensors, number(&errors["logits"]));
    check_token_log_probabilities(&mut core, &padded, &json);

    let loss = step(&mut core, &padded);
    let grads = core.grads().into_owned();
    let gap = (number(&json["hf_fp32_loss"]) - number(&json["loss"])).abs();
    assert_near(loss, number(&json["loss"]), gap, "loss");
    assert_near(
        global_norm(&grads),
        number(&json["grad_norm"]),
        0.0,
        "gradient norm",
    );
    for tensor in model.layout.tensors() {
        let found = &grads[tensor.range.clone()];
        let norm = number(&json["grad_norms"][&tensor.name]);
        assert_near(global_norm(found), norm, 0.0, &tensor.name);
        let gold = tensors.floats(&format!("grad.{}", tensor.name));
        for (found, gold) in found.iter().zip(gold) {
            assert_near(
                f64::from(*found),
                f64::from(gold),
                number(&errors["grads"]),
                &tensor.name,
            );
        }
    }
    check_adamw(vectors, name, &json["adamw"], &model, &padded);
}

/// Residual stream before every layer (`hidden.i`) and after the last.
fn check_hidden(core: &mut Core, padded: &Padded, tensors: &Tensors, error: f64) {
    use kbuild_tasks::model::Site;
    let mut streams = BTreeMap::new();
    let mut observe = |layer: usize, site: Site, values: &[f32]| match site {
        Site::LayerInput => drop(streams.insert(layer, values.to_vec())),
        Site::LayerOutput => drop(streams.insert(layer + 1, values.to_vec())),
        _ => {}
    };
    core.forward_only(&padded.batch, Some(&mut observe))
        .expect("tokens fit");
    let d = core.config().hidden_size;
    for (layer, values) in streams {
        let gold = tensors.floats(&format!("hidden.{layer}"));
        for (row, place) in values.chunks(d).zip(&padded.places) {
            for (found, gold) in row.iter().zip(&gold[place * d..(place + 1) * d]) {
                assert_near(
                    f64::from(*found),
                    f64::from(*gold),
                    error,
                    &format!("hidden.{layer}"),
                );
            }
        }
    }
}

fn check_logits(core: &mut Core, padded: &Padded, tensors: &Tensors, error: f64) {
    let v = core.config().vocab_size;
    let gold = tensors.floats("logits");
    let all: Vec<usize> = (0..padded.batch.len()).collect();
    core.lm_head(&all, false, &mut |range, logits| {
        for (row, place) in logits.read().chunks(v).zip(&padded.places[range]) {
            for (found, gold) in row.iter().zip(&gold[place * v..(place + 1) * v]) {
                assert_near(f64::from(*found), f64::from(*gold), error, "logits");
            }
        }
    })
    .expect("logits");
}

fn check_token_log_probabilities(core: &mut Core, padded: &Padded, json: &Value) {
    let mut found = vec![0.0; padded.rows.len()];
    core.lm_head(&padded.rows, false, &mut |range, logits| {
        let targets = &padded.targets[range.clone()];
        found[range].copy_from_slice(&logits.log_probabilities(targets));
    })
    .expect("logits");
    for (at, gold) in numbers(&json["seq_logp_sum"]).into_iter().enumerate() {
        let of_sequence = found
            .iter()
            .zip(&padded.sequence)
            .filter(|(_, sequence)| **sequence == at);
        let sum: f64 = of_sequence.map(|(logp, _)| logp).sum();
        assert_near(sum, gold, 0.0, "log-probability of a sequence");
    }
}

fn step(core: &mut Core, padded: &Padded) -> f64 {
    let weight = 1.0 / padded.rows.len() as f64;
    let mut loss = 0.0;
    core.clear_grads();
    core.forward(&padded.batch).expect("tokens fit");
    core.lm_head(&padded.rows, true, &mut |range, logits| {
        let sums = logits.cross_entropy(&padded.targets[range], weight, 0.0, true);
        loss += weight * sums.cross_entropy;
    })
    .expect("logits");
    core.backward().expect("gradients");
    loss
}

fn check_adamw(vectors: &Vectors, name: &str, json: &Value, start: &Model, padded: &Padded) {
    let mut core = core_of(start);
    let betas = numbers(&json["betas"]);
    let options = AdamWOptions {
        beta1: betas[0],
        beta2: betas[1],
        eps: number(&json["eps"]),
        weight_decay: number(&json["weight_decay"]),
        max_grad_norm: number(&json["max_grad_norm"]),
        ..AdamWOptions::default()
    };
    core.start(AdamW::new(&start.layout, options));
    let rate = number(&json["lr"]);
    let rate = Rate {
        now: rate,
        peak: rate,
    };
    let curve = json["loss_and_gradnorm_before_each_step_then_final_loss_f64"]
        .as_array()
        .expect("a curve");
    for (at, point) in curve.iter().enumerate() {
        let loss = step(&mut core, padded);
        assert_near(loss, number(&point[0]), 0.0, "loss on the way");
        if point[1].is_null() {
            break;
        }
        let norm = core.update(rate).expect("an update");
        assert_near(norm, number(&point[1]), 0.0, "gradient norm on the way");
        let done = (at + 1).to_string();
        let model = core.model();
        for (tensor, norm) in json["param_l2_after_step"][&done]
            .as_object()
            .expect("norms")
        {
            let found = global_norm(model.tensor(tensor).expect("a tensor of the model"));
            assert_near(found, number(norm), 0.0, tensor);
        }
        let file = vectors.path(&format!("forward/{name}.adamw_step{done}.safetensors"));
        if file.exists() {
            check_direction(start, &model, &Tensors::open(&file));
        }
    }
}

/// The way from the start to here, per tensor, against the gold one: Adam's first steps are like signs, so that single
/// elements with a gradient near eps are ill-conditioned.
fn check_direction(start: &Model, model: &Model, gold: &Tensors) {
    for tensor in model.layout.tensors() {
        let gold = gold.floats(&tensor.name);
        let (mut error, mut way) = (0.0, 0.0);
        let here = &model.weights[tensor.range.clone()];
        let before = &start.weights[tensor.range.clone()];
        for ((gold, here), before) in gold.iter().zip(here).zip(before) {
            error += f64::from(gold - here).powi(2);
            way += f64::from(gold - before).powi(2);
        }
        let relative = (error / way).sqrt();
        assert!(relative <= 1e-3, "{}: {relative}", tensor.name);
    }
}

fn rope(vectors: &Vectors) {
    for (name, case) in vectors.json("rope/rope.json")["cases"]
        .as_object()
        .expect("cases")
    {
        let head_dim = size(&case["head_dim"]);
        let theta = number(&case["rope_theta"]);
        let scaling: Option<Llama3Scaling> =
            serde_json::from_value(case["rope_scaling"].clone()).expect("a scaling");
        let found = inverse_frequencies(head_dim, theta, scaling.as_ref());
        let gold = numbers(&case["inv_freq"]);
        assert_eq!(found.len(), gold.len(), "{name}");
        for (found, gold) in found.iter().zip(gold) {
            assert!(
                (found - gold).abs() <= 1e-10 * gold,
                "{name}: {found} {gold}"
            );
        }
        check_angles(name, case, head_dim, theta, scaling);
    }
}

fn check_angles(
    name: &str,
    case: &Value,
    head_dim: usize,
    theta: f64,
    scaling: Option<Llama3Scaling>,
) {
    let mut config = tiny_config();
    config.head_dim = head_dim;
    config.rope_theta = theta;
    config.rope_scaling = scaling;
    let mut table = RopeTable::new(&config);
    table.extend_to(100_001);
    let columns = tokens(&case["cos_sin_columns"]);
    for (at, position) in tokens(&case["positions"]).into_iter().enumerate() {
        let (cos, sin) = table.at(position as usize);
        let gold = (numbers(&case["cos"][at]), numbers(&case["sin"][at]));
        for (i, column) in columns.iter().enumerate() {
            // The tables come from angles in f64: no drift, even at position 100 000.
            let found = (
                f64::from(cos[*column as usize]),
                f64::from(sin[*column as usize]),
            );
            assert!((found.0 - gold.0[i]).abs() < 1e-6, "{name} cos {position}");
            assert!((found.1 - gold.1[i]).abs() < 1e-6, "{name} sin {position}");
        }
    }
}

fn tiny_config() -> Config {
    let json = r#"{"vocab_size": 8, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
        "num_attention_heads": 1}"#;
    Config::from_json(json).expect("a small configuration")
}

fn greedy(vectors: &Vectors) {
    let cases = vectors.json("generate/generate.json")["greedy"].clone();
    let cases = cases.as_array().expect("cases");
    let device = device();
    for case in cases {
        let model = Model::load(&vectors.path(case["model"].as_str().expect("a model")))
            .expect("the model loads");
        let gold = tokens(&case["new_ids"]);
        let options = GenerateOptions {
            max_new_tokens: gold.len(),
            sampling: Sampling::GREEDY,
            ..GenerateOptions::default()
        };
        // Among other prompts: ragged, in one batch.
        let prompts: Vec<Vec<u32>> = std::iter::once(&case["prompt_ids"])
            .chain(cases.iter().map(|other| &other["prompt_ids"]))
            .map(tokens)
            .collect();
        let found = generate(&model, &prompts, &options, &device).expect("prompts fit");
        assert_eq!(found[0].tokens, gold, "{}", case["prompt"]);
        assert_eq!(found[0].finish, Finish::Length);
        let sum: f64 = found[0].log_probs.iter().map(|logp| f64::from(*logp)).sum();
        assert_near(
            sum,
            number(&case["sum_logprob_of_new"]),
            0.0,
            "log-probability",
        );
    }
}

fn stop(vectors: &Vectors) {
    let case = &vectors.json("generate/generate.json")["stop"];
    let model = Model::load(&vectors.path(case["model"].as_str().expect("a model")))
        .expect("the model loads");
    let options = GenerateOptions {
        max_new_tokens: 16,
        sampling: Sampling::GREEDY,
        stop: vec![size(&case["eos_token_id"]) as u32],
        ..GenerateOptions::default()
    };
    let prompts = [tokens(&case["prompt_ids"])];
    let device = device();
    let found = generate(&model, &prompts, &options, &device).expect("the prompt fits");
    assert_eq!(found[0].tokens, tokens(&case["new_ids"]));
    assert_eq!(found[0].finish, Finish::Stop);
}

fn sampler(vectors: &Vectors) {
    let json = &vectors.json("generate/generate.json")["sampler"];
    let logits: Vec<f32> = numbers(&json["logits"])
        .into_iter()
        .map(|logit| logit as f32)
        .collect();
    for case in json["cases"].as_array().expect("cases") {
        let sampling = Sampling {
            temperature: number(&case["temperature"]),
            top_k: size(&case["top_k"]),
            top_p: number(&case["top_p"]),
            min_p: number(&case["min_p"]),
        };
        let found = Sampler::default().probabilities(&logits, &sampling);
        for (found, gold) in found.iter().zip(numbers(&case["probs"])) {
            assert!((found - gold).abs() < 1e-6, "{sampling:?}: {found} {gold}");
            assert_eq!(*found == 0.0, gold == 0.0, "{sampling:?}");
        }
    }
}

fn schedules(vectors: &Vectors) {
    let json = vectors.json("schedule/schedule.json");
    let base = number(&json["base_lr"]);
    for (name, case) in json["cases"].as_object().expect("cases") {
        let schedule = schedule(name, &case["params"]);
        for (step, gold) in numbers(&case["lr_before_optimizer_step_i"])
            .into_iter()
            .enumerate()
        {
            let found = base * schedule.factor(step as u64);
            assert!(
                (found - gold).abs() < 1e-12,
                "{name} {step}: {found} {gold}"
            );
        }
    }
}

fn schedule(name: &str, params: &Value) -> Schedule {
    let count = |key: &str| size(&params[key]) as u64;
    let real = |key: &str| params[key].as_f64().unwrap_or(0.0);
    let warmup = || count("num_warmup_steps");
    match name {
        "constant_with_warmup" => Schedule::Constant { warmup: warmup() },
        "linear" => Schedule::Linear {
            warmup: warmup(),
            total: count("num_training_steps"),
        },
        "inverse_sqrt" => Schedule::InverseSqrt { warmup: warmup() },
        "trapezoid_nanochat" => Schedule::Trapezoid {
            warmup: count("warmup_steps"),
            total: count("num_iterations"),
            warmdown_ratio: real("warmdown_ratio"),
            final_ratio: real("final_lr_frac"),
        },
        name if name.starts_with("cosine") => Schedule::Cosine {
            warmup: warmup(),
            total: count("num_training_steps"),
            min_ratio: real("min_lr_rate"),
        },
        name if name.starts_with("wsd") => Schedule::Wsd {
            warmup: warmup(),
            stable: count("num_stable_steps"),
            decay: count("num_decay_steps"),
            min_ratio: real("min_lr_ratio"),
            warmup_ramp: Ramp::Linear,
            decay_ramp: match params["decay_type"].as_str() {
                Some("linear") => Ramp::Linear,
                Some("1-sqrt") => Ramp::OneMinusSqrt,
                _ => Ramp::Cosine,
            },
        },
        other => panic!("no schedule `{other}`"),
    }
}

fn accounting(vectors: &Vectors) {
    for (name, case) in vectors.json("accounting/flops.json")["cases"]
        .as_object()
        .expect("cases")
    {
        let shape = &case["config"];
        let mut config = tiny_config();
        config.vocab_size = size(&shape["V"]);
        config.hidden_size = size(&shape["d"]);
        config.intermediate_size = size(&shape["f"]);
        config.num_hidden_layers = size(&shape["L"]);
        config.num_attention_heads = size(&shape["H"]);
        config.num_key_value_heads = size(&shape["G"]);
        config.head_dim = size(&shape["hd"]);
        config.tie_word_embeddings = shape["tied"].as_bool().expect("a flag");
        let s = size(&shape["s"]);
        let batch = &case["megatron_batch"];
        let batch_lengths = vec![size(&batch["seq"]); size(&batch["batch"])];
        let packed = &case["megatron_packed"];
        let packed_lengths = tokens(&packed["doc_lengths"])
            .into_iter()
            .map(|n| n as usize);
        let megatron = config.flops_megatron([s]) / s as u64;
        for (what, found, gold) in [
            (
                "parameters",
                config.parameter_count(),
                &case["params_total"],
            ),
            (
                "non-embedding",
                config.non_embedding_parameter_count(),
                &case["params_non_embedding"],
            ),
            (
                "matmul",
                config.matmul_parameter_count(),
                &case["matmul_params"],
            ),
            (
                "6N",
                config.flops_per_token_6n(),
                &case["flops_per_token_6N_total"],
            ),
            (
                "6N layers",
                6 * config.non_embedding_parameter_count(),
                &case["flops_per_token_6N_nonemb"],
            ),
            (
                "PaLM",
                config.flops_per_token_palm(s),
                &case["flops_per_token_palm"],
            ),
            (
                "Megatron",
                megatron,
                &case["flops_per_token_megatron_causal"],
            ),
            (
                "forward",
                megatron / 3,
                &case["forward_only_per_token_megatron_causal"],
            ),
            (
                "batch",
                config.flops_megatron(batch_lengths),
                &batch["flops"],
            ),
            (
                "packed",
                config.flops_megatron(packed_lengths),
                &packed["flops"],
            ),
        ] {
            assert_eq!(Some(found), gold.as_u64(), "{name}: {what}");
        }
    }
}
