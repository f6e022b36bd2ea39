//! What losses over logits count, and what they can be told. The arithmetic is the backend's (`ops`).
//!
//! Weights (1 / N) are the caller's: N counts the loss tokens of the whole optimiser step (recipe.md 0).

/// Sums over rows, unweighted, in nats.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Sums {
    /// Σ −ln p(target)
    pub cross_entropy: f64,
    /// Σ (ln Z)², of z-loss
    pub z: f64,
    /// Σ KL(teacher ‖ student)
    pub divergence: f64,
    /// Rows whose largest logit is the target.
    pub correct: u64,
}

impl std::ops::AddAssign for Sums {
    fn add_assign(&mut self, other: Self) {
        self.cross_entropy += other.cross_entropy;
        self.z += other.z;
        self.divergence += other.divergence;
        self.correct += other.correct;
    }
}

impl std::iter::Sum for Sums {
    fn sum<I: Iterator<Item = Self>>(rows: I) -> Self {
        rows.fold(Self::default(), |mut total, row| {
            total += row;
            total
        })
    }
}

/// How a student follows a teacher.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Distillation {
    /// Both softmaxes are taken at this temperature.
    pub temperature: f64,
    /// Share of the divergence, the rest is cross entropy.
    pub kd_weight: f64,
    /// Multiply the divergence by the square of the temperature.
    pub scale_by_squared_temperature: bool,
}
