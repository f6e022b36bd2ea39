//! How fast a card trains, what that is a fraction of, and how fast it samples. `benches/gpu.sh` runs it beside PyTorch.
//!
//! ```console
//! $ cargo bench -p kbuild-tasks --bench gpu -- m124 --length 1024 --rows 32 --seconds 15
//! ```
//!
//! `--recompute` runs layers forward again instead of keeping them. The word `agreement` alone trains a small model on
//! the processor and on the card instead, and says how far apart they are. One JSON object on stdout; without a card the
//! reason on stderr.

use std::collections::BTreeMap;
use std::time::Instant;

use kbuild_tasks::model::cuda::{Cuda, Element, Gpu};
use kbuild_tasks::model::memory::{self, Backend, Work};
use kbuild_tasks::model::optimizer::Rate;
use kbuild_tasks::model::{
    AdamW, AdamWOptions, Batch, Config, Core, Decoder, Device, GenerateOptions, Model, ModelError,
    Numerics, Rng,
};

/// Name, layers, width, heads (as many for keys), feed-forward width: a model whose kernels are as short as their
/// launches, and about GPT-2's small and medium with SwiGLU.
const SHAPES: [(&str, [usize; 4]); 3] = [
    ("m23", [6, 384, 6, 1024]),
    ("m124", [12, 768, 12, 2048]),
    ("m350", [24, 1024, 16, 2816]),
];
const VOCABULARY: usize = 32_000;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let result = if words.iter().any(|word| word == "agreement") {
        agreement()
    } else {
        measure(&words)
    };
    match result {
        Ok(line) => println!("{line}"),
        Err(error) => {
            eprintln!("{error}\n  help: {}", error.help());
            std::process::exit(3);
        }
    }
}

fn measure(words: &[String]) -> Result<String, ModelError> {
    let number = |name: &str, otherwise: usize| {
        let at = words.iter().position(|word| word == name);
        at.and_then(|at| words.get(at + 1)?.parse().ok())
            .unwrap_or(otherwise)
    };
    let shape = SHAPES
        .iter()
        .find(|(name, _)| words.iter().any(|word| word == name));
    let (name, shape) = shape.unwrap_or(&SHAPES[1]);
    let (length, rows, seconds) = (
        number("--length", 1024),
        number("--rows", 32),
        number("--seconds", 15),
    );
    let gpu = Gpu::open()?;
    let rate = matmul_rate(&gpu)?;
    let model = Model::init(&config(*shape, length)?, 1)?;
    let flops = model.config.flops_megatron((0..rows).map(|_| length)) as f64;
    let parameters = model.config.parameter_count();
    let device = Device::gpu(2)?.in_numerics(Numerics::Bf16)?;
    let (free, _) = gpu.memory()?;
    let mut core = Core::new(model, &device)?;
    let recompute = words.iter().any(|word| word == "--recompute");
    core.recompute(recompute);
    core.start(AdamW::new(core.layout(), AdamWOptions::default()));
    let batch = batch(length, rows);
    let work = Work::Train { recompute };
    let backend = Backend::Gpu(Numerics::Bf16);
    let predicted = memory::held(core.config(), work, batch.len(), backend).peak();
    let mut losses = Vec::new();
    let mut times = Vec::new();
    let mut phases = Phases::default();
    let start = Instant::now();
    // Two steps to choose algorithms and to take memory; the median of the rest.
    while times.len() < 5 || start.elapsed().as_secs() < seconds as u64 {
        let begun = Instant::now();
        losses.push(step(&mut core, &batch, &mut phases)?);
        times.push(begun.elapsed().as_secs_f64());
    }
    let peak = free - gpu.memory()?.0;
    let model = core.model();
    drop(core);
    let (sampled, alike) = sampling(&model, &device)?;
    let mut steady = times.split_off(2);
    steady.sort_by(f64::total_cmp);
    let median = steady[steady.len() / 2];
    Ok(serde_json::json!({
        "model": name,
        "parameters": parameters,
        "length": length,
        "rows": rows,
        "steps": losses.len(),
        "tokens_per_second": batch.len() as f64 / median,
        "flops_per_second": flops / median,
        "matmul_flops_per_second": rate,
        "share_of_matmul": flops / median / rate,
        "milliseconds": phases.medians(),
        "memory_bytes": peak,
        "predicted_bytes": predicted,
        "sampled_tokens_per_second": sampled,
        "sampled_alike_alone": alike,
        "first_loss": losses[0],
        "last_loss": losses[losses.len() - 1],
    })
    .to_string())
}

