//! The fast core against the plain reference, and the promises that no single operation can keep.

use super::loss::Distillation;
use super::ops::Ops;
use super::optimizer::Rate;
use super::reference::Reference;
use super::*;
use candle_core::Tensor;

struct Dims {
    vocab: usize,
    d: usize,
    f: usize,
    layers: usize,
    heads: usize,
    groups: usize,
    hd: usize,
    tied: bool,
}

fn config(dims: &Dims) -> Config {
    Config {
        vocab_size: dims.vocab,
        hidden_size: dims.d,
        intermediate_size: dims.f,
        num_hidden_layers: dims.layers,
        num_attention_heads: dims.heads,
        num_key_value_heads: dims.groups,
        head_dim: dims.hd,
        rms_norm_eps: 1e-5,
        rope_theta: 100.0,
        rope_scaling: None,
        max_position_embeddings: 1024,
        tie_word_embeddings: dims.tied,
        head: Head::Language,
        initializer_range: 0.3,
        bos_token_id: Some(1),
        eos_token_id: vec![2],
        pad_token_id: None,
    }
}

/// Odd sizes, grouped queries, one key head for all (tied), `H hd ≠ d`, heads that fill no vector.
fn shapes() -> Vec<Config> {
    let grouped = Dims {
        vocab: 37,
        d: 20,
        f: 27,
        layers: 2,
        heads: 6,
        groups: 2,
        hd: 6,
        tied: false,
    };
    let multi_query = Dims {
        vocab: 53,
        d: 33,
        f: 18,
        layers: 3,
        heads: 4,
        groups: 1,
        hd: 16,
        tied: true,
    };
    let full = Dims {
        vocab: 64,
        d: 32,
        f: 48,
        layers: 1,
        heads: 2,
        groups: 2,
        hd: 2,
        tied: false,
    };
    [grouped, multi_query, full].iter().map(config).collect()
}

/// Weights with norms away from 1, so that their gradients are tested.
fn model(config: &Config, seed: u64) -> Model {
    let mut model = Model::init(config, seed).unwrap();
    let rng = Rng::new(seed, "norms");
    for tensor in model.layout.tensors().to_vec() {
        if !tensor.decays() {
            for (at, value) in model.weights[tensor.range.clone()].iter_mut().enumerate() {
                *value = 1.0 + 0.3 * rng.normal(tensor.range.start as u64, at as u64) as f32;
            }
        }
    }
    model
}

fn sequences(config: &Config, lengths: &[usize]) -> Vec<Vec<u32>> {
    let rng = Rng::new(9, "tokens");
    (lengths.iter().enumerate())
        .map(|(at, length)| {
            (0..*length as u64)
                .map(|i| rng.below(at as u64, i, config.vocab_size as u64) as u32)
                .collect()
        })
        .collect()
}

/// Rows that predict their successor, and what they predict.
fn targets(batch: &Batch) -> (Vec<usize>, Vec<u32>) {
    batch
        .sequences()
        .flat_map(|rows| rows.start..rows.end - 1)
        .map(|row| (row, batch.tokens[row + 1]))
        .unzip()
}

fn core(model: &Model, threads: usize) -> Core {
    Core::new(model.clone(), &Device::cpu(threads).unwrap()).unwrap()
}

/// Loss sum of cross entropy with weight 1 / N and z-loss; its gradient is in the core.
fn cross_entropy_step(core: &mut Core, batch: &Batch, z: f64) -> f64 {
    let (rows, targets) = targets(batch);
    let weight = 1.0 / rows.len() as f64;
    let mut total = 0.0;
    core.clear_grads();
    core.forward(batch).unwrap();
    core.lm_head(&rows, true, &mut |range, logits| {
        let sums = logits.cross_entropy(&targets[range], weight, z, true);
        total += weight * (sums.cross_entropy + z * sums.z);
    })
    .unwrap();
    core.backward().unwrap();
    total
}

