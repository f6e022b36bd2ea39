//! The innermost loop of matrix products: a tile of the result stays in registers while `k` runs.
//!
//! An element of a tile is `fma(a, b, …)` over `k` in ascending order, from the old value or from 0. It does not depend
//! on the size of the tile, so neither does any product depend on how it is cut.

#![allow(unsafe_code)]

use super::isa::Isa;

/// `c [rows, columns] (+)= Σ_k a(i, k) b(k, j)`: `(k, a, a_step, b, b_step, c, c_step, add)`.
///
/// `FLAT` tiles read `a(i, k)` at `i + k a_step`, the others at `i a_step + k`; `b(k, j)` lies at `k b_step + j`, `c` at
/// `i c_step + j`.
///
/// # Safety
/// Every element named must be readable, those of `c` writable and not otherwise in use, and the processor must have
/// the instruction set.
pub type Tile = unsafe fn(usize, *const f32, usize, *const f32, usize, *mut f32, usize, bool);

/// Rows and columns of the largest tile of a set, and the columns of a vector.
pub fn largest(isa: Isa) -> (usize, usize, usize) {
    match isa {
        Isa::Avx512 => (12, 32, 16),
        Isa::Avx2 => (6, 16, 8),
        Isa::Portable => (4, 16, 8),
    }
}

/// The largest number of rows that a tile has and that is not above `rows`.
pub fn rows_at_most(isa: Isa, rows: usize) -> usize {
    let (most, ..) = largest(isa);
    [12, 8, 6, 4, 3, 2, 1]
        .into_iter()
        .find(|of| *of <= rows.min(most))
        .unwrap_or(1)
}

macro_rules! tile {
    ($name:ident, $($feature:literal)?, $vector:ty, $lanes:literal, $zero:expr, $load:expr, $store:expr, $splat:expr,
     $fma:expr) => {
        $(#[target_feature(enable = $feature)])?
        #[expect(
            clippy::too_many_arguments,
            reason = "a kernel's operands: a struct of them would live in memory"
        )]
        unsafe fn $name<const ROWS: usize, const VECTORS: usize, const FLAT: bool>(
            k: usize,
            a: *const f32,
            a_step: usize,
            b: *const f32,
            b_step: usize,
            c: *mut f32,
            c_step: usize,
            add: bool,
        ) {
            // SAFETY: the caller's promise.
            unsafe {
                let mut sums: [[$vector; VECTORS]; ROWS] = [[$zero; VECTORS]; ROWS];
                if add {
                    for i in 0..ROWS {
                        for v in 0..VECTORS {
                            sums[i][v] = $load(c.add(i * c_step + v * $lanes));
                        }
                    }
                }
                let (mut a, mut b) = (a, b);
                for _ in 0..k {
                    let mut row: [$vector; VECTORS] = [$zero; VECTORS];
                    for v in 0..VECTORS {
                        row[v] = $load(b.add(v * $lanes));
                    }
                    for i in 0..ROWS {
                        let x = $splat(*a.add(if FLAT { i } else { i * a_step }));
                        for v in 0..VECTORS {
                            sums[i][v] = $fma(x, row[v], sums[i][v]);
                        }
                    }
                    a = a.add(if FLAT { a_step } else { 1 });
                    b = b.add(b_step);
                }
                for i in 0..ROWS {
                    for v in 0..VECTORS {
                        $store(c.add(i * c_step + v * $lanes), sums[i][v]);
                    }
                }
            }
        }
    };
}

macro_rules! choose {
    ($name:ident, $rows:expr, $vectors:expr, $flat:expr, $($number:literal)*) => {
        match ($rows, $vectors, $flat) {
            $(($number, 1, false) => $name::<$number, 1, false>,
            ($number, 1, true) => $name::<$number, 1, true>,
            ($number, _, false) => $name::<$number, 2, false>,
            ($number, _, true) => $name::<$number, 2, true>,)*
            (_, 1, false) => $name::<1, 1, false>,
            (_, 1, true) => $name::<1, 1, true>,
            (_, _, false) => $name::<1, 2, false>,
            (_, _, true) => $name::<1, 2, true>,
        }
    };
}

/// The tile of `rows` (as [`rows_at_most`] says) and one or two vectors.
pub fn tile(isa: Isa, rows: usize, vectors: usize, flat: bool) -> Tile {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => choose!(avx512, rows, vectors, flat, 12 8 6 4 3 2),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => choose!(avx2, rows, vectors, flat, 6 4 3 2),
        _ => choose!(portable, rows, vectors, flat, 4 3 2),
    }
}

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64 as x86;

#[cfg(target_arch = "x86_64")]
tile!(
    avx512,
    "avx512f",
    x86::__m512,
    16,
    x86::_mm512_setzero_ps(),
    |p: *const f32| x86::_mm512_loadu_ps(p),
    |p: *mut f32, x| x86::_mm512_storeu_ps(p, x),
    |x: f32| x86::_mm512_set1_ps(x),
    |a, b, c| x86::_mm512_fmadd_ps(a, b, c)
);

#[cfg(target_arch = "x86_64")]
tile!(
    avx2,
    "avx2,fma",
    x86::__m256,
    8,
    x86::_mm256_setzero_ps(),
    |p: *const f32| x86::_mm256_loadu_ps(p),
    |p: *mut f32, x| x86::_mm256_storeu_ps(p, x),
    |x: f32| x86::_mm256_set1_ps(x),
    |a, b, c| x86::_mm256_fmadd_ps(a, b, c)
);

tile!(portable, , [f32; 8], 8, [0.0f32; 8], load, store, splat, fma);

/// # Safety
/// Eight readable values.
unsafe fn load(p: *const f32) -> [f32; 8] {
    // SAFETY: the caller's promise.
    unsafe { p.cast::<[f32; 8]>().read_unaligned() }
}

/// # Safety
/// Eight writable values.
unsafe fn store(p: *mut f32, x: [f32; 8]) {
    // SAFETY: the caller's promise.
    unsafe { p.cast::<[f32; 8]>().write_unaligned(x) }
}

fn splat(x: f32) -> [f32; 8] {
    [x; 8]
}

fn fma(a: [f32; 8], b: [f32; 8], c: [f32; 8]) -> [f32; 8] {
    std::array::from_fn(|lane| a[lane].mul_add(b[lane], c[lane]))
}
