//! Products of matrices: cuBLASLt, or a kernel of our own where the library has none.

use std::time::Instant;

use super::{Cuda, Span, THREADS, Weights};
use crate::model::Rng;
use crate::model::cuda::blas::{Element, Product, WORKSPACE};
use crate::model::cuda::driver::{Address, Argument};
use crate::model::cuda::kernels;
use crate::model::error::ModelError;
use crate::model::ops::{Matrix, Ops};

impl Cuda {
    /// Seconds of a product of two square matrices of random numbers, by so many of them: what a card can do at best.
    pub fn square_product(&self, size: usize, times: usize) -> Result<f64, ModelError> {
        let rng = Rng::new(1, "square");
        // Rows that differ from each other: the next one begins a number later.
        let numbers: Vec<f32> = (0..2 * size as u64)
            .map(|at| rng.normal(0, at) as f32)
            .collect();
        let mut factor = self.activations(size * size);
        for row in 0..size {
            let start = row * size;
            let to = Self::view_mut(&mut factor, start..start + size);
            self.write(to, &numbers[row..row + size]);
        }
        let result = self.activations(size * size);
        let (factor, result) = (
            Self::view(&factor, 0..size * size),
            Self::view(&result, 0..size * size),
        );
        let product = Product {
            m: size,
            n: size,
            k: size,
            left_transposed: false,
            right_transposed: true,
            factors: self.activations,
            result: self.activations,
            add: false,
        };
        let multiply = |times| {
            for _ in 0..times {
                self.multiply(
                    result,
                    result.address,
                    factor.address,
                    factor.address,
                    product,
                );
            }
            self.sync()
        };
        multiply(5)?;
        let start = Instant::now();
        multiply(times)?;
        Ok(start.elapsed().as_secs_f64() / times as f64)
    }

    /// `c = base + left · right`; the base counts where the product adds.
    pub(super) fn multiply(
        &self,
        c: Span,
        base: Address,
        left: Address,
        right: Address,
        product: Product,
    ) {
        assert_eq!(c.len, product.m * product.n, "the result of a product");
        if c.len == 0 {
            return;
        }
        let mut done = false;
        if let Some(blas) = self.gpu.blas() {
            let workspace = self.gpu.scratch("cuBLASLt", WORKSPACE);
            self.gpu.with_blas("a matrix product", || {
                done = blas.multiply(product, c.address, base, left, right, workspace)?;
                Ok(())
            });
        }
        if !done {
            self.multiply_plainly(c, base, left, right, product);
        }
    }

    pub(super) fn multiply_plainly(
        &self,
        c: Span,
        base: Address,
        left: Address,
        right: Address,
        product: Product,
    ) {
        let kernel = match (product.factors, product.result) {
            (Element::Bf16, Element::F32) => &kernels::MATMUL_BF16_F32,
            (factors, result) => {
                assert_eq!(factors, result, "a product of f32 is f32");
                kernels::MATMUL.of(factors)
            }
        };
        let shape = Argument::members([
            product.left_stride() as u32,
            u32::from(product.left_transposed),
            product.right_stride() as u32,
            u32::from(product.right_transposed),
            product.m as u32,
            product.n as u32,
            product.k as u32,
        ]);
        let add = if product.add { base } else { 0 };
        let grid = (product.n.div_ceil(64), product.m.div_ceil(64));
        let arguments = [
            c.address.into(),
            add.into(),
            left.into(),
            right.into(),
            shape,
        ];
        self.gpu.launch(kernel, grid, THREADS, 0, &arguments);
    }

    /// Where products of this type read a matrix.
    pub(super) fn matrix(&self, weights: &Weights, matrix: &Matrix, element: Element) -> Address {
        assert!(
            matrix.range.end <= weights.values.len,
            "a matrix beyond its arena"
        );
        let start = match (element, &weights.copy) {
            (Element::Bf16, Some(copy)) => copy.address,
            (Element::F32, _) => weights.values.memory.address,
            (Element::Bf16, None) => unreachable!("bf16 activations in f32 numerics"),
        };
        start + (matrix.range.start * element.bytes()) as u64
    }
}