fn norm(values: &[f32]) -> f64 {
    let squares = values.iter().map(|value| f64::from(*value).powi(2));
    squares.sum::<f64>().sqrt()
}

fn assert_close(found: &[f32], expected: &[f64], what: &str) {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(0.0f64, |a, b| a.max(b.abs()));
    for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
        let error = (f64::from(*found) - expected).abs();
        assert!(
            error <= 1e-5 * largest + 1e-4 * expected.abs(),
            "{what} {at}: {found} {expected}"
        );
    }
}

#[test]
fn loss_and_gradients_agree_with_the_reference() {
    for (case, config) in shapes().iter().enumerate() {
        let model = model(config, 5);
        let reference = Reference::new(&model).unwrap();
        let sequences = sequences(config, &[7, 2, 130, 1, 19]);
        let batch = Batch::of(&sequences);
        let z = 1e-2;
        let mut core = core(&model, 1);
        let loss = cross_entropy_step(&mut core, &batch, z);
        let grads = core.grads();
        let mut expected = Vec::new();
        for tokens in sequences.iter().filter(|tokens| tokens.len() > 1) {
            let last = tokens.len() - 1;
            let logp = reference
                .log_probabilities(&tokens[..last], &tokens[1..])
                .unwrap();
            let log_z = reference
                .logits(&tokens[..last])
                .unwrap()
                .exp()
                .unwrap()
                .sum(1)
                .unwrap()
                .log()
                .unwrap();
            let both = ((log_z.sqr().unwrap() * z).unwrap() - logp).unwrap();
            expected.push(both.sum_all().unwrap());
        }
        let n = batch.len() - sequences.len();
        let total = (Tensor::stack(&expected, 0).unwrap().sum_all().unwrap() / n as f64).unwrap();
        let expected_loss = total.to_scalar::<f64>().unwrap();
        assert!(
            (loss - expected_loss).abs() < 1e-5 * expected_loss.abs(),
            "{case}: {loss} {expected_loss}"
        );
        let expected = reference.gradient(&total).unwrap();
        for tensor in model.layout.tensors() {
            let range = tensor.range.clone();
            assert_close(
                &grads[range.clone()],
                &expected[range],
                &format!("{case} {}", tensor.name),
            );
        }
    }
}

#[test]
fn gradients_agree_with_finite_differences() {
    let config = &shapes()[0];
    let model = model(config, 6);
    let batch = Batch::of(sequences(config, &[9, 5]));
    let mut exact = core(&model, 1);
    cross_entropy_step(&mut exact, &batch, 0.0);
    let grads = exact.grads();
    let rng = Rng::new(1, "direction");
    for tensor in model.layout.tensors() {
        // Along one random direction per tensor, so that every element counts.
        let direction: Vec<f32> = (0..tensor.range.len() as u64)
            .map(|at| rng.normal(tensor.range.start as u64, at) as f32)
            .collect();
        let size = 1e-2 / (direction.len() as f32).sqrt();
        let loss_at = |step: f32| {
            let mut moved = model.clone();
            let weights = &mut moved.weights[tensor.range.clone()];
            for (weight, along) in weights.iter_mut().zip(&direction) {
                *weight += step * along;
            }
            cross_entropy_step(&mut core(&moved, 1), &batch, 0.0)
        };
        let measured = (loss_at(size) - loss_at(-size)) / (2.0 * f64::from(size));
        let grad = &grads[tensor.range.clone()];
        let expected: f64 = grad
            .iter()
            .zip(&direction)
            .map(|(g, d)| f64::from(g * d))
            .sum();
        let scale = norm(grad).max(1e-3);
        assert!(
            (measured - expected).abs() < 2e-2 * scale,
            "{}: {measured} {expected}",
            tensor.name
        );
    }
}

