//! Cases of what trains: masks, packing, losses of SFT, distillation, reward model and DPO, pairs.

use std::collections::HashMap;

use candle_core::{Device as CandleDevice, Tensor, safetensors};
use kbuild_engine::runner::Failure;
use kbuild_tasks::formats::chat::Message;
use kbuild_tasks::formats::tokenizer::Tokenizer;
use kbuild_tasks::model::loss::Distillation;
use kbuild_tasks::model::ops::Ops;
use kbuild_tasks::model::{Batch, Cpu, Model};
use kbuild_tasks::train::dialogue::{Boundary, LossMask, TokenizedChat, tokenize_chat};
use kbuild_tasks::train::divergence::{Divergence, divergence};
use kbuild_tasks::train::dpo::{self, Preferences};
use kbuild_tasks::train::log_probabilities::PairLogProbabilities;
use kbuild_tasks::train::packing::{Packing, pack};
use kbuild_tasks::train::pair_batch::PairBatch;
use kbuild_tasks::train::pairs::{Scored, Select, choose_pair};
use kbuild_tasks::train::preference::{
    Coefficients, PairLogps, PairMetrics, PreferenceLoss, preference_loss,
};
use kbuild_tasks::train::records::TokenPair;
use kbuild_tasks::train::reward_model::{self, Rewards, rewards};
use kbuild_tasks::train::steps::{Objective, StepReport};
use kbuild_tasks::train::token_batch::TokenBatch;
use kbuild_tasks::train::token_objective::{StepSource, Teacher, TokenLoss, TokenObjective};
use kbuild_tasks::train::tokenize_preferences::truncate;
use serde_json::{Value, json};

use super::{Case, Vectors, core_of, global_norm};

const fn case(id: &'static str, run: fn(&Vectors)) -> Case {
    Case { id, run }
}

pub const CASES: &[Case] = &[
    case("sft/sft.json#examples", sft_examples),
    case("sft/sft.json#losses", sft_losses),
    case("sft/sft.json#packed_forward", sft_packed),
    case("sft/sft.json#packing_layouts", sft_packing),
    case("dpo/dpo.json#pairs", dpo_pairs),
    case("dpo/dpo.json#policy_logps", dpo_pairs),
    case("dpo/dpo.json#ref_logps", dpo_pairs),
    case("dpo/dpo.json#completion_lengths", dpo_pairs),
    case("dpo/dpo.json#cases/sigmoid", dpo_losses),
    case("dpo/dpo.json#cases/sigmoid_norm", dpo_losses),
    case("dpo/dpo.json#cases/cdpo", dpo_losses),
    case("dpo/dpo.json#cases/robust", dpo_losses),
    case("dpo/dpo.json#cases/hinge", dpo_losses),
    case("dpo/dpo.json#cases/ipo", dpo_losses),
    case("dpo/dpo.json#cases/ipo_sum", dpo_losses),
    case("dpo/dpo.json#cases/exo_pair", dpo_losses),
    case("dpo/dpo.json#cases/nca_pair", dpo_losses),
    case("dpo/dpo.json#cases/sppo_hard", dpo_losses),
    case("dpo/dpo.json#cases/apo_zero", dpo_losses),
    case("dpo/dpo.json#cases/apo_down", dpo_losses),
    case("dpo/dpo.json#cases/discopop", dpo_losses),
    case("dpo/dpo.json#cases/simpo*", dpo_losses),
    case("dpo/dpo.json#cases/dpo_norm*", dpo_losses),
    case("dpo/dpo.json#sigmoid_beta0_1", dpo_gradient),
    case("dpo/dpo.json#policy_equals_reference*", dpo_at_reference),
    case("dpo/dpo.json#trl_crosscheck", dpo_crosscheck),
    case("dpo/dpo.json#truncation", dpo_truncation),
    case("rm/rm.json#examples", rm_rewards),
    case("rm/rm.json#rewards_chosen", rm_rewards),
    case("rm/rm.json#rewards_rejected", rm_rewards),
    case("rm/rm.json#hf_fp32_max_abs_err", rm_rewards),
    case("rm/rm.json#pad_equals_eos_trap", rm_rewards),
    case("rm/rm.json#loss", rm_losses),
    case("rm/rm.json#margins", rm_losses),
    case("rm/rm.json#loss_with_margin", rm_losses),
    case("rm/rm.json#loss_centered", rm_losses),
    case("rm/rm.json#center_coefficient", rm_losses),
    case("rm/rm.json#accuracy", rm_losses),
    case("rm/rm.json#grad_norm", rm_losses),
    case("rm/rm.json#equal_rewards_loss", rm_losses),
    case("rm/rm.json#trl_crosscheck", rm_losses),
    case("kd/kd.json#shape", kd_divergences),
    case("kd/kd.json#n_tokens", kd_divergences),
    case("kd/kd.json#student_logits", kd_divergences),
    case("kd/kd.json#teacher_logits", kd_divergences),
    case("kd/kd.json#mask", kd_divergences),
    case("kd/kd.json#labels", kd_mix),
    case("kd/kd.json#cases/*", kd_divergences),
    case("kd/kd.json#ce_mix", kd_mix),
    case("kd/kd.json#model_level", kd_models),
    case("online/online.json#pairs", online_pairs),
];

