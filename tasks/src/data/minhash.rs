//! MinHash signatures as datatrove 0.10 makes them for FineWeb-2: 14 buckets of 8 hashes over word 5-grams, xxHash64.
//!
//! `pipeline/dedup/minhash.py`. The product of shingle and multiplier wraps at 64 bits *before* the modulus, so this
//! is not the textbook universal hash. Knows nothing of clusters.

use std::sync::LazyLock;

use crate::data::text::{hash, simplify, words};

pub const BUCKETS: usize = 14;
pub const HASHES_PER_BUCKET: usize = 8;
pub const N_GRAM: usize = 5;
const HASHES: usize = BUCKETS * HASHES_PER_BUCKET;
const PRIME: u64 = (1 << 61) - 1;
const SEED: u32 = 1;

/// The smallest value of each hash over all shingles, bucket by bucket.
pub type Signature = [[u64; HASHES_PER_BUCKET]; BUCKETS];

/// The signature of a text; none where it has fewer than five words.
pub fn signature(text: &str) -> Option<Signature> {
    let simplified = simplify(text);
    let shingles = shingles(&simplified);
    if shingles.is_empty() {
        return None;
    }
    let mut smallest = [u64::MAX; HASHES];
    for shingle in shingles {
        for (value, (a, b)) in smallest.iter_mut().zip(PARAMETERS.iter()) {
            *value = (*value).min(modulo(shingle.wrapping_mul(*a).wrapping_add(*b)));
        }
    }
    let mut signature = [[0; HASHES_PER_BUCKET]; BUCKETS];
    for (bucket, values) in signature.iter_mut().zip(smallest.chunks(HASHES_PER_BUCKET)) {
        bucket.copy_from_slice(values);
    }
    Some(signature)
}

/// `x mod (2^61 - 1)`: a Mersenne prime needs no division.
fn modulo(x: u64) -> u64 {
    let folded = (x & PRIME) + (x >> 61);
    if folded >= PRIME {
        folded - PRIME
    } else {
        folded
    }
}

fn shingles(simplified: &str) -> Vec<u64> {
    words(simplified)
        .windows(N_GRAM)
        .map(|words| hash(&words.join(" ")))
        .collect()
}

/// Multipliers and offsets: `RandomState(1).randint(1 | 0, 2^61 - 1, dtype=uint64, size=(1, 112))` of numpy.
pub static PARAMETERS: LazyLock<Vec<(u64, u64)>> = LazyLock::new(|| {
    let mut generator = MersenneTwister::new(SEED);
    let a: Vec<u64> = (0..HASHES)
        .map(|_| 1 + generator.below_or_equal(PRIME - 2))
        .collect();
    let b = (0..HASHES).map(|_| generator.below_or_equal(PRIME - 1));
    a.into_iter().zip(b).collect()
});

/// MT19937 with numpy's legacy seeding and its masked rejection for bounded integers.
struct MersenneTwister {
    state: [u32; Self::N],
    at: usize,
}

impl MersenneTwister {
    const N: usize = 624;
    const M: usize = 397;

    fn new(seed: u32) -> Self {
        let mut state = [seed; Self::N];
        for i in 1..Self::N {
            let before = state[i - 1];
            state[i] = (before ^ (before >> 30))
                .wrapping_mul(1_812_433_253)
                .wrapping_add(i as u32);
        }
        Self { state, at: Self::N }
    }

    fn refill(&mut self) {
        for i in 0..Self::N {
            let next = self.state[(i + 1) % Self::N];
            let y = (self.state[i] & 0x8000_0000) | (next & 0x7fff_ffff);
            let twist = if y & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[i] = self.state[(i + Self::M) % Self::N] ^ (y >> 1) ^ twist;
        }
        self.at = 0;
    }

    fn next_u32(&mut self) -> u32 {
        if self.at == Self::N {
            self.refill();
        }
        let mut y = self.state[self.at];
        self.at += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    fn next_u64(&mut self) -> u64 {
        let high = u64::from(self.next_u32());
        high << 32 | u64::from(self.next_u32())
    }

    /// Uniform in `0..=max`, for a `max` above `u32::MAX`.
    fn below_or_equal(&mut self, max: u64) -> u64 {
        let mask = u64::MAX >> max.leading_zeros();
        loop {
            let value = self.next_u64() & mask;
            if value <= max {
                return value;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generator_is_mt19937() {
        // Matsumoto and Nishimura's generator, seed 5489: the 10,000th output is known.
        let mut generator = MersenneTwister::new(5489);
        let last = (0..10_000).map(|_| generator.next_u32()).last();
        assert_eq!(last, Some(4_123_659_995));
    }

    proptest::proptest! {
        #[test]
        fn the_modulus_is_the_modulus(x: u64) {
            for x in [x, x | PRIME, u64::MAX, PRIME, PRIME - 1, 0] {
                proptest::prop_assert_eq!(modulo(x), x % PRIME);
            }
        }
    }

    #[test]
    fn equal_texts_have_equal_signatures_and_short_ones_none() {
        let text = "one two three four five six";
        assert_eq!(signature(text), signature("One, two; THREE four five six!"));
        assert_ne!(signature(text), signature("one two three four five seven"));
        assert_eq!(signature("one two three four"), None);
    }
}
