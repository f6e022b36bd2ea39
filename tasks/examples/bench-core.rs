//! Speed of the training core: `cargo run --release -p kbuild-tasks --example bench-core -- [threads] [steps] [model]`.
//!
//! One step is forward, head with cross entropy, backward, clip and AdamW; the best step counts. GFLOP/s count
//! 6 M + 6 L H hd S per token (causal attention, nothing that is computed twice).

use std::time::Instant;

use kbuild_tasks::model::loss::cross_entropy;
use kbuild_tasks::model::optimizer::Rate;
use kbuild_tasks::model::{
    AdamW, AdamWOptions, Batch, Config, Core, Device, GenerateOptions, Model, generate,
};

fn config(d: usize, layers: usize, f: usize, heads: usize, groups: usize, vocab: usize) -> Config {
    let json = format!(
        r#"{{"vocab_size": {vocab}, "hidden_size": {d}, "intermediate_size": {f}, "num_hidden_layers": {layers},
        "num_attention_heads": {heads}, "num_key_value_heads": {groups}, "tie_word_embeddings": false}}"#
    );
    Config::from_json(&json).expect("a configuration")
}

fn main() {
    let arguments: Vec<usize> = std::env::args()
        .skip(1)
        .filter_map(|word| word.parse().ok())
        .collect();
    let threads = arguments.first().copied().unwrap_or(1);
    let steps = arguments.get(1).copied().unwrap_or(3);
    let only = std::env::args().nth(3);
    for (name, config, batch, length) in [
        ("nano", config(128, 4, 352, 8, 4, 2048), 32, 256),
        ("small", config(256, 6, 704, 8, 4, 8192), 8, 256),
    ] {
        if only.as_deref().is_some_and(|only| only != name) {
            continue;
        }
        training(name, &config, batch, length, threads, steps);
        if only.is_none() {
            generation(name, &config, threads);
        }
    }
}

fn training(
    name: &str,
    config: &Config,
    batch: usize,
    length: usize,
    threads: usize,
    steps: usize,
) {
    let mut model = Model::init(config, 1).expect("a model");
    let mut core = Core::new(config, Device::Cpu, threads).expect("a core");
    let mut optimizer = AdamW::new(&model.layout, AdamWOptions::default());
    let sequence =
        |at: usize| -> Vec<u32> { (0..length).map(|i| ((i * i + at) % 997) as u32).collect() };
    let batch = Batch::of((0..batch).map(sequence));
    let rows: Vec<usize> = (0..batch.len())
        .filter(|row| row % length + 1 < length)
        .collect();
    let targets: Vec<u32> = rows.iter().map(|row| batch.tokens[row + 1]).collect();
    let weight = 1.0 / rows.len() as f64;
    let mut grads = vec![0.0; model.weights.len()];
    let mut best = [f64::INFINITY; 5];
    let mut best_wall = f64::INFINITY;
    for _ in 0..steps {
        let begun = Instant::now();
        let mut marks = vec![cpu_seconds()];
        grads.fill(0.0);
        core.forward(&model.weights, &batch).expect("tokens fit");
        marks.push(cpu_seconds());
        core.lm_head(
            &model.weights,
            Some(&mut grads),
            &rows,
            &mut |range, logits| {
                cross_entropy(logits, &targets[range], weight, 0.0, true);
            },
        );
        marks.push(cpu_seconds());
        core.backward(&model.weights, &mut grads);
        marks.push(cpu_seconds());
        let pool = std::sync::Arc::clone(core.pool());
        let rate = Rate {
            now: 1e-3,
            peak: 1e-3,
        };
        optimizer.update(&pool, &model.layout, &mut model.weights, &grads, rate);
        marks.push(cpu_seconds());
        best_wall = best_wall.min(begun.elapsed().as_secs_f64());
        let whole = marks[4] - marks[0];
        for (best, pair) in best.iter_mut().zip(marks.windows(2)) {
            *best = best.min(pair[1] - pair[0]);
        }
        best[4] = best[4].min(whole);
    }
    let n = batch.len() as f64;
    let flops = config.flops_megatron([length]) as f64 / length as f64;
    println!(
        "{name}: {} parameters, {threads} threads: {:.0} tokens/s; per CPU second {:.0} tokens, {:.1} GFLOP",
        config.parameter_count(),
        n / best_wall,
        n / best[4],
        flops * n / best[4] / 1e9,
    );
    let [forward, head, backward, update, _] = best.map(|seconds| seconds * 1e3);
    println!(
        "{name}: CPU ms: forward {forward:.1}, head {head:.1}, backward {backward:.1}, update {update:.1}"
    );
}

fn generation(name: &str, config: &Config, threads: usize) {
    let model = Model::init(config, 1).expect("a model");
    let prompts: Vec<Vec<u32>> = (0..64 * threads as u32)
        .map(|at| (0..48).map(|i| (i * 7 + at) % 997).collect())
        .collect();
    let options = GenerateOptions {
        max_new_tokens: 48,
        ..GenerateOptions::default()
    };
    let pool = kbuild_tasks::model::core::thread_pool(threads).expect("threads");
    let begun = Instant::now();
    let responses = generate(&model, &prompts, &options, &pool).expect("prompts fit");
    let new: usize = responses.iter().map(|response| response.tokens.len()).sum();
    let passed = begun.elapsed().as_secs_f64();
    println!(
        "{name}: {:.0} new tokens/s ({new} after prompts of 48)",
        new as f64 / passed
    );
}

/// CPU time of all threads of this process, where the system tells: a busy machine then matters less.
fn cpu_seconds() -> f64 {
    let tasks = std::fs::read_dir("/proc/self/task")
        .into_iter()
        .flatten()
        .flatten();
    let times =
        tasks.filter_map(|task| std::fs::read_to_string(task.path().join("schedstat")).ok());
    let nanosteps = times.filter_map(|text| text.split(' ').next()?.parse::<f64>().ok());
    nanosteps.sum::<f64>() / 1e9
}