/// Accepted distance from a number that was computed in f64.
fn accept(expected: f64) -> f64 {
    1e-5 + 1e-4 * expected.abs()
}

#[track_caller]
fn close(found: f64, expected: f64, what: &str) {
    let distance = (found - expected).abs();
    assert!(
        distance <= accept(expected),
        "{what}: {found}, expected {expected}"
    );
}

#[track_caller]
fn f(value: &Value) -> f64 {
    value.as_f64().expect("a number")
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().expect("a list").iter().map(f).collect()
}

fn ids(value: &Value) -> Vec<u32> {
    let id = |value: &Value| value.as_u64().expect("an id") as u32;
    value.as_array().expect("a list").iter().map(id).collect()
}

fn model(vectors: &Vectors, name: &str) -> Model {
    Model::load(&vectors.path(name)).expect("a model of the vectors")
}

fn tensors(vectors: &Vectors, name: &str) -> HashMap<String, Tensor> {
    safetensors::load(vectors.path(name), &CandleDevice::Cpu).expect("tensors of the vectors")
}

/// Loss and gradient of the first step.
fn first_step(objective: &mut dyn Objective, model: &Model) -> (StepReport, Vec<f32>) {
    let mut core = core_of(model);
    core.clear_grads();
    let report = objective.step(0, &mut core).expect("a step");
    (report, core.grads().into_owned())
}

fn check_gradients(model: &Model, grads: &[f32], expected: &HashMap<String, Tensor>) {
    let named = expected
        .iter()
        .filter_map(|(name, tensor)| Some((name.strip_prefix("grad.")?, tensor)));
    let mut n = 0;
    for (name, tensor) in named {
        let range = model
            .layout
            .find(name)
            .expect("a tensor of the model")
            .range
            .clone();
        let values: Vec<f32> = tensor.flatten_all().unwrap().to_vec1().unwrap();
        for (found, expected) in grads[range].iter().zip(values) {
            close(f64::from(*found), f64::from(expected), name);
        }
        n += 1;
    }
    assert!(n > 0, "the file holds gradients");
}

/// Micro-batches that are given.
struct Given(Vec<TokenBatch>);

impl StepSource for Given {
    fn steps(&self) -> u64 {
        1
    }

    fn tokens_before(&self, _step: u64) -> u64 {
        0
    }

    fn step(&mut self, _step: u64) -> Result<Vec<TokenBatch>, Failure> {
        Ok(self.0.clone())
    }
}

fn cross_entropy_of(batches: Vec<TokenBatch>) -> TokenObjective<Given> {
    TokenObjective {
        source: Given(batches),
        loss: TokenLoss::CrossEntropy { z_loss: 0.0 },
    }
}

const MASKS: [(&str, LossMask); 3] = [
    ("all", LossMask::All),
    ("assistant_only", LossMask::AssistantOnly),
    ("completion_only", LossMask::CompletionOnly),
];

fn chats(vectors: &Vectors, mask: LossMask) -> Vec<TokenizedChat> {
    let tokenizer = Tokenizer::open(&vectors.path("tokenizer")).unwrap();
    let sft = vectors.json("sft/sft.json");
    let chat = |example: &Value| {
        let messages: Vec<Message> = serde_json::from_value(example["messages"].clone()).unwrap();
        tokenize_chat(&tokenizer, &messages, mask, Boundary::Error).unwrap()
    };
    sft["examples"]
        .as_array()
        .unwrap()
        .iter()
        .map(chat)
        .collect()
}

