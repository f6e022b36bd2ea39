//! The list, on every backend, against the plain one; and the plain one against finite differences.
//!
//! A new backend joins by a line in `on_every_backend`.

use std::sync::Arc;

use super::plain::Plain;
use super::*;
use crate::model::sampler::Sampler;
use crate::model::{Cpu, Rng};

/// Makes a test of a check that is generic over the backend.
macro_rules! on_every_backend {
    ($($name:ident)*) => {
        $(mod $name {
            use super::*;

            #[test]
            fn plain() {
                super::$name(&Plain);
            }

            #[test]
            fn cuda() {
                if let Some(cuda) = crate::model::cuda::tests::operations() {
                    super::$name(&cuda);
                }
            }

            #[test]
            fn cpu() {
                for threads in [1, 2, 3, 8] {
                    super::$name(&Cpu::open(threads).unwrap());
                }
            }
        })*
    };
}

on_every_backend! {
    memory rows_by_number norms feed_forward products rotations attention_of_sequences caches cross_entropies
    distillations log_probabilities samples updates
}

fn draw(name: &str, len: usize) -> Vec<f32> {
    let rng = Rng::new(3, name);
    (0..len as u64).map(|at| rng.normal(0, at) as f32).collect()
}

fn all<O: Ops>(buffer: &O::Buffer) -> O::View<'_> {
    O::view(buffer, 0..O::len(buffer))
}

fn all_mut<O: Ops>(buffer: &mut O::Buffer) -> O::ViewMut<'_> {
    let len = O::len(buffer);
    O::view_mut(buffer, 0..len)
}

fn values<O: Ops>(ops: &O, buffer: &O::Buffer) -> Vec<f32> {
    ops.read(all::<O>(buffer)).into_owned()
}

/// Within 2e-6 of the largest value, as sums of f32 in any order are.
fn same(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(1e-3f32, |a, b| a.max(b.abs()));
    for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
        let error = (found - expected).abs();
        assert!(
            error <= 4e-6 * largest,
            "{what} {at}: {found}, expected {expected}"
        );
    }
}

/// Rows in numbers that leave edges everywhere.
const ROWS: [usize; 5] = [1, 7, 33, 257, 600];

fn memory<O: Ops>(ops: &O) {
    let mut buffer = ops.upload(draw("x", 10));
    assert_eq!(values(ops, &buffer), draw("x", 10));
    ops.write(O::view_mut(&mut buffer, 2..4), &[5.0, 6.0]);
    assert_eq!(*ops.read(O::view(&buffer, 2..4)), [5.0, 6.0]);
    let mut other = ops.zeros(10);
    assert_eq!(values(ops, &other), [0.0; 10]);
    ops.copy(O::view_mut(&mut other, 1..3), O::view(&buffer, 2..4));
    assert_eq!(values(ops, &other)[..4], [0.0, 5.0, 6.0, 0.0]);
    ops.clear(O::view_mut(&mut other, 0..2));
    assert_eq!(values(ops, &other)[..3], [0.0, 0.0, 6.0]);
    ops.sync().unwrap();
}

fn rows_by_number<O: Ops>(ops: &O) {
    let (d, rows) = (5, [3, 0, 3, 1]);
    let (table, pull) = (draw("table", 4 * d), draw("pull", rows.len() * d));
    let (mut expected, mut expected_back) = (vec![0.0; rows.len() * d], draw("old", 4 * d));
    Plain.gather(&mut expected, &table, &rows.to_vec());
    Plain.gather_backward(&mut expected_back, &pull, &rows.to_vec());
    assert_eq!(expected[..d], table[3 * d..]);
    let (x, dy, indices) = (ops.upload(table), ops.upload(pull), ops.indices(&rows));
    let (mut y, mut dx) = (ops.zeros(rows.len() * d), ops.upload(draw("old", 4 * d)));
    ops.gather(all_mut::<O>(&mut y), all::<O>(&x), &indices);
    ops.gather_backward(all_mut::<O>(&mut dx), all::<O>(&dy), &indices);
    assert_eq!(values(ops, &y), expected);
    assert_eq!(values(ops, &dx), expected_back);
    let places = ops.places(&Batch::of([&rows[..3], &rows[3..]]), &rope(2, 8));
    ops.clear(all_mut::<O>(&mut y));
    ops.embed(all_mut::<O>(&mut y), all::<O>(&x), &places);
    assert_eq!(values(ops, &y), expected);
    let in_cache = rows.map(|token| Row {
        slot: 1,
        token,
        position: 2,
    });
    let of_cache = ops.places_in_cache(&in_cache, 4, &rope(2, 8));
    ops.clear(all_mut::<O>(&mut y));
    ops.embed(all_mut::<O>(&mut y), all::<O>(&x), &of_cache);
    assert_eq!(values(ops, &y), expected);
    let mut dx = ops.upload(draw("old", 4 * d));
    ops.embed_backward(all_mut::<O>(&mut dx), all::<O>(&dy), &places);
    assert_eq!(values(ops, &dx), expected_back);
}

