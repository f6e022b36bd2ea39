//! Divergences between a teacher's and a student's distribution over one position (recipe 7).
//!
//! Plain f64 functions of two rows of logits, with the gradient by the student's logits: the specification of what
//! training computes in chunks. `p` is the teacher's distribution, `q` the student's, both at temperature T.

/// A divergence of one position.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Divergence {
    /// Σ p (ln p − ln q): Minitron, Kanana.
    ForwardKl,
    /// Σ q (ln q − ln p).
    ReverseKl,
    /// β·KL(p‖m) + (1−β)·KL(q‖m) with m = (1−β)q + βp (TRL GKD).
    Gjsd { beta: f64 },
    /// −Σ p ln q: not zero at equality.
    TeacherCrossEntropy,
    /// ½ Σ |p − q|.
    TotalVariation,
    /// KL of both restricted to the teacher's k most likely tokens and renormalised (modelopt).
    TopKRenormBoth { k: usize },
    /// Teacher renormalised over its top k against the full student (DistillKit `ZERO`): not zero at equality.
    TopKTeacherRenorm { k: usize },
    /// The teacher's top k and one bucket for all other tokens (DistillKit `SYMMETRIC_UNIFORM`).
    TopKTailBucket { k: usize },
    /// Mean squared difference of the logits.
    LogitMse,
}

/// Value of the divergence and its gradient by the student's logits (chain rule through 1/T included).
pub fn divergence(
    kind: Divergence,
    temperature: f64,
    teacher: &[f64],
    student: &[f64],
) -> (f64, Vec<f64>) {
    if kind == Divergence::LogitMse {
        return logit_mse(teacher, student);
    }
    let log_p = log_softmax(teacher, temperature);
    let log_q = log_softmax(student, temperature);
    let (value, mut gradient) = match kind {
        Divergence::ForwardKl => forward_kl(&log_p, &log_q),
        Divergence::TeacherCrossEntropy => {
            let (kl, gradient) = forward_kl(&log_p, &log_q);
            (kl + entropy(&log_p), gradient)
        }
        Divergence::ReverseKl => {
            let score: Vec<f64> = zip(&log_q, &log_p, |q, p| q - p + 1.0);
            (
                sum(zip(&log_q, &log_p, |q, p| q.exp() * (q - p))),
                by_logits(&log_q, &score),
            )
        }
        Divergence::Gjsd { beta } => gjsd(beta, &log_p, &log_q),
        Divergence::TotalVariation => {
            let score = zip(&log_q, &log_p, |q, p| 0.5 * (q.exp() - p.exp()).signum());
            let value = 0.5 * sum(zip(&log_q, &log_p, |q, p| (q.exp() - p.exp()).abs()));
            (value, by_logits(&log_q, &score))
        }
        Divergence::TopKRenormBoth { k } => top_k_renorm_both(&top(&log_p, k), &log_p, &log_q),
        Divergence::TopKTeacherRenorm { k } => {
            top_k_teacher_renorm(&top(&log_p, k), &log_p, &log_q)
        }
        Divergence::TopKTailBucket { k } => top_k_tail_bucket(&top(&log_p, k), &log_p, &log_q),
        Divergence::LogitMse => unreachable!("handled above"),
    };
    gradient.iter_mut().for_each(|g| *g /= temperature);
    (value, gradient)
}

/// `x − max − ln Σ exp(x − max)` of logits over a temperature.
pub fn log_softmax(logits: &[f64], temperature: f64) -> Vec<f64> {
    let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max) / temperature;
    let log_sum = logits
        .iter()
        .map(|x| (x / temperature - max).exp())
        .sum::<f64>()
        .ln();
    logits
        .iter()
        .map(|x| x / temperature - max - log_sum)
        .collect()
}

fn zip(one: &[f64], two: &[f64], f: impl Fn(f64, f64) -> f64) -> Vec<f64> {
    one.iter().zip(two).map(|(&x, &y)| f(x, y)).collect()
}

fn sum(values: Vec<f64>) -> f64 {
    values.iter().sum()
}

fn entropy(log_p: &[f64]) -> f64 {
    -log_p.iter().map(|p| p.exp() * p).sum::<f64>()
}

/// Gradient by the logits of q of a value whose derivative by each q_i is `score_i`: q_i (score_i − Σ q score).
fn by_logits(log_q: &[f64], score: &[f64]) -> Vec<f64> {
    let mean = sum(zip(log_q, score, |q, s| q.exp() * s));
    zip(log_q, score, |q, s| q.exp() * (s - mean))
}

fn forward_kl(log_p: &[f64], log_q: &[f64]) -> (f64, Vec<f64>) {
    (
        sum(zip(log_p, log_q, |p, q| p.exp() * (p - q))),
        zip(log_p, log_q, |p, q| q.exp() - p.exp()),
    )
}

