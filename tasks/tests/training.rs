//! Every kind that trains or samples, run whole in this process on a tiny model: what it writes, that it is the same
//! whatever threads and interruptions there were, and what it refuses.

mod common;

use std::path::{Path, PathBuf};

use common::{Done, Job, artifact, digest, predict, shards};
use kbuild_engine::artifact::Shape;
use kbuild_engine::facts::{Fact, Facts};
use kbuild_engine::kind::{Body, Kinds};
use kbuild_engine::runner::{Event, FailureClass, RequestInput};
use kbuild_tasks::formats::tokenizer::Tokenizer;
use kbuild_tasks::formats::tokens::{ShardWriter, Width};
use kbuild_tasks::model::{Model, Rng};
use serde_json::{Value, json};

fn vectors() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors")
}

fn tokenizer() -> RequestInput {
    artifact(Shape::Directory, &vectors().join("tokenizer"))
}

const SENTENCES: [&str; 4] = [
    "the cat sat on the mat and the dog ran to the door",
    "좋은 모델이 좋은 데이터를 만든다",
    "a dog ran, a cat sat; the mat is at the door",
    "데이터가 좋다 모델이 좋다",
];

/// Documents of repeated sentences, `n` of them from sentence `from` on.
fn tokens(directory: &Path, from: usize, n: usize) -> RequestInput {
    let tokenizer = Tokenizer::open(&vectors().join("tokenizer")).unwrap();
    let part = directory.join(format!("tokens-{from}"));
    let mut writer = ShardWriter::create(&part, "t", Width::U16).unwrap();
    for document in 0..n {
        let text = SENTENCES[(from + document) % 4].repeat(1 + document % 3);
        let mut ids = tokenizer.encode(&text).unwrap();
        ids.push(2);
        writer.push(&ids).unwrap();
    }
    writer.finish().unwrap();
    shards(&[part])
}

fn lines(directory: &Path, name: &str, records: &[Value]) -> RequestInput {
    let path = directory.join(name);
    let text: String = records.iter().map(|record| format!("{record}\n")).collect();
    std::fs::write(&path, text).unwrap();
    shards(&[path])
}

fn message(role: &str, content: &str) -> Value {
    json!({"role": role, "content": content})
}

fn chats() -> Vec<Value> {
    let questions = ["the cat?", "a dog?", "데이터?", "the door?"];
    (0..24)
        .map(|n| {
            let question = questions[n % 4];
            let answer = SENTENCES[n % 4];
            json!({"messages": [message("user", question), message("assistant", answer)]})
        })
        .collect()
}

fn preferences() -> Vec<Value> {
    let prompts = ["the cat?", "a dog?", "데이터?", "the door?", "mat?", "ran?"];
    prompts
        .iter()
        .map(|prompt| {
            json!({
                "prompt": [message("user", prompt)],
                "chosen": [message("assistant", "the cat sat")],
                "rejected": [message("assistant", "좋다")],
            })
        })
        .collect()
}

fn pretrain_params(changes: Value) -> Value {
    let mut params = json!({
        "hidden": 32, "layers": 2, "heads": 4, "kv_heads": 2, "seq_len": 32, "tokens_per_step": 128,
        "tokens": 2560, "lr": 1e-2, "max_positions": 128, "max_epochs": 100.0, "micro_batch_tokens": 64,
        "z_loss": 1e-5,
    });
    let fields = params.as_object_mut().unwrap();
    fields.extend(changes.as_object().unwrap().clone());
    params
}

fn pretrain(kinds: &Kinds, directory: &Path, changes: Value) -> Done {
    Job::new(kinds, "pretrain", pretrain_params(changes))
        .input("tokenizer", tokenizer())
        .input("tokens", tokens(directory, 0, 12))
        .run()
        .expect("pretraining runs")
}

fn losses(done: &Done) -> Vec<f64> {
    metric(done, "loss")
}

