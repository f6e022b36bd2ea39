//! Floating-point operations of a chain of models: `6 · parameters · tokens` for each stage, with the parameters of
//! that stage (Kaplan et al. 2020; what Kanana reports, arXiv 2502.18934 page 2).
//!
//! Teacher and reference passes are listed beside the student's, never mixed in: Kanana leaves them out.

use serde::{Deserialize, Serialize};

/// One stage of a chain: so many tokens through a model of this size.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stage {
    pub name: String,
    /// All weights, embeddings included.
    pub parameters: f64,
    pub tokens: f64,
    /// Operations of teachers and references beside the training.
    #[serde(default)]
    pub extra_flops: f64,
}

impl Stage {
    pub fn new(name: &str, parameters: f64, tokens: f64) -> Self {
        Self {
            name: name.to_owned(),
            parameters,
            tokens,
            extra_flops: 0.0,
        }
    }

    /// `6 N D`
    pub fn flops(&self) -> f64 {
        6.0 * self.parameters * self.tokens
    }
}

/// Training operations of all stages, each with its own size.
pub fn flops(stages: &[Stage]) -> f64 {
    stages.iter().map(Stage::flops).sum()
}

/// Operations of teachers and references in all stages.
pub fn extra_flops(stages: &[Stage]) -> f64 {
    stages.iter().map(|stage| stage.extra_flops).sum()
}

/// Share of the operations of `baseline` that `stages` save.
pub fn saving(stages: &[Stage], baseline: &[Stage]) -> f64 {
    1.0 - flops(stages) / flops(baseline)
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: f64 = 1e12;
    const B: f64 = 1e9;

    fn stage(size: f64, tokens: f64) -> Stage {
        Stage::new("", size * B, tokens * T)
    }

    #[test]
    fn kananas_depth_up_scaling_saves_11_06_percent() {
        let chain = [
            stage(8.0, 3.0),
            stage(9.8, 0.2),
            stage(26.8, 3.0),
            stage(32.5, 0.2),
        ];
        let scratch = [stage(9.8, 3.0), stage(32.5, 3.0)];
        assert!((saving(&chain, &scratch) - 0.110_64).abs() < 5e-6);
        let (small, large) = (
            saving(&chain[..2], &scratch[..1]),
            saving(&chain[2..], &scratch[1..]),
        );
        assert!((small - 0.1170).abs() < 5e-5 && (large - 0.1087).abs() < 5e-5);
        let share = (flops(&chain[1..2]) + flops(&chain[3..])) / flops(&chain);
        assert!((share - 0.0750).abs() < 5e-5);
    }

    #[test]
    fn kananas_flops_table_to_the_plotted_precision() {
        let table: [(&[(f64, f64)], f64); 8] = [
            (&[(26.8, 3.0), (32.5, 0.2)], 5.214e23),
            (&[(8.0, 3.0), (9.8, 0.2)], 1.5576e23),
            (&[(2.1, 0.3)], 3.78e21),
            (&[(70.0, 15.0)], 6.30e24),
            (&[(8.0, 15.0)], 7.20e23),
            (&[(32.0, 18.0)], 3.456e24),
            (&[(9.0, 8.0)], 4.32e23),
            (&[(7.8, 9.0)], 4.212e23),
        ];
        for (stages, want) in table {
            let stages: Vec<Stage> = stages.iter().map(|(n, d)| stage(*n, *d)).collect();
            assert!((flops(&stages) / want - 1.0).abs() < 1e-3, "{want}");
        }
    }

    #[test]
    fn one_size_for_all_tokens_is_the_wrong_sum() {
        let per_segment = flops(&[stage(8.0, 3.0), stage(9.8, 0.2)]);
        let naive = flops(&[stage(9.8, 3.2)]);
        assert!((naive / 1.88e23 - 1.0).abs() < 1e-2 && naive > 1.15 * per_segment);
    }

    #[test]
    fn the_whole_nano_chain_with_its_teachers() {
        let teacher = 2.0 * 8.0 * B * 0.3 * T;
        let mut chain = [stage(4.5, 0.3), stage(2.1, 0.3)];
        for stage in &mut chain {
            stage.extra_flops = teacher;
        }
        let all = flops(&chain) + extra_flops(&chain);
        let scratch = flops(&[stage(2.1, 3.0)]);
        assert!((all / 2.15e22 - 1.0).abs() < 5e-3);
        assert!((scratch / all - 1.76).abs() < 0.01);
    }
}
