//! Rectangles of a matrix that are written: some columns of some rows.
//!
//! Several threads may each write their own of the same matrix.

#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::ops::Range;

/// A row-major matrix of which several threads write disjoint rectangles.
#[derive(Clone, Copy)]
pub struct Shared<'a> {
    data: *mut f32,
    len: usize,
    step: usize,
    of: PhantomData<&'a mut [f32]>,
}

// SAFETY: whoever asks for a rectangle promises that it is nobody else's.
unsafe impl Send for Shared<'_> {}
// SAFETY: as above.
unsafe impl Sync for Shared<'_> {}

impl<'a> Shared<'a> {
    /// Rows that begin `step` after one another.
    pub fn new(data: &'a mut [f32], step: usize) -> Self {
        Self {
            data: data.as_mut_ptr(),
            len: data.len(),
            step,
            of: PhantomData,
        }
    }

    /// # Safety
    /// Nobody may use any element of it as long as the rectangle lives.
    ///
    /// # Panics
    /// If it is not inside.
    pub unsafe fn target(&self, rows: Range<usize>, columns: Range<usize>) -> Target<'a> {
        let first = rows.start * self.step + columns.start;
        let target = Target {
            // Of a rectangle without elements nothing is ever reached.
            data: self.data.wrapping_add(first),
            step: self.step,
            rows: rows.len(),
            columns: columns.len(),
            of: PhantomData,
        };
        target.check(self.len.saturating_sub(first));
        target
    }
}

/// A rectangle that is written: element (i, j) at `i step + j`.
pub struct Target<'a> {
    data: *mut f32,
    step: usize,
    rows: usize,
    columns: usize,
    of: PhantomData<&'a mut [f32]>,
}

impl<'a> Target<'a> {
    /// The first columns of some rows that begin `step` after one another.
    ///
    /// # Panics
    /// If they are not inside of `data`.
    pub fn new(data: &'a mut [f32], step: usize, rows: usize, columns: usize) -> Self {
        let target = Self {
            data: data.as_mut_ptr(),
            step,
            rows,
            columns,
            of: PhantomData,
        };
        target.check(data.len());
        target
    }

    /// A whole matrix of `columns` columns.
    ///
    /// # Panics
    /// If the last row is not whole.
    pub fn whole(data: &'a mut [f32], columns: usize) -> Self {
        let rows = data.len() / columns.max(1);
        assert_eq!(data.len(), rows * columns, "a result of whole rows");
        Self::new(data, columns, rows, columns)
    }

    fn check(&self, len: usize) {
        let reach = reach(self.rows, self.columns, self.step);
        assert!(reach <= len, "result beyond its slice");
        let is_apart = self.rows <= 1 || self.step >= self.columns;
        assert!(is_apart, "rows of a result overlap");
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn columns(&self) -> usize {
        self.columns
    }

    pub fn step(&self) -> usize {
        self.step
    }

    pub fn as_mut_ptr(&mut self) -> *mut f32 {
        self.data
    }

    pub fn row(&mut self, row: usize) -> &mut [f32] {
        assert!(row < self.rows, "a row beyond the last");
        // SAFETY: inside, and this rectangle is borrowed alone.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(row * self.step), self.columns) }
    }

    /// A rectangle inside of this one.
    pub fn part(&mut self, rows: Range<usize>, columns: Range<usize>) -> Target<'_> {
        assert!(
            rows.start <= rows.end && rows.end <= self.rows,
            "rows beyond the last"
        );
        let is_inside = columns.start <= columns.end && columns.end <= self.columns;
        assert!(is_inside, "columns beyond the last");
        let first = rows.start * self.step + columns.start;
        Target {
            data: self.data.wrapping_add(first),
            step: self.step,
            rows: rows.len(),
            columns: columns.len(),
            of: PhantomData,
        }
    }
}

/// Elements from the first to the last of `[rows, columns]`.
pub fn reach(rows: usize, columns: usize, step: usize) -> usize {
    match rows * columns {
        0 => 0,
        _ => (rows - 1) * step + columns,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_a_part_lies_where_it_should() {
        let mut data: Vec<f32> = (0..20).map(|i| i as f32).collect();
        let mut target = Target::new(&mut data, 5, 4, 5);
        let mut part = target.part(1..4, 2..5);
        assert_eq!(part.row(0), [7.0, 8.0, 9.0]);
        assert_eq!(part.part(1..3, 1..2).row(1), [18.0]);
    }

    #[test]
    #[should_panic(expected = "result beyond its slice")]
    fn a_target_beyond_its_slice_is_refused() {
        Target::new(&mut [0.0; 9], 4, 3, 2);
    }

    #[test]
    #[should_panic(expected = "columns beyond the last")]
    fn a_part_beyond_its_target_is_refused() {
        Target::new(&mut [0.0; 8], 4, 2, 2).part(0..1, 1..3);
    }
}