#[test]
fn a_score_head_has_the_gradient_of_the_reference() {
    let trunk = model(&shapes()[0], 7);
    let reward = trunk.with_score_head(1).unwrap();
    let config = &reward.config;
    let sequences = sequences(config, &[6, 11]);
    let batch = Batch::of(&sequences);
    let reference = Reference::new(&reward).unwrap();
    let mut core = core(&reward, 1);
    let mut scores = Vec::new();
    core.clear_grads();
    core.forward(&batch).unwrap();
    core.score_head(&[5, 16], true, &mut |values| {
        scores = values.to_vec();
        values.copy_from_slice(&[2.0, -3.0]);
    })
    .unwrap();
    core.backward().unwrap();
    let grads = core.grads();
    let last = |tokens: &Vec<u32>| {
        reference
            .logits(tokens)
            .unwrap()
            .get(tokens.len() - 1)
            .unwrap()
            .squeeze(0)
            .unwrap()
    };
    let (first, second) = (last(&sequences[0]), last(&sequences[1]));
    let expected = [&first, &second].map(|score| score.to_scalar::<f64>().unwrap());
    assert_close(&scores, &expected, "score");
    let total = ((first * 2.0).unwrap() - (second * 3.0).unwrap()).unwrap();
    assert_close(&grads, &reference.gradient(&total).unwrap(), "score head");
}

#[test]
fn weighted_log_probabilities_have_the_gradient_of_the_reference() {
    let config = &shapes()[1];
    let model = model(config, 8);
    let tokens = sequences(config, &[12]).remove(0);
    let batch = Batch::of([&tokens]);
    let (rows, targets) = targets(&batch);
    let coefficients: Vec<f64> = (0..rows.len()).map(|i| i as f64 * 0.3 - 1.0).collect();
    let mut core = core(&model, 2);
    let mut found = vec![0.0; rows.len()];
    core.clear_grads();
    core.forward(&batch).unwrap();
    core.lm_head(&rows, false, &mut |range, logits| {
        found[range.clone()].copy_from_slice(&logits.log_probabilities(&targets[range]));
    })
    .unwrap();
    core.lm_head(&rows, true, &mut |range, logits| {
        logits.log_probability_gradient(&targets[range.clone()], &coefficients[range]);
    })
    .unwrap();
    core.backward().unwrap();
    let grads = core.grads();
    let reference = Reference::new(&model).unwrap();
    let last = tokens.len() - 1;
    let logp = reference
        .log_probabilities(&tokens[..last], &tokens[1..])
        .unwrap();
    let expected = logp.to_vec1::<f64>().unwrap();
    let found: Vec<f32> = found.iter().map(|value| *value as f32).collect();
    assert_close(&found, &expected, "log-probability");
    let weights = Tensor::new(coefficients.as_slice(), &candle_core::Device::Cpu).unwrap();
    let total = (logp * weights).unwrap().sum_all().unwrap();
    assert_close(&grads, &reference.gradient(&total).unwrap(), "gradient");
}

#[test]
fn distillation_agrees_with_finite_differences_and_vanishes_at_the_teacher() {
    let (n, v) = (3, 11);
    let rng = Rng::new(4, "logits");
    let draw = |step: u64| -> Vec<f32> {
        (0..(n * v) as u64)
            .map(|at| 2.0 * rng.normal(step, at) as f32)
            .collect()
    };
    let cpu = Cpu::open(1).unwrap();
    let (student, teacher, targets) = (draw(0), draw(1), [3, 0, 10]);
    for (temperature, kd_weight, squared) in [
        (1.0, 1.0, false),
        (2.0, 0.7, true),
        (1.0, 0.0, false),
        (0.5, 0.4, false),
    ] {
        let options = Distillation {
            temperature,
            kd_weight,
            scale_by_squared_temperature: squared,
        };
        let factor = if squared {
            temperature * temperature
        } else {
            1.0
        };
        let value = |logits: &[f32]| {
            let mut logits = logits.to_vec();
            let sums = cpu.distillation(&mut logits, &teacher, &targets, options, 1.0, false);
            kd_weight * factor * sums.divergence + (1.0 - kd_weight) * sums.cross_entropy
        };
        let mut grads = student.clone();
        cpu.distillation(&mut grads, &teacher, &targets, options, 1.0, true);
        for at in 0..n * v {
            let shifted = |step: f32| {
                let mut logits = student.clone();
                logits[at] += step;
                value(&logits)
            };
            let measured = (shifted(1e-2) - shifted(-1e-2)) / 2e-2;
            assert!(
                (measured - f64::from(grads[at])).abs() < 2e-3,
                "{options:?} {at}: {measured} {}",
                grads[at]
            );
        }
        let mut same = teacher.clone();
        let options = Distillation {
            kd_weight: 1.0,
            ..options
        };
        let sums = cpu.distillation(&mut same, &teacher, &targets, options, 1.0, true);
        assert!(sums.divergence.abs() < 1e-6);
        assert!(same.iter().all(|grad| grad.abs() < 1e-6));
    }
}