fn metric(done: &Done, name: &str) -> Vec<f64> {
    let text = std::fs::read_to_string(done.path("metrics")).unwrap();
    text.lines()
        .map(|line| {
            serde_json::from_str::<Value>(line).unwrap()[name]
                .as_f64()
                .unwrap()
        })
        .collect()
}

fn fresh() -> (Kinds, tempfile::TempDir) {
    (kbuild_tasks::kinds(), tempfile::tempdir().unwrap())
}

#[test]
fn pretraining_learns_and_writes_a_whole_model() {
    let (kinds, directory) = fresh();
    let done = pretrain(&kinds, directory.path(), json!({"save_state": true}));
    let losses = losses(&done);
    assert_eq!(losses.len(), 20);
    assert!(losses[19] < 0.8 * losses[0], "{losses:?}");
    let model = Model::load(done.path("model")).unwrap();
    assert_eq!(model.config.vocab_size, 272);
    assert_eq!(model.config.eos_token_id, [2]);
    assert!(Tokenizer::open(done.path("model")).is_ok());
    let facts = &done.output("model").facts;
    assert_eq!(facts["parameters"], model.config.parameter_count());
    let state = std::fs::metadata(done.path("state")).unwrap().len();
    assert!(state > 8 * model.config.parameter_count());
}

#[test]
fn threads_change_no_bit_and_micro_batches_hardly_any() {
    let (kinds, directory) = fresh();
    let run = |threads, micro_batch_tokens: usize| {
        let params =
            pretrain_params(json!({"micro_batch_tokens": micro_batch_tokens, "tokens": 1280}));
        Job::new(&kinds, "pretrain", params)
            .input("tokenizer", tokenizer())
            .input("tokens", tokens(directory.path(), 0, 12))
            .threads(threads)
            .run()
            .unwrap()
    };
    let (one, three, whole) = (run(1, 64), run(3, 64), run(1, 128));
    for port in ["model", "metrics", "state"] {
        assert_eq!(one.digest(port), three.digest(port), "{port}");
    }
    for (a, b) in losses(&one).iter().zip(losses(&whole)) {
        assert!((a - b).abs() < 1e-3, "{a} {b}");
    }
}

#[test]
fn an_interrupted_run_ends_as_an_uninterrupted_one() {
    let (kinds, directory) = fresh();
    let whole = pretrain(&kinds, directory.path(), json!({}));
    for stop in [1, 7, 19] {
        let partial = tempfile::tempdir().unwrap();
        let job = || {
            Job::new(&kinds, "pretrain", pretrain_params(json!({})))
                .input("tokenizer", tokenizer())
                .input("tokens", tokens(directory.path(), 0, 12))
                .partial(partial.path().to_owned())
        };
        let failure = job()
            .stop_after(stop)
            .run()
            .err()
            .expect("it was asked to stop");
        assert_eq!(failure.class, FailureClass::Interrupted);
        let resumed = job().threads(2).run().unwrap();
        let continues = format!("continues after step {stop}");
        assert!(
            notes(&resumed).contains(&continues),
            "{:?}",
            notes(&resumed)
        );
        for port in ["model", "metrics", "state"] {
            assert_eq!(
                resumed.digest(port),
                whole.digest(port),
                "stopped after {stop}: {port}"
            );
        }
    }
}

#[test]
fn twenty_interruptions_at_random_steps_change_no_bit() {
    let (kinds, directory) = fresh();
    let params = || pretrain_params(json!({"tokens": 128 * 60}));
    let partial = tempfile::tempdir().unwrap();
    let job = || {
        Job::new(&kinds, "pretrain", params())
            .input("tokenizer", tokenizer())
            .input("tokens", tokens(directory.path(), 0, 12))
    };
    let whole = job().run().unwrap();
    // Gaps of 1, 2 or 3 steps, another number of threads each time.
    let draw = |at: u64, n: u64| Rng::new(5, "interruptions").below(0, at, n) as usize;
    for at in 0..20 {
        let failure = job()
            .partial(partial.path().to_owned())
            .threads(1 + draw(100 + at, 4))
            .stop_after(1 + draw(at, 3))
            .run()
            .err()
            .expect("it was asked to stop");
        assert_eq!(failure.class, FailureClass::Interrupted);
    }
    let resumed = job().partial(partial.path().to_owned()).run().unwrap();
    let continues = |note: &String| note.starts_with("continues after step");
    assert!(notes(&resumed).iter().any(continues));
    for port in ["model", "metrics", "state"] {
        assert_eq!(resumed.digest(port), whole.digest(port), "{port}");
    }
}

