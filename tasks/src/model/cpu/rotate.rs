//! Applies rotary position embeddings to rows of heads, in place, forwards and backwards.

use super::isa::kernels;

kernels! {
    /// Turns the heads of one row by the angles of its position: `y = x cos + rot(x) sin`, `rot([a, b]) = [−b, a]`.
    /// `row` holds whole heads of width `2 · cos.len()`.
    pub fn forward(row: &mut [f32], cos: &[f32], sin: &[f32]) {
        let half = cos.len();
        let sin = &sin[..half];
        for head in row.chunks_exact_mut(2 * half) {
            let (first, second) = head.split_at_mut(half);
            for i in 0..half {
                let (a, b) = (first[i], second[i]);
                first[i] = a * cos[i] - b * sin[i];
                second[i] = b * cos[i] + a * sin[i];
            }
        }
    }
}

kernels! {
    /// The transpose of [`forward`]: turns gradients back.
    pub fn backward(row: &mut [f32], cos: &[f32], sin: &[f32]) {
        let half = cos.len();
        let sin = &sin[..half];
        for head in row.chunks_exact_mut(2 * half) {
            let (first, second) = head.split_at_mut(half);
            for i in 0..half {
                let (a, b) = (first[i], second[i]);
                first[i] = a * cos[i] + b * sin[i];
                second[i] = b * cos[i] - a * sin[i];
            }
        }
    }
}