#[test]
fn packed_sequences_are_as_good_as_alone() {
    let config = &shapes()[0];
    let model = model(config, 1);
    let sequences = sequences(config, &[70, 3, 129]);
    let mut core = core(&model, 1);
    core.forward(&Batch::of(&sequences)).unwrap();
    let packed = core.hidden().to_vec();
    let mut start = 0;
    for tokens in &sequences {
        core.forward_only(&Batch::of([tokens]), None).unwrap();
        let rows = start * config.hidden_size..(start + tokens.len()) * config.hidden_size;
        for (alone, packed) in core.hidden().iter().zip(&packed[rows]) {
            assert!((alone - packed).abs() < 1e-5);
        }
        start += tokens.len();
    }
}

#[test]
fn the_future_changes_nothing() {
    let config = &shapes()[1];
    let model = model(config, 1);
    let mut tokens = sequences(config, &[150]).remove(0);
    let mut core = core(&model, 1);
    core.forward(&Batch::of([&tokens])).unwrap();
    let before = core.hidden().to_vec();
    for at in [149, 100, 64, 1] {
        tokens[at] = (tokens[at] + 1) % config.vocab_size as u32;
        core.forward(&Batch::of([&tokens])).unwrap();
        let d = config.hidden_size;
        assert_eq!(before[..at * d], core.hidden()[..at * d]);
        assert_ne!(
            before[at * d..(at + 1) * d],
            core.hidden()[at * d..(at + 1) * d]
        );
    }
}

#[test]
fn observers_see_every_layer_and_forward_only_agrees_with_forward() {
    let config = &shapes()[1];
    let model = model(config, 1);
    let batch = Batch::of(sequences(config, &[40, 20]));
    let mut core = core(&model, 2);
    core.forward(&batch).unwrap();
    let kept = core.hidden().to_vec();
    let mut seen = Vec::new();
    let mut previous: Vec<f32> = Vec::new();
    core.forward_only(
        &batch,
        Some(&mut |layer, site, values| {
            seen.push((layer, site, values.len() / 60));
            match site {
                Site::LayerInput if layer > 0 => assert_eq!(values, previous),
                Site::LayerOutput => previous = values.to_vec(),
                _ => {}
            }
        }),
    )
    .unwrap();
    assert_eq!(core.hidden(), kept.as_slice());
    let (d, f, queries) = (
        config.hidden_size,
        config.intermediate_size,
        config.query_width(),
    );
    let widths = [d, d, queries, d, f, d];
    let sites = [
        Site::LayerInput,
        Site::InputNorm,
        Site::Attended,
        Site::PostNorm,
        Site::Activated,
        Site::LayerOutput,
    ];
    let expected: Vec<_> = (0..3)
        .flat_map(|layer| {
            sites
                .iter()
                .zip(widths)
                .map(move |(site, width)| (layer, *site, width))
        })
        .collect();
    assert_eq!(seen, expected);
}

