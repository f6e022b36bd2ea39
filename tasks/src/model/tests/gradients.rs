//! Losses and gradients against the plain reference and finite differences, and what a position may see.

use super::*;

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