fn sft_examples(vectors: &Vectors) {
    let sft = vectors.json("sft/sft.json");
    let tokenizer = Tokenizer::open(&vectors.path("tokenizer")).unwrap();
    for (name, mask) in MASKS {
        for (example, chat) in sft["examples"]
            .as_array()
            .unwrap()
            .iter()
            .zip(chats(vectors, mask))
        {
            assert_eq!(chat.ids, ids(&example["input_ids"]));
            let labels: Vec<i64> = (chat.ids.iter().zip(&chat.targets))
                .map(|(id, target)| if *target { i64::from(*id) } else { -100 })
                .collect();
            assert_eq!(json!(labels), example[format!("labels_{name}")], "{name}");
        }
    }
    for example in sft["examples"].as_array().unwrap() {
        let messages: Vec<Message> = serde_json::from_value(example["messages"].clone()).unwrap();
        assert_eq!(tokenizer.render(&messages, false).unwrap(), example["text"]);
        let prompt = &messages[..messages.len() - 1];
        let prompt = tokenizer.render(prompt, true).unwrap();
        assert_eq!(prompt, example["generation_prompt_text"]);
    }
}

fn batch_of<'a>(chats: impl IntoIterator<Item = &'a TokenizedChat>) -> TokenBatch {
    let mut batch = TokenBatch::default();
    for chat in chats {
        batch.push_masked(&chat.ids, &chat.targets);
    }
    batch
}

/// Token mean, norm of the gradient, accumulation. DFT and the sequence mean are options that are not built.
fn sft_losses(vectors: &Vectors) {
    let losses = &vectors.json("sft/sft.json")["losses"];
    let model = model(vectors, "models/a");
    for (name, mask) in MASKS {
        let (expected, chats) = (&losses[name], chats(vectors, mask));
        let (report, grads) = first_step(&mut cross_entropy_of(vec![batch_of(&chats)]), &model);
        close(report.loss, f(&expected["loss_token_mean"]), name);
        assert_eq!(report.counted, expected["loss_tokens"].as_u64().unwrap());
        close(global_norm(&grads), f(&expected["grad_norm"]), "grad_norm");
        for (index, chat) in chats.iter().enumerate() {
            let (one, _) = first_step(&mut cross_entropy_of(vec![batch_of([chat])]), &model);
            let n = expected["per_sequence_tokens"][index].as_u64().unwrap();
            assert_eq!(one.counted, n);
            let sum = f(&expected["per_sequence_nll_sum"][index]);
            close(one.loss * n as f64, sum, "per_sequence_nll_sum");
        }
        accumulated(
            &expected["grad_accum_2_microbatches"],
            &chats,
            &model,
            &grads,
        );
    }
}

fn accumulated(expected: &Value, chats: &[TokenizedChat], model: &Model, whole: &[f32]) {
    let micro = |group: &Value| {
        let members = ids(group).into_iter().map(|index| &chats[index as usize]);
        batch_of(members)
    };
    let batches = expected["split"]
        .as_array()
        .unwrap()
        .iter()
        .map(micro)
        .collect();
    let (report, grads) = first_step(&mut cross_entropy_of(batches), model);
    close(
        report.loss,
        f(&expected["correct_token_normalised"]),
        "accumulated",
    );
    let naive = f(&expected["naive_mean_of_micro_means"]);
    assert!(
        (report.loss - naive).abs() > 1e-3,
        "means of micro-batches were averaged"
    );
    let worst = (grads.iter().zip(whole))
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max);
    assert!(worst < 1e-5, "the split changes the gradient by {worst}");
}

fn sft_packed(vectors: &Vectors) {
    let expected = &vectors.json("sft/sft.json")["packed_forward"];
    let model = model(vectors, "models/a");
    let lengths = ids(&expected["seq_lengths"]);
    let tokens = ids(&expected["input_ids"]);
    for (mask, loss, contaminated) in [
        (
            LossMask::AssistantOnly,
            "loss_block_diagonal_positions_reset",
            true,
        ),
        (LossMask::All, "labels_boundary_masked_loss", false),
    ] {
        let chats = chats(vectors, mask);
        assert_eq!(
            chats
                .iter()
                .flat_map(|chat| chat.ids.clone())
                .collect::<Vec<_>>(),
            tokens
        );
        assert!(
            chats
                .iter()
                .zip(&lengths)
                .all(|(chat, n)| chat.ids.len() == *n as usize)
        );
        let gold = match contaminated {
            true => f(&expected[loss]),
            false => f(&expected["all_tokens"][loss]),
        };
        let (packed, packed_grads) =
            first_step(&mut cross_entropy_of(vec![batch_of(&chats)]), &model);
        close(packed.loss, gold, loss);
        let apart = chats.iter().map(|chat| batch_of([chat])).collect();
        let (unpacked, grads) = first_step(&mut cross_entropy_of(apart), &model);
        assert!(
            (packed.loss - unpacked.loss).abs() < 1e-6,
            "packed = unpacked"
        );
        let worst = (grads.iter().zip(&packed_grads))
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f32::max);
        assert!(worst < 1e-5, "packing changes the gradient by {worst}");
        let wrong = match contaminated {
            true => [
                "loss_contaminated_no_doc_mask_no_reset",
                "loss_contaminated_positions_reset_only",
            ]
            .map(|name| f(&expected[name]))
            .to_vec(),
            false => vec![f(&expected["all_tokens"]["boundary_not_masked_loss"])],
        };
        assert!(wrong.iter().all(|wrong| (packed.loss - wrong).abs() > 1e-3));
    }
}

