//! What changes no bit: threads, recomputation, instruction sets.

use super::*;

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
            core.moments().unwrap().unwrap().save(&state).unwrap();
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