fn norms<O: Ops>(ops: &O) {
    for (n, d) in ROWS.into_iter().zip([1, 20, 33, 64, 130]) {
        let (x, w, pull) = (draw("x", n * d), draw("w", d), draw("pull", n * d));
        let (mut y, mut scale) = (vec![0.0; n * d], vec![0.0; n]);
        Plain.rms_norm(&mut y, &mut scale, &x, &w, 1e-5);
        let (mut dx, mut dw) = (draw("old", n * d), draw("old w", d));
        Plain.rms_norm_backward(&mut dx, &mut dw, &pull, &x, &w, &scale);
        let (x, w, pull) = (ops.upload(x), ops.upload(w), ops.upload(pull));
        let (mut y2, mut scale2) = (ops.zeros(n * d), ops.zeros(n));
        let (y2m, scale2m) = (all_mut::<O>(&mut y2), all_mut::<O>(&mut scale2));
        ops.rms_norm(y2m, scale2m, all::<O>(&x), all::<O>(&w), 1e-5);
        same(&values(ops, &y2), &y, "rms_norm");
        same(&values(ops, &scale2), &scale, "rms_norm scale");
        let (mut dx2, mut dw2) = (ops.upload(draw("old", n * d)), ops.upload(draw("old w", d)));
        ops.rms_norm_backward(
            all_mut::<O>(&mut dx2),
            all_mut::<O>(&mut dw2),
            all::<O>(&pull),
            all::<O>(&x),
            all::<O>(&w),
            all::<O>(&scale2),
        );
        same(&values(ops, &dx2), &dx, "rms_norm dx");
        same(&values(ops, &dw2), &dw, "rms_norm dw");
    }
}

fn feed_forward<O: Ops>(ops: &O) {
    for (n, f) in ROWS.into_iter().zip([1, 18, 27, 48, 9]) {
        let (mut gate_up, pull) = (draw("gate up", n * 2 * f), draw("pull", n * f));
        let mut act = vec![0.0; n * f];
        Plain.swiglu(&mut act, &gate_up, f);
        let (mut gate_up2, pull2) = (ops.upload(gate_up.clone()), ops.upload(pull.clone()));
        let mut act2 = ops.zeros(n * f);
        ops.swiglu(all_mut::<O>(&mut act2), all::<O>(&gate_up2), f);
        same(&values(ops, &act2), &act, "swiglu");
        Plain.swiglu_backward(&mut gate_up, &mut act, &pull, f);
        ops.clear(all_mut::<O>(&mut act2));
        let (g, a) = (all_mut::<O>(&mut gate_up2), all_mut::<O>(&mut act2));
        ops.swiglu_backward(g, a, all::<O>(&pull2), f);
        same(&values(ops, &gate_up2), &gate_up, "swiglu gradient");
        same(&values(ops, &act2), &act, "swiglu again");
    }
}

