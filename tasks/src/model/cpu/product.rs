//! Matrix products: cuts a product into tiles, and a large one into pieces for threads.
//!
//! `c [m, n] (+)= a [m, k] · b [k, n]`. Every element is a chain of fused multiplications and additions over `k` in
//! ascending order, so that no cut, thread or instruction set changes a bit. `b` is copied together once, into panels
//! that all pieces read; rows of `a` by each piece, a block of `k` at a time.

#![allow(unsafe_code)]

use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use super::isa::Isa;
use super::packed::{DEPTH, Panels, strips};
use super::scratch::{with_panel, with_strips};
use super::target::{Target, reach};
use super::tile::{Tile, largest, rows_at_most, tile};

/// Rows of a result from which on a row-major `b` is copied together before it is read again and again; fewer rows of
/// `a` stay in the first cache.
const REUSE: usize = 48;

/// Panels of `b` from which on rows of `a` are copied together before each of them meets all of these.
const MEETINGS: usize = 4;

/// Tiles of a piece, one below the other, that are worth walking through a whole `b` for, and the most whose rows of
/// `a` leave room in the second cache.
const TALL: std::ops::RangeInclusive<usize> = 8..=22;

/// What becomes of the old values of a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Into {
    Replace,
    Add,
}

/// The left factor: `a(i, k)` at `i step + k`, or at `i + k step` of a transposed one.
#[derive(Clone, Copy)]
pub struct Left<'a> {
    data: &'a [f32],
    step: usize,
    transposed: bool,
}

impl<'a> Left<'a> {
    /// `[m, k]`, row-major.
    pub fn new(data: &'a [f32], k: usize) -> Self {
        Self {
            data,
            step: k,
            transposed: false,
        }
    }

    /// `[m, k]`, `step` from row to row.
    pub fn strided(data: &'a [f32], step: usize) -> Self {
        Self {
            data,
            step,
            transposed: false,
        }
    }

    /// The transpose of `[k, m]`, row-major, `m` from row to row.
    pub fn transposed(data: &'a [f32], m: usize) -> Self {
        Self {
            data,
            step: m,
            transposed: true,
        }
    }
}

