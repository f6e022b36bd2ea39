//! The inner loops of attention over blocks of `LANES` queries.
//!
//! `[keys][LANES]` holds a score per key and query, `[hd][LANES]` queries with the lane last, `[keys, hd]` rows of keys
//! or values. The number of keys is a multiple of `LANES`. Sums run over keys or channels in order, whatever the
//! instruction set.

use multiversion::multiversion;

use super::row::exp;

/// Queries side by side.
pub const LANES: usize = 16;
/// Rows that are summed at the same time, to keep the multipliers busy.
const UNROLL: usize = 4;

type Lanes = [f32; LANES];

/// `out[j] = Σ_c lanes[c] · rows[j][c]`
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512dq+avx2+fma", "x86_64+avx2+fma"))]
pub fn products(out: &mut [Lanes], lanes: &[Lanes], rows: &[f32]) {
    let hd = lanes.len();
    let rows = rows.chunks_exact(UNROLL * hd);
    for (out, rows) in out.chunks_exact_mut(UNROLL).zip(rows) {
        let (a, rest) = rows.split_at(hd);
        let (b, rest) = rest.split_at(hd);
        let (c, d) = rest.split_at(hd);
        let mut sums = [[0.0f32; LANES]; UNROLL];
        for ((((lane, a), b), c), d) in lanes.iter().zip(a).zip(b).zip(c).zip(d) {
            for l in 0..LANES {
                sums[0][l] = lane[l].mul_add(*a, sums[0][l]);
                sums[1][l] = lane[l].mul_add(*b, sums[1][l]);
                sums[2][l] = lane[l].mul_add(*c, sums[2][l]);
                sums[3][l] = lane[l].mul_add(*d, sums[3][l]);
            }
        }
        out.copy_from_slice(&sums);
    }
}

/// `out[c] = Σ_j weights[j] · rows[j][c]`
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512dq+avx2+fma", "x86_64+avx2+fma"))]
pub fn combine(out: &mut [Lanes], weights: &[Lanes], rows: &[f32]) {
    let hd = out.len();
    let whole = hd - hd % UNROLL;
    let (blocks, rest) = out.split_at_mut(whole);
    for (block, out) in blocks.chunks_exact_mut(UNROLL).enumerate() {
        let mut sums = [[0.0f32; LANES]; UNROLL];
        for (weight, row) in weights.iter().zip(rows.chunks_exact(hd)) {
            let row = &row[block * UNROLL..][..UNROLL];
            for l in 0..LANES {
                sums[0][l] = weight[l].mul_add(row[0], sums[0][l]);
                sums[1][l] = weight[l].mul_add(row[1], sums[1][l]);
                sums[2][l] = weight[l].mul_add(row[2], sums[2][l]);
                sums[3][l] = weight[l].mul_add(row[3], sums[3][l]);
            }
        }
        out.copy_from_slice(&sums);
    }
    for (c, out) in rest.iter_mut().enumerate() {
        let mut sums = [0.0f32; LANES];
        for (weight, row) in weights.iter().zip(rows.chunks_exact(hd)) {
            for l in 0..LANES {
                sums[l] = weight[l].mul_add(row[whole + c], sums[l]);
            }
        }
        *out = sums;
    }
}

/// `out[j] += Σ_l weights[j][l] · rows[l]`, rows and results `wide` values, a multiple of 8.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512dq+avx2+fma", "x86_64+avx2+fma"))]
pub fn spread(out: &mut [f32], weights: &[Lanes], rows: &[f32], wide: usize) {
    let out = out.chunks_exact_mut(UNROLL * wide);
    for (out, weights) in out.zip(weights.chunks_exact(UNROLL)) {
        let mut column = 0;
        while column + 16 <= wide {
            spread_block::<16>(out, weights, rows, wide, column);
            column += 16;
        }
        if column < wide {
            spread_block::<8>(out, weights, rows, wide, column);
        }
    }
}

#[inline(always)]
fn spread_block<const W: usize>(
    out: &mut [f32],
    weights: &[Lanes],
    rows: &[f32],
    wide: usize,
    column: usize,
) {
    let mut sums = [[0.0f32; W]; UNROLL];
    for (l, row) in rows.chunks_exact(wide).enumerate().take(LANES) {
        let row = &row[column..column + W];
        let factors = [weights[0][l], weights[1][l], weights[2][l], weights[3][l]];
        for n in 0..W {
            sums[0][n] = row[n].mul_add(factors[0], sums[0][n]);
            sums[1][n] = row[n].mul_add(factors[1], sums[1][n]);
            sums[2][n] = row[n].mul_add(factors[2], sums[2][n]);
            sums[3][n] = row[n].mul_add(factors[3], sums[3][n]);
        }
    }
    for (out, sums) in out.chunks_exact_mut(wide).zip(&sums) {
        for (out, sum) in out[column..column + W].iter_mut().zip(sums) {
            *out += sum;
        }
    }
}

/// Hides the keys that come after a query, in the block of keys where both begin.
pub fn mask(scores: &mut [Lanes]) {
    for (key, scores) in scores.iter_mut().enumerate() {
        scores[..key.min(LANES)].fill(f32::NEG_INFINITY);
    }
}

/// `scores ← e^(scores − largest)`; the largest and the sum of each lane.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512dq+avx2+fma", "x86_64+avx2+fma"))]
pub fn softmax(scores: &mut [Lanes]) -> (Lanes, Lanes) {
    let mut largest = [f32::NEG_INFINITY; LANES];
    for score in &*scores {
        for l in 0..LANES {
            largest[l] = if score[l] > largest[l] {
                score[l]
            } else {
                largest[l]
            };
        }
    }
    let mut sums = [0.0f32; LANES];
    for score in scores {
        for l in 0..LANES {
            let value = exp(score[l] - largest[l]);
            score[l] = value;
            sums[l] += value;
        }
    }
    (largest, sums)
}

/// From scores to probabilities `p`, and from `dP` to the gradient of the scores, `p (dP − delta)`.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512dq+avx2+fma", "x86_64+avx2+fma"))]
pub fn probabilities(p: &mut [Lanes], d_p: &mut [Lanes], log_sums: &Lanes, deltas: &Lanes) {
    for (p, d_p) in p.iter_mut().zip(d_p) {
        for l in 0..LANES {
            let value = exp(p[l] - log_sums[l]);
            p[l] = value;
            d_p[l] = value * (d_p[l] - deltas[l]);
        }
    }
}
