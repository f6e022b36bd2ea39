//! Arithmetic on rows: dot products, maxima, exponentials. Compiled per instruction set and chosen at run time.
//!
//! Sums run in fixed lanes and end in a fixed tree, so that every instruction set adds in the same order. The
//! functions hold no closures: a closure would lose the target features of the function around it.

use super::isa::kernels;

const LANES: usize = 16;

#[inline(always)]
fn tree(lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    let mut lanes = lanes;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// `e^x` to about 1e-7 relative; 0 below −87. (The range reduction and polynomial of Cephes `expf`.)
#[inline(always)]
#[allow(clippy::excessive_precision)]
pub fn exp(x: f32) -> f32 {
    const MAGIC: f32 = 12_582_912.0;
    let clamped = x.clamp(-87.0, 88.0);
    let shifted = clamped.mul_add(std::f32::consts::LOG2_E, MAGIC);
    let rounded = shifted - MAGIC;
    let reduced = rounded.mul_add(-0.693_359_375, clamped);
    let r = rounded.mul_add(2.121_944_4e-4, reduced);
    let p = 1.987_569_1e-4f32;
    let p = p.mul_add(r, 1.398_199_9e-3);
    let p = p.mul_add(r, 8.333_451_9e-3);
    let p = p.mul_add(r, 4.166_579_6e-2);
    let p = p.mul_add(r, 1.666_666_5e-1);
    let p = p.mul_add(r, 5.0e-1);
    let y = p.mul_add(r * r, r) + 1.0;
    // The low bits of `shifted` are the rounded exponent; the rest is shifted out.
    let scale = f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23));
    if x < -87.0 { 0.0 } else { y * scale }
}

kernels! {
    /// `Σ aᵢ bᵢ`
    pub fn dot(a: &[f32], b: &[f32]) -> f32 {
        let (a_chunks, a_rest) = a.as_chunks::<LANES>();
        let (b_chunks, b_rest) = b.as_chunks::<LANES>();
        let mut sums = [0.0f32; LANES];
        for (a, b) in a_chunks.iter().zip(b_chunks) {
            for lane in 0..LANES {
                sums[lane] = a[lane].mul_add(b[lane], sums[lane]);
            }
        }
        for (lane, (a, b)) in a_rest.iter().zip(b_rest).enumerate() {
            sums[lane] = a.mul_add(*b, sums[lane]);
        }
        tree(sums)
    }
}

kernels! {
    /// The largest value; −∞ of nothing.
    pub fn maximum(x: &[f32]) -> f32 {
        let (chunks, rest) = x.as_chunks::<LANES>();
        let mut largest = [f32::NEG_INFINITY; LANES];
        for chunk in chunks {
            for lane in 0..LANES {
                largest[lane] = if chunk[lane] > largest[lane] {
                    chunk[lane]
                } else {
                    largest[lane]
                };
            }
        }
        for (lane, value) in rest.iter().enumerate() {
            largest[lane] = if *value > largest[lane] {
                *value
            } else {
                largest[lane]
            };
        }
        let mut result = largest[0];
        for value in &largest[1..] {
            result = if *value > result { *value } else { result };
        }
        result
    }
}

kernels! {
    /// `x ← e^(scale · x − shift)`; their sum.
    pub fn exponentials(x: &mut [f32], scale: f32, shift: f32) -> f32 {
        let (chunks, rest) = x.as_chunks_mut::<LANES>();
        let mut sums = [0.0f32; LANES];
        for chunk in chunks {
            for lane in 0..LANES {
                let value = exp(chunk[lane].mul_add(scale, -shift));
                chunk[lane] = value;
                sums[lane] += value;
            }
        }
        for (lane, value) in rest.iter_mut().enumerate() {
            *value = exp(value.mul_add(scale, -shift));
            sums[lane] += *value;
        }
        tree(sums)
    }
}

kernels! {
    /// `Σ e^(scale · x − shift)`
    pub fn sum_of_exponentials(x: &[f32], scale: f32, shift: f32) -> f32 {
        let (chunks, rest) = x.as_chunks::<LANES>();
        let mut sums = [0.0f32; LANES];
        for chunk in chunks {
            for lane in 0..LANES {
                sums[lane] += exp(chunk[lane].mul_add(scale, -shift));
            }
        }
        for (lane, value) in rest.iter().enumerate() {
            sums[lane] += exp(value.mul_add(scale, -shift));
        }
        tree(sums)
    }
}

kernels! {
    /// `x ← a x`
    pub fn scale(x: &mut [f32], a: f32) {
        for x in x {
            *x *= a;
        }
    }
}

kernels! {
    /// `y += x`
    pub fn add(y: &mut [f32], x: &[f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y += x;
        }
    }
}

kernels! {
    /// `Σ xᵢ²` in f64.
    pub fn sum_of_squares(x: &[f32]) -> f64 {
        let (chunks, rest) = x.as_chunks::<LANES>();
        let mut sums = [0.0f64; LANES];
        for chunk in chunks {
            for lane in 0..LANES {
                let value = f64::from(chunk[lane]);
                sums[lane] += value * value;
            }
        }
        for (lane, value) in rest.iter().enumerate() {
            sums[lane] += f64::from(*value) * f64::from(*value);
        }
        sums.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponential_is_close_everywhere() {
        for step in -8700..=8800 {
            let x = step as f32 / 100.0;
            let (found, expected) = (f64::from(exp(x)), f64::from(x).exp());
            assert!(
                (found - expected).abs() <= 2e-7 * expected,
                "{x}: {found} {expected}"
            );
        }
        assert_eq!(exp(-100.0), 0.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn rows_of_every_length_agree_with_plain_sums() {
        for n in 0..70 {
            let a: Vec<f32> = (0..n).map(|i| (i as f32 * 0.7).sin()).collect();
            let b: Vec<f32> = (0..n).map(|i| (i as f32 * 1.3).cos()).collect();
            let expected: f32 = a.iter().zip(&b).map(|(a, b)| a * b).sum();
            assert!((dot(&a, &b) - expected).abs() < 1e-5);
            let largest = a.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            assert_eq!(maximum(&a), largest);
            let mut c = a.clone();
            let sum = exponentials(&mut c, 2.0, 0.5);
            let expected: f32 = a.iter().map(|x| (2.0 * x - 0.5).exp()).sum();
            assert!((sum - expected).abs() < 1e-4);
            assert_eq!(sum, sum_of_exponentials(&a, 2.0, 0.5));
        }
    }
}
