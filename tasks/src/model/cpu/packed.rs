//! Factors of products, copied together in the order in which tiles read them.
//!
//! Rows far apart share the same few lines of a cache, and each lies on a page of its own: as strips and panels a block
//! of them is one run of memory.

#![allow(unsafe_code)]

use rayon::prelude::*;

use super::isa::Isa;
use super::tile::{largest, rows_at_most};

/// Terms that are summed before the next tile has its turn: a panel of so many rows fits into the first cache.
pub const DEPTH: usize = 256;

/// `b [k, n]` as tiles read it: `[k / DEPTH][n / width][DEPTH][width]`, filled up with zeros; the last block of `k` is
/// only as deep as it has rows.
pub struct Panels {
    /// Whose tiles read it.
    pub isa: Isa,
    /// `n` up to the end of the last panel.
    pub columns: usize,
    pub data: Vec<f32>,
}

impl Panels {
    /// The transpose of `b [n, k]`.
    pub fn of(b: &[f32], k: usize) -> Self {
        let mut panels = Self::empty();
        panels.pack(b, k, k);
        panels
    }

    pub fn empty() -> Self {
        Self {
            isa: Isa::chosen(),
            columns: 0,
            data: Vec::new(),
        }
    }

    /// Columns of a panel: how far a product may go beyond the last real column.
    pub fn width(&self) -> usize {
        largest(self.isa).1
    }

    /// Takes the transpose of `b [n, k]`, `step` from row to row; `b` ends with its last row.
    pub fn pack(&mut self, b: &[f32], k: usize, step: usize) {
        let width = self.width();
        let n = if b.len() < k {
            0
        } else {
            (b.len() - k) / step.max(1) + 1
        };
        self.columns = n.next_multiple_of(width);
        self.data.clear();
        self.data.resize(self.columns * k, 0.0);
        let blocks = self.data.chunks_mut((DEPTH * self.columns).max(1));
        for (block, first) in blocks.zip((0..k).step_by(DEPTH)) {
            let depth = DEPTH.min(k - first);
            let panels = block.chunks_exact_mut(width * depth);
            for (panel, rows) in panels.zip(b.chunks((width * step).max(1))) {
                for (column, row) in rows.chunks(step.max(1)).enumerate() {
                    let row = &row[first..first + depth];
                    for (to, from) in panel[column..].iter_mut().step_by(width).zip(row) {
                        *to = *from;
                    }
                }
            }
        }
    }

    /// Takes `b [k, n]`; by the threads of the pool around.
    pub fn pack_rows(&mut self, b: &[f32], n: usize) {
        self.isa = Isa::chosen();
        let width = self.width();
        self.columns = n.next_multiple_of(width);
        self.data.resize(self.columns * b.len() / n, 0.0);
        let blocks = self.data.par_chunks_mut(DEPTH * self.columns);
        blocks
            .zip(b.par_chunks(DEPTH * n))
            .for_each(|(block, rows)| {
                let depth = rows.len() / n;
                for (k, row) in rows.chunks_exact(n).enumerate() {
                    for (panel, from) in row.chunks(width).enumerate() {
                        let to = &mut block[(panel * depth + k) * width..][..width];
                        to[..from.len()].copy_from_slice(from);
                        to[from.len()..].fill(0.0);
                    }
                }
            });
    }
}

/// `a [m, k]` as tiles read it, into `to [m k]`: `[m / rows][k][rows]`, the tallest tiles first. `step` and `flat` as for
/// [`super::tile::Tile`].
///
/// # Safety
/// Every element of `a` must be readable.
pub unsafe fn strips(
    isa: Isa,
    to: &mut [f32],
    a: *const f32,
    (m, k): (usize, usize),
    step: usize,
    flat: bool,
) {
    // SAFETY: the caller's promise.
    unsafe {
        match (largest(isa).0, flat) {
            (12, true) => copied::<12>(isa, to, a, (m, k), step),
            (6, true) => copied::<6>(isa, to, a, (m, k), step),
            (_, true) => copied::<4>(isa, to, a, (m, k), step),
            (12, false) => turned::<12>(isa, to, a, (m, k), step),
            (6, false) => turned::<6>(isa, to, a, (m, k), step),
            (_, false) => turned::<4>(isa, to, a, (m, k), step),
        }
    }
}

