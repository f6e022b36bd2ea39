//! Matrix products over strided views: the safe face of `gemm`.
//!
//! Each call runs on the calling thread; who wants threads cuts the result into pieces.

use gemm::{Parallelism, gemm};

use crate::model::ops::Into;

/// A read-only matrix over a slice.
#[derive(Clone, Copy)]
pub struct Mat<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> Mat<'a> {
    /// `[rows, cols]`, row-major, without gaps.
    pub fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
    }

    /// `[rows, cols]`, row-major, `row_stride` elements from row to row.
    pub fn strided(data: &'a [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        assert!(
            fits(data.len(), rows, cols, row_stride),
            "matrix beyond its slice"
        );
        Self {
            data,
            rows,
            cols,
            row_stride,
            col_stride: 1,
        }
    }

    /// The transpose: the same values, rows and columns exchanged.
    pub fn t(self) -> Self {
        Self {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }
}

/// A matrix that is written, row-major.
pub struct MatMut<'a> {
    data: &'a mut [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
}

impl<'a> MatMut<'a> {
    pub fn new(data: &'a mut [f32], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
    }

    pub fn strided(data: &'a mut [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        assert!(
            fits(data.len(), rows, cols, row_stride),
            "matrix beyond its slice"
        );
        assert!(rows <= 1 || row_stride >= cols, "rows overlap");
        Self {
            data,
            rows,
            cols,
            row_stride,
        }
    }
}

fn fits(len: usize, rows: usize, cols: usize, row_stride: usize) -> bool {
    rows == 0 || cols == 0 || (rows - 1) * row_stride + cols <= len
}

/// `result (+)= left · right`
pub fn multiply(result: MatMut, into: Into, left: Mat, right: Mat) {
    let (m, n, k) = (left.rows, right.cols, left.cols);
    assert!(
        result.rows == m && result.cols == n && right.rows == k,
        "shapes of a product must agree"
    );
    if m == 0 || n == 0 {
        return;
    }
    let add = into == Into::Add;
    // SAFETY: every view was checked against its slice when it was made, for its largest index; strides are those of
    // the views; `result` is borrowed mutably, so it overlaps neither factor, and its rows do not overlap each other.
    #[allow(unsafe_code)]
    unsafe {
        gemm(
            m,
            n,
            k,
            result.data.as_mut_ptr(),
            1,
            result.row_stride as isize,
            add,
            left.data.as_ptr(),
            left.col_stride as isize,
            left.row_stride as isize,
            right.data.as_ptr(),
            right.col_stride as isize,
            right.row_stride as isize,
            if add { 1.0 } else { 0.0 },
            1.0,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

/// `wt [in, out]` of `w [out, in]`. Products read the transpose of a weight a quarter faster than the weight itself.
pub fn transpose(wt: &mut [f32], w: &[f32], inputs: usize) {
    const BLOCK: usize = 16;
    let outputs = w.len() / inputs;
    for first in (0..outputs).step_by(BLOCK) {
        let rows = first..(first + BLOCK).min(outputs);
        for column in 0..inputs {
            for (row, to) in rows.clone().zip(&mut wt[column * outputs + first..]) {
                *to = w[row * inputs + column];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_agree_with_three_loops() {
        let value = |i: usize| ((i * 37 % 19) as f32 - 9.0) / 8.0;
        for (m, n, k) in [(1, 1, 1), (3, 5, 7), (17, 9, 33), (64, 40, 600), (2, 3, 0)] {
            let left: Vec<f32> = (0..m * k).map(value).collect();
            let right: Vec<f32> = (0..n * k).map(|i| value(i + 5)).collect();
            let mut result = vec![1.0; m * n];
            let expected = |i: usize, j: usize| -> f32 {
                (0..k).map(|l| left[i * k + l] * right[j * k + l]).sum()
            };
            for (into, old) in [(Into::Replace, 0.0), (Into::Add, 1.0)] {
                result.fill(1.0);
                multiply(
                    MatMut::new(&mut result, m, n),
                    into,
                    Mat::new(&left, m, k),
                    Mat::new(&right, n, k).t(),
                );
                for i in 0..m {
                    for j in 0..n {
                        let error = (result[i * n + j] - old - expected(i, j)).abs();
                        assert!(error < 1e-3, "{m} {n} {k}");
                    }
                }
            }
        }
    }
}
