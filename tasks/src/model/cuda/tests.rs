//! A whole model on a card against the same model on the processor, and the promises that no single operation keeps.
//!
//! They need a card (or `kernels/emulate`); where there is none they say so and pass, as `cargo test` must do anywhere.

use super::{Cuda, Element, Gpu};
use crate::model::optimizer::Rate;
use crate::model::sampler::Sampling;
use crate::model::{
    AdamW, AdamWOptions, Batch, Config, Core, Device, GenerateOptions, Model, ModelError, Numerics,
    Rng, generate,
};

/// The value, or the reason why there is none on stderr.
pub fn or_word<T>(opened: Result<T, ModelError>) -> Option<T> {
    match opened {
        Ok(opened) => Some(opened),
        Err(cause) => {
            // The harness captures what tests print in any other way.
            use std::io::Write;
            let _ = writeln!(std::io::stderr(), "not run on a GPU: {cause}");
            None
        }
    }
}

/// Operations in f32, where there is a card.
pub fn operations() -> Option<Cuda> {
    or_word(Gpu::open()).map(|gpu| Cuda::new(gpu, Element::F32))
}

fn device(numerics: Numerics) -> Option<Device> {
    or_word(Device::gpu(1).and_then(|device| device.in_numerics(numerics)))
}

fn processor() -> Device {
    Device::cpu(1).expect("a thread")
}

fn config(json: &str) -> Config {
    Config::from_json(json).expect("a config")
}

/// Widths that no vector divides, grouped queries.
fn odd() -> Config {
    config(
        r#"{"vocab_size": 37, "hidden_size": 20, "intermediate_size": 27, "num_hidden_layers": 2,
        "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 6, "initializer_range": 0.3}"#,
    )
}

/// Widths of tensor cores, one key head, tied.
fn even() -> Config {
    config(
        r#"{"vocab_size": 64, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 64, "initializer_range": 0.1,
        "tie_word_embeddings": true}"#,
    )
}

fn batch(config: &Config, lengths: &[usize]) -> Batch {
    let rng = Rng::new(9, "tokens");
    Batch::of((lengths.iter().enumerate()).map(|(at, length)| {
        (0..*length as u64)
            .map(|i| rng.below(at as u64, i, config.vocab_size as u64) as u32)
            .collect::<Vec<u32>>()
    }))
}

struct Step {
    /// Of the second step.
    loss: f64,
    /// Of the first step.
    grads: Vec<f32>,
    /// Of the second step.
    norm: f64,
    /// At the end.
    weights: Vec<f32>,
}

/// Two micro-batches and an update, twice.
fn steps(model: &Model, device: &Device) -> Step {
    steps_of(Core::new(model.clone(), device).expect("a core"))
}

fn steps_of(mut core: Core) -> Step {
    // A large `eps`: else the smallest gradient moves a weight as far as the largest, whatever its rounding.
    let options = AdamWOptions {
        eps: 1e-3,
        ..AdamWOptions::default()
    };
    core.start(AdamW::new(core.layout(), options));
    let mut step = Step {
        loss: 0.0,
        grads: Vec::new(),
        norm: 0.0,
        weights: Vec::new(),
    };
    for _ in 0..2 {
        core.clear_grads();
        step.loss = 0.0;
        for lengths in [&[7, 70, 2][..], &[33, 40]] {
            let batch = batch(core.config(), lengths);
            step.loss += micro_batch(&mut core, &batch);
        }
        if step.grads.is_empty() {
            step.grads = core.grads().into_owned();
        }
        let rate = Rate {
            now: 1e-2,
            peak: 1e-2,
        };
        step.norm = core.update(rate).expect("an update");
    }
    step.weights = core.weights().into_owned();
    step
}

fn micro_batch(core: &mut Core, batch: &Batch) -> f64 {
    let (rows, targets): (Vec<usize>, Vec<u32>) = batch
        .sequences()
        .flat_map(|rows| rows.start..rows.end - 1)
        .map(|row| (row, batch.tokens[row + 1]))
        .unzip();
    let mut loss = 0.0;
    core.forward(batch).expect("forward");
    core.lm_head(&rows, true, &mut |range, logits| {
        let sums = logits.cross_entropy(&targets[range], 1.0 / 150.0, 1e-3, true);
        loss += (sums.cross_entropy + 1e-3 * sums.z) / 150.0;
    })
    .expect("a head");
    core.backward().expect("backward");
    loss
}

/// Largest difference, in parts of the largest value.
fn error(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(0.0f32, |a, b| a.max(b.abs()));
    let pairs = found.iter().zip(expected);
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / largest
}