fn sft_packing(vectors: &Vectors) {
    let layouts = &vectors.json("sft/sft.json")["packing_layouts"];
    for layout in layouts.as_array().unwrap() {
        let lengths: Vec<usize> = ids(&layout["lengths"])
            .into_iter()
            .map(|n| n as usize)
            .collect();
        let row_length = layout["seq_length"].as_u64().unwrap() as usize;
        let first: Vec<usize> = lengths
            .iter()
            .scan(0, |at, n| Some(std::mem::replace(at, *at + n)))
            .collect();
        for (name, packing) in [
            ("bfd", Packing::Bfd),
            ("bfd_split", Packing::BfdSplit),
            ("wrapped", Packing::Wrapped),
        ] {
            let rows = pack(packing, &lengths, row_length);
            let expected = &layout[name];
            let tokens: Vec<Vec<usize>> = rows
                .iter()
                .map(|row| {
                    let piece = |piece: &kbuild_tasks::train::packing::Piece| {
                        let start = first[piece.example] + piece.start;
                        start..start + piece.length
                    };
                    row.iter().flat_map(piece).collect()
                })
                .collect();
            if packing == Packing::Wrapped {
                let spans: Vec<Value> = tokens
                    .iter()
                    .map(|row| json!([row[0], row[row.len() - 1], row.len()]))
                    .collect();
                assert_eq!(json!(spans), expected["rows"], "{name}");
            } else {
                assert_eq!(json!(tokens), expected["rows"], "{name}");
                let lengths: Vec<Vec<usize>> = rows
                    .iter()
                    .map(|row| row.iter().map(|piece| piece.length).collect())
                    .collect();
                assert_eq!(json!(lengths), expected["seq_lengths"], "{name}");
            }
            let kept: usize = tokens.iter().map(Vec::len).sum();
            let dropped = lengths.iter().sum::<usize>() - kept;
            assert_eq!(json!(dropped), expected["dropped_tokens"], "{name}");
        }
    }
}

fn token_pairs(vectors: &Vectors) -> Vec<TokenPair> {
    let dpo = vectors.json("dpo/dpo.json");
    let pair = |pair: &Value| TokenPair {
        prompt: ids(&pair["prompt_ids"]),
        chosen: ids(&pair["chosen_ids"]),
        rejected: ids(&pair["rejected_ids"]),
        ..TokenPair::default()
    };
    dpo["pairs"].as_array().unwrap().iter().map(pair).collect()
}

fn dpo_pairs(vectors: &Vectors) {
    let dpo = vectors.json("dpo/dpo.json");
    let pairs = token_pairs(vectors);
    let batch = PairBatch::of(&pairs);
    for (name, logps) in [("models/a", "policy_logps"), ("models/a_ref", "ref_logps")] {
        let model = model(vectors, name);
        let tokens = batch
            .log_probabilities(&mut core_of(&model), false)
            .unwrap();
        let sums = batch.sums(&tokens);
        for (pair, found) in sums.chunks_exact(2).enumerate() {
            close(found[0], f(&dpo[logps]["chosen"][pair]), logps);
            close(found[1], f(&dpo[logps]["rejected"][pair]), logps);
        }
    }
    for (pair, rows) in batch.completions.chunks_exact(2).enumerate() {
        assert_eq!(
            json!(rows[0].len()),
            dpo["completion_lengths"]["chosen"][pair]
        );
        assert_eq!(
            json!(rows[1].len()),
            dpo["completion_lengths"]["rejected"][pair]
        );
    }
}

fn logps(dpo: &Value, reference: &str) -> Vec<PairLogps> {
    let of = |of: &str, side: &str| numbers(&dpo[of][side]);
    let (policy, other) = ("policy_logps", reference);
    let n = of(policy, "chosen").len();
    (0..n)
        .map(|pair| PairLogps {
            policy_chosen: of(policy, "chosen")[pair],
            policy_rejected: of(policy, "rejected")[pair],
            reference_chosen: of(other, "chosen")[pair],
            reference_rejected: of(other, "rejected")[pair],
            chosen_length: of("completion_lengths", "chosen")[pair],
            rejected_length: of("completion_lengths", "rejected")[pair],
        })
        .collect()
}