fn notes(done: &Done) -> Vec<String> {
    let note = |event: &Event| match event {
        Event::Note { text } => Some(text.clone()),
        _ => None,
    };
    done.events.iter().filter_map(note).collect()
}

#[test]
fn a_damaged_or_foreign_checkpoint_is_not_used() {
    let (kinds, directory) = fresh();
    let whole = pretrain(&kinds, directory.path(), json!({}));
    type Harm = fn(&Path);
    let harms: [(Harm, &str); 5] = [
        (|step| flip(&step.join("model.safetensors")), "damaged"),
        (
            |step| replace(&step.join("state.json"), "cpu/", "cuda/"),
            "cuda/",
        ),
        (
            |step| std::fs::remove_file(step.join("optimizer.safetensors")).unwrap(),
            "damaged",
        ),
        (
            |step| replace(&step.join("state.json"), "\"step\":5", "\"step\":999"),
            "step 999",
        ),
        (
            |step| replace(&step.join("state.json"), "\"step\":5", "\"step\":6"),
            "metrics",
        ),
    ];
    for (harm, reason) in harms {
        let partial = tempfile::tempdir().unwrap();
        let job = || {
            Job::new(&kinds, "pretrain", pretrain_params(json!({})))
                .input("tokenizer", tokenizer())
                .input("tokens", tokens(directory.path(), 0, 12))
                .partial(partial.path().to_owned())
        };
        assert!(job().stop_after(5).run().is_err());
        harm(&partial.path().join("step-5"));
        let again = job().run().unwrap();
        let notes = notes(&again).join("\n");
        assert!(
            notes.contains(reason) && notes.contains("starts over"),
            "{notes}"
        );
        assert_eq!(again.digest("model"), whole.digest("model"));
    }
}

#[test]
fn a_checkpoint_that_cannot_be_written_ends_nothing() {
    let (kinds, directory) = fresh();
    let file = directory.path().join("no folder");
    std::fs::write(&file, "").unwrap();
    let failure = Job::new(&kinds, "pretrain", pretrain_params(json!({})))
        .input("tokenizer", tokenizer())
        .input("tokens", tokens(directory.path(), 0, 12))
        .partial(file)
        .stop_after(5)
        .run()
        .err()
        .expect("it was asked to stop");
    assert_eq!(failure.class, FailureClass::Interrupted, "{failure}");
}

fn flip(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

fn replace(path: &Path, from: &str, to: &str) {
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "{text}");
    std::fs::write(path, text.replace(from, to)).unwrap();
}

#[test]
fn a_stage_continues_model_and_optimiser_with_a_chosen_mixture() {
    let (kinds, directory) = fresh();
    let first = pretrain(&kinds, directory.path(), json!({"save_state": true}));
    let choice = directory.path().join("choice.json");
    std::fs::write(
        &choice,
        json!({"winner": "b", "value": [0.25, 0.75]}).to_string(),
    )
    .unwrap();
    let params = json!({
        "tokens": 1280, "seq_len": 32, "tokens_per_step": 128, "lr": 1e-3, "schedule": "linear", "warmup": 0,
        "mixture": [1.0, 0.0], "max_epochs": 100.0,
    });
    let second = Job::new(&kinds, "pretrain", params)
        .input("init", first.output("model"))
        .input("state", first.output("state"))
        .input("tokens", tokens(directory.path(), 0, 12))
        .input("tokens", tokens(directory.path(), 1, 12))
        .input("mixture", artifact(Shape::File, &choice))
        .run()
        .unwrap();
    assert!(losses(&second)[0] < losses(&first)[0]);
    let notes = notes(&second).join("\n");
    assert!(
        notes.contains("320 tokens") && notes.contains("960 tokens"),
        "{notes}"
    );
    let empty = std::fs::metadata(second.path("state")).unwrap().len();
    assert!(empty < 64, "no state was asked for");
}

