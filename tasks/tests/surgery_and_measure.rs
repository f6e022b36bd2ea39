//! The kinds that cut, measure and choose, each run as a build would run it, on the tiny models of the vectors.

mod common;

use std::path::{Path, PathBuf};

use common::{Done, Job, artifact, predict, shards};
use kbuild_engine::artifact::Shape;
use kbuild_engine::facts::{Fact, Facts};
use kbuild_engine::kind::Kinds;
use kbuild_engine::runner::RequestInput;
use kbuild_tasks::formats::tokenizer::{FILES, Tokenizer};
use kbuild_tasks::formats::tokens::{ShardWriter, Width};
use kbuild_tasks::model::Model;
use serde_json::{Value, json};

fn vectors(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/vectors")
        .join(name)
}

/// A directory with what a job reads.
struct World {
    kinds: Kinds,
    root: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        Self {
            kinds: kbuild_tasks::kinds(),
            root: tempfile::tempdir().unwrap(),
        }
    }

    fn job(&self, kind: &str, params: Value) -> Job<'_> {
        Job::new(&self.kinds, kind, params)
    }

    /// A model of the vectors with the tokenizer beside it.
    fn model(&self, name: &str) -> RequestInput {
        let directory = self.root.path().join(name);
        std::fs::create_dir_all(&directory).unwrap();
        let model = vectors("models").join(name);
        for file in ["config.json", "model.safetensors"] {
            std::fs::copy(model.join(file), directory.join(file)).unwrap();
        }
        for file in FILES {
            let from = vectors("tokenizer").join(file);
            if from.exists() {
                std::fs::copy(from, directory.join(file)).unwrap();
            }
        }
        artifact(Shape::Directory, &directory)
    }

    fn tokens(&self, name: &str, texts: &[&str]) -> RequestInput {
        let tokenizer = Tokenizer::open(&vectors("tokenizer")).unwrap();
        let directory = self.root.path().join(name);
        let mut writer = ShardWriter::create(&directory, "t", Width::U16).unwrap();
        for text in texts {
            let mut ids = vec![1];
            ids.extend(tokenizer.encode_literal(text).unwrap());
            ids.push(2);
            writer.push(&ids).unwrap();
        }
        writer.finish().unwrap();
        labelled(shards(&[directory]), name)
    }

    fn file(&self, name: &str, text: &str) -> RequestInput {
        let path = self.root.path().join(name);
        std::fs::write(&path, text).unwrap();
        labelled(artifact(Shape::File, &path), name)
    }

    fn scores(&self, name: &str, scores: &[&[f64]]) -> RequestInput {
        let mut text = String::new();
        for (prompt, scores) in scores.iter().enumerate() {
            for (response, score) in scores.iter().enumerate() {
                let line = json!({
                    "prompt": prompt, "response": response, "score": score, "length": 5 + response, "stopped": true
                });
                text += &format!("{line}\n");
            }
        }
        self.file(name, &text)
    }
}

fn labelled(artifact: RequestInput, label: &str) -> RequestInput {
    RequestInput {
        label: label.to_owned(),
        ..artifact
    }
}