#[test]
fn cuda_trains_in_f32_as_the_processor_does() {
    let Some(gpu) = device(Numerics::F32) else {
        return;
    };
    for config in [odd(), even()] {
        let model = Model::init(&config, 5).expect("a model");
        let (found, expected) = (steps(&model, &gpu), steps(&model, &processor()));
        assert!(
            (found.loss - expected.loss).abs() < 1e-5 * expected.loss,
            "{} {}",
            found.loss,
            expected.loss
        );
        assert!(
            (found.norm - expected.norm).abs() < 1e-5 * expected.norm,
            "{} {}",
            found.norm,
            expected.norm
        );
        assert!(
            error(&found.grads, &expected.grads) < 1e-5,
            "{}",
            error(&found.grads, &expected.grads)
        );
        assert!(
            error(&found.weights, &expected.weights) < 1e-4,
            "{}",
            error(&found.weights, &expected.weights)
        );
    }
}

/// bf16 has 8 bits of mantissa: a hundredth of the largest gradient after two layers, less in the mean.
#[test]
fn cuda_trains_in_bf16_within_its_rounding() {
    let Some(gpu) = device(Numerics::Bf16) else {
        return;
    };
    for config in [odd(), even()] {
        let model = Model::init(&config, 5).expect("a model");
        let (found, expected) = (steps(&model, &gpu), steps(&model, &processor()));
        assert!(
            (found.loss - expected.loss).abs() < 1e-2 * expected.loss,
            "{} {}",
            found.loss,
            expected.loss
        );
        assert!(
            (found.norm - expected.norm).abs() < 3e-2 * expected.norm,
            "{} {}",
            found.norm,
            expected.norm
        );
        assert!(
            error(&found.grads, &expected.grads) < 5e-2,
            "{}",
            error(&found.grads, &expected.grads)
        );
    }
}

#[test]
fn cuda_gives_the_same_bits_twice() {
    for numerics in [Numerics::F32, Numerics::Bf16] {
        let Some(gpu) = device(numerics) else { return };
        for config in [odd(), even()] {
            let model = Model::init(&config, 6).expect("a model");
            let (one, two) = (steps(&model, &gpu), steps(&model, &gpu));
            assert_eq!(one.loss.to_bits(), two.loss.to_bits());
            assert!(one.grads == two.grads && one.weights == two.weights);
        }
    }
}

#[test]
fn cuda_gives_the_same_bits_when_it_recomputes() {
    for numerics in [Numerics::F32, Numerics::Bf16] {
        let Some(gpu) = device(numerics) else { return };
        for config in [odd(), even()] {
            let model = Model::init(&config, 6).expect("a model");
            let kept = steps(&model, &gpu);
            let mut core = Core::new(model, &gpu).expect("a core");
            core.recompute(true);
            let again = steps_of(core);
            assert_eq!(kept.loss.to_bits(), again.loss.to_bits());
            assert_eq!(kept.norm.to_bits(), again.norm.to_bits());
            assert!(kept.grads == again.grads && kept.weights == again.weights);
        }
    }
}

#[test]
fn cuda_packs_sequences_without_mixing_them() {
    for (numerics, bound) in [(Numerics::F32, 1e-5), (Numerics::Bf16, 2e-2)] {
        let Some(gpu) = device(numerics) else { return };
        let model = Model::init(&even(), 1).expect("a model");
        let together = batch(&model.config, &[70, 3, 129]);
        let mut core = Core::new(model, &gpu).expect("a core");
        core.forward(&together).expect("forward");
        let packed = core.hidden().into_owned();
        for rows in together.sequences() {
            let alone = Batch::of([&together.tokens[rows.clone()]]);
            core.forward_only(&alone, None).expect("forward");
            let d = core.config().hidden_size;
            let of_packed = &packed[rows.start * d..rows.end * d];
            assert!(error(&core.hidden(), of_packed) < bound);
        }
    }
}

#[test]
fn cuda_generates_as_the_processor_does() {
    for (numerics, bound) in [(Numerics::F32, 1e-4), (Numerics::Bf16, 3e-2)] {
        let Some(gpu) = device(numerics) else { return };
        for config in [odd(), even()] {
            let model = Model::init(&config, 5).expect("a model");
            let lengths = [3, 12];
            let batch = batch(&config, &lengths);
            let prompts: Vec<Vec<u32>> = batch
                .sequences()
                .map(|rows| batch.tokens[rows].to_vec())
                .collect();
            let options = GenerateOptions {
                max_new_tokens: 5,
                sampling: Sampling::GREEDY,
                ..GenerateOptions::default()
            };
            let found = generate(&model, &prompts, &options, &gpu).expect("prompts fit");
            let alone = generate(&model, &prompts[1..], &options, &gpu).expect("the prompt fits");
            assert_eq!(alone, found[1..]);
            let expected = generate(&model, &prompts, &options, &processor()).expect("prompts fit");
            for (found, expected) in found.iter().zip(&expected) {
                assert_eq!(found.tokens, expected.tokens);
                for (found, expected) in found.log_probs.iter().zip(&expected.log_probs) {
                    assert!((found - expected).abs() < bound, "{found} {expected}");
                }
            }
        }
    }
}

#[test]
fn cuda_refuses_bf16_on_the_processor_in_words() {
    let error = processor()
        .in_numerics(Numerics::Bf16)
        .err()
        .expect("no bf16 here");
    assert!(error.to_string().contains("needs a GPU"), "{error}");
}