#[test]
fn a_source_is_not_repeated_silently() {
    let (kinds, directory) = fresh();
    let failure = Job::new(
        &kinds,
        "pretrain",
        pretrain_params(json!({"max_epochs": 1.0})),
    )
    .input("tokenizer", tokenizer())
    .input("tokens", tokens(directory.path(), 0, 4))
    .run()
    .err()
    .expect("2560 tokens of fewer");
    assert_eq!(failure.class, FailureClass::Input);
    assert!(failure.message.contains("would be read"), "{failure}");
}

#[test]
fn distillation_pulls_the_student_to_its_teacher() {
    let (kinds, directory) = fresh();
    let teacher = pretrain(&kinds, directory.path(), json!({}));
    let student = pretrain(
        &kinds,
        directory.path(),
        json!({"layers": 1, "seed": 5, "tokens": 128, "lr": 0.0}),
    );
    let params = json!({
        "tokens": 2560, "seq_len": 32, "tokens_per_step": 128, "lr": 1e-2, "warmup": 0, "max_epochs": 100.0,
        "kd_weight": 0.5,
    });
    let job = || {
        Job::new(&kinds, "distill", params.clone())
            .input("student", student.output("model"))
            .input("teacher", teacher.output("model"))
            .input("tokens", tokens(directory.path(), 0, 12))
    };
    let done = job().run().unwrap();
    let divergences = metric(&done, "divergence");
    assert!(divergences[19] < 0.7 * divergences[0], "{divergences:?}");
    let partial = tempfile::tempdir().unwrap();
    let keeping = || job().partial(partial.path().to_owned());
    assert!(keeping().stop_after(9).run().is_err());
    assert_eq!(
        keeping().run().unwrap().digest("model"),
        done.digest("model")
    );
}

struct Chain {
    kinds: Kinds,
    directory: tempfile::TempDir,
    sft: Done,
    pairs: Done,
}

/// Pre-training, SFT and tokenized preferences.
fn chain() -> Chain {
    let (kinds, directory) = fresh();
    let base = pretrain(&kinds, directory.path(), json!({}));
    let params =
        json!({"max_length": 64, "lr": 5e-3, "epochs": 3, "rows_per_step": 2, "warmup": 0});
    let sft = Job::new(&kinds, "sft", params)
        .input("model", base.output("model"))
        .input("chat", lines(directory.path(), "chat.jsonl", &chats()))
        .run()
        .unwrap();
    let pairs = Job::new(&kinds, "tokenize-preferences", json!({"max_length": 64}))
        .input("tokenizer", sft.output("model"))
        .input(
            "preferences",
            lines(directory.path(), "preferences.jsonl", &preferences()),
        )
        .run()
        .unwrap();
    Chain {
        kinds,
        directory,
        sft,
        pairs,
    }
}