fn products<O: Ops>(ops: &O) {
    // Every edge: of tiles, of vectors, and sums beyond 512 terms in each of the three directions.
    for (n, inputs, outputs) in [
        (1, 1, 1),
        (1, 700, 33),
        (13, 64, 1),
        (16, 17, 600),
        (70, 128, 96),
        (257, 31, 65),
        (600, 40, 44),
        (24, 1100, 48),
    ] {
        let what = format!("{n} {inputs} {outputs}");
        let matrix = Matrix {
            range: 3..3 + inputs * outputs,
            outputs,
            inputs,
        };
        let arena = draw("w", inputs * outputs + 5);
        let (x, dy) = (draw("x", n * inputs), draw("dy", n * outputs));
        let weights = ops.weights(std::slice::from_ref(&matrix), arena.clone());
        assert_eq!(values(ops, O::values(&weights)), arena);
        let (on_x, on_dy) = (ops.upload(x.clone()), ops.upload(dy.clone()));
        let base = draw("base", n * outputs);
        let on_base = ops.upload(base.clone());
        for based in [false, true] {
            let mut y = draw("old y", n * outputs);
            let mut y2 = ops.upload(y.clone());
            Plain.linear(&mut y, based.then_some(&base), &x, &arena, &matrix);
            ops.linear(
                all_mut::<O>(&mut y2),
                based.then(|| all::<O>(&on_base)),
                all::<O>(&on_x),
                &weights,
                &matrix,
            );
            same(&values(ops, &y2), &y, &format!("linear {what} {based}"));
        }
        let mut dx = draw("old x", n * inputs);
        let mut dx2 = ops.upload(dx.clone());
        Plain.linear_dx(&mut dx, &dy, &arena, &matrix);
        let (on_dx, of) = (all_mut::<O>(&mut dx2), all::<O>(&on_dy));
        ops.linear_dx(on_dx, of, &weights, &matrix);
        same(&values(ops, &dx2), &dx, &format!("linear_dx {what}"));
        let mut dw = draw("old w", inputs * outputs);
        let mut dw2 = ops.upload(dw.clone());
        Plain.linear_dw(&mut dw, &dy, &x, inputs);
        ops.linear_dw(
            all_mut::<O>(&mut dw2),
            all::<O>(&on_dy),
            all::<O>(&on_x),
            inputs,
        );
        same(&values(ops, &dw2), &dw, &format!("linear_dw {what}"));
    }
}

fn rope(head_dim: usize, positions: usize) -> Arc<RopeTable> {
    let json = format!(
        r#"{{"vocab_size": 8, "hidden_size": {head_dim}, "intermediate_size": 8, "num_hidden_layers": 1,
        "num_attention_heads": 1, "head_dim": {head_dim}}}"#
    );
    let mut table = RopeTable::new(&crate::model::Config::from_json(&json).unwrap());
    table.extend_to(positions);
    Arc::new(table)
}

/// Grouped queries, one key head for all, one each; heads that fill no vector and that fill several.
const HEADS: [Heads; 5] = [
    heads(6, 2, 6),
    heads(4, 1, 16),
    heads(2, 2, 2),
    heads(3, 3, 32),
    heads(2, 1, 64),
];

const fn heads(heads: usize, groups: usize, head_dim: usize) -> Heads {
    Heads {
        heads,
        groups,
        head_dim,
    }
}

/// Sequences of these lengths, packed.
fn packed(lengths: &[usize]) -> Batch {
    Batch::of(lengths.iter().map(|length| vec![0u32; *length]))
}

fn rotations<O: Ops>(ops: &O) {
    for heads in HEADS {
        let (batch, rope) = (packed(&[5, 1, 300]), rope(heads.head_dim, 300));
        let mut x = draw("qkv", batch.len() * heads.width());
        let (here, there) = (Plain.places(&batch, &rope), ops.places(&batch, &rope));
        let mut x2 = ops.upload(x.clone());
        Plain.rope(&mut x, heads, &here);
        ops.rope(all_mut::<O>(&mut x2), heads, &there);
        same(&values(ops, &x2), &x, "rope");
        ops.rope_backward(all_mut::<O>(&mut x2), heads, &there);
        same(&values(ops, &x2), &draw("qkv", x.len()), "rope and back");
    }
}