/// The loss of a name such as `sigmoid` or `simpo(beta=2,gamma_beta_ratio=0.5)`; `bco_pair` is not built.
fn named_loss(
    name: &str,
    beta: f64,
    label_smoothing: f64,
) -> Option<(PreferenceLoss, Coefficients)> {
    let (stem, arguments) = name.split_once('(').unwrap_or((name, ""));
    let mut coefficients = Coefficients {
        beta,
        label_smoothing,
        gamma_beta_ratio: 0.25,
    };
    for argument in arguments
        .trim_end_matches(')')
        .split(',')
        .filter(|text| !text.is_empty())
    {
        let (key, value) = argument.split_once('=').expect("key=value");
        let value: f64 = value.parse().expect("a number");
        match key {
            "beta" => coefficients.beta = value,
            "gamma_beta_ratio" => coefficients.gamma_beta_ratio = value,
            other => panic!("argument `{other}`"),
        }
    }
    let stem = if stem == "dpo_norm" {
        "sigmoid_norm"
    } else {
        stem
    };
    if stem == "bco_pair" {
        return None;
    }
    let kind = serde_json::from_value(json!(stem)).unwrap_or_else(|_| panic!("loss `{stem}`"));
    Some((kind, coefficients))
}

fn dpo_losses(vectors: &Vectors) {
    let dpo = vectors.json("dpo/dpo.json");
    let pairs = logps(&dpo, "ref_logps");
    for case in dpo["cases"].as_array().unwrap() {
        let (beta, eps) = (f(&case["beta"]), f(&case["label_smoothing"]));
        for (name, expected) in case["losses"].as_object().unwrap() {
            let Some((kind, coefficients)) = named_loss(name, beta, eps) else {
                continue;
            };
            let n = pairs.len() as f64;
            let mut mean = 0.0;
            for (index, pair) in pairs.iter().enumerate() {
                let found = preference_loss(kind, &coefficients, pair);
                close(found.loss, f(&expected["per_pair"][index]), name);
                mean += found.loss / n;
                let slope =
                    |side: &str| f(&expected[format!("d_mean_d_policy_{side}_logp")][index]);
                close(found.d_chosen / n, slope("chosen"), name);
                close(found.d_rejected / n, slope("rejected"), name);
            }
            close(mean, f(&expected["mean"]), name);
        }
        let mut metrics = PairMetrics::default();
        for (index, pair) in pairs.iter().enumerate() {
            metrics.add(beta, pair, 0.0, pairs.len());
            close(
                beta * pair.chosen_ratio(),
                f(&case["rewards_chosen"][index]),
                "rewards_chosen",
            );
            close(
                beta * pair.rejected_ratio(),
                f(&case["rewards_rejected"][index]),
                "rewards_rejected",
            );
        }
        close(metrics.accuracy, f(&case["accuracy"]), "accuracy");
        close(metrics.margin, f(&case["margin"]), "margin");
    }
}

fn reference_of(vectors: &Vectors, name: &str, pairs: &[TokenPair]) -> PairLogProbabilities {
    let model = model(vectors, name);
    let batch = PairBatch::of(pairs);
    let tokens = batch
        .log_probabilities(&mut core_of(&model), false)
        .unwrap();
    let sums = batch.sums(&tokens);
    PairLogProbabilities {
        pairs: None,
        chosen: sums.iter().step_by(2).copied().collect(),
        rejected: sums.iter().skip(1).step_by(2).copied().collect(),
    }
}

fn dpo_gradient(vectors: &Vectors) {
    let expected = &vectors.json("dpo/dpo.json")["sigmoid_beta0_1"];
    let pairs = token_pairs(vectors);
    let policy = model(vectors, "models/a");
    // One micro-batch, and one for each pair.
    for micro_batch_tokens in [8192, 1] {
        let params = dpo::Params {
            micro_batch_tokens,
            ..dpo::Params::default()
        };
        let reference = reference_of(vectors, "models/a_ref", &pairs);
        let (report, grads) = first_step(
            &mut Preferences::new(&params, pairs.clone(), reference),
            &policy,
        );
        close(report.loss, f(&expected["loss"]), "loss");
        close(global_norm(&grads), f(&expected["grad_norm"]), "grad_norm");
        check_gradients(&policy, &grads, &tensors(vectors, "dpo/dpo.safetensors"));
    }
}