#[test]
fn from_conversations_to_an_aligned_model() {
    let Chain {
        kinds,
        directory,
        sft,
        pairs,
    } = chain();
    let learned = losses(&sft);
    assert!(learned[learned.len() - 1] < 0.8 * learned[0], "{learned:?}");
    let stop = Tokenizer::open(sft.path("model"))
        .unwrap()
        .id_of("<|end|>")
        .unwrap();
    assert!(
        Model::load(sft.path("model"))
            .unwrap()
            .config
            .eos_token_id
            .contains(&stop)
    );

    let reference = Job::new(&kinds, "log-probabilities", json!({}))
        .input("model", sft.output("model"))
        .input("pairs", pairs.output("pairs"))
        .run()
        .unwrap();
    let dpo = Job::new(
        &kinds,
        "dpo",
        json!({"lr": 1e-3, "epochs": 4, "pairs_per_step": 4, "warmup": 0}),
    )
    .input("model", sft.output("model"))
    .input("pairs", pairs.output("pairs"))
    .input("reference", reference.output("log-probabilities"))
    .run()
    .unwrap();
    let aligned = losses(&dpo);
    assert_eq!(aligned.len(), 8);
    assert!(
        (aligned[0] - 2f64.ln()).abs() < 1e-5,
        "first loss {}",
        aligned[0]
    );
    assert!(aligned[7] < 0.6, "{aligned:?}");
    assert_eq!(metric(&dpo, "accuracy")[7], 1.0);

    let reward = Job::new(
        &kinds,
        "reward-model",
        json!({"lr": 2e-3, "epochs": 6, "pairs_per_step": 3, "warmup": 0}),
    )
    .input("model", sft.output("model"))
    .input("pairs", pairs.output("pairs"))
    .run()
    .unwrap();
    assert_eq!(metric(&reward, "accuracy").last(), Some(&1.0));

    let prompts: Vec<Value> = ["the cat?", "a dog?", "데이터?"]
        .iter()
        .map(|text| json!({"messages": [message("user", text)], "domain": "d"}))
        .collect();
    let samples = sample(
        &kinds,
        &sft,
        lines(directory.path(), "p.jsonl", &prompts),
        json!({}),
    );
    let scores = Job::new(&kinds, "score", json!({}))
        .input("samples", samples.output("samples"))
        .input("reward-model", reward.output("model"))
        .run()
        .unwrap();
    let made = Job::new(&kinds, "make-pairs", json!({}))
        .input("samples", samples.output("samples"))
        .input("scores", scores.output("scores"))
        .run()
        .unwrap();
    let first = std::fs::read_to_string(made.path("pairs")).unwrap();
    let first: Value = serde_json::from_str(first.lines().next().unwrap()).unwrap();
    assert!(first["margin"].as_f64().unwrap() > 0.0);
    assert_eq!(first["domain"], "d");
    let gold = Job::new(&kinds, "score", json!({"scorer": "gold"}))
        .input("samples", samples.output("samples"))
        .run()
        .unwrap();
    let lines = std::fs::read_to_string(gold.path("scores")).unwrap();
    assert_eq!(lines.lines().count(), 12);
}

fn sample(kinds: &Kinds, model: &Done, prompts: RequestInput, changes: Value) -> Done {
    let mut params = json!({"k": 4, "max_new_tokens": 12});
    params
        .as_object_mut()
        .unwrap()
        .extend(changes.as_object().unwrap().clone());
    Job::new(kinds, "sample", params)
        .input("model", model.output("model"))
        .input("prompts", prompts)
        .run()
        .unwrap()
}