fn report_of(done: &Done, port: &str) -> Value {
    let text = std::fs::read_to_string(done.path(port)).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn number(value: &Value) -> f64 {
    value
        .as_f64()
        .unwrap_or_else(|| panic!("{value} is not a number"))
}

const TEXTS: [&str; 4] = [
    "the cat sat on the mat and the dog ran to the door",
    "카카오는 좋은 모델을 만든다. 고양이가 문 옆에 앉아 있다.",
    "a model learns from the data that the builder gives to it, and from nothing else",
    "지식 증류와 가지치기는 모델을 작게 한다",
];

fn shape_facts(hidden: u64, heads: u64, groups: u64, layers: u64) -> Facts {
    let mut facts = Facts::default();
    let sizes = [
        ("vocab_size", 272),
        ("hidden_size", hidden),
        ("intermediate_size", 48),
        ("num_hidden_layers", layers),
        ("num_attention_heads", heads),
        ("num_key_value_heads", groups),
        ("head_dim", 8),
        ("max_position_embeddings", 256),
    ];
    for (name, size) in sizes {
        facts.set(name, size);
    }
    facts.set("tie_word_embeddings", false);
    facts
}

#[test]
fn upscale_copies_layers_tokenizer_and_predicts_what_it_makes() {
    let world = World::new();
    let params = json!({"layers": 6});
    let job = || {
        world
            .job("upscale", params.clone())
            .input("model", world.model("a"))
    };
    let (done, again) = (job().run().unwrap(), job().run().unwrap());
    assert_eq!(done.digest("model"), again.digest("model"));
    assert!(done.path("model").join("tokenizer.json").exists());
    let model = Model::load(done.path("model")).unwrap();
    assert_eq!(model.config.num_hidden_layers, 6);
    let report = report_of(&done, "report");
    assert_eq!(report["layer_map"], json!([0, 1, 2, 1, 2, 3]));
    let predicted = predict(
        &world.kinds,
        "upscale",
        params,
        &[("model", shape_facts(32, 4, 2, 4))],
    )
    .unwrap();
    let facts = &predicted.outputs["model"];
    assert_eq!(
        facts.u64("parameters"),
        Some(model.config.parameter_count())
    );
    assert!(facts.contradictions(&done.output("model").facts).is_empty());
    assert!(done.output("model").facts.contains_key("vocab"));
}

#[test]
fn upscale_refuses_what_it_cannot_reach() {
    let world = World::new();
    let facts = [("model", shape_facts(32, 4, 2, 4))];
    for (params, part) in [
        (json!({"layers": 7}), "even"),
        (json!({"layers": 10}), "2 to 8"),
        (json!({}), "exactly one"),
        (json!({"solar": 1, "layer_map": [0]}), "exactly one"),
        (json!({"solar": 1, "layers": 8}), "asks for 8"),
        (json!({"layer_map": [0, 4]}), "layer 4"),
    ] {
        let complaints = predict(&world.kinds, "upscale", params.clone(), &facts).unwrap_err();
        assert!(
            complaints[0].message.contains(part),
            "{}",
            complaints[0].message
        );
        let failure = world
            .job("upscale", params)
            .input("model", world.model("a"))
            .run()
            .err()
            .unwrap();
        assert!(failure.message.contains(part), "{failure}");
    }
    let unknown = predict(
        &world.kinds,
        "upscale",
        json!({"layers": 6}),
        &[("model", Facts::default())],
    );
    let mut told = Facts::default();
    told.set("num_hidden_layers", 6);
    assert_eq!(
        unknown.unwrap().outputs["model"],
        told,
        "nothing is guessed"
    );
}

fn importance(world: &World, params: Value) -> Done {
    world
        .job("importance", params)
        .input("model", world.model("a"))
        .input("tokens", world.tokens("calibration", &TEXTS))
        .run()
        .unwrap()
}

#[test]
fn importance_repeats_and_its_threads_do_not_show() {
    let world = World::new();
    let params = json!({"samples": 6, "seq_len": 16, "micro_batch": 2});
    let done = importance(&world, params.clone());
    assert_eq!(
        done.digest("importance"),
        importance(&world, params.clone()).digest("importance")
    );
    let threads = world
        .job("importance", params)
        .input("model", world.model("a"))
        .input("tokens", world.tokens("calibration", &TEXTS))
        .threads(2)
        .run()
        .unwrap();
    assert_eq!(done.digest("importance"), threads.digest("importance"));
}

#[test]
fn prune_makes_the_shape_that_it_predicts() {
    let world = World::new();
    let scores = importance(&world, json!({"samples": 6, "seq_len": 16}));
    let params =
        json!({"hidden": 24, "ffn": 32, "heads": 2, "layers": 3, "tie_embeddings": "average"});
    let job = || {
        world
            .job("prune", params.clone())
            .input("model", world.model("a"))
            .input("importance", scores.output("importance"))
    };
    let done = job().run().unwrap();
    assert_eq!(done.digest("model"), job().run().unwrap().digest("model"));
    let model = Model::load(done.path("model")).unwrap();
    assert_eq!(model.config.head_dim, 8);
    assert!(model.config.tie_word_embeddings);
    let config: Value = serde_json::from_str(
        &std::fs::read_to_string(done.path("model").join("config.json")).unwrap(),
    )
    .unwrap();
    assert_eq!(
        config["head_dim"],
        json!(8),
        "the width of heads no longer follows from the rest"
    );
    let inputs = [
        ("model", shape_facts(32, 4, 2, 4)),
        ("importance", Facts::default()),
    ];
    let predicted = predict(&world.kinds, "prune", params.clone(), &inputs).unwrap();
    let facts = &predicted.outputs["model"];
    assert!(facts.contradictions(&done.output("model").facts).is_empty());
    assert_eq!(
        facts.u64("parameters"),
        Some(model.config.parameter_count())
    );
    let report = report_of(&done, "report");
    assert_eq!(report["kept"]["layers"].as_array().unwrap().len(), 3);
    assert_eq!(report["parameters"], json!(model.config.parameter_count()));
}

#[test]
fn baselines_and_ablations_prune_differently() {
    let world = World::new();
    let scores = importance(&world, json!({"samples": 6, "seq_len": 16}));
    let pruned = |params: Value| {
        let job = world.job("prune", params).input("model", world.model("a"));
        job.input("importance", scores.output("importance"))
            .run()
            .unwrap()
            .digest("model")
    };
    let hidden = pruned(json!({"hidden": 24}));
    assert_ne!(
        hidden,
        pruned(json!({"hidden": 24, "hidden_ranking": "per-layer"}))
    );
    assert_ne!(hidden, pruned(json!({"hidden": 24, "method": "magnitude"})));
    let random = |seed: u64| pruned(json!({"ffn": 24, "method": "random", "seed": seed}));
    assert_eq!(random(1), random(1));
    assert_ne!(random(1), random(2));
    // Keeping everything is a no-op whatever the method.
    assert_eq!(
        pruned(json!({})),
        pruned(json!({"method": "random", "seed": 3, "gqa_aligned": false}))
    );
}

#[test]
fn prune_names_every_target_that_the_parent_cannot_serve() {
    let world = World::new();
    let inputs = [
        ("model", shape_facts(32, 4, 2, 4)),
        ("importance", Facts::default()),
    ];
    let params = json!({"hidden": 40, "ffn": 0, "heads": 3, "layers": 5});
    let complaints = predict(&world.kinds, "prune", params, &inputs).unwrap_err();
    let places: Vec<&str> = complaints
        .iter()
        .map(|complaint| complaint.at.as_str())
        .collect();
    assert_eq!(
        places,
        [
            "params.hidden",
            "params.ffn",
            "params.layers",
            "params.heads"
        ]
    );
    assert!(
        complaints
            .iter()
            .all(|complaint| !complaint.help.is_empty())
    );
    let alone = predict(&world.kinds, "prune", json!({"hidden": 8}), &inputs[..1]).unwrap_err();
    assert_eq!(alone[0].at, "inputs.importance");
    let other = world
        .job("prune", json!({"hidden": 8}))
        .input("model", world.model("b"));
    let scores = importance(&world, json!({"samples": 2, "seq_len": 16}));
    let failure = other
        .input("importance", scores.output("importance"))
        .run()
        .err()
        .unwrap();
    assert!(failure.message.contains("another shape"), "{failure}");
}

fn evaluate(world: &World, model: RequestInput, params: Value) -> Value {
    let done = world
        .job("evaluate", params)
        .input("model", model)
        .input("tokens", world.tokens("english", &[TEXTS[0], TEXTS[2]]))
        .input("tokens", world.tokens("korean", &[TEXTS[1], TEXTS[3]]))
        .run()
        .unwrap();
    report_of(&done, "report")
}

#[test]
fn evaluate_counts_every_byte_once_whatever_the_window() {
    let world = World::new();
    let whole = evaluate(&world, world.model("a"), json!({"seq_len": 256}));
    let narrow = evaluate(&world, world.model("a"), json!({"seq_len": 7}));
    for (label, texts) in [
        ("english", [TEXTS[0], TEXTS[2]]),
        ("korean", [TEXTS[1], TEXTS[3]]),
    ] {
        let bytes: usize = texts.iter().map(|text| text.len()).sum();
        assert_eq!(whole["labels"][label]["bytes"], json!(bytes));
        assert_eq!(narrow["labels"][label]["bytes"], json!(bytes));
        assert_eq!(
            whole["labels"][label]["tokens"],
            narrow["labels"][label]["tokens"]
        );
    }
    let mean = number(&whole["mean"]["bits_per_byte"]);
    assert!(
        (3.0..12.0).contains(&mean),
        "an untrained model is no worse than noise: {mean}"
    );
    let few = evaluate(
        &world,
        world.model("a"),
        json!({"seq_len": 8, "max_tokens": 20}),
    );
    assert!(number(&few["labels"]["english"]["tokens"]) <= 20.0);
    assert_eq!(whole["parameters"], json!(48416));
}

#[test]
fn evaluate_refuses_other_vocabularies_and_long_windows() {
    let world = World::new();
    let with_vocab = |symbol: &str| {
        let mut facts = shape_facts(32, 4, 2, 4);
        facts.set_fact("vocab", Fact::Symbol(symbol.to_owned()));
        facts
    };
    let inputs = [("model", with_vocab("a")), ("tokens", with_vocab("b"))];
    let complaints =
        predict(&world.kinds, "evaluate", json!({"seq_len": 300}), &inputs).unwrap_err();
    assert_eq!(complaints.len(), 2);
    let says = |part: &str| complaints.iter().any(|found| found.message.contains(part));
    assert!(says("vocabular") && says("256"), "{complaints:?}");
    let same = [("model", with_vocab("a")), ("tokens", with_vocab("a"))];
    assert!(predict(&world.kinds, "evaluate", json!({"seq_len": 64}), &same).is_ok());
}

#[test]
fn a_reward_model_is_judged_on_text_and_on_tokens() {
    let world = World::new();
    let turn = |text: &str| json!([{"role": "assistant", "content": text}]);
    let lines: Vec<String> = [
        ("the cat sat on the mat", "the cat ran"),
        ("좋은 모델", "좋은 데이터가 좋다"),
    ]
    .iter()
    .map(|(chosen, rejected)| {
        let prompt = json!([{"role": "user", "content": "hi"}]);
        json!({"prompt": prompt, "chosen": turn(chosen), "rejected": turn(rejected)}).to_string()
    })
    .collect();
    let one_file = world.file("preferences.jsonl", &(lines.join("\n") + "\n"));
    for as_text in [shards(std::slice::from_ref(&one_file.path)), one_file] {
        let done = world
            .job("evaluate-reward-model", json!({}))
            .input("model", world.model("a_rm"))
            .input("preferences", as_text)
            .run()
            .unwrap();
        let report = report_of(&done, "report");
        assert_eq!(report["pairs"], json!(2));
        assert_eq!(report["longer_is_chosen"], json!(0.5));
    }
    let pairs = world.file(
        "pairs.jsonl",
        "{\"prompt\":[1],\"chosen\":[89,2],\"rejected\":[2]}\n",
    );
    let job = world
        .job("evaluate-reward-model", json!({}))
        .input("model", world.model("a_rm"));
    let report = report_of(
        &job.input("preferences", pairs.clone()).run().unwrap(),
        "report",
    );
    assert_eq!(report["mean_length"]["chosen"], json!(2.0));
    let wrong = world
        .job("evaluate-reward-model", json!({}))
        .input("model", world.model("a"));
    assert!(
        wrong
            .input("preferences", pairs)
            .run()
            .err()
            .unwrap()
            .message
            .contains("reward head")
    );
}

#[test]
fn best_of_n_and_compare_report_quality() {
    let world = World::new();
    let gold: [&[f64]; 3] = [
        &[0.1, 0.9, 0.5, 0.3],
        &[0.0, 0.2, 0.4, 1.0],
        &[0.5, 0.5, 0.1, 0.2],
    ];
    let done = world
        .job("best-of-n", json!({}))
        .input("scores", world.scores("rm", &gold))
        .input("gold", world.scores("gold", &gold))
        .run()
        .unwrap();
    let report = report_of(&done, "report");
    let curve: Vec<f64> = report["curve"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| number(&p["quality"]))
        .collect();
    assert_eq!(curve.len(), 3);
    assert!(
        curve.is_sorted(),
        "a perfect judge never picks worse from more: {curve:?}"
    );
    assert!((number(&report["best"]["quality"]) - (0.9 + 1.0 + 0.5) / 3.0).abs() < 1e-12);

    let worse: [&[f64]; 3] = [&[0.0], &[0.1], &[0.1]];
    let compare = |a: &[&[f64]], b: &[&[f64]]| {
        let job = world
            .job("compare", json!({}))
            .input("a", world.scores("sa", a));
        job.input("b", world.scores("sb", b)).run()
    };
    let report = report_of(&compare(&gold, &worse).unwrap(), "report");
    let rate = number(&report["win_rate"]);
    assert!(
        (rate - (1.0 + 0.75 + (2.0 + 0.5 + 1.0) / 4.0) / 3.0).abs() < 1e-12,
        "{rate}"
    );
    let interval = report["interval"].as_array().unwrap();
    assert!(number(&interval[0]) <= rate && rate <= number(&interval[1]));
    let failure = compare(&gold, &worse[..2]).err().unwrap();
    assert!(failure.message.contains("prompt 2"), "{failure}");
}

#[test]
fn the_chosen_model_is_passed_on() {
    let world = World::new();
    let report = |name: &str, bpb: f64| {
        world.file(name, &json!({"mean": {"bits_per_byte": bpb}}).to_string())
    };
    let params = json!({
        "metric": "/mean/bits_per_byte", "values": {"half": {"ko": 0.5}, "most": {"ko": 0.8}}
    });
    let choice = world
        .job("choose", params)
        .input("reports", report("half", 2.5))
        .input("reports", report("most", 2.25))
        .run()
        .unwrap();
    let content = report_of(&choice, "choice");
    assert_eq!(
        (&content["winner"], &content["value"]),
        (&json!("most"), &json!({"ko": 0.8}))
    );
    let pick = |labels: [&str; 2]| {
        world
            .job("pick-model", json!({}))
            .input("models", labelled(world.model("a"), labels[0]))
            .input("models", labelled(world.model("b"), labels[1]))
            .input("choice", choice.output("choice"))
            .run()
    };
    let picked = pick(["half", "most"]).unwrap();
    let config = std::fs::read(picked.path("model").join("config.json")).unwrap();
    assert_eq!(
        config,
        std::fs::read(vectors("models/b/config.json")).unwrap()
    );
    assert!(picked.path("model").join("tokenizer.json").exists());
    assert!(pick(["x", "y"]).err().unwrap().message.contains("most"));
    let bad = json!({"metric": "mean", "values": {"other": 1}});
    let complaints = predict(
        &world.kinds,
        "choose",
        bad,
        &[("reports", Facts::default())],
    )
    .unwrap_err();
    assert_eq!(complaints.len(), 3);
}

fn ledger(world: &World) -> RequestInput {
    let directory = world.root.path().join("ledger");
    std::fs::create_dir_all(&directory).unwrap();
    for (name, n) in [("0.json", 2), ("1.json", 3)] {
        let part = json!({"documents": {"in": 10, "out": 10 - n}, "dropped": {"short": n}});
        std::fs::write(directory.join(name), part.to_string()).unwrap();
    }
    labelled(artifact(Shape::Shards, &directory), "clean")
}

fn report_job<'a>(world: &'a World, params: Value) -> Job<'a> {
    let metrics: String = (0..500)
        .map(|step| {
            json!({"step": step, "loss": 5.0 - 0.001 * f64::from(step), "tokens": 100 * (step + 1)})
                .to_string()
                + "\n"
        })
        .collect();
    let eval = |name: &str, bpb: f64| {
        world.file(
            name,
            &json!({"parameters": 1000, "mean": {"bits_per_byte": bpb}}).to_string(),
        )
    };
    world
        .job("report", params)
        .input("entries", world.file("stage1", &metrics))
        .input("entries", ledger(world))
        .input("entries", eval("a1", 2.0))
        .input("entries", eval("a2", 2.2))
        .input("entries", eval("b1", 2.5))
        .input("entries", eval("b2", 2.6))
        .input(
            "entries",
            world.file("mix", "{\"winner\": \"x\", \"reason\": \"y\"}"),
        )
}