fn gjsd(beta: f64, log_p: &[f64], log_q: &[f64]) -> (f64, Vec<f64>) {
    let log_m = zip(log_p, log_q, |p, q| {
        ((1.0 - beta) * q.exp() + beta * p.exp()).ln()
    });
    let to_m = |x: &[f64]| sum(zip(x, &log_m, |x, m| x.exp() * (x - m)));
    // The parts of the derivative that come through m cancel up to a constant, which by_logits removes.
    let score = zip(log_q, &log_m, |q, m| (1.0 - beta) * (q - m));
    (
        beta * to_m(log_p) + (1.0 - beta) * to_m(log_q),
        by_logits(log_q, &score),
    )
}

fn logit_mse(teacher: &[f64], student: &[f64]) -> (f64, Vec<f64>) {
    let n = student.len() as f64;
    (
        sum(zip(student, teacher, |s, t| (s - t) * (s - t))) / n,
        zip(student, teacher, |s, t| 2.0 * (s - t) / n),
    )
}

/// Indices of the k largest values, the lower index first on ties.
fn top(values: &[f64], k: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[b].total_cmp(&values[a]).then(a.cmp(&b)));
    order.truncate(k);
    order
}

fn pick(values: &[f64], kept: &[usize]) -> Vec<f64> {
    kept.iter().map(|&index| values[index]).collect()
}

fn scatter(values: &[f64], kept: &[usize], length: usize) -> Vec<f64> {
    let mut out = vec![0.0; length];
    kept.iter()
        .zip(values)
        .for_each(|(&index, value)| out[index] = *value);
    out
}

fn top_k_renorm_both(kept: &[usize], log_p: &[f64], log_q: &[f64]) -> (f64, Vec<f64>) {
    let p = log_softmax(&pick(log_p, kept), 1.0);
    let q = log_softmax(&pick(log_q, kept), 1.0);
    let (value, gradient) = forward_kl(&p, &q);
    (value, scatter(&gradient, kept, log_q.len()))
}

fn top_k_teacher_renorm(kept: &[usize], log_p: &[f64], log_q: &[f64]) -> (f64, Vec<f64>) {
    let p = log_softmax(&pick(log_p, kept), 1.0);
    let value = sum(zip(&p, &pick(log_q, kept), |p, q| p.exp() * (p - q)));
    let dense: Vec<f64> = p.iter().map(|p| p.exp()).collect();
    let dense = scatter(&dense, kept, log_q.len());
    (value, zip(log_q, &dense, |q, p| q.exp() - p))
}

fn top_k_tail_bucket(kept: &[usize], log_p: &[f64], log_q: &[f64]) -> (f64, Vec<f64>) {
    let mut in_head = vec![false; log_q.len()];
    kept.iter().for_each(|&index| in_head[index] = true);
    let tail = |log: &[f64]| -> f64 {
        let outside = log.iter().zip(&in_head).filter(|(_, head)| !**head);
        outside.map(|(x, _)| x.exp()).sum()
    };
    let (p_tail, q_tail) = (tail(log_p), tail(log_q));
    let head = sum(zip(&pick(log_p, kept), &pick(log_q, kept), |p, q| {
        p.exp() * (p - q)
    }));
    if p_tail == 0.0 {
        return (head, forward_kl(log_p, log_q).1);
    }
    let share = p_tail / q_tail;
    let gradient = (0..log_q.len())
        .map(|i| {
            let target = if in_head[i] {
                log_p[i].exp()
            } else {
                log_q[i].exp() * share
            };
            log_q[i].exp() - target
        })
        .collect();
    (head + p_tail * share.ln(), gradient)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Divergence; 9] = [
        Divergence::ForwardKl,
        Divergence::ReverseKl,
        Divergence::Gjsd { beta: 0.3 },
        Divergence::TeacherCrossEntropy,
        Divergence::TotalVariation,
        Divergence::TopKRenormBoth { k: 3 },
        Divergence::TopKTeacherRenorm { k: 3 },
        Divergence::TopKTailBucket { k: 3 },
        Divergence::LogitMse,
    ];
    const TEACHER: [f64; 5] = [0.3, -1.2, 2.0, 0.9, -0.4];
    const STUDENT: [f64; 5] = [1.1, 0.2, -0.7, 0.5, 0.0];

    #[test]
    fn gradients_are_the_slopes() {
        for kind in ALL {
            for temperature in [1.0, 2.0] {
                let (_, gradient) = divergence(kind, temperature, &TEACHER, &STUDENT);
                for i in 0..STUDENT.len() {
                    let at = |h: f64| {
                        let mut moved = STUDENT;
                        moved[i] += h;
                        divergence(kind, temperature, &TEACHER, &moved).0
                    };
                    let slope = (at(1e-6) - at(-1e-6)) / 2e-6;
                    assert!((gradient[i] - slope).abs() < 1e-6, "{kind:?} {i}");
                }
            }
        }
    }

    #[test]
    fn a_divergence_is_never_negative() {
        for kind in ALL {
            assert!(
                divergence(kind, 1.0, &TEACHER, &STUDENT).0 >= -1e-15,
                "{kind:?}"
            );
        }
    }
}
