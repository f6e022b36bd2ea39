//! Losses over chunks of logits: value in f64, gradient in place of the logits; rows in parallel, sums in the order of
//! rows.

use rayon::prelude::*;

use super::row;
use crate::model::loss::{Distillation, Sums};

/// `ln Σ e^x` of a row.
pub fn log_sum_exp(logits: &[f32]) -> f64 {
    let shift = row::maximum(logits);
    f64::from(shift) + f64::from(row::sum_of_exponentials(logits, 1.0, shift)).ln()
}

/// Cross entropy with z-loss. `logits [n, V]`, one target per row.
///
/// With a gradient wanted, logits become `weight · d(CE + z_loss · (ln Z)²)`; else they stay.
pub fn cross_entropy(
    logits: &mut [f32],
    targets: &[u32],
    weight: f64,
    z_loss: f64,
    gradient: bool,
) -> Sums {
    let vocabulary = width(logits, targets.len());
    let rows: Vec<Sums> = (logits.par_chunks_mut(vocabulary.max(1)).zip(targets))
        .map(|(row, target)| cross_entropy_row(row, *target as usize, weight, z_loss, gradient))
        .collect();
    rows.into_iter().sum()
}

fn cross_entropy_row(
    logits: &mut [f32],
    target: usize,
    weight: f64,
    z_loss: f64,
    gradient: bool,
) -> Sums {
    let shift = row::maximum(logits);
    let chosen = logits[target];
    let sum = if gradient {
        row::exponentials(logits, 1.0, shift)
    } else {
        row::sum_of_exponentials(logits, 1.0, shift)
    };
    let log_z = f64::from(shift) + f64::from(sum).ln();
    if gradient {
        let slope = weight * (1.0 + 2.0 * z_loss * log_z) / f64::from(sum);
        row::scale(logits, slope as f32);
        logits[target] -= weight as f32;
    }
    Sums {
        cross_entropy: log_z - f64::from(chosen),
        z: log_z * log_z,
        divergence: 0.0,
        correct: u64::from(chosen >= shift),
    }
}

/// Forward KL to a teacher, mixed with cross entropy: `α KL(p_T ‖ p_S) + (1 − α) CE`. Both logits `[n, V]`.
///
/// With a gradient wanted, student logits become `weight` times their gradient; else they stay.
pub fn distillation(
    student: &mut [f32],
    teacher: &[f32],
    targets: &[u32],
    options: Distillation,
    weight: f64,
    gradient: bool,
) -> Sums {
    assert_eq!(student.len(), teacher.len(), "two vocabularies");
    let vocabulary = width(student, targets.len()).max(1);
    let rows: Vec<Sums> = (student.par_chunks_mut(vocabulary))
        .zip(teacher.par_chunks(vocabulary))
        .zip(targets)
        .map(|((student, teacher), target)| {
            distillation_row(
                student,
                teacher,
                *target as usize,
                options,
                weight,
                gradient,
            )
        })
        .collect();
    rows.into_iter().sum()
}

fn distillation_row(
    student: &mut [f32],
    teacher: &[f32],
    target: usize,
    options: Distillation,
    weight: f64,
    gradient: bool,
) -> Sums {
    let cold = 1.0 / options.temperature;
    let tempered = |logits: &[f32]| {
        let scale = cold as f32;
        let shift = row::maximum(logits) * scale;
        let sum = row::sum_of_exponentials(logits, scale, shift);
        f64::from(shift) + f64::from(sum).ln()
    };
    let (log_z_student, log_z_teacher) = (tempered(student), tempered(teacher));
    let log_z = if options.temperature == 1.0 {
        log_z_student
    } else {
        log_sum_exp(student)
    };
    let squared = if options.scale_by_squared_temperature {
        options.temperature * options.temperature
    } else {
        1.0
    };
    let pulled = weight * options.kd_weight * squared * cold;
    let taught = weight * (1.0 - options.kd_weight);
    let largest = row::maximum(student);
    let chosen = student[target];
    let mut divergence = 0.0;
    for (s, t) in student.iter_mut().zip(teacher) {
        let (logit, teacher_logit) = (f64::from(*s), f64::from(*t));
        let log_t = cold * teacher_logit - log_z_teacher;
        let log_s = cold * logit - log_z_student;
        let p_t = f64::from(row::exp(log_t as f32));
        divergence += p_t * (log_t - log_s);
        if gradient {
            let p_s = f64::from(row::exp(log_s as f32));
            let p = if taught == 0.0 {
                0.0
            } else {
                f64::from(row::exp((logit - log_z) as f32))
            };
            *s = (pulled * (p_s - p_t) + taught * p) as f32;
        }
    }
    if gradient {
        student[target] -= taught as f32;
    }
    Sums {
        cross_entropy: log_z - f64::from(chosen),
        z: log_z * log_z,
        divergence,
        correct: u64::from(chosen >= largest),
    }
}

/// `ln p(target)` of every row of `logits [n, V]`.
pub fn log_probabilities(logits: &[f32], targets: &[u32]) -> Vec<f64> {
    let vocabulary = width(logits, targets.len()).max(1);
    (logits.par_chunks(vocabulary).zip(targets))
        .map(|(row, target)| f64::from(row[*target as usize]) - log_sum_exp(row))
        .collect()
}

/// Replaces `logits [n, V]` by the gradient of `Σ coefficientᵢ · ln pᵢ(targetᵢ)`.
pub fn log_probability_gradient(logits: &mut [f32], targets: &[u32], coefficients: &[f64]) {
    let vocabulary = width(logits, targets.len()).max(1);
    (logits.par_chunks_mut(vocabulary).zip(targets))
        .zip(coefficients)
        .for_each(|((row, target), coefficient)| {
            let shift = row::maximum(row);
            let sum = row::exponentials(row, 1.0, shift);
            row::scale(row, (-coefficient / f64::from(sum)) as f32);
            row[*target as usize] += *coefficient as f32;
        });
}

fn width(logits: &[f32], rows: usize) -> usize {
    if rows == 0 {
        assert!(logits.is_empty(), "logits without targets");
        return 0;
    }
    assert_eq!(logits.len() % rows, 0, "one target per row of logits");
    logits.len() / rows
}
