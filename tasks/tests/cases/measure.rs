//! Cases of measurement: likelihoods and accuracies, best-of-N, rewards, weights of sources.

use kbuild_tasks::formats::tokenizer::Tokenizer;
use kbuild_tasks::measure::best_of_n::{best_of_n, kl};
use kbuild_tasks::measure::domain_weights::{Excess, update};
use kbuild_tasks::measure::likelihood::Reader;
use kbuild_tasks::measure::multiple_choice::{
    Choice, Normalisation, Rolling, bits_per_byte, centred, encode_pair, pass_at_k, predict,
};
use kbuild_tasks::measure::reward_accuracy::{Judged, summary};
use kbuild_tasks::measure::statistics::{mean, standard_error};
use kbuild_tasks::model::{Batch, Model};
use kbuild_tasks::train::reward_model::rewards;
use serde_json::Value;

use super::surgery::numbers;
use super::{Case, Vectors, core_of};

pub const CASES: &[Case] = &[
    case("eval/eval.json#multiple_choice", multiple_choice),
    case("eval/eval.json#lm_eval", multiple_choice),
    case("eval/eval.json#rolling", rolling),
    case("eval/eval.json#bpb", bytes_of_targets),
    case("eval/eval.json#core_centering", core_centring),
    case("eval/eval.json#pass_at_k", passes),
    case("eval/eval.json#stderr", standard_errors),
    case("online/online.json#domain_weights", source_weights),
    case("rm/rm.json#best_of_n", best_of_samples),
    case("rm/rm.json#rewards_chosen", reward_accuracy),
    case("rm/rm.json#rewards_rejected", reward_accuracy),
    case("rm/rm.json#accuracy", reward_accuracy),
];

const fn case(id: &'static str, run: fn(&Vectors)) -> Case {
    Case { id, run }
}

fn number(value: &Value) -> f64 {
    value.as_f64().expect("a number")
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).expect("token ids")
}

fn list(value: &Value) -> &Vec<Value> {
    value.as_array().expect("a list")
}

fn reader(vectors: &Vectors) -> (Reader, Tokenizer) {
    let model = Model::load(&vectors.path("models/a")).expect("a model");
    let tokenizer = Tokenizer::open(&vectors.path("tokenizer")).expect("a tokenizer");
    (Reader::new(model, "cpu", 1).expect("a reader"), tokenizer)
}

fn multiple_choice(vectors: &Vectors) {
    let file = vectors.json("eval/eval.json");
    let case = &file["multiple_choice"];
    let (mut reader, tokenizer) = reader(vectors);
    let delimiter = case["target_delimiter"].as_str().expect("a delimiter");
    let sorts = [
        ("acc", Normalisation::None),
        ("acc_norm", Normalisation::Characters),
        ("acc_bytes", Normalisation::Bytes),
    ];
    let mut hits = [0.0; 3];
    for doc in list(&case["docs"]) {
        let choices = judge(&mut reader, &tokenizer, doc, delimiter);
        for ((name, normalisation), hits) in sorts.iter().zip(&mut hits) {
            let best = predict(&choices, *normalisation).expect("a choice") as u64;
            assert_eq!(
                Some(best),
                doc["prediction"][name].as_u64(),
                "{name} of {}",
                doc["question"]
            );
            *hits += f64::from(u8::from(Some(best) == doc["gold"].as_u64()));
        }
    }
    for ((name, _), hits) in sorts.iter().zip(hits) {
        let accuracy = hits / list(&case["docs"]).len() as f64;
        assert!(
            (accuracy - number(&case["metrics"][name])).abs() < 1e-9,
            "{name}"
        );
        let library = number(&file["lm_eval"][format!("lm_eval {name}")]);
        assert!((accuracy - library).abs() < 1e-6, "{name}");
    }
}