/// First row and rows of the tiles from a row on, one below the other.
fn tiles(isa: Isa, from: usize, m: usize) -> impl Iterator<Item = (usize, usize)> {
    let mut first = from;
    std::iter::from_fn(move || {
        let rows = rows_at_most(isa, m - first);
        let tile = (first < m).then_some((first, rows));
        first += rows;
        tile
    })
}

/// Strips of `a(i, k)` at `i + k step`; the tallest tiles have `TALL` rows. One `k` after the other: what is read is a
/// run of `m`.
///
/// # Safety
/// As for [`strips`].
unsafe fn copied<const TALL: usize>(
    isa: Isa,
    to: &mut [f32],
    a: *const f32,
    (m, k): (usize, usize),
    step: usize,
) {
    for at in 0..k {
        // SAFETY: the caller's promise.
        let row = unsafe { std::slice::from_raw_parts(a.add(at * step), m) };
        let (whole, rest) = row.as_chunks::<TALL>();
        for (tile, from) in whole.iter().enumerate() {
            to[(tile * k + at) * TALL..][..TALL].copy_from_slice(from);
        }
        for (first, rows) in tiles(isa, m - rest.len(), m) {
            to[first * k + at * rows..][..rows].copy_from_slice(&row[first..first + rows]);
        }
    }
}

/// Strips of `a(i, k)` at `i step + k`; the tallest tiles have `TALL` rows.
///
/// # Safety
/// As for [`strips`].
unsafe fn turned<const TALL: usize>(
    isa: Isa,
    to: &mut [f32],
    a: *const f32,
    (m, k): (usize, usize),
    step: usize,
) {
    // SAFETY: the caller's promise.
    let row = |i: usize| unsafe { std::slice::from_raw_parts(a.add(i * step), k) };
    let mut strips = to[..m / TALL * TALL * k].chunks_exact_mut((TALL * k).max(1));
    for (tile, strip) in strips.by_ref().enumerate() {
        let rows: [&[f32]; TALL] = std::array::from_fn(|i| row(tile * TALL + i));
        turn(strip, rows);
    }
    for (first, rows) in tiles(isa, m / TALL * TALL, m) {
        let strip = &mut to[first * k..][..rows * k];
        for i in 0..rows {
            for (to, from) in strip[i..].iter_mut().step_by(rows).zip(row(first + i)) {
                *to = *from;
            }
        }
    }
}

/// The transpose of `ROWS` rows: most of it in squares of four, which stay in registers.
fn turn<const ROWS: usize>(to: &mut [f32], rows: [&[f32]; ROWS]) {
    let k = rows[0].len();
    let squares = ROWS / 4 * 4;
    let whole = k / 4 * 4;
    for at in (0..whole).step_by(4) {
        for i in (0..squares).step_by(4) {
            let square = std::array::from_fn(|j| {
                let row = rows[i + j][at..at + 4].first_chunk().copied();
                row.unwrap_or_default()
            });
            for (j, column) in turn_square(square).iter().enumerate() {
                to[(at + j) * ROWS + i..][..4].copy_from_slice(column);
            }
        }
        for i in squares..ROWS {
            for at in at..at + 4 {
                to[at * ROWS + i] = rows[i][at];
            }
        }
    }
    for at in whole..k {
        for (i, row) in rows.iter().enumerate() {
            to[at * ROWS + i] = row[at];
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn turn_square(rows: [[f32; 4]; 4]) -> [[f32; 4]; 4] {
    use std::arch::x86_64 as x86;
    // SAFETY: every x86-64 processor has SSE; loads and stores are of four values.
    unsafe {
        let load = |row: &[f32; 4]| x86::_mm_loadu_ps(row.as_ptr());
        let [mut a, mut b, mut c, mut d] = [&rows[0], &rows[1], &rows[2], &rows[3]].map(load);
        x86::_MM_TRANSPOSE4_PS(&mut a, &mut b, &mut c, &mut d);
        [a, b, c, d].map(|column| {
            let mut values = [0.0; 4];
            x86::_mm_storeu_ps(values.as_mut_ptr(), column);
            values
        })
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn turn_square(rows: [[f32; 4]; 4]) -> [[f32; 4]; 4] {
    std::array::from_fn(|i| std::array::from_fn(|j| rows[j][i]))
}