fn attention_of_sequences<O: Ops>(ops: &O) {
    for heads in HEADS {
        let (batch, rope) = (packed(&[1, 17, 64, 3, 150]), rope(heads.head_dim, 1));
        let n = batch.len();
        let (qkv, pull) = (
            draw("qkv", n * heads.width()),
            draw("pull", n * heads.queries()),
        );
        let (here, there) = (Plain.places(&batch, &rope), ops.places(&batch, &rope));
        let (mut out, mut lse) = (vec![0.0; n * heads.queries()], vec![0.0; n * heads.heads]);
        let mut d_qkv = vec![0.0; qkv.len()];
        Plain.attention(&mut out, &mut lse, &qkv, heads, &here);
        Plain.attention_backward(&mut d_qkv, &pull, &out, &lse, &qkv, heads, &here);
        let (qkv2, pull2) = (ops.upload(qkv), ops.upload(pull));
        let (mut out2, mut lse2) = (ops.zeros(out.len()), ops.zeros(lse.len()));
        let (o, l) = (all_mut::<O>(&mut out2), all_mut::<O>(&mut lse2));
        ops.attention(o, l, all::<O>(&qkv2), heads, &there);
        same(&values(ops, &out2), &out, "attention");
        same(&values(ops, &lse2), &lse, "attention lse");
        let mut d_qkv2 = ops.upload(draw("old", d_qkv.len()));
        ops.attention_backward(
            all_mut::<O>(&mut d_qkv2),
            all::<O>(&pull2),
            all::<O>(&out2),
            all::<O>(&lse2),
            all::<O>(&qkv2),
            heads,
            &there,
        );
        same(&values(ops, &d_qkv2), &d_qkv, "attention gradient");
    }
}

/// Two sequences that come in pieces, to slots that hold more, against the same two as a batch.
fn caches<O: Ops>(ops: &O) {
    const CAPACITY: usize = 80;
    // Slot and positions of what each step brings.
    let steps = [
        vec![(2, 0..33)],
        vec![(0, 0..1), (2, 33..69)],
        vec![(2, 69..70), (0, 1..3)],
    ];
    for heads in HEADS {
        let (batch, rope) = (packed(&[70, 3]), rope(heads.head_dim, CAPACITY));
        let (n, places) = (batch.len(), Plain.places(&batch, &rope));
        let raw = draw("qkv", n * heads.width());
        let (mut qkv, mut lse) = (raw.clone(), vec![0.0; n * heads.heads]);
        let mut expected = vec![0.0; n * heads.queries()];
        Plain.rope(&mut qkv, heads, &places);
        Plain.attention(&mut expected, &mut lse, &qkv, heads, &places);
        // Whatever lies beyond the rows of a sequence, nobody looks at it.
        let mut cache = ops.upload(vec![f32::NAN; 3 * CAPACITY * heads.kept()]);
        for step in &steps {
            let rows_of = |(slot, range): &(usize, Range<usize>)| {
                let slot = *slot;
                range.clone().map(move |position| Row {
                    slot,
                    token: 0,
                    position,
                })
            };
            let rows: Vec<Row> = step.iter().flat_map(rows_of).collect();
            let in_batch = |row: &Row| row.position + if row.slot == 0 { 70 } else { 0 };
            let of = |all: &[f32], width: usize| -> Vec<f32> {
                let wide = rows.iter().map(in_batch);
                wide.flat_map(|row| all[row * width..(row + 1) * width].to_vec())
                    .collect()
            };
            let places = ops.places_in_cache(&rows, CAPACITY, &rope);
            let mut qkv = ops.upload(of(&raw, heads.width()));
            let mut out = ops.zeros(rows.len() * heads.queries());
            ops.rope(all_mut::<O>(&mut qkv), heads, &places);
            ops.append(all_mut::<O>(&mut cache), all::<O>(&qkv), heads, &places);
            ops.attention_in_cache(
                all_mut::<O>(&mut out),
                all::<O>(&qkv),
                all::<O>(&cache),
                heads,
                &places,
            );
            let expected = of(&expected, heads.queries());
            same(&values(ops, &out), &expected, "attention in a cache");
        }
    }
}

const TARGETS: [u32; 4] = [3, 0, 36, 11];
const VOCABULARY: usize = 37;

fn logits(name: &str) -> Vec<f32> {
    let len = TARGETS.len() * VOCABULARY;
    draw(name, len).iter().map(|x| 3.0 * x).collect()
}

fn close(found: f64, expected: f64, what: &str) {
    assert!(
        (found - expected).abs() <= 1e-5 * expected.abs().max(1.0),
        "{what}: {found} {expected}"
    );
}

fn same_sums(found: Sums, expected: Sums) {
    close(found.cross_entropy, expected.cross_entropy, "cross entropy");
    close(found.z, expected.z, "z");
    close(found.divergence, expected.divergence, "divergence");
    assert_eq!(found.correct, expected.correct);
}

