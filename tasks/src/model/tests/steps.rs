//! Steps of training: micro-batches, the state of the optimizer, and what is refused.

use super::*;

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
    before.moments().unwrap().unwrap().save(&path).unwrap();
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
fn tokens_outside_the_vocabulary_are_refused() {
    let config = &shapes()[0];
    let model = model(config, 3);
    let mut core = core(&model, 1);
    let error = core.forward(&Batch::of([[1, 37]])).unwrap_err();
    assert!(error.to_string().contains("token 37 at 1"), "{error}");
    assert!(core.forward(&Batch::new()).is_ok());
}
