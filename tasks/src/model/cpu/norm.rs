//! RMSNorm over rows: `y = x / sqrt(mean(x²) + eps) · w` (Zhang and Sennrich 2019).

use super::isa::kernels;
use super::row;

/// Normalises rows of width `w.len()`; keeps the reciprocal root of each.
pub fn forward(y: &mut [f32], scales: &mut [f32], x: &[f32], w: &[f32], eps: f32) {
    let d = w.len();
    let rows = y.chunks_exact_mut(d).zip(x.chunks_exact(d)).zip(scales);
    for ((y, x), scale) in rows {
        *scale = 1.0 / (row::dot(x, x) / d as f32 + eps).sqrt();
        weigh(y, x, w, *scale);
    }
}

/// From `dy` to `dx` and the sum of `dw`: `dx += s (dy·w − x̂ mean(dy·w·x̂))`, `dw += dy·x̂`, `x̂ = s x`.
pub fn backward(dx: &mut [f32], dw: &mut [f32], dy: &[f32], x: &[f32], w: &[f32], scales: &[f32]) {
    let d = w.len();
    let rows = (dx.chunks_exact_mut(d).zip(dy.chunks_exact(d))).zip(x.chunks_exact(d));
    for (((dx, dy), x), scale) in rows.zip(scales) {
        let mean = weighted_dot(dy, w, x) * scale / d as f32;
        backward_row(dx, dw, dy, x, w, *scale, mean);
    }
}

kernels! {
    fn weigh(y: &mut [f32], x: &[f32], w: &[f32], scale: f32) {
        for ((y, x), w) in y.iter_mut().zip(x).zip(w) {
            *y = x * scale * w;
        }
    }
}

kernels! {
    fn weighted_dot(a: &[f32], b: &[f32], c: &[f32]) -> f32 {
        const LANES: usize = 16;
        let (a_chunks, a_rest) = a.as_chunks::<LANES>();
        let (b_chunks, b_rest) = b.as_chunks::<LANES>();
        let (c_chunks, c_rest) = c.as_chunks::<LANES>();
        let mut sums = [0.0f32; LANES];
        for ((a, b), c) in a_chunks.iter().zip(b_chunks).zip(c_chunks) {
            for lane in 0..LANES {
                sums[lane] = (a[lane] * b[lane]).mul_add(c[lane], sums[lane]);
            }
        }
        for (lane, ((a, b), c)) in a_rest.iter().zip(b_rest).zip(c_rest).enumerate() {
            sums[lane] = (a * b).mul_add(*c, sums[lane]);
        }
        let mut total = 0.0;
        for sum in sums {
            total += sum;
        }
        total
    }
}

kernels! {
    fn backward_row(
        dx: &mut [f32],
        dw: &mut [f32],
        dy: &[f32],
        x: &[f32],
        w: &[f32],
        scale: f32,
        mean: f32,
    ) {
        let d = dx.len();
        let (dw, dy, x, w) = (&mut dw[..d], &dy[..d], &x[..d], &w[..d]);
        for i in 0..d {
            let normed = x[i] * scale;
            dx[i] += scale * (dy[i] * w[i] - normed * mean);
            dw[i] += dy[i] * normed;
        }
    }
}
