//! What is predicted of memory, against what is held: every allocation of the process is counted.
//!
//! Each case runs in a process of its own, so that what another one left behind does not count.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use common::{Job, artifact, predict_run, shards};
use kbuild_engine::artifact::Shape;
use kbuild_engine::facts::Facts;
use kbuild_engine::kind::Kinds;
use kbuild_engine::runner::RequestInput;
use kbuild_tasks::facts;
use kbuild_tasks::formats::tokenizer::Tokenizer;
use kbuild_tasks::formats::tokens::{ShardWriter, Width};
use kbuild_tasks::model::memory::{Backend, Work, held};
use kbuild_tasks::model::optimizer::Rate;
use kbuild_tasks::model::{AdamW, AdamWOptions, Batch, Config, Core, Device, Head, Model};
use serde_json::{Value, json};

/// The system's allocator, with a sum of what is allocated and the largest that it was.
struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

fn grown(by: usize) {
    let live = LIVE.fetch_add(by, Relaxed) + by;
    PEAK.fetch_max(live, Relaxed);
}

// SAFETY: every call is handed on as it came.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grown(layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        grown(layout.size());
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        unsafe { System.dealloc(place, layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        grown(size);
        LIVE.fetch_sub(layout.size(), Relaxed);
        unsafe { System.realloc(place, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes that some work holds at its peak, beside what is there already.
fn measured(work: impl FnOnce()) -> u64 {
    let before = LIVE.load(Relaxed);
    PEAK.store(before, Relaxed);
    work();
    (PEAK.load(Relaxed) - before) as u64
}

const CHILD: &str = "KBUILD_MEMORY_CASE";

/// Runs one case of a test in a process of its own; in that process, hands it to `case`.
fn each_alone(test: &str, cases: &[&str], case: impl Fn(&str)) {
    if let Ok(name) = std::env::var(CHILD) {
        return case(&name);
    }
    let program = std::env::current_exe().expect("this test is a program");
    let alone = |name: &&&str| {
        let mut child = Command::new(&program);
        child
            .args([test, "--exact", "--nocapture"])
            .env(CHILD, name);
        !child.status().expect("it starts").success()
    };
    let wrong: Vec<_> = cases.iter().filter(alone).collect();
    assert!(wrong.is_empty(), "not as predicted: {wrong:?}");
}

fn assert_near(name: &str, predicted: u64, measured: u64) {
    let ratio = predicted as f64 / measured as f64;
    println!("{name}: predicted {predicted}, measured {measured}, ratio {ratio:.3}");
    assert!((0.9..1.1).contains(&ratio), "{name}: {ratio:.3}");
}

fn config(
    [layers, hidden, heads, groups, head_dim, ffn, vocabulary]: [usize; 7],
    tied: bool,
) -> Config {
    let json = json!({
        "vocab_size": vocabulary, "hidden_size": hidden, "intermediate_size": ffn, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": groups, "head_dim": head_dim,
        "max_position_embeddings": 2048, "tie_word_embeddings": tied, "eos_token_id": 2,
    });
    Config::from_json(&json.to_string()).expect("a model")
}

/// What a case says after its name where layers are run forward again.
const RECOMPUTING: &str = ", recomputing";

/// The name of a case, and whether it recomputes.
fn recomputing(case: &str) -> (&str, bool) {
    let name = case.strip_suffix(RECOMPUTING);
    (name.unwrap_or(case), name.is_some())
}

/// A shape, and rows of a length.
fn shape(name: &str) -> (Config, usize, usize) {
    match name {
        "deep and narrow" => (config([16, 64, 4, 2, 16, 176, 512], false), 64, 8),
        "wide vocabulary" => (config([2, 96, 4, 4, 24, 256, 24_000], false), 64, 8),
        "tied wide vocabulary" => (config([2, 96, 4, 4, 24, 256, 24_000], true), 64, 8),
        "long rows" => (config([3, 96, 4, 2, 24, 256, 512], false), 2048, 1),
        "many heads" => (config([4, 128, 32, 32, 16, 352, 1024], false), 128, 8),
        "few tokens" => (config([4, 256, 4, 2, 64, 704, 2048], false), 16, 2),
        other => panic!("no shape {other}"),
    }
}

/// Two steps of two micro-batches each, and a checkpoint.
fn train(config: &Config, length: usize, rows: usize, recompute: bool) {
    let device = Device::cpu(2).unwrap();
    let model = Model::init(config, 1).unwrap();
    let optimizer = AdamW::new(&model.layout, AdamWOptions::default());
    let mut core = Core::new(model, &device).unwrap();
    core.recompute(recompute);
    core.start(optimizer);
    let batch = Batch::of((0..rows).map(|row| vec![row as u32; length]));
    let all: Vec<usize> = (0..batch.len()).collect();
    for _ in 0..2 {
        core.clear_grads();
        for _ in 0..2 {
            core.forward(&batch).unwrap();
            core.lm_head(&all, true, &mut |rows, logits| {
                let targets = vec![1; rows.len()];
                logits.cross_entropy(&targets, 1e-3, 0.0, true);
            })
            .unwrap();
            core.backward().unwrap();
        }
        let rate = Rate {
            now: 1e-3,
            peak: 1e-3,
        };
        core.update(rate).unwrap();
    }
    let directory = tempfile::tempdir().unwrap();
    core.save(directory.path()).unwrap();
    let moments = core.moments().unwrap().unwrap();
    moments.save(&directory.path().join("state")).unwrap();
}

#[test]
fn a_core_holds_what_is_predicted() {
    let cases = [
        "deep and narrow",
        "wide vocabulary",
        "tied wide vocabulary",
        "long rows",
        "many heads",
        "few tokens",
        "deep and narrow, recomputing",
        "wide vocabulary, recomputing",
        "long rows, recomputing",
        "many heads, recomputing",
        "few tokens, recomputing",
    ];
    each_alone("a_core_holds_what_is_predicted", &cases, |case| {
        let (name, recompute) = recomputing(case);
        let (config, length, rows) = shape(name);
        let work = Work::Train { recompute };
        let predicted = held(&config, work, length * rows, Backend::Cpu).peak();
        let found = measured(|| train(&config, length, rows, recompute));
        assert_near(case, predicted, found);
    });
}

fn tokenizer() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/tokenizer")
}

/// What kinds read: models with a tokenizer, and data in its tokens.
struct World {
    directory: tempfile::TempDir,
    kinds: Kinds,
}

/// Tokens of a sequence, and of a micro-batch.
const LENGTH: usize = 128;
const MICRO_BATCH: usize = 1024;

impl World {
    fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
            kinds: kbuild_tasks::kinds(),
        }
    }

    fn model(&self, name: &str, layers: usize, head: Head) -> (RequestInput, Facts) {
        let config = config([layers, 128, 4, 2, 32, 352, 272], false);
        let mut model = Model::init(&config, 1).unwrap();
        if head == Head::Score {
            model = model.with_score_head(1).unwrap();
        }
        let path = self.directory.path().join(name);
        std::fs::create_dir(&path).unwrap();
        model.save(&path).unwrap();
        let tokenizer = Tokenizer::open(&tokenizer()).unwrap();
        tokenizer.copy_to(&path).unwrap();
        let facts = facts::of_config(&model.config);
        (artifact(Shape::Directory, &path), facts)
    }

    fn tokens(&self) -> (RequestInput, Facts) {
        let part = self.directory.path().join("tokens");
        let mut writer = ShardWriter::create(&part, "t", Width::U16).unwrap();
        for document in 0..16 {
            let token = |at: u32| 3 + (at * at + document) % 250;
            writer
                .push(&(0..600).map(token).collect::<Vec<_>>())
                .unwrap();
        }
        let facts = numbers(&[("tokens", writer.n_tokens())]);
        writer.finish().unwrap();
        (shards(&[part]), facts)
    }

    fn lines(&self, name: &str, n: usize, line: impl Fn(usize) -> Value) -> PathBuf {
        let path = self.directory.path().join(name);
        let text: String = (0..n).map(|at| format!("{}\n", line(at))).collect();
        std::fs::write(&path, text).unwrap();
        path
    }

    fn pairs(&self) -> (RequestInput, Facts) {
        let half = vec![5; LENGTH / 2];
        let pair = |_| json!({"prompt": half, "chosen": half, "rejected": half});
        let path = self.lines("pairs.jsonl", 32, pair);
        let facts = numbers(&[
            ("pairs", 32),
            ("tokens", 64 * LENGTH as u64),
            ("max_length", LENGTH as u64),
        ]);
        (artifact(Shape::File, &path), facts)
    }

    fn chat(&self) -> (RequestInput, Facts) {
        let message = |role, n: usize| json!({"role": role, "content": "the cat sat ".repeat(n)});
        let chat = |at| json!({"messages": [message("user", 1), message("assistant", 2 + at % 3)]});
        (
            shards(&[self.lines("chat.jsonl", 200, chat)]),
            Facts::default(),
        )
    }

    fn samples(&self) -> (RequestInput, Facts) {
        let ids = vec![5; LENGTH / 2];
        let response = json!({
            "ids": ids, "log_probabilities": vec![0.0; LENGTH / 2], "finish": "stop", "text": "",
        });
        let sample = |prompt| {
            let record = json!({"messages": [{"role": "user", "content": "a"}]});
            json!({"prompt": prompt, "record": record, "ids": ids, "responses": vec![response.clone(); 4]})
        };
        let path = self.lines("samples.jsonl", 8, sample);
        let facts = numbers(&[("prompts", 8), ("responses", 32)]);
        (artifact(Shape::File, &path), facts)
    }

    fn prompts(&self) -> (RequestInput, Facts) {
        let prompt = |_| json!({"messages": [{"role": "user", "content": "the cat?"}]});
        let path = self.lines("prompts.jsonl", 8, prompt);
        (shards(&[path]), numbers(&[("prompts", 8)]))
    }

    /// Runs a kind with two threads and compares.
    fn compare(&self, case: &str, params: Value, inputs: Vec<(&str, (RequestInput, Facts))>) {
        let (kind, recompute) = recomputing(case);
        let known: Vec<_> = (inputs.iter())
            .map(|(port, (_, facts))| (*port, facts.clone()))
            .collect();
        let predicted = predict_run(&self.kinds, kind, params.clone(), &known, recompute);
        let predicted = predicted.expect("it may run").cost.memory_bytes;
        let bind = |job: Job<'static>, (port, (artifact, _)): (&str, _)| job.input(port, artifact);
        let kinds: &'static Kinds = Box::leak(Box::new(kbuild_tasks::kinds()));
        let job = Job::new(kinds, kind, params).threads(if kind == "sample" { 1 } else { 2 });
        let job = inputs.into_iter().fold(job, bind).recompute(recompute);
        let found = measured(|| drop(job.run().expect("it runs")));
        // The program is there before anything is allocated for the work.
        let predicted = predicted.expect("everything is known") - facts::PROGRAM;
        assert_near(case, predicted, found);
    }
}

fn numbers(numbers: &[(&str, u64)]) -> Facts {
    let mut facts = Facts::default();
    for (name, number) in numbers {
        facts.set(name, *number);
    }
    facts
}

fn run(world: &World, case: &str) {
    let model = |layers| world.model(&format!("model-{layers}"), layers, Head::Language);
    let reads = json!({
        "tokens": 4096, "seq_len": LENGTH, "tokens_per_step": 2048, "micro_batch_tokens": MICRO_BATCH, "lr": 1e-3,
        "max_epochs": 100.0,
    });
    let pairs = json!({"pairs_per_step": 16, "micro_batch_tokens": MICRO_BATCH});
    let with = |params: &Value, name: &str, value: Value| {
        let mut params = params.clone();
        params[name] = value;
        params
    };
    let (params, inputs) = match recomputing(case).0 {
        "pretrain" => (
            with(&reads, "save_state", json!(true)),
            vec![("init", model(4)), ("tokens", world.tokens())],
        ),
        "distill" => (
            reads,
            vec![
                ("student", model(4)),
                ("teacher", model(6)),
                ("tokens", world.tokens()),
            ],
        ),
        "sft" => (
            json!({"max_length": 256, "rows_per_step": 8, "micro_batch_tokens": MICRO_BATCH}),
            vec![("model", model(4)), ("chat", world.chat())],
        ),
        "reward-model" => (pairs, vec![("model", model(4)), ("pairs", world.pairs())]),
        "dpo" => (
            with(&pairs, "loss", json!("simpo")),
            vec![("model", model(4)), ("pairs", world.pairs())],
        ),
        "log-probabilities" => (
            json!({"micro_batch_tokens": MICRO_BATCH}),
            vec![("model", model(4)), ("pairs", world.pairs())],
        ),
        "score" => (
            json!({"micro_batch_tokens": MICRO_BATCH}),
            vec![
                ("reward-model", world.model("reward", 4, Head::Score)),
                ("samples", world.samples()),
            ],
        ),
        "evaluate" => (
            json!({"seq_len": LENGTH}),
            vec![("model", model(4)), ("tokens", world.tokens())],
        ),
        "importance" => (
            json!({"seq_len": LENGTH, "samples": 32, "micro_batch": 8}),
            vec![("model", model(4)), ("tokens", world.tokens())],
        ),
        "sample" => (
            json!({"k": 4, "max_new_tokens": LENGTH}),
            vec![("model", model(4)), ("prompts", world.prompts())],
        ),
        "upscale" => (json!({"layers": 18}), vec![("model", model(12))]),
        other => panic!("no case {other}"),
    };
    world.compare(case, params, inputs);
}

#[test]
fn a_kind_holds_what_is_predicted() {
    let cases = [
        "pretrain",
        "distill",
        "sft",
        "reward-model",
        "dpo",
        "log-probabilities",
        "score",
        "evaluate",
        "importance",
        "sample",
        "upscale",
        "pretrain, recomputing",
        "distill, recomputing",
        "sft, recomputing",
        "reward-model, recomputing",
        "dpo, recomputing",
    ];
    each_alone("a_kind_holds_what_is_predicted", &cases, |case| {
        run(&World::new(), case);
    });
}