fn dpo_at_reference(vectors: &Vectors) {
    let dpo = vectors.json("dpo/dpo.json");
    let pairs = logps(&dpo, "policy_logps");
    let params = &dpo["policy_equals_reference_params"];
    let (beta, eps) = (f(&params["beta"]), f(&params["label_smoothing"]));
    for (name, expected) in dpo["policy_equals_reference"].as_object().unwrap() {
        let Some((kind, coefficients)) = named_loss(name, beta, eps) else {
            continue;
        };
        let losses = pairs
            .iter()
            .map(|pair| preference_loss(kind, &coefficients, pair).loss);
        close(losses.sum::<f64>() / pairs.len() as f64, f(expected), name);
    }
    let tokens = token_pairs(vectors);
    let policy = model(vectors, "models/a");
    let reference = reference_of(vectors, "models/a", &tokens);
    let params = dpo::Params::default();
    let (report, _) = first_step(&mut Preferences::new(&params, tokens, reference), &policy);
    assert!(
        (report.loss - 2f64.ln()).abs() < 1e-6,
        "first loss {}",
        report.loss
    );
}

fn dpo_crosscheck(vectors: &Vectors) {
    let dpo = vectors.json("dpo/dpo.json");
    let pairs = logps(&dpo, "ref_logps");
    for (name, expected) in dpo["trl_crosscheck"].as_object().unwrap() {
        let words: Vec<&str> = name.split([' ', '=']).collect();
        let [loss, "beta", beta, "eps", eps] = words[..] else {
            panic!("`{name}`")
        };
        let (beta, eps) = (beta.parse().unwrap(), eps.parse().unwrap());
        let Some((kind, coefficients)) = named_loss(loss, beta, eps) else {
            continue;
        };
        let losses = pairs
            .iter()
            .map(|pair| preference_loss(kind, &coefficients, pair).loss);
        close(
            losses.sum::<f64>() / pairs.len() as f64,
            f(&expected["trl"]),
            name,
        );
    }
}

fn dpo_truncation(vectors: &Vectors) {
    let expected = &vectors.json("dpo/dpo.json")["truncation"];
    let max_length = expected["max_length"].as_u64().unwrap() as usize;
    let pairs = token_pairs(vectors);
    let left = |row: usize| ids(&expected["completion_mask"][row]).iter().sum::<u32>() as usize;
    for (index, pair) in pairs.iter().enumerate() {
        let (chosen, rejected) = (left(index), left(index + pairs.len()));
        match truncate(pair.clone(), max_length) {
            None => assert!(chosen == 0 || rejected == 0),
            Some(cut) => {
                assert_eq!((cut.chosen.len(), cut.rejected.len()), (chosen, rejected));
                let [row, _] = cut.sequences();
                assert_eq!(row, ids(&expected["input_ids"][index])[..row.len()]);
            }
        }
    }
}

fn reward_pairs(vectors: &Vectors, margins: bool) -> Vec<TokenPair> {
    let rm = vectors.json("rm/rm.json");
    let examples = rm["examples"].as_array().unwrap();
    let pair = |(index, example): (usize, &Value)| TokenPair {
        prompt: Vec::new(),
        chosen: ids(&example["chosen_ids"]),
        rejected: ids(&example["rejected_ids"]),
        margin: margins.then(|| f(&rm["margins"][index])),
        domain: None,
    };
    examples.iter().enumerate().map(pair).collect()
}

fn rm_rewards(vectors: &Vectors) {
    let rm = vectors.json("rm/rm.json");
    let model = model(vectors, "models/a_rm");
    let pairs = reward_pairs(vectors, false);
    let chosen = pairs.iter().map(|pair| &pair.chosen);
    let batch = Batch::of(chosen.chain(pairs.iter().map(|pair| &pair.rejected)));
    let found = rewards(&mut core_of(&model), &batch).unwrap();
    let expected = [
        numbers(&rm["rewards_chosen"]),
        numbers(&rm["rewards_rejected"]),
    ]
    .concat();
    let trap = numbers(&rm["pad_equals_eos_trap"]["rewards"]);
    let error = f(&rm["hf_fp32_max_abs_err"]);
    for (index, found) in found.iter().enumerate() {
        let distance = (found - expected[index]).abs();
        assert!(distance <= (10.0 * error).max(accept(expected[index])));
        assert!(
            (found - trap[index]).abs() > 1e-2,
            "the reward was read one token early"
        );
    }
}