/// Loss and gradients of a batch, and weights after three updates: of the processor in f32, and of the card beside it.
fn agreement() -> Result<String, ModelError> {
    let model = Model::init(&config([4, 256, 4, 704], 300)?, 1)?;
    let batch = batch(300, 4);
    let run = |device: &Device| {
        let mut core = Core::new(model.clone(), device)?;
        core.start(AdamW::new(core.layout(), AdamWOptions::default()));
        let mut phases = Phases::default();
        let loss = step(&mut core, &batch, &mut phases)?;
        let gradients = core.grads().into_owned();
        for _ in 0..2 {
            step(&mut core, &batch, &mut phases)?;
        }
        Ok::<_, ModelError>((loss, gradients, core.weights().into_owned()))
    };
    let (loss, gradients, _) = run(&Device::cpu(8)?)?;
    let mut found = serde_json::Map::new();
    for numerics in [Numerics::F32, Numerics::Bf16] {
        let device = Device::gpu(2)?.in_numerics(numerics)?;
        let (first, second) = (run(&device)?, run(&device)?);
        let of = serde_json::json!({
            "loss": (first.0 - loss).abs() / loss,
            "gradient": distance(&first.1, &gradients),
            "same_bits_twice": first == second,
        });
        found.insert(numerics.name().to_owned(), of);
    }
    Ok(serde_json::Value::from(found).to_string())
}

/// Relative: the length of the difference over that of the second.
fn distance(values: &[f32], reference: &[f32]) -> f64 {
    let length = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    let pairs = values.iter().zip(reference);
    let apart = length(&mut pairs.map(|(a, b)| f64::from(*a) - f64::from(*b)));
    apart / length(&mut reference.iter().map(|x| f64::from(*x)))
}

fn config([layers, width, heads, ffn]: [usize; 4], length: usize) -> Result<Config, ModelError> {
    let json = serde_json::json!({
        "vocab_size": VOCABULARY,
        "hidden_size": width,
        "intermediate_size": ffn,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "max_position_embeddings": length,
        "tie_word_embeddings": true,
    });
    Config::from_json(&json.to_string())
}

fn batch(length: usize, rows: usize) -> Batch {
    let rng = Rng::new(2, "tokens");
    let token = |row: usize, at: usize| rng.below(row as u64, at as u64, VOCABULARY as u64) as u32;
    Batch::of((0..rows).map(|row| (0..length).map(|at| token(row, at)).collect::<Vec<u32>>()))
}

/// How long the parts of each step took, the way the host sees it: an update goes on beside the next forward pass.
#[derive(Default)]
struct Phases(BTreeMap<&'static str, Vec<f64>>);

impl Phases {
    fn of<T>(&mut self, name: &'static str, work: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = work();
        let milliseconds = start.elapsed().as_secs_f64() * 1e3;
        self.0.entry(name).or_default().push(milliseconds);
        result
    }

    /// Of the steps after the first two.
    fn medians(self) -> BTreeMap<&'static str, f64> {
        let median = |mut times: Vec<f64>| {
            times.drain(..2);
            times.sort_by(f64::total_cmp);
            times[times.len() / 2]
        };
        let phases = self.0.into_iter();
        phases.map(|(name, times)| (name, median(times))).collect()
    }
}

/// A whole step: forward, loss, backward, clip, update. Every row predicts; the last of a sequence predicts its first.
fn step(core: &mut Core, batch: &Batch, phases: &mut Phases) -> Result<f64, ModelError> {
    let rows: Vec<usize> = (0..batch.len()).collect();
    let targets: Vec<u32> = (batch.sequences())
        .flat_map(|range| {
            range.clone().map(move |row| {
                if row + 1 < range.end {
                    row + 1
                } else {
                    range.start
                }
            })
        })
        .map(|row| batch.tokens[row])
        .collect();
    let weight = 1.0 / rows.len() as f64;
    let mut loss = 0.0;
    core.clear_grads();
    phases.of("forward", || core.forward(batch))?;
    phases.of("head", || {
        core.lm_head(&rows, true, &mut |range, logits| {
            let sums = logits.cross_entropy(&targets[range], weight, 0.0, true);
            loss += weight * sums.cross_entropy;
        })
    })?;
    phases.of("backward", || core.backward())?;
    let rate = Rate {
        now: 3e-4,
        peak: 3e-4,
    };
    phases.of("update", || core.update(rate))?;
    Ok(loss)
}

/// Tokens a second of 32 responses of 128 tokens to prompts of 64; whether one of them is the same when it is alone.
fn sampling(model: &Model, device: &Device) -> Result<(f64, bool), ModelError> {
    const NEW: usize = 128;
    let batch = batch(64, 32);
    let prompt = |rows: std::ops::Range<usize>| batch.tokens[rows].to_vec();
    let prompts: Vec<Vec<u32>> = batch.sequences().map(prompt).collect();
    let options = GenerateOptions {
        max_new_tokens: NEW,
        ..GenerateOptions::default()
    };
    let decoder = Decoder::new(model, device)?;
    let alone = decoder.generate(&prompts[7..8], &options)?;
    decoder.generate(&prompts, &options)?;
    let start = Instant::now();
    let together = decoder.generate(&prompts, &options)?;
    let rate = (prompts.len() * NEW) as f64 / start.elapsed().as_secs_f64();
    Ok((rate, together[7..8] == alone))
}

/// FLOP/s of a bf16 product of two square matrices through the same library: what this card gives at best.
fn matmul_rate(gpu: &Gpu) -> Result<f64, ModelError> {
    const SIZE: usize = 8192;
    let cuda = Cuda::new(gpu.clone(), Element::Bf16);
    Ok(2.0 * (SIZE as f64).powi(3) / cuda.square_product(SIZE, 50)?)
}