#[test]
fn more_prompts_change_no_sample_that_was_there() {
    let Chain {
        kinds,
        directory,
        sft,
        ..
    } = chain();
    let prompt = |text: &str| json!({"messages": [message("user", text)]});
    let (few, many): (Vec<Value>, Vec<Value>) = (
        ["the cat?", "a dog?"].map(prompt).to_vec(),
        ["the cat?", "a dog?", "mat?", "문?"].map(prompt).to_vec(),
    );
    let of = |name: &str, prompts: &[Value], changes| {
        let done = sample(
            &kinds,
            &sft,
            lines(directory.path(), name, prompts),
            changes,
        );
        let text = std::fs::read_to_string(done.path("samples")).unwrap();
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let whole = of("many.jsonl", &many, json!({}));
    assert_eq!(whole[..2], of("few.jsonl", &few, json!({}))[..]);
    let part = of("part.jsonl", &many, json!({"first": 2, "count": 1}));
    assert_eq!(part[..], whole[2..3]);
}

impl Chain {
    /// What the aligned model is compared with.
    fn reference(&self) -> Done {
        Job::new(&self.kinds, "log-probabilities", json!({}))
            .input("model", self.sft.output("model"))
            .input("pairs", self.pairs.output("pairs"))
            .run()
            .unwrap()
    }

    /// A short run of any kind that trains.
    fn job(&self, kind: &str, reference: &Done) -> Job<'_> {
        let job = |params| Job::new(&self.kinds, kind, params);
        let tokens = || tokens(self.directory.path(), 0, 12);
        let model = || self.sft.output("model");
        let paired = || {
            job(json!({"epochs": 3, "pairs_per_step": 2}))
                .input("model", model())
                .input("pairs", self.pairs.output("pairs"))
        };
        match kind {
            "pretrain" => job(pretrain_params(json!({"tokens": 512})))
                .input("tokenizer", tokenizer())
                .input("tokens", tokens()),
            "distill" => job(json!({
                "tokens": 512, "seq_len": 32, "tokens_per_step": 128, "lr": 1e-2, "max_epochs": 100.0,
            }))
            .input("tokens", tokens())
            .input("student", model())
            .input("teacher", model()),
            "sft" => job(json!({"max_length": 64, "rows_per_step": 2}))
                .input("model", model())
                .input("chat", lines(self.directory.path(), "chat.jsonl", &chats())),
            "dpo" => paired().input("reference", reference.output("log-probabilities")),
            _ => paired(),
        }
    }
}

#[test]
fn recomputing_changes_no_byte_of_results_and_checkpoints() {
    let chain = chain();
    let reference = chain.reference();
    for kind in ["pretrain", "distill", "sft", "dpo", "reward-model"] {
        let job = |recompute| chain.job(kind, &reference).recompute(recompute);
        let checkpoint = |recompute| {
            let partial = tempfile::tempdir().unwrap();
            let job = job(recompute).partial(partial.path().to_owned());
            assert!(job.stop_after(2).run().is_err());
            partial
        };
        let (kept, again) = (checkpoint(false), checkpoint(true));
        assert_eq!(digest(kept.path()), digest(again.path()), "{kind}");
        let whole = job(false).run().unwrap();
        let resumed = job(true).partial(kept.path().to_owned()).run().unwrap();
        assert!(notes(&resumed).contains(&"continues after step 2".to_owned()));
        for done in [job(true).run().unwrap(), resumed] {
            for port in whole.outputs.keys() {
                assert_eq!(done.digest(port), whole.digest(port), "{kind}: {port}");
            }
        }
    }
}

#[test]
fn training_on_pairs_and_chats_resumes_bit_for_bit() {
    let chain = chain();
    let reference = chain.reference();
    let job = |kind: &str| chain.job(kind, &reference);
    for kind in ["sft", "dpo", "reward-model"] {
        let whole = job(kind).run().unwrap();
        let partial = tempfile::tempdir().unwrap();
        let keeping = || job(kind).partial(partial.path().to_owned());
        assert!(keeping().stop_after(2).run().is_err());
        assert!(keeping().stop_after(3).threads(2).run().is_err());
        let resumed = keeping().run().unwrap();
        assert_eq!(resumed.digest("model"), whole.digest("model"), "{kind}");
        assert_eq!(resumed.digest("metrics"), whole.digest("metrics"), "{kind}");
    }
}