/// Three training steps; the weights after them.
fn train(config: &Config, lengths: &[usize], threads: usize) -> Vec<f32> {
    let model = model(config, 2);
    let mut core = core(&model, threads);
    let options = AdamWOptions {
        weight_decay: 0.1,
        ..Default::default()
    };
    core.start(AdamW::new(&model.layout, options));
    for step in 0..3 {
        let mut lengths = lengths.to_vec();
        let count = lengths.len();
        lengths.rotate_left(step % count);
        let batch = Batch::of(sequences(config, &lengths));
        cross_entropy_step(&mut core, &batch, 1e-4);
        let rate = Rate {
            now: 1e-2,
            peak: 1e-2,
        };
        core.update(rate).unwrap();
    }
    core.weights().into_owned()
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let cases = [
        (shapes()[0].clone(), vec![300, 17, 260, 5]),
        (
            shapes()[1].clone(),
            vec![64, 64, 64, 64, 64, 64, 64, 64, 64],
        ),
        // Inner dimensions beyond 512: 700 of the feed-forward layer, 1100 tokens of the weight gradients.
        long_sums(),
        // More chunks than lanes.
        (shapes()[2].clone(), vec![1000, 900, 700]),
    ];
    for (config, lengths) in &cases {
        let one = train(config, lengths, 1);
        assert!(one.iter().all(|weight| weight.is_finite()));
        for threads in [2, 3, 8] {
            assert!(
                one == train(config, lengths, threads),
                "{threads} threads, {config:?}"
            );
        }
    }
}

#[test]
fn recomputing_changes_no_bit() {
    let lengths = [vec![40, 7, 130, 1], vec![64; 9], vec![300]];
    let cases = shapes().into_iter().zip(lengths).chain([long_sums()]);
    for (config, lengths) in cases {
        let model = model(&config, 2);
        let of_step = |recompute: &dyn Fn(usize) -> bool| {
            let mut core = core(&model, 2);
            core.start(AdamW::new(&model.layout, AdamWOptions::default()));
            let mut seen = Vec::new();
            for step in 0..4 {
                core.recompute(recompute(step));
                // The longest batch is neither the first nor the last.
                let n = lengths.len() - usize::from(step % 2 == 0 && lengths.len() > 1);
                let batch = Batch::of(sequences(&config, &lengths[..n]));
                let loss = cross_entropy_step(&mut core, &batch, 1e-4);
                seen.push((loss.to_bits(), core.grads().into_owned()));
                let rate = Rate {
                    now: 1e-2,
                    peak: 1e-2,
                };
                core.update(rate).unwrap();
            }
            let directory = tempfile::tempdir().unwrap();
            core.save(directory.path()).unwrap();
            let state = directory.path().join("state");
            core.moments().unwrap().save(&state).unwrap();
            let bytes = std::fs::read(directory.path().join("model.safetensors")).unwrap();
            (seen, blake3::hash(&bytes), std::fs::read(&state).unwrap())
        };
        let kept = of_step(&|_| false);
        assert!(kept.0.iter().all(|(_, grads)| norm(grads) > 0.0));
        assert!(kept == of_step(&|_| true), "{config:?}");
        assert!(
            kept == of_step(&|step| step % 3 == 1),
            "in turns: {config:?}"
        );
    }
}

/// A shape whose sums run over more than 512 terms in every direction.
fn long_sums() -> (Config, Vec<usize>) {
    let wide = Dims {
        vocab: 600,
        d: 72,
        f: 700,
        layers: 1,
        heads: 3,
        groups: 3,
        hd: 24,
        tied: true,
    };
    (config(&wide), vec![700, 400])
}

#[test]
fn the_instruction_set_changes_no_bit() {
    let (config, lengths) = long_sums();
    let best = train(&config, &lengths, 1);
    for set in InstructionSet::available() {
        let found = set.with(|| train(&config, &lengths, 2));
        assert!(found == best, "{set:?}");
    }
}