/// The right factor.
#[derive(Clone, Copy)]
pub enum Right<'a> {
    /// `[k, n]`, row-major.
    Rows(&'a [f32]),
    /// The same, so many from row to row.
    Strided(&'a [f32], usize),
    Panels(&'a Panels),
}

/// Panels of factors that are packed for one product: as many as there were products at the same time.
static SPARE: Mutex<Vec<Panels>> = Mutex::new(Vec::new());

fn with_spare_panels(work: impl FnOnce(&mut Panels)) {
    let spare = || SPARE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut panels = spare().pop().unwrap_or_else(Panels::empty);
    work(&mut panels);
    spare().push(panels);
}

/// One product, on the calling thread.
pub fn multiply(c: &mut [f32], n: usize, into: Into, a: Left, b: Right, k: usize) {
    Piece::whole(Target::whole(c, n), into, a, b, k).run();
}

/// The same into a rectangle.
pub fn multiply_into(c: Target, into: Into, a: Left, b: Right, k: usize) {
    Piece::whole(c, into, a, b, k).run();
}

/// The same, by the threads of the pool around.
pub fn multiply_in_pieces(c: &mut [f32], n: usize, into: Into, a: Left, b: Right, k: usize) {
    let whole = Piece::whole(Target::whole(c, n), into, a, b, k);
    if whole.m * n * k < 1 << 19 {
        return whole.run();
    }
    match b {
        Right::Rows(rows) if whole.m >= REUSE => with_spare_panels(|panels| {
            panels.pack_rows(&rows[..k * n], n);
            Piece::whole(Target::whole(c, n), into, a, Right::Panels(panels), k).run_in_pieces();
        }),
        _ => whole.run_in_pieces(),
    }
}

/// At most `count` ranges that make up `0 .. size`, of about as many units each.
fn ranges(size: usize, unit: usize, count: usize) -> Vec<(usize, usize)> {
    let units = size.div_ceil(unit);
    let count = count.min(units);
    let edge = |index: usize| size.min(index * units / count * unit);
    (0..count)
        .map(|index| (edge(index), edge(index + 1)))
        .collect()
}

/// A block of `k` of the rows of `a` of a piece.
#[derive(Clone, Copy)]
enum Rows {
    /// From their first term on.
    AsTheyAre(*const f32),
    /// See [`strips`].
    Strips(*const f32),
}

/// A rectangle of a result, checked against the slices it came from.
#[derive(Clone, Copy)]
struct Piece<'a> {
    isa: Isa,
    m: usize,
    columns: (usize, usize),
    k: usize,
    a: *const f32,
    a_step: usize,
    flat: bool,
    b: Right<'a>,
    /// From row to row of a row-major `b`.
    b_step: usize,
    c: *mut f32,
    c_step: usize,
    add: bool,
}

// SAFETY: pieces of one result are disjoint, `a` and `b` are only read, and all of them outlive the call that made them.
unsafe impl Send for Piece<'_> {}
// SAFETY: as above.
unsafe impl Sync for Piece<'_> {}

impl<'a> Piece<'a> {
    fn whole(mut c: Target<'a>, into: Into, a: Left<'a>, b: Right<'a>, k: usize) -> Self {
        let (m, n) = (c.rows(), c.columns());
        let left = if a.transposed { (k, m) } else { (m, k) };
        assert!(
            reach(left.0, left.1, a.step) <= a.data.len(),
            "left factor beyond its slice"
        );
        let (isa, b_step, fits) = match b {
            Right::Rows(data) => (Isa::chosen(), n, reach(k, n, n) <= data.len()),
            Right::Strided(data, step) => (Isa::chosen(), step, reach(k, n, step) <= data.len()),
            Right::Panels(panels) => {
                let fits = n <= panels.columns && panels.columns * k <= panels.data.len();
                (panels.isa, 0, fits)
            }
        };
        assert!(fits, "right factor beyond its slice");
        Self {
            isa,
            m,
            columns: (0, n),
            k,
            a: a.data.as_ptr(),
            a_step: a.step,
            flat: a.transposed,
            b,
            b_step,
            c: c.as_mut_ptr(),
            c_step: c.step(),
            add: into == Into::Add,
        }
    }

    fn run_in_pieces(&self) {
        let pieces = self.cut(4 * rayon::current_num_threads());
        pieces.into_par_iter().for_each(|piece| piece.run());
    }

    /// About `count` pieces of about the same size, of whole tiles but for the edges.
    fn cut(&self, count: usize) -> Vec<Self> {
        let (tall, wide, _) = largest(self.isa);
        let least = self.m.div_ceil(TALL.end() * tall);
        let height = (self.m / (TALL.start() * tall)).clamp(1, count).max(least);
        let columns = ranges(self.columns.1, wide, count.div_ceil(height));
        let piece = |(top, bottom)| {
            let rows = self.rows(top, bottom - top);
            columns.iter().map(move |columns| Self {
                columns: *columns,
                ..rows
            })
        };
        ranges(self.m, tall, height)
            .into_iter()
            .flat_map(piece)
            .collect()
    }

    fn rows(&self, first: usize, m: usize) -> Self {
        let a_first = if self.flat {
            first
        } else {
            first * self.a_step
        };
        // SAFETY: `first` is below the rows of this piece.
        unsafe {
            Self {
                m,
                a: self.a.add(a_first),
                c: self.c.add(first * self.c_step),
                ..*self
            }
        }
    }

    fn run(&self) {
        let is_packed = matches!(self.b, Right::Panels(_));
        let depth = if is_packed || self.m > 16 {
            DEPTH
        } else {
            self.k
        };
        if self.k == 0 && !self.add {
            return self.block(0, 0);
        }
        for first in (0..self.k).step_by(depth.max(1)) {
            self.block(first, depth.min(self.k - first));
        }
    }

    /// Terms `first .. first + k` of every element.
    fn block(&self, first: usize, k: usize) {
        let (_, wide, _) = largest(self.isa);
        let panels = (self.columns.1 - self.columns.0).div_ceil(wide);
        let from = match self.flat {
            true => first * self.a_step,
            false => first,
        };
        // SAFETY: `whole` checked the largest index of `a`.
        let a = unsafe { self.a.add(from) };
        if k == 0 || self.m <= REUSE || panels < MEETINGS {
            return self.columns(Rows::AsTheyAre(a), first, k);
        }
        with_strips(self.m * k, |to| {
            // SAFETY: as above.
            unsafe { strips(self.isa, to, a, (self.m, k), self.a_step, self.flat) };
            self.columns(Rows::Strips(to.as_ptr()), first, k);
        });
    }

    /// The same, of rows of `a` that begin there.
    fn columns(&self, a: Rows, first: usize, k: usize) {
        let (_, wide, lanes) = largest(self.isa);
        let add = self.add || first > 0;
        let (mut column, end) = self.columns;
        while column < end {
            let columns = wide.min(end - column);
            let vectors = columns.div_ceil(lanes);
            match self.b {
                Right::Panels(panels) => {
                    // A piece begins at a panel.
                    let b = &panels.data[first * panels.columns + column * k..];
                    self.panel(a, (b.as_ptr(), wide), k, (column, columns), vectors, add);
                }
                Right::Rows(data) | Right::Strided(data, _) => {
                    let b = &data[(first * self.b_step + column).min(data.len())..];
                    if columns == vectors * lanes && self.m < REUSE {
                        let b = (b.as_ptr(), self.b_step);
                        self.panel(a, b, k, (column, columns), vectors, add);
                    } else {
                        with_panel(wide * k, |panel| {
                            let rows = b.chunks(self.b_step).take(k);
                            for (to, from) in panel.chunks_exact_mut(wide).zip(rows) {
                                to[..columns].copy_from_slice(&from[..columns]);
                                to[columns..].fill(0.0);
                            }
                            let b = (panel.as_ptr(), wide);
                            self.panel(a, b, k, (column, columns), vectors, add);
                        });
                    }
                }
            }
            column += columns;
        }
    }

    /// All rows of some columns.
    fn panel(
        &self,
        a: Rows,
        b: (*const f32, usize),
        k: usize,
        (column, columns): (usize, usize),
        vectors: usize,
        add: bool,
    ) {
        let (tall, wide, lanes) = largest(self.isa);
        let mut row = 0;
        let mut rows = tall;
        let flat = self.flat || matches!(a, Rows::Strips(_));
        let mut full = tile(self.isa, tall, vectors, flat);
        while row < self.m {
            if self.m - row < rows {
                rows = rows_at_most(self.isa, self.m - row);
                full = tile(self.isa, rows, vectors, flat);
            }
            let (a, a_step, at) = match a {
                Rows::Strips(a) => (a, rows, row * k),
                Rows::AsTheyAre(a) if flat => (a, self.a_step, row),
                Rows::AsTheyAre(a) => (a, self.a_step, row * self.a_step),
            };
            // SAFETY: `whole` checked the largest index of every factor; rows and columns are inside this piece, `b`
            // has `k` rows of whole vectors (edges were filled up), and the set was found by asking the processor.
            unsafe {
                let (a, c) = (a.add(at), self.c.add(row * self.c_step + column));
                if columns == vectors * lanes {
                    full(k, a, a_step, b.0, b.1, c, self.c_step, add);
                } else {
                    edge(
                        full,
                        rows,
                        columns,
                        wide,
                        k,
                        a,
                        a_step,
                        b,
                        c,
                        self.c_step,
                        add,
                    );
                }
            }
            row += rows;
        }
    }
}

/// A tile of which only some columns exist, by way of a whole one.
///
/// # Safety
/// As for [`Tile`], with `columns` instead of whole vectors of `c`.
#[allow(clippy::too_many_arguments)]
unsafe fn edge(
    full: Tile,
    rows: usize,
    columns: usize,
    wide: usize,
    k: usize,
    a: *const f32,
    a_step: usize,
    b: (*const f32, usize),
    c: *mut f32,
    c_step: usize,
    add: bool,
) {
    let mut whole = [0.0f32; 12 * 32];
    // SAFETY: the caller's promise; `whole` has room for the largest tile.
    unsafe {
        for row in 0..rows {
            let from = c.add(row * c_step);
            std::ptr::copy_nonoverlapping(from, whole.as_mut_ptr().add(row * wide), columns);
        }
        full(k, a, a_step, b.0, b.1, whole.as_mut_ptr(), wide, add);
        for row in 0..rows {
            let to = c.add(row * c_step);
            std::ptr::copy_nonoverlapping(whole.as_ptr().add(row * wide), to, columns);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panels_hold_more_columns_than_a_product_takes() {
        let (m, n, k) = (5, 70, 2 * DEPTH + 9);
        let draw = |len| (0..len).map(|i| (i as f32 * 0.37).sin()).collect();
        let (a, b): (Vec<f32>, Vec<f32>) = (draw(m * k), draw(n * k));
        let panels = Panels::of(&b, k);
        for columns in [1, 32, 70] {
            let mut c = vec![0.0; m * columns];
            let right = Right::Panels(&panels);
            multiply(&mut c, columns, Into::Replace, Left::new(&a, k), right, k);
            for (at, found) in c.iter().enumerate() {
                let (a, b) = (&a[at / columns * k..], &b[at % columns * k..]);
                let expected = (0..k).fold(0.0f32, |sum, k| a[k].mul_add(b[k], sum));
                assert_eq!(*found, expected, "{columns} columns");
            }
        }
    }

    /// Whole tiles and what is left over, blocks of `k` and squares of it, on every instruction set.
    #[test]
    fn packed_rows_give_the_same_chains() {
        let draw = |len| (0..len).map(|i| (i as f32 * 0.37).sin()).collect();
        for isa in Isa::available() {
            for (m, n, k) in [(49, 128, 7), (61, 150, DEPTH + 3), (59, 128, 0)] {
                let (a, b): (Vec<f32>, Vec<f32>) = (draw(m * k), draw(k * n));
                let at = |i: usize| (0..k).map(move |j| (i, j));
                let flat: Vec<f32> = (0..k)
                    .flat_map(|j| (0..m).map(move |i| (i, j)))
                    .map(|(i, j)| a[i * k + j])
                    .collect();
                for left in [Left::new(&a, k), Left::transposed(&flat, m)] {
                    let mut c = vec![1.0; m * n];
                    isa.with(|| multiply(&mut c, n, Into::Replace, left, Right::Rows(&b), k));
                    for (place, found) in c.iter().enumerate() {
                        let (i, j) = (place / n, place % n);
                        let chain = |sum: f32, (i, t): (usize, usize)| {
                            a[i * k + t].mul_add(b[t * n + j], sum)
                        };
                        assert_eq!(
                            *found,
                            at(i).fold(0.0, chain),
                            "{isa:?}, {m} {n} {k}, at {i} {j}"
                        );
                    }
                }
            }
        }
    }
}
