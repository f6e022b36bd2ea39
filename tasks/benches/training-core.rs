//! How fast models are trained and sampled here, and what that is a fraction of.
//!
//! ```console
//! $ cargo bench -p kbuild-tasks --bench training-core -- train small --threads 2 --seconds 10
//! $ cargo bench -p kbuild-tasks --bench training-core -- sample small --batch 32
//! ```
//!
//! `--rows` says how many rows of tokens go through the model at once, `--recompute` that layers are run forward again
//! instead of kept. `--json` prints one object for scripts
//! (`benches/pytorch/compare.py`). `KBUILD_ISA=avx2` measures another instruction set.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;

use kbuild_tasks::model::memory::{Backend, Work, held};
use kbuild_tasks::model::ops::timed::Times;
use kbuild_tasks::model::optimizer::Rate;
use kbuild_tasks::model::{
    AdamW, AdamWOptions, Batch, Config, Core, Decoder, Device, GenerateOptions, InstructionSet,
    Model, ModelError,
};

/// A model and a batch: rows of `length` tokens.
#[derive(Debug, Clone, Copy, Serialize)]
struct Shape {
    name: &'static str,
    layers: usize,
    hidden: usize,
    heads: usize,
    kv_heads: usize,
    ffn: usize,
    vocabulary: usize,
    length: usize,
    rows: usize,
}

/// The shapes that can be measured. `nano` is the parent of this repository's own pipeline.
const SHAPES: [Shape; 4] = [
    shape("tiny", [2, 64, 4, 2, 176, 512], [70, 2]),
    shape("nano", [4, 128, 8, 4, 352, 2048], [256, 16]),
    shape("small", [6, 256, 8, 4, 704, 8192], [256, 8]),
    shape("m30", [8, 512, 8, 4, 1408, 8192], [512, 4]),
];

fn main() -> Result<(), String> {
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| word != "--bench")
        .collect();
    let option = |name: &str| {
        let at = words.iter().position(|word| word == name)?;
        words
            .get(at + 1)
            .and_then(|value| value.parse::<f64>().ok())
    };
    let threads = option("--threads").unwrap_or(2.0) as usize;
    let seconds = option("--seconds").unwrap_or(5.0);
    let recompute = words.iter().any(|word| word == "--recompute");
    let json = words.iter().any(|word| word == "--json");
    let what = words.first().map_or("train", String::as_str);
    let named = |shape: &&Shape| {
        words[1.min(words.len())..]
            .iter()
            .any(|word| word == shape.name)
    };
    let mut shapes: Vec<Shape> = SHAPES.iter().filter(named).copied().collect();
    if shapes.is_empty() {
        shapes = SHAPES.to_vec();
    }
    if let Some(rows) = option("--rows") {
        shapes
            .iter_mut()
            .for_each(|shape| shape.rows = rows as usize);
    }
    for shape in shapes {
        let told = match what {
            "train" => {
                training(shape, threads, seconds, recompute).map(|speed| told(&speed, json, &speed))
            }
            "sample" => {
                let batch = option("--batch").unwrap_or(32.0) as usize;
                sampling(shape, threads, batch, seconds).map(|speed| told(&speed, json, &speed))
            }
            other => return Err(format!("no benchmark `{other}`: train or sample")),
        };
        println!("{}", told.map_err(|error| error.to_string())?);
    }
    Ok(())
}

/// As JSON for scripts, or in words.
fn told(speed: &impl Serialize, json: bool, words: &impl std::fmt::Display) -> String {
    match json {
        true => serde_json::json!(speed).to_string(),
        false => words.to_string(),
    }
}

const fn shape(
    name: &'static str,
    [layers, hidden, heads, kv_heads, ffn, vocabulary]: [usize; 6],
    [length, rows]: [usize; 2],
) -> Shape {
    Shape {
        name,
        layers,
        hidden,
        heads,
        kv_heads,
        ffn,
        vocabulary,
        length,
        rows,
    }
}

impl Shape {
    fn config(&self) -> Result<Config, ModelError> {
        let json = serde_json::json!({
            "vocab_size": self.vocabulary,
            "hidden_size": self.hidden,
            "intermediate_size": self.ffn,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "max_position_embeddings": self.length.max(1024),
            "tie_word_embeddings": false,
        });
        Config::from_json(&json.to_string())
    }