fn rm_losses(vectors: &Vectors) {
    let rm = vectors.json("rm/rm.json");
    let model = model(vectors, "models/a_rm");
    let step = |margin, center_coefficient| {
        let params = reward_model::Params {
            margin,
            center_coefficient,
            ..reward_model::Params::default()
        };
        first_step(
            &mut Rewards::new(&params, reward_pairs(vectors, true)),
            &model,
        )
    };
    let (plain, grads) = step(reward_model::Margin::None, 0.0);
    close(plain.loss, f(&rm["loss"]), "loss");
    close(plain.extra["accuracy"], f(&rm["accuracy"]), "accuracy");
    close(global_norm(&grads), f(&rm["grad_norm"]), "grad_norm");
    check_gradients(&model, &grads, &tensors(vectors, "rm/rm.safetensors"));
    let (margin, _) = step(reward_model::Margin::Pair, 0.0);
    close(margin.loss, f(&rm["loss_with_margin"]), "loss_with_margin");
    let (centred, _) = step(reward_model::Margin::None, f(&rm["center_coefficient"]));
    close(centred.loss, f(&rm["loss_centered"]), "loss_centered");
    for (name, found) in [
        ("plain", plain.loss),
        ("margin", margin.loss),
        ("centered_0.01", centred.loss),
    ] {
        close(found, f(&rm["trl_crosscheck"][name]["trl_fp32"]), name);
    }
    let equal = kbuild_tasks::train::reward_loss::bradley_terry(0.3, 0.3, 0.0, 0.0);
    close(equal.loss, f(&rm["equal_rewards_loss"]), "equal rewards");
}

fn kind_of(case: &Value) -> Divergence {
    let k = || case["k"].as_u64().unwrap() as usize;
    match case["kind"].as_str().unwrap() {
        "forward_kl" => Divergence::ForwardKl,
        "reverse_kl" => Divergence::ReverseKl,
        "gjsd" => Divergence::Gjsd {
            beta: f(&case["beta"]),
        },
        "teacher_ce" => Divergence::TeacherCrossEntropy,
        "tvd" => Divergence::TotalVariation,
        "topk_renorm_both" => Divergence::TopKRenormBoth { k: k() },
        "topk_teacher_renorm_only" => Divergence::TopKTeacherRenorm { k: k() },
        "topk_tail_bucket" => Divergence::TopKTailBucket { k: k() },
        "logit_mse" => Divergence::LogitMse,
        other => panic!("divergence `{other}`"),
    }
}

/// The positions that count, as `(sequence, position)`.
fn counted(kd: &Value) -> Vec<(usize, usize)> {
    let rows = kd["mask"].as_array().unwrap().iter().enumerate();
    rows.flat_map(|(row, mask)| {
        let kept = ids(mask).into_iter().enumerate().filter(|(_, m)| *m == 1);
        kept.map(move |(at, _)| (row, at)).collect::<Vec<_>>()
    })
    .collect()
}

fn kd_divergences(vectors: &Vectors) {
    let kd = vectors.json("kd/kd.json");
    let places = counted(&kd);
    assert_eq!(json!(places.len()), kd["n_tokens"]);
    for case in kd["cases"].as_array().unwrap() {
        let kind = kind_of(case);
        let temperature = case["temp"].as_f64().unwrap_or(1.0);
        let n = places.len() as f64;
        let (mut mean, mut at_equality) = (0.0, 0.0);
        for &(row, at) in &places {
            let student = numbers(&kd["student_logits"][row][at]);
            let teacher = numbers(&kd["teacher_logits"][row][at]);
            let (value, gradient) = divergence(kind, temperature, &teacher, &student);
            close(value, f(&case["per_token"][row][at]), "per token");
            let expected = numbers(&case["grad_student_logits"][row][at]);
            for (found, expected) in gradient.iter().zip(&expected) {
                close(found / n, *expected, "gradient");
            }
            mean += value / n;
            at_equality += divergence(kind, temperature, &teacher, &teacher).0 / n;
        }
        close(mean, f(&case["token_mean"]), "token mean");
        let squared = temperature * temperature;
        close(mean * squared, f(&case["token_mean_times_T2"]), "times T²");
        close(
            at_equality,
            f(&case["value_when_student_equals_teacher"]),
            "at equality",
        );
    }
}