/// Bits of a small run. When they change, the versions of all kinds that compute with a model must rise.
#[test]
fn three_steps_give_the_pinned_bits() {
    let (config, lengths) = long_sums();
    let bytes: Vec<u8> = (train(&config, &lengths, 2).iter())
        .flat_map(|weight| weight.to_le_bytes())
        .collect();
    assert_eq!(blake3::hash(&bytes).to_hex()[..16], *"97bf54397f05dee6");
}

#[test]
fn micro_batches_add_up() {
    let config = &shapes()[0];
    let model = model(config, 1);
    let sequences = sequences(config, &[31, 8, 90]);
    let mut core = core(&model, 1);
    let whole = Batch::of(&sequences);
    let n = (whole.len() - 3) as f64;
    let mut step = |batches: &[Batch]| {
        core.clear_grads();
        for batch in batches {
            let (rows, targets) = targets(batch);
            core.forward(batch).unwrap();
            core.lm_head(&rows, true, &mut |range, logits| {
                logits.cross_entropy(&targets[range], 1.0 / n, 0.0, true);
            })
            .unwrap();
            core.backward().unwrap();
        }
        core.grads().into_owned()
    };
    let together: Vec<f64> = step(&[whole]).into_iter().map(f64::from).collect();
    let apart = step(&[Batch::of(&sequences[..1]), Batch::of(&sequences[1..])]);
    assert_close(&apart, &together, "micro-batches");
}

#[test]
fn optimizer_state_survives_a_file_and_independent_decay_ignores_the_peak() {
    let config = &shapes()[0];
    let start = model(config, 1);
    let grads: Vec<f32> = start.weights.iter().map(|w| w * 0.1).collect();
    let options = AdamWOptions {
        weight_decay: 0.1,
        ..Default::default()
    };
    let rate = Rate {
        now: 1e-3,
        peak: 1e-2,
    };
    let mut before = core(&start, 1);
    before.start(AdamW::new(&start.layout, options));
    before.write_grads(&grads);
    before.update(rate).unwrap();
    let optimizer = before.optimizer().unwrap();
    assert_eq!(optimizer.step(), 1);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.safetensors");
    before.moments().unwrap().save(&path).unwrap();
    let loaded = AdamW::load(&path, &start.layout, options).unwrap();
    assert_eq!(loaded, optimizer);
    let other = Layout::new(&shapes()[1]);
    assert!(
        AdamW::load(&path, &other, options)
            .unwrap_err()
            .to_string()
            .contains("has shape")
    );

    // With no gradient only decay is left: s λ with s = lr / peak, whatever the peak.
    let options = AdamWOptions {
        weight_decay: 1e-2,
        decay: Decay::Independent,
        ..options
    };
    for peak in [1e-2, 1e-4] {
        let mut decaying = core(&start, 1);
        decaying.start(AdamW::new(&start.layout, options));
        decaying.clear_grads();
        let now = 0.5 * peak;
        decaying.update(Rate { now, peak }).unwrap();
        let weights = decaying.weights();
        let up = start.layout.find("model.layers.0.mlp.up_proj.weight");
        let at = up.unwrap().range.start;
        assert!((weights[at] / start.weights[at] - 0.995).abs() < 1e-6);
        let norm = start.layout.norm().start;
        assert_eq!(weights[norm], start.weights[norm]);
    }
}

#[test]
fn a_gradient_that_is_not_finite_changes_nothing() {
    let start = model(&shapes()[0], 1);
    let mut core = core(&start, 1);
    core.start(AdamW::new(&start.layout, AdamWOptions::default()));
    let mut grads = vec![0.1; start.weights.len()];
    grads[3] = f32::NAN;
    core.write_grads(&grads);
    let rate = Rate {
        now: 1.0,
        peak: 1.0,
    };
    assert!(core.update(rate).unwrap().is_nan());
    assert_eq!(core.weights(), start.weights.as_slice());
    assert_eq!(core.optimizer().unwrap().step(), 0);
}

