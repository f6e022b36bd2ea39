//! Random numbers that are a pure function of where they are used: Philox 4x32-10 as a counter-based generator.
//!
//! A number is named by (seed, stream, step, index), so that it does not depend on threads, batches or on what was
//! drawn before, and a resumed run draws the same. Source: Salmon et al. 2011, "Parallel random numbers: as easy as
//! 1, 2, 3"; the `rand` family of crates offers streams, not a stateless function of a counter.

/// One stream of random numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rng {
    key: [u32; 2],
}

impl Rng {
    /// The stream of this name under `seed`. Streams of different names are independent.
    pub fn new(seed: u64, stream: &str) -> Self {
        Self::from_bytes(seed, stream.as_bytes())
    }

    /// The stream named by any bytes.
    pub fn from_bytes(seed: u64, stream: &[u8]) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&seed.to_le_bytes());
        hasher.update(stream);
        let digest = hasher.finalize();
        let word = |at: usize| {
            u32::from_le_bytes(
                digest.as_bytes()[at..at + 4]
                    .try_into()
                    .expect("four bytes"),
            )
        };
        Self {
            key: [word(0), word(4)],
        }
    }

    /// 128 random bits.
    pub fn block(&self, step: u64, index: u64) -> [u32; 4] {
        let split = |word: u64| [word as u32, (word >> 32) as u32];
        let ([a, b], [c, d]) = (split(index), split(step));
        philox([a, b, c, d], self.key)
    }

    /// 64 random bits.
    pub fn bits(&self, step: u64, index: u64) -> u64 {
        let [a, b, ..] = self.block(step, index);
        u64::from(a) | u64::from(b) << 32
    }

    /// Uniform in [0, 1), 53 bits.
    pub fn uniform(&self, step: u64, index: u64) -> f64 {
        unit(self.bits(step, index))
    }

    /// Standard normal (Box-Muller).
    pub fn normal(&self, step: u64, index: u64) -> f64 {
        let [a, b, c, d] = self.block(step, index);
        let radius = 1.0 - unit(u64::from(a) | u64::from(b) << 32);
        let angle = unit(u64::from(c) | u64::from(d) << 32);
        (-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * angle).cos()
    }

    /// Uniform in 0..n (n > 0); the bias of at most n / 2^64 is ignored.
    pub fn below(&self, step: u64, index: u64, n: u64) -> u64 {
        ((u128::from(self.bits(step, index)) * u128::from(n)) >> 64) as u64
    }

    /// A permutation of 0..n (Fisher-Yates).
    pub fn permutation(&self, step: u64, n: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..n).collect();
        for last in (1..n).rev() {
            let other = self.below(step, last as u64, last as u64 + 1) as usize;
            order.swap(last, other);
        }
        order
    }
}

fn unit(bits: u64) -> f64 {
    (bits >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
}

fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for round in 0..10 {
        if round > 0 {
            key[0] = key[0].wrapping_add(0x9E37_79B9);
            key[1] = key[1].wrapping_add(0xBB67_AE85);
        }
        let first = u64::from(counter[0]) * 0xD251_1F53;
        let second = u64::from(counter[2]) * 0xCD9E_8D57;
        counter = [
            (second >> 32) as u32 ^ counter[1] ^ key[0],
            second as u32,
            (first >> 32) as u32 ^ counter[3] ^ key[1],
            first as u32,
        ];
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_agrees_with_the_published_test_vectors() {
        // Random123 kat_vectors, philox4x32 10.
        assert_eq!(
            philox([0; 4], [0; 2]),
            [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]
        );
        assert_eq!(
            philox([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox(
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0]
            ),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn normals_have_the_moments_of_a_normal() {
        let rng = Rng::new(7, "test");
        let n = 20_000;
        let draws: Vec<f64> = (0..n).map(|index| rng.normal(0, index)).collect();
        let moment = |power: i32| draws.iter().map(|x| x.powi(power)).sum::<f64>() / n as f64;
        assert!(moment(1).abs() < 0.02);
        assert!((moment(2) - 1.0).abs() < 0.03);
        assert!((moment(4) - 3.0).abs() < 0.2);
    }

    #[test]
    fn streams_steps_and_seeds_differ() {
        let rng = Rng::new(1, "a");
        assert_ne!(rng.bits(0, 0), Rng::new(1, "b").bits(0, 0));
        assert_ne!(rng.bits(0, 0), Rng::new(2, "a").bits(0, 0));
        assert_ne!(rng.bits(0, 0), rng.bits(1, 0));
        assert_eq!(rng.bits(3, 4), Rng::new(1, "a").bits(3, 4));
    }

    #[test]
    fn permutations_are_permutations() {
        let order = Rng::new(1, "p").permutation(5, 100);
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..100).collect::<Vec<_>>());
        assert_ne!(order, sorted);
        assert_ne!(order, Rng::new(1, "p").permutation(6, 100));
        assert!(Rng::new(1, "p").permutation(0, 0).is_empty());
    }
}