#[test]
fn long_conversations_are_an_error_unless_told() {
    let (kinds, directory) = fresh();
    let base = pretrain(&kinds, directory.path(), json!({"tokens": 128}));
    let run = |on_overflow: &str| {
        let params = json!({"max_length": 24, "on_overflow": on_overflow, "epochs": 1});
        Job::new(&kinds, "sft", params)
            .input("model", base.output("model"))
            .input("chat", lines(directory.path(), "chat.jsonl", &chats()))
            .run()
    };
    let failure = run("error").err().expect("some are longer");
    assert!(failure.message.contains("record 1") && failure.message.contains("`max_length` is 24"));
    let cut = run("truncate_keep_start").unwrap();
    let report: Value =
        serde_json::from_slice(&std::fs::read(cut.path("report")).unwrap()).unwrap();
    let total = &report["total"];
    assert!(total["truncated"].as_u64().unwrap() > 0);
    assert!(total["lost_stop"].as_u64().unwrap() > 0);
    assert_eq!(report["stop_tokens"], json!(["<|end|>"]));
}

fn known(fields: &[(&str, Value)]) -> Facts {
    let mut facts = Facts::default();
    for (name, value) in fields {
        facts.set(name, value.clone());
    }
    facts
}

fn vocabulary(symbol: &str) -> Facts {
    let mut facts = Facts::default();
    facts.set_fact("vocab", Fact::Symbol(symbol.to_owned()));
    facts
}

fn complaints(kind: &str, params: Value, inputs: &[(&str, Facts)]) -> Vec<String> {
    let found = predict(&kbuild_tasks::kinds(), kind, params, inputs);
    let complaints = found.err().unwrap_or_default();
    complaints
        .into_iter()
        .map(|complaint| format!("{}: {}", complaint.at, complaint.message))
        .collect()
}

#[test]
fn what_cannot_work_is_told_before_anything_runs() {
    let tokens = ("tokens", vocabulary("one"));
    let found = complaints(
        "pretrain",
        pretrain_params(json!({"heads": 3, "tokens_per_step": 100, "lr": null})),
        &[tokens.clone(), ("tokenizer", vocabulary("two"))],
    );
    for place in [
        "params.lr",
        "params.tokens_per_step",
        "inputs.tokens",
        "params:",
    ] {
        assert!(
            found.iter().any(|line| line.starts_with(place)),
            "{place} in {found:?}"
        );
    }
    let short = known(&[("max_position_embeddings", json!(16))]);
    let found = complaints("sft", json!({"max_length": 64}), &[("model", short)]);
    assert!(found[0].contains("16 positions"), "{found:?}");
    let found = complaints("dpo", json!({}), &[]);
    assert!(found[0].starts_with("inputs.reference"), "{found:?}");
    let student = ("student", vocabulary("one"));
    let found = complaints(
        "distill",
        json!({"tokens": 1000}),
        &[student, ("teacher", vocabulary("two")), tokens],
    );
    assert_eq!(found.len(), 1, "{found:?}");
}

#[test]
fn predicted_facts_are_the_measured_ones() {
    let (kinds, directory) = fresh();
    let measured = pretrain(&kinds, directory.path(), json!({}));
    let size = known(&[("vocab_size", json!(272))]);
    let predicted = predict(
        &kinds,
        "pretrain",
        pretrain_params(json!({})),
        &[("tokens", Facts::default()), ("tokenizer", size)],
    )
    .unwrap();
    let facts = &predicted.outputs["model"];
    let output = measured.output("model");
    assert_eq!(facts.contradictions(&output.facts), []);
    let parameters = output.facts["parameters"].as_f64().unwrap();
    assert_eq!(predicted.cost.flops, Some(6.0 * parameters * 2560.0));
}

#[test]
fn defaults_parse_and_unknown_params_do_not() {
    for kind in kbuild_tasks::train::kinds() {
        let resolve = match &kind.body {
            Body::BuiltIn { resolve, .. } | Body::Composite { resolve, .. } => resolve,
            _ => panic!("`{}` is built in", kind.name),
        };
        let defaults = resolve(json!({})).unwrap();
        assert_eq!(
            resolve(defaults.clone()).unwrap(),
            defaults,
            "{}",
            kind.name
        );
        assert!(resolve(json!({"nonsense": 1})).is_err(), "{}", kind.name);
    }
}