/// What training computes, on the same logits: divergence and cross entropy half and half.
fn kd_mix(vectors: &Vectors) {
    let kd = vectors.json("kd/kd.json");
    let expected = &kd["ce_mix"];
    let places = counted(&kd);
    let gather = |name: &str| -> Vec<f32> {
        let row = |&(row, at): &(usize, usize)| numbers(&kd[name][row][at]);
        places.iter().flat_map(row).map(|x| x as f32).collect()
    };
    let (mut student, teacher) = (gather("student_logits"), gather("teacher_logits"));
    let targets: Vec<u32> = places
        .iter()
        .map(|&(row, at)| kd["labels"][row][at].as_u64().unwrap() as u32)
        .collect();
    let n = places.len() as f64;
    let alpha = f(&expected["alpha"]);
    let options = Distillation {
        temperature: 1.0,
        kd_weight: alpha,
        scale_by_squared_temperature: false,
    };
    let cpu = Cpu::open(1).unwrap();
    let sums = cpu.distillation(&mut student, &teacher, &targets, options, 1.0 / n, true);
    close(sums.divergence / n, f(&expected["kd"]), "kd");
    close(sums.cross_entropy / n, f(&expected["ce"]), "ce");
    let total = alpha * sums.divergence / n + (1.0 - alpha) * sums.cross_entropy / n;
    close(total, f(&expected["total"]), "total");
    let width = student.len() / places.len();
    for (place, gradient) in places.iter().zip(student.chunks(width)) {
        let expected = numbers(&expected["grad"][place.0][place.1]);
        for (found, expected) in gradient.iter().zip(expected) {
            close(f64::from(*found), expected, "gradient");
        }
    }
}

/// Forward KL from model to model; the other divergences are functions of logits alone so far.
fn kd_models(vectors: &Vectors) {
    let kd = vectors.json("kd/kd.json");
    let expected = &kd["model_level"];
    let teacher = model(vectors, expected["teacher"].as_str().unwrap());
    let student = model(vectors, expected["student"].as_str().unwrap());
    let material = tensors(vectors, "kd/kd_model.safetensors");
    let batch = kd_batch(&material);
    let step = |student: &Model| {
        let mut objective = TokenObjective {
            source: Given(vec![batch.clone()]),
            loss: TokenLoss::Teacher(Box::new(Teacher {
                core: core_of(&teacher),
                options: Distillation {
                    temperature: 1.0,
                    kd_weight: 1.0,
                    scale_by_squared_temperature: false,
                },
            })),
        };
        first_step(&mut objective, student)
    };
    let (report, grads) = step(&student);
    close(
        report.loss,
        f(&expected["forward_kl"]["loss"]),
        "forward_kl",
    );
    close(
        global_norm(&grads),
        f(&expected["forward_kl"]["grad_norm"]),
        "grad_norm",
    );
    check_gradients(&student, &grads, &material);
    let (same, grads) = step(&teacher);
    close(
        same.loss,
        f(&expected["self_distillation_forward_kl"]),
        "self distillation",
    );
    assert!(global_norm(&grads) < 1e-5, "nothing to learn from oneself");
}

/// Rows of ids with labels (−100: not counted), padded on the right.
fn kd_batch(tensors: &HashMap<String, Tensor>) -> TokenBatch {
    let rows = |name: &str| -> Vec<Vec<i64>> { tensors[name].to_vec2().unwrap() };
    let (ids, labels) = (rows("input_ids"), rows("labels"));
    let mut batch = TokenBatch::default();
    for (ids, labels) in ids.iter().zip(&labels) {
        let length = labels
            .iter()
            .rposition(|label| *label != -100)
            .map_or(0, |last| last + 1);
        let tokens: Vec<u32> = ids[..length].iter().map(|id| *id as u32).collect();
        let targets: Vec<bool> = labels[..length]
            .iter()
            .map(|label| *label != -100)
            .collect();
        batch.push_masked(&tokens, &targets);
    }
    batch
}

fn online_pairs(vectors: &Vectors) {
    let online = vectors.json("online/online.json");
    for case in online["pairs"].as_array().unwrap() {
        let lengths = ids(&case["lengths"]);
        let responses: Vec<Scored> = (numbers(&case["rewards"]).into_iter().zip(lengths))
            .map(|(reward, length)| Scored {
                reward,
                length: length as usize,
            })
            .collect();
        for (name, select, penalty) in [
            ("max_min", Select::MaxMin, 0.0),
            ("max_second", Select::MaxSecond, 0.0),
            ("max_first_other", Select::MaxRandom, 0.0),
            ("max_min_length_penalised_0_1", Select::MaxMin, 0.1),
        ] {
            // The random word 0 takes the first of the others.
            let found = choose_pair(select, &responses, penalty, 0.0, 0).ok();
            let found = found.map(|choice| json!([choice.chosen, choice.rejected]));
            assert_eq!(found.unwrap_or(Value::Null), case[name], "{name}");
        }
    }
}