fn report_params(strict: bool) -> Value {
    json!({
        "title": "t", "points": 50, "strict": strict,
        "chain": [
            {"name": "one", "parameters": "/a1/parameters", "tokens": "/stage1/last/tokens"},
            {"name": "two", "parameters": 500, "tokens": 10, "teacher_parameters": "/a1/parameters"}
        ],
        "groups": {"a": ["a1", "a2"], "b": ["b1", "b2"]},
        "measures": {"bpb": "/mean/bits_per_byte"},
        "comparisons": [{"name": "a - b", "a": "a", "b": "b"}],
        "gates": [
            {"name": "learns", "value": "/stage1/last/loss", "below": "/stage1/first/loss"},
            {"name": "a beats b", "value": "/comparisons/a - b/bpb/mean", "below": 0},
            {"name": "fails", "value": "/a1/mean/bits_per_byte", "below": 1.0}
        ]
    })
}

#[test]
fn a_report_holds_sections_gates_groups_and_the_chain() {
    let world = World::new();
    let done = report_job(&world, report_params(false)).run().unwrap();
    let report = report_of(&done, "report");
    assert_eq!(report["order"][0], json!("stage1"));
    assert_eq!(report["sections"]["clean"]["sort"], json!("ledger"));
    assert_eq!(
        report["sections"]["clean"]["content"]["dropped"]["short"],
        json!(5)
    );
    assert_eq!(report["sections"]["mix"]["sort"], json!("choice"));
    let curve = report["sections"]["stage1"]["content"]["curves"]["loss"]
        .as_array()
        .unwrap();
    assert_eq!((curve.len(), &curve[0]), (50, &json!([0.0, 5.0])));
    assert_eq!(
        number(&report["chain"]["flops"]),
        6.0 * 1000.0 * 50_000.0 + 6.0 * 500.0 * 10.0
    );
    assert_eq!(number(&report["chain"]["extra_flops"]), 2.0 * 1000.0 * 10.0);
    assert!((number(&report["groups"]["a"]["bpb"]["mean"]) - 2.1).abs() < 1e-12);
    assert!((number(&report["comparisons"]["a - b"]["bpb"]["mean"]) + 0.45).abs() < 1e-12);
    let passes: Vec<&Value> = report["gates"]
        .as_array()
        .unwrap()
        .iter()
        .map(|gate| &gate["pass"])
        .collect();
    assert_eq!(passes, [true, true, false]);
    assert_eq!(
        (&report["passed"], &report["failed"]),
        (&json!(2), &json!(1))
    );
    let again = report_job(&world, report_params(false)).run().unwrap();
    assert_eq!(done.digest("report"), again.digest("report"));
}