#[test]
fn greedy_decoding_agrees_with_the_training_forward() {
    for config in &shapes() {
        let model = model(config, 3);
        let prompts = sequences(config, &[1, 5, 40]);
        let options = GenerateOptions {
            max_new_tokens: 30,
            sampling: Sampling::GREEDY,
            ..Default::default()
        };
        let device = Device::cpu(1).unwrap();
        let mut core = core(&model, 1);
        for (prompt, response) in prompts
            .iter()
            .zip(generate(&model, &prompts, &options, &device).unwrap())
        {
            assert_eq!(
                (response.tokens.len(), response.finish),
                (30, Finish::Length)
            );
            let batch = Batch::of([[prompt.as_slice(), &response.tokens].concat()]);
            let rows: Vec<usize> = (prompt.len() - 1..batch.len() - 1).collect();
            core.forward_only(&batch, None).unwrap();
            let mut logp = vec![0.0; rows.len()];
            core.lm_head(&rows, false, &mut |range, logits| {
                let tokens = &response.tokens[range.clone()];
                let values = logits.read();
                for (logits, token) in values.chunks(config.vocab_size).zip(tokens) {
                    assert_eq!(sampler::argmax(logits), *token);
                }
                logp[range].copy_from_slice(&logits.log_probabilities(tokens));
            })
            .unwrap();
            for (decoded, trained) in response.log_probs.iter().zip(logp) {
                assert!((f64::from(*decoded) - trained).abs() < 1e-4);
            }
        }
    }
}

#[test]
fn a_sample_depends_on_its_prompt_alone() {
    let config = &shapes()[0];
    let model = model(config, 3);
    let prompts = sequences(config, &(1..50).collect::<Vec<_>>());
    let options = GenerateOptions {
        max_new_tokens: 12,
        samples: 3,
        stop: vec![4, 5],
        seed: 11,
        ..Default::default()
    };
    let all = generate(&model, &prompts, &options, &Device::cpu(3).unwrap()).unwrap();
    assert_eq!(all.len(), 3 * prompts.len());
    assert!(all.iter().any(|response| response.finish == Finish::Stop));
    for response in &all {
        let stopped = response
            .tokens
            .last()
            .is_some_and(|token| [4, 5].contains(token));
        assert_eq!(response.finish == Finish::Stop, stopped);
    }
    let device = Device::cpu(1).unwrap();
    for (at, prompt) in prompts.iter().enumerate().rev().step_by(7) {
        let alone = generate(&model, std::slice::from_ref(prompt), &options, &device).unwrap();
        assert_eq!(alone, all[3 * at..3 * at + 3]);
    }
    let decoder = Decoder::new(&model).unwrap();
    let mut streamed = Vec::new();
    let response = decoder
        .stream(&prompts[9], &options, &mut |token| {
            streamed.push(token);
            true
        })
        .unwrap();
    assert_eq!(response, all[27]);
    assert_eq!(streamed, response.tokens);
}

#[test]
fn prompts_that_cannot_be_used_are_refused_with_a_way_out() {
    let config = &shapes()[0];
    let model = model(config, 3);
    let device = Device::cpu(1).unwrap();
    for (prompt, expected) in [
        (vec![], "is empty"),
        (vec![0; 1025], "the context is 1024"),
        (vec![37], "token 37"),
    ] {
        let error = generate(&model, &[prompt], &GenerateOptions::default(), &device).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        assert!(!error.help().is_empty());
    }
    let full = generate(
        &model,
        &[vec![0; 1024]],
        &GenerateOptions::default(),
        &device,
    )
    .unwrap();
    assert!(full[0].tokens.is_empty());
}

#[test]
fn tokens_outside_the_vocabulary_are_refused() {
    let config = &shapes()[0];
    let model = model(config, 3);
    let mut core = core(&model, 1);
    let error = core.forward(&Batch::of([[1, 37]])).unwrap_err();
    assert!(error.to_string().contains("token 37 at 1"), "{error}");
    assert!(core.forward(&Batch::new()).is_ok());
}