fn judge<'a>(
    reader: &mut Reader,
    tokenizer: &Tokenizer,
    doc: &'a Value,
    delimiter: &str,
) -> Vec<Choice<'a>> {
    let question = doc["question"].as_str().expect("a question");
    let one = |gold: &'a Value| {
        let text = gold["choice"].as_str().expect("a choice");
        let pair = encode_pair(tokenizer, question, &format!("{delimiter}{text}"), 1).expect("ids");
        assert_eq!(pair.context, ids(&gold["context_ids"]), "{question}");
        assert_eq!(pair.continuation, ids(&gold["continuation_ids"]), "{text}");
        let got = reader
            .continuation(&pair.context, &pair.continuation)
            .expect("a likelihood");
        let want = number(&gold["loglikelihood"]);
        assert!(
            (got.log_likelihood - want).abs() <= 1e-4 + 1e-5 * want.abs(),
            "{text}: {got:?} is not {want}"
        );
        assert_eq!(Some(got.is_greedy), gold["is_greedy"].as_bool(), "{text}");
        Choice {
            text,
            log_likelihood: got.log_likelihood,
        }
    };
    list(&doc["choices"]).iter().map(one).collect()
}

fn rolling(vectors: &Vectors) {
    let file = vectors.json("eval/eval.json");
    let case = &file["rolling"];
    let (mut reader, tokenizer) = reader(vectors);
    let mut total = Rolling::default();
    for doc in list(&case["docs"]) {
        let text = doc["text"].as_str().expect("a text");
        let tokens = tokenizer.encode_literal(text).expect("ids");
        assert_eq!(tokens, ids(&doc["ids"]), "{text}");
        let prefix = [doc["prefix_token_id"].as_u64().expect("a token") as u32];
        let got = reader
            .continuation(&prefix, &tokens)
            .expect("a likelihood")
            .log_likelihood;
        let want = number(&doc["loglikelihood"]);
        assert!(
            (got - want).abs() <= 1e-4 + 1e-5 * want.abs(),
            "{got} is not {want}"
        );
        total.log_likelihood += got;
        total.bytes += text.len();
        total.words += text.split_whitespace().count();
    }
    let checks = [
        ("bits_per_byte", total.bits_per_byte()),
        ("byte_perplexity", total.byte_perplexity()),
        ("word_perplexity", total.word_perplexity()),
    ];
    for (name, got) in checks {
        for want in [
            number(&case[name]),
            number(&file["lm_eval"][format!("lm_eval {name}")]),
        ] {
            assert!(
                (got / want - 1.0).abs() < 1e-4,
                "{name}: {got} is not {want}"
            );
        }
    }
}

fn bytes_of_targets(vectors: &Vectors) {
    let case = &vectors.json("eval/eval.json")["bpb"];
    let (mut reader, tokenizer) = reader(vectors);
    let tokens = ids(&case["ids"]);
    let lengths = tokenizer.byte_lengths();
    let bytes: Vec<u32> = tokens[1..].iter().map(|id| lengths[*id as usize]).collect();
    assert_eq!(bytes, ids(&case["target_token_bytes"]));
    let log_probabilities = reader
        .log_probabilities(&Batch::of([&tokens]))
        .expect("a forward pass");
    let nats: f64 = log_probabilities
        .iter()
        .zip(&bytes)
        .filter(|(_, n)| **n > 0)
        .map(|(lp, _)| -lp)
        .sum();
    let total: u32 = bytes.iter().sum();
    assert_eq!(Some(u64::from(total)), case["bytes"].as_u64());
    assert!((nats - number(&case["nats"])).abs() < 1e-3, "{nats}");
    let bpb = bits_per_byte(nats, total as usize);
    assert!((bpb - number(&case["bpb"])).abs() < 2e-5, "{bpb}");
}

fn core_centring(vectors: &Vectors) {
    for case in list(&vectors.json("eval/eval.json")["core_centering"]) {
        let got = centred(number(&case["accuracy"]), number(&case["random_baseline"]));
        assert!((got - number(&case["centered"])).abs() < 1e-9, "{case}");
    }
}