    /// Tokens of a step.
    fn tokens(&self) -> usize {
        self.rows * self.length
    }
}

/// What training a shape was measured to be. Medians over steps.
#[derive(Debug, Clone, Serialize)]
struct TrainingSpeed {
    shape: Shape,
    parameters: u64,
    threads: usize,
    recompute: bool,
    instruction_set: &'static str,
    steps: usize,
    tokens_per_second: f64,
    /// Per second of processor time, all threads together: what a busy machine changes least.
    tokens_per_cpu_second: f64,
    /// `6 M + 6 L H hd T` a token: causal attention, nothing that is computed twice.
    flops_per_second: f64,
    /// Operations per second of processor time, times the threads, of what the device was measured to reach.
    share_of_peak: f64,
    peak_flops_per_second: f64,
    /// Share of the time by operation.
    operations: BTreeMap<&'static str, f64>,
    /// Bytes that the model and its batch were predicted to take.
    predicted_memory: u64,
    /// Largest resident memory of this process so far, where the system tells.
    peak_memory: Option<u64>,
}

impl std::fmt::Display for TrainingSpeed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let billion = 1e-9;
        writeln!(
            f,
            "{}: {} parameters, {} threads, {}{}: {:.0} tokens/s, {:.0} tokens per CPU second, {:.1} GFLOP/s, {:.1} % of \
             the peak of {:.1} by CPU time, {} MiB predicted, {} MiB at the peak",
            self.shape.name,
            self.parameters,
            self.threads,
            self.instruction_set,
            if self.recompute { ", recomputing" } else { "" },
            self.tokens_per_second,
            self.tokens_per_cpu_second,
            self.flops_per_second * billion,
            100.0 * self.share_of_peak,
            self.peak_flops_per_second * billion,
            self.predicted_memory >> 20,
            self.peak_memory.unwrap_or(0) >> 20,
        )?;
        let mut operations: Vec<_> = self.operations.iter().collect();
        operations.sort_by(|a, b| b.1.total_cmp(a.1));
        for (name, share) in operations.into_iter().filter(|(_, share)| **share >= 0.002) {
            writeln!(f, "  {name:26} {:5.1} %", 100.0 * share)?;
        }
        Ok(())
    }
}

impl std::fmt::Display for SamplingSpeed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}: batch {}, {} threads: {:.0} new tokens/s, {:.0} per CPU second ({} after prompts of {})",
            self.shape.name,
            self.batch,
            self.threads,
            self.tokens_per_second,
            self.tokens_per_cpu_second,
            self.new_tokens,
            self.prompt,
        )
    }
}

/// Trains a fresh model of a shape for about `seconds`: forward, loss, backward, clip and AdamW.
fn training(
    shape: Shape,
    threads: usize,
    seconds: f64,
    recompute: bool,
) -> Result<TrainingSpeed, ModelError> {
    let device = Device::open("cpu", threads)?;
    let config = shape.config()?;
    let model = Model::init(&config, 1)?;
    let peak = device.peak_flops().expect("the processor is measured");
    let times = Times::default();
    let optimizer = AdamW::new(&model.layout, AdamWOptions::default());
    let mut core = Core::timed(model, &device, Arc::clone(&times))?;
    core.recompute(recompute);
    core.start(optimizer);
    let batch = batch(&shape);
    step(&mut core, &shape, &batch)?;
    times.lock().map(|mut times| times.clear()).ok();
    let (mut walls, mut cpus) = (Vec::new(), Vec::new());
    let begun = Instant::now();
    while walls.len() < 3 || begun.elapsed().as_secs_f64() < seconds {
        let (wall, cpu) = (Instant::now(), cpu_seconds());
        step(&mut core, &shape, &batch)?;
        walls.push(wall.elapsed().as_secs_f64());
        cpus.push(cpu_seconds() - cpu);
    }
    let whole: f64 = walls.iter().sum();
    let (wall, cpu) = (median(&mut walls), mean(&cpus));
    let tokens = shape.tokens() as f64;
    let flops = config.flops_megatron([shape.length]) as f64 / shape.length as f64 * tokens;
    Ok(TrainingSpeed {
        shape,
        parameters: config.parameter_count(),
        threads,
        recompute,
        instruction_set: InstructionSet::chosen().name(),
        steps: cpus.len(),
        tokens_per_second: tokens / wall,
        tokens_per_cpu_second: tokens / cpu,
        flops_per_second: flops / wall,
        share_of_peak: flops / cpu * threads as f64 / peak,
        peak_flops_per_second: peak,
        operations: shares(&times, whole),
        predicted_memory: held(
            &config,
            Work::Train { recompute },
            shape.tokens(),
            Backend::Cpu,
        )
        .peak(),
        peak_memory: peak_memory(),
    })
}