#[test]
fn a_strict_report_fails_with_the_gate_that_failed() {
    let world = World::new();
    let failure = report_job(&world, report_params(true)).run().err().unwrap();
    assert!(
        failure.message.contains("1 of 3") && failure.message.contains("`fails`"),
        "{failure}"
    );
}

#[test]
fn a_report_checks_its_names_before_anything_runs() {
    let world = World::new();
    let params = json!({
        "groups": {"g": ["nobody"]},
        "comparisons": [{"name": "c", "a": "g", "b": "h"}],
        "gates": [{"name": "x", "value": "a/b", "below": 1}, {"name": "y", "value": "/a"}]
    });
    let complaints = predict(
        &world.kinds,
        "report",
        params,
        &[("entries", Facts::default())],
    )
    .unwrap_err();
    let places: Vec<&str> = complaints
        .iter()
        .map(|complaint| complaint.at.as_str())
        .collect();
    assert_eq!(
        places,
        [
            "params.groups.g",
            "params.gates[0]",
            "params.gates[1]",
            "params.comparisons[0]"
        ]
    );
}

/// Kinds that only copy and compare give the same bytes on every machine: what changes them must raise their version.
#[test]
fn versions_are_pinned_to_their_bytes() {
    let world = World::new();
    let gold: [&[f64]; 2] = [&[0.1, 0.9, 0.5, 0.3], &[0.0, 0.2, 0.4, 1.0]];
    let upscale = world
        .job("upscale", json!({"solar": 1}))
        .input("model", world.model("a"));
    let prune =
        json!({"hidden": 24, "ffn": 32, "heads": 2, "layers": 3, "method": "random", "seed": 7});
    let prune = world.job("prune", prune).input("model", world.model("a"));
    let best_of_n = world
        .job("best-of-n", json!({"resamples": 50}))
        .input("scores", world.scores("rm", &gold));
    let compare = world
        .job("compare", json!({"resamples": 50}))
        .input("a", world.scores("sa", &gold));
    let choose = world
        .job("choose", json!({"metric": "/x"}))
        .input("reports", world.file("r", "{\"x\": 1}"));
    let pinned = [
        (upscale.run(), "model", "upscale"),
        (prune.run(), "model", "prune"),
        (
            best_of_n.input("gold", world.scores("gold", &gold)).run(),
            "report",
            "best-of-n",
        ),
        (
            compare.input("b", world.scores("sb", &gold)).run(),
            "report",
            "compare",
        ),
        (choose.run(), "choice", "choose"),
        (
            report_job(&world, report_params(false)).run(),
            "report",
            "report",
        ),
    ];
    let digests: Vec<String> = pinned
        .into_iter()
        .map(|(done, port, kind)| {
            let version = world.kinds.get(kind).unwrap().version;
            format!("{kind} {version} {}", done.unwrap().digest(port).short())
        })
        .collect();
    let want = [
        "upscale 1 9cb2a0a387",
        "prune 1 a5037e4729",
        "best-of-n 1 54b7b27982",
        "compare 1 6ed629ac05",
        "choose 1 46b8bb4ed4",
        "report 1 3f017e56ce",
    ];
    assert_eq!(digests, want);
}
