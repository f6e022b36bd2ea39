//! Applies rotary position embeddings to rows of heads, in place, forwards and backwards.

use multiversion::multiversion;

/// Turns the heads of one row by the angles of its position: `y = x cos + rot(x) sin`, `rot([a, b]) = [−b, a]`.
/// `row` holds whole heads of width `2 · cos.len()`.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512dq+avx2+fma", "x86_64+avx2+fma"))]
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

/// The transpose of [`forward`]: turns gradients back.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512dq+avx2+fma", "x86_64+avx2+fma"))]
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