fn batch(shape: &Shape) -> Batch {
    let token = |row: usize, at: usize| ((at * at + 7 * row) % (shape.vocabulary - 5)) as u32;
    let row = |row: usize| {
        (0..shape.length)
            .map(|at| token(row, at))
            .collect::<Vec<_>>()
    };
    Batch::of((0..shape.rows).map(row))
}

fn step(core: &mut Core, shape: &Shape, batch: &Batch) -> Result<(), ModelError> {
    let predicts = |row: &usize| row % shape.length + 1 < shape.length;
    let rows: Vec<usize> = (0..batch.len()).filter(predicts).collect();
    let targets: Vec<u32> = rows.iter().map(|row| batch.tokens[row + 1]).collect();
    let weight = 1.0 / rows.len() as f64;
    core.clear_grads();
    core.forward(batch)?;
    core.lm_head(&rows, true, &mut |range, logits| {
        logits.cross_entropy(&targets[range], weight, 0.0, true);
    })?;
    core.backward()?;
    core.update(Rate {
        now: 1e-3,
        peak: 1e-3,
    })?;
    Ok(())
}

fn shares(times: &Times, whole: f64) -> BTreeMap<&'static str, f64> {
    let Ok(times) = times.lock() else {
        return BTreeMap::new();
    };
    let share =
        |(name, time): (&&'static str, &std::time::Duration)| (*name, time.as_secs_f64() / whole);
    let mut shares: BTreeMap<_, _> = times.iter().map(share).collect();
    shares.insert("(between)", 1.0 - shares.values().sum::<f64>());
    shares
}

/// What sampling from a shape was measured to be.
#[derive(Debug, Clone, Serialize)]
struct SamplingSpeed {
    shape: Shape,
    threads: usize,
    batch: usize,
    prompt: usize,
    new_tokens: usize,
    tokens_per_second: f64,
    tokens_per_cpu_second: f64,
}

/// Samples `batch` responses of 128 tokens to prompts of 64, again and again for about `seconds`.
fn sampling(
    shape: Shape,
    threads: usize,
    batch: usize,
    seconds: f64,
) -> Result<SamplingSpeed, ModelError> {
    const PROMPT: usize = 64;
    const NEW: usize = 128;
    let device = Device::open("cpu", threads)?;
    let model = Model::init(&shape.config()?, 1)?;
    let decoder = Decoder::new(&model, &device)?;
    let token = |row: usize, at: usize| ((at * at + 7 * row) % (shape.vocabulary - 5)) as u32;
    let prompt = |row: usize| (0..PROMPT).map(|at| token(row, at)).collect::<Vec<_>>();
    let prompts: Vec<Vec<u32>> = (0..batch).map(prompt).collect();
    let options = GenerateOptions {
        max_new_tokens: NEW,
        ..GenerateOptions::default()
    };
    decoder.generate(&prompts, &options)?;
    let (mut walls, mut cpus) = (Vec::new(), Vec::new());
    let begun = Instant::now();
    while walls.len() < 3 || begun.elapsed().as_secs_f64() < seconds {
        let (wall, cpu) = (Instant::now(), cpu_seconds());
        decoder.generate(&prompts, &options)?;
        walls.push(wall.elapsed().as_secs_f64());
        cpus.push(cpu_seconds() - cpu);
    }
    let tokens = (batch * NEW) as f64;
    Ok(SamplingSpeed {
        shape,
        threads,
        batch,
        prompt: PROMPT,
        new_tokens: NEW,
        tokens_per_second: tokens / median(&mut walls),
        tokens_per_cpu_second: tokens / mean(&cpus),
    })
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Processor time of all threads of this process, where the system tells; else the clock.
fn cpu_seconds() -> f64 {
    let times = std::fs::read_dir("/proc/self/task").into_iter().flatten();
    let times = times.flatten().filter_map(|task| {
        let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<f64>().ok()
    });
    times.sum::<f64>() / 1e9
}

fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}