fn cross_entropies<O: Ops>(ops: &O) {
    for (z, gradient) in [(0.0, true), (1e-2, true), (0.0, false)] {
        let (mut x, mut x2) = (logits("logits"), ops.upload(logits("logits")));
        let expected = Plain.cross_entropy(&mut x, &TARGETS, 0.25, z, gradient);
        let found = ops.cross_entropy(all_mut::<O>(&mut x2), &TARGETS, 0.25, z, gradient);
        same_sums(found, expected);
        same(&values(ops, &x2), &x, "cross entropy gradient");
    }
}

fn distillations<O: Ops>(ops: &O) {
    for (temperature, kd_weight, gradient) in [
        (1.0, 1.0, true),
        (2.0, 0.7, true),
        (0.5, 0.4, false),
        (1.0, 0.0, true),
    ] {
        let options = Distillation {
            temperature,
            kd_weight,
            scale_by_squared_temperature: kd_weight > 0.5,
        };
        let (mut x, mut x2) = (logits("student"), ops.upload(logits("student")));
        let (taught, taught2) = (logits("teacher"), ops.upload(logits("teacher")));
        let expected = Plain.distillation(&mut x, &taught, &TARGETS, options, 0.5, gradient);
        let taught2 = all::<O>(&taught2);
        let found = ops.distillation(
            all_mut::<O>(&mut x2),
            taught2,
            &TARGETS,
            options,
            0.5,
            gradient,
        );
        assert_eq!(found.correct, expected.correct);
        close(found.cross_entropy, expected.cross_entropy, "cross entropy");
        close(found.divergence, expected.divergence, "divergence");
        same(&values(ops, &x2), &x, "distillation gradient");
    }
}

fn log_probabilities<O: Ops>(ops: &O) {
    let (mut x, mut x2) = (logits("logits"), ops.upload(logits("logits")));
    let expected = Plain.log_probabilities(&x, &TARGETS);
    let found = ops.log_probabilities(all::<O>(&x2), &TARGETS);
    for (found, expected) in found.into_iter().zip(expected) {
        close(found, expected, "log-probability");
    }
    let coefficients = [0.5, -1.0, 0.0, 2.0];
    Plain.log_probability_gradient(&mut x, &TARGETS, &coefficients);
    ops.log_probability_gradient(all_mut::<O>(&mut x2), &TARGETS, &coefficients);
    same(&values(ops, &x2), &x, "log-probability gradient");
}

fn samples<O: Ops>(ops: &O) {
    let (rows, vocabulary) = (12, 300);
    let rng = Rng::new(7, "logits");
    // Steps of a quarter, so that there are ties.
    let value = |at: usize| (8.0 * rng.normal(0, at as u64)).round() as f32 / 4.0;
    let logits: Vec<f32> = (0..rows * vocabulary).map(value).collect();
    let uniform: Vec<f64> = (0..rows as u64).map(|row| rng.uniform(1, row)).collect();
    let on_device = ops.upload(logits.clone());
    let own = Sampling::default();
    for sampling in [
        Sampling::GREEDY,
        own,
        Sampling {
            temperature: 0.7,
            top_k: 9,
            ..own
        },
        Sampling { top_p: 0.8, ..own },
        Sampling {
            temperature: 1.5,
            top_k: 50,
            top_p: 0.9,
            min_p: 0.05,
        },
    ] {
        let found = ops.sample(all::<O>(&on_device), &sampling, &uniform);
        assert_eq!(found.len(), rows);
        for (row, (found, logits)) in found.iter().zip(logits.chunks(vocabulary)).enumerate() {
            let expected = Sampler::default().choose(logits, &sampling, uniform[row]);
            assert_eq!(found.token, expected, "row {row} of {sampling:?}");
            let total: f64 = logits.iter().map(|logit| f64::from(*logit).exp()).sum();
            let log_prob = f64::from(logits[expected as usize]) - total.ln();
            close(f64::from(found.log_prob), log_prob, "log-probability");
        }
    }
}