fn passes(vectors: &Vectors) {
    for case in list(&vectors.json("eval/eval.json")["pass_at_k"]) {
        let whole = |name: &str| case[name].as_u64().expect("a count") as usize;
        let got = pass_at_k(whole("n"), whole("c"), whole("k"));
        assert!((got - number(&case["value"])).abs() < 1e-9, "{case}: {got}");
    }
}

fn standard_errors(vectors: &Vectors) {
    let case = &vectors.json("eval/eval.json")["stderr"];
    let values = numbers(&case["values"]);
    assert!((mean(&values) - number(&case["mean"])).abs() < 1e-9);
    let got = standard_error(&values).expect("several values");
    assert!((got - number(&case["stderr"])).abs() < 1e-9, "{got}");
}

fn source_weights(vectors: &Vectors) {
    let case = &vectors.json("online/online.json")["domain_weights"];
    let list = |name: &str| numbers(&case[name]);
    for (name, excess) in [
        ("sheared_llama", Excess::Signed),
        ("doremi", Excess::Clipped),
    ] {
        let got = update(
            &list("weights"),
            &list("current_loss"),
            &list("reference_loss"),
            excess,
            number(&case["eta"]),
            number(&case[name]["c"]),
        );
        for (got, want) in got.iter().zip(numbers(&case[name]["new"])) {
            assert!((got - want).abs() < 1e-9, "{name}: {got} is not {want}");
        }
    }
}

fn best_of_samples(vectors: &Vectors) {
    let case = &vectors.json("rm/rm.json")["best_of_n"];
    let prompts: Vec<(Vec<f64>, Vec<f64>)> = list(&case["scores"])
        .iter()
        .zip(list(&case["quality"]))
        .map(|(scores, quality)| (numbers(scores), numbers(quality)))
        .collect();
    for (n, gold) in case["n"].as_object().expect("sizes") {
        let n: usize = n.parse().expect("a size");
        let per_prompt: Vec<f64> = prompts
            .iter()
            .map(|(scores, quality)| best_of_n(scores, quality, n).expect("enough samples"))
            .collect();
        for (got, want) in per_prompt.iter().zip(numbers(&gold["per_prompt"])) {
            assert!(
                (got - want).abs() < 1e-9,
                "best of {n}: {got} is not {want}"
            );
        }
        assert!((mean(&per_prompt) - number(&gold["mean"])).abs() < 1e-9);
        assert!((kl(n) - number(&gold["kl_analytic"])).abs() < 1e-9);
    }
}

fn reward_accuracy(vectors: &Vectors) {
    let case = vectors.json("rm/rm.json");
    let model = Model::load(&vectors.path("models/a_rm")).expect("a reward model");
    let mut core = core_of(&model);
    let mut side = |name: &str| -> Vec<f64> {
        let sequences = list(&case["examples"])
            .iter()
            .map(|example| ids(&example[name]));
        rewards(&mut core, &Batch::of(sequences)).expect("rewards")
    };
    let (chosen, rejected) = (side("chosen_ids"), side("rejected_ids"));
    let tolerance = 10.0 * number(&case["hf_fp32_max_abs_err"]);
    for (got, name) in [(&chosen, "rewards_chosen"), (&rejected, "rewards_rejected")] {
        for (got, want) in got.iter().zip(numbers(&case[name])) {
            assert!(
                (got - want).abs() <= tolerance.max(1e-5 + 1e-4 * want.abs()),
                "{got} is not {want}"
            );
        }
    }
    let judged: Vec<Judged> = chosen
        .iter()
        .zip(&rejected)
        .map(|(chosen, rejected)| Judged {
            chosen: *chosen,
            rejected: *rejected,
            chosen_length: 1,
            rejected_length: 1,
        })
        .collect();
    assert_eq!(summary(&judged)["accuracy"], case["accuracy"]);
}