fn updates<O: Ops>(ops: &O) {
    let n = 40_000;
    let step = AdamWStep {
        clip: 0.5,
        keep: 0.99,
        beta1: 0.9,
        rest1: 0.1,
        beta2: 0.95,
        rest2: 0.05,
        rate: 0.01,
        root: 1.5,
        eps: 1e-8,
    };
    let squares = |name: &str| draw(name, n).iter().map(|x| x * x).collect::<Vec<f32>>();
    let (mut w, mut m, mut v, g) = (draw("w", n), draw("m", n), squares("v"), draw("g", n));
    let decayed = [5..100, 17_000..39_999];
    let expected = Plain.sum_of_squares(&g);
    let mut weights = ops.weights(&[], w.clone());
    let (mut m2, mut v2) = (ops.upload(m.clone()), ops.upload(v.clone()));
    let g2 = ops.upload(g.clone());
    close(
        ops.sum_of_squares(all::<O>(&g2)),
        expected,
        "sum of squares",
    );
    Plain.adamw(&mut w, &mut m, &mut v, &g, step, &decayed);
    ops.adamw(&mut weights, &mut m2, &mut v2, &g2, step, &decayed);
    same(&values(ops, O::values(&weights)), &w, "weights");
    same(&values(ops, &m2), &m, "first moment");
    same(&values(ops, &v2), &v, "second moment");
}

/// `f(x + εu) − f(x − εu)` over `2ε` against `⟨gradient, u⟩`.
fn differs_as(gradient: &[f32], x: &[f32], f: impl Fn(&[f32]) -> f64, what: &str) {
    let direction = draw("direction", x.len());
    let moved = |step: f32| -> Vec<f32> {
        x.iter()
            .zip(&direction)
            .map(|(x, u)| x + step * u)
            .collect()
    };
    let step = 2e-3;
    let measured = (f(&moved(step)) - f(&moved(-step))) / f64::from(2.0 * step);
    let expected: f64 = (gradient.iter().zip(&direction))
        .map(|(g, u)| f64::from(*g) * f64::from(*u))
        .sum();
    let size = gradient
        .iter()
        .fold(0.0f64, |a, g| a + f64::from(*g).powi(2))
        .sqrt();
    assert!(
        (measured - expected).abs() <= 5e-3 * size,
        "{what}: {measured} {expected}"
    );
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter()
        .zip(b)
        .map(|(a, b)| f64::from(*a) * f64::from(*b))
        .sum()
}

#[test]
fn gradients_of_the_plain_list_agree_with_finite_differences() {
    let (n, d) = (5, 6);
    let (x, w, pull) = (draw("x", n * d), draw("w", d), draw("pull", n * d));
    let norm = |x: &[f32], w: &[f32]| {
        let (mut y, mut scale) = (vec![0.0; n * d], vec![0.0; n]);
        Plain.rms_norm(&mut y, &mut scale, x, w, 1e-5);
        (y, scale)
    };
    let (mut dx, mut dw) = (vec![0.0; n * d], vec![0.0; d]);
    Plain.rms_norm_backward(&mut dx, &mut dw, &pull, &x, &w, &norm(&x, &w).1);
    differs_as(&dx, &x, |x| dot(&norm(x, &w).0, &pull), "rms_norm x");
    differs_as(&dw, &w, |w| dot(&norm(&x, w).0, &pull), "rms_norm w");

    let f = 4;
    let (gate_up, pull) = (draw("gate up", n * 2 * f), draw("pull", n * f));
    let (mut gradient, mut act) = (gate_up.clone(), vec![0.0; n * f]);
    Plain.swiglu_backward(&mut gradient, &mut act, &pull, f);
    let forward = |x: &[f32]| {
        let mut act = vec![0.0; n * f];
        Plain.swiglu(&mut act, x, f);
        dot(&act, &pull)
    };
    differs_as(&gradient, &gate_up, forward, "swiglu");

    let heads = heads(4, 2, 4);
    let (batch, rope) = (packed(&[7, 1, 3]), rope(4, 7));
    let (n, places) = (batch.len(), Plain.places(&batch, &rope));
    let (qkv, pull) = (
        draw("qkv", n * heads.width()),
        draw("pull", n * heads.queries()),
    );
    let attend = |qkv: &[f32]| {
        let (mut out, mut lse) = (vec![0.0; n * heads.queries()], vec![0.0; n * heads.heads]);
        Plain.attention(&mut out, &mut lse, qkv, heads, &places);
        (out, lse)
    };
    let (out, lse) = attend(&qkv);
    let mut gradient = vec![0.0; qkv.len()];
    Plain.attention_backward(&mut gradient, &pull, &out, &lse, &qkv, heads, &places);
    differs_as(
        &gradient,
        &qkv,
        |qkv| dot(&attend(qkv).0, &pull),
        "attention",
    );
}
