//! cuBLASLt: matrix products on tensor cores, one plan a shape.
//!
//! bf16 factors are multiplied with f32 sums; f32 factors in f32, never in TF32. Plans are chosen once by the library's
//! heuristic, with a work space of one size, so that the same shape takes the same algorithm each time.

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::sync::{Mutex, PoisonError};

use cudarc::cublaslt::sys::{self, cublasStatus_t};

use super::driver::Address;

/// Bytes that an algorithm may use beside its arguments.
pub const WORKSPACE: usize = 32 << 20;

/// Types of numbers on a card.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Element {
    F32,
    Bf16,
}

impl Element {
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
        }
    }

    fn data_type(self) -> sys::cudaDataType {
        match self {
            Self::F32 => sys::cudaDataType_t::CUDA_R_32F,
            Self::Bf16 => sys::cudaDataType_t::CUDA_R_16BF,
        }
    }
}

/// `c [m, n] = left [m, k] · right [k, n] (+ base [m, n])`, all row-major; a transposed factor is stored the other way
/// round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Product {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub left_transposed: bool,
    pub right_transposed: bool,
    pub factors: Element,
    pub result: Element,
    /// A base is added.
    pub add: bool,
}

impl Product {
    /// Elements from row to row of the left factor as it is stored.
    pub fn left_stride(&self) -> usize {
        if self.left_transposed { self.m } else { self.k }
    }

    pub fn right_stride(&self) -> usize {
        if self.right_transposed {
            self.k
        } else {
            self.n
        }
    }

    /// Whether rows begin at multiples of 16 bytes, which tensor cores need.
    fn is_aligned(&self, places: [Address; 4]) -> bool {
        let strides = [
            self.left_stride() * self.factors.bytes(),
            self.right_stride() * self.factors.bytes(),
            self.n * self.result.bytes(),
        ];
        strides.iter().all(|stride| stride % 16 == 0) && places.iter().all(|place| place % 16 == 0)
    }
}

/// The library, opened for a card.
pub struct Blas {
    handle: sys::cublasLtHandle_t,
    stream: *mut c_void,
    /// `None`: the library knows no algorithm.
    plans: Mutex<BTreeMap<Product, Option<Plan>>>,
}

struct Plan {
    description: sys::cublasLtMatmulDesc_t,
    left: sys::cublasLtMatrixLayout_t,
    right: sys::cublasLtMatrixLayout_t,
    result: sys::cublasLtMatrixLayout_t,
    algorithm: sys::cublasLtMatmulAlgo_t,
}

impl Blas {
    /// For the card whose context is current.
    pub fn new(stream: *mut c_void) -> Result<Self, String> {
        let mut handle: sys::cublasLtHandle_t = std::ptr::null_mut();
        // SAFETY: the library and its symbols were found; the pointer is to a local.
        #[allow(unsafe_code)]
        check(unsafe { sys::cublasLtCreate(&raw mut handle) })?;
        Ok(Self {
            handle,
            stream,
            plans: Mutex::default(),
        })
    }

    /// `c = left · right`, and `base` where the product adds, if the library can; `false`: it cannot, nothing was done.
    /// `workspace` has [`WORKSPACE`] bytes.
    pub fn multiply(
        &self,
        product: Product,
        c: Address,
        base: Address,
        left: Address,
        right: Address,
        workspace: Address,
    ) -> Result<bool, String> {
        if !product.is_aligned([c, base, left, right]) {
            return Ok(false);
        }
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        let plan = match plans.entry(product) {
            std::collections::btree_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::btree_map::Entry::Vacant(new) => new.insert(self.plan(product)?),
        };
        let Some(plan) = plan else { return Ok(false) };
        let (one, old) = (1.0f32, if product.add { 1.0f32 } else { 0.0 });
        let place = |address: Address| address as *mut c_void;
        // SAFETY: descriptors live in the plan; the factors and the result have the shapes of the product, which the
        // caller has checked against its views; scalars are f32 on the host, as the description says by default. The
        // library computes the transpose of everything: cᵀ = rightᵀ leftᵀ, column-major.
        #[allow(unsafe_code)]
        check(unsafe {
            sys::cublasLtMatmul(
                self.handle,
                plan.description,
                (&raw const one).cast(),
                place(right),
                plan.right,
                place(left),
                plan.left,
                (&raw const old).cast(),
                place(base),
                plan.result,
                place(c),
                plan.result,
                &raw const plan.algorithm,
                place(workspace),
                WORKSPACE,
                self.stream.cast(),
            )
        })?;
        Ok(true)
    }

    fn plan(&self, product: Product) -> Result<Option<Plan>, String> {
        let Product { m, n, k, .. } = product;
        let layout = |rows: usize, stride: usize, element: Element| {
            let mut layout: sys::cublasLtMatrixLayout_t = std::ptr::null_mut();
            // SAFETY: the pointer is to a local.
            #[allow(unsafe_code)]
            check(unsafe {
                // Row-major with a stride is column-major with that leading dimension, transposed.
                sys::cublasLtMatrixLayoutCreate(
                    &raw mut layout,
                    element.data_type(),
                    stride as u64,
                    rows as u64,
                    stride as i64,
                )
            })?;
            Ok::<_, String>(layout)
        };
        let left_rows = if product.left_transposed { k } else { m };
        let right_rows = if product.right_transposed { n } else { k };
        let left = layout(left_rows, product.left_stride(), product.factors)?;
        let right = layout(right_rows, product.right_stride(), product.factors)?;
        let result = layout(m, n, product.result)?;
        let description = description(product)?;
        let found = self.algorithm(description, [right, left, result])?;
        Ok(found.map(|algorithm| Plan {
            description,
            left,
            right,
            result,
            algorithm,
        }))
    }

    fn algorithm(
        &self,
        description: sys::cublasLtMatmulDesc_t,
        [a, b, c]: [sys::cublasLtMatrixLayout_t; 3],
    ) -> Result<Option<sys::cublasLtMatmulAlgo_t>, String> {
        use sys::cublasLtMatmulPreferenceAttributes_t::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES as BYTES;
        let mut preference: sys::cublasLtMatmulPreference_t = std::ptr::null_mut();
        let workspace: u64 = WORKSPACE as u64;
        let mut found = std::mem::MaybeUninit::<sys::cublasLtMatmulHeuristicResult_t>::zeroed();
        let mut count = 0;
        // SAFETY: descriptors are valid, pointers are to locals, one result is asked for, and it is read only if one
        // was written. The type is plain numbers, for which zeros are a value.
        #[allow(unsafe_code)]
        let (status, found) = unsafe {
            check(sys::cublasLtMatmulPreferenceCreate(&raw mut preference))?;
            let set = sys::cublasLtMatmulPreferenceSetAttribute(
                preference,
                BYTES,
                (&raw const workspace).cast(),
                size_of_val(&workspace),
            );
            let status = check(set).map(|()| {
                sys::cublasLtMatmulAlgoGetHeuristic(
                    self.handle,
                    description,
                    a,
                    b,
                    c,
                    c,
                    preference,
                    1,
                    found.as_mut_ptr(),
                    &raw mut count,
                )
            });
            sys::cublasLtMatmulPreferenceDestroy(preference);
            (status?, found.assume_init())
        };
        let works = status == cublasStatus_t::CUBLAS_STATUS_SUCCESS
            && count > 0
            && found.state == cublasStatus_t::CUBLAS_STATUS_SUCCESS;
        Ok(works.then_some(found.algo))
    }
}

fn description(product: Product) -> Result<sys::cublasLtMatmulDesc_t, String> {
    use sys::cublasComputeType_t::CUBLAS_COMPUTE_32F;
    use sys::cublasLtMatmulDescAttributes_t::{
        CUBLASLT_MATMUL_DESC_TRANSA, CUBLASLT_MATMUL_DESC_TRANSB,
    };
    let mut description: sys::cublasLtMatmulDesc_t = std::ptr::null_mut();
    // `CUBLAS_OP_T` and `CUBLAS_OP_N` of cublas_api.h.
    let transposed = |yes: bool| i32::from(yes);
    let (a, b) = (
        transposed(product.right_transposed),
        transposed(product.left_transposed),
    );
    // SAFETY: pointers are to locals, sizes are theirs.
    #[allow(unsafe_code)]
    unsafe {
        check(sys::cublasLtMatmulDescCreate(
            &raw mut description,
            CUBLAS_COMPUTE_32F,
            sys::cudaDataType_t::CUDA_R_32F,
        ))?;
        for (attribute, value) in [
            (CUBLASLT_MATMUL_DESC_TRANSA, a),
            (CUBLASLT_MATMUL_DESC_TRANSB, b),
        ] {
            check(sys::cublasLtMatmulDescSetAttribute(
                description,
                attribute,
                (&raw const value).cast(),
                size_of_val(&value),
            ))?;
        }
    }
    Ok(description)
}

fn check(status: cublasStatus_t) -> Result<(), String> {
    match status {
        cublasStatus_t::CUBLAS_STATUS_SUCCESS => Ok(()),
        other => Err(format!("{other:?}")),
    }
}

impl Drop for Blas {
    fn drop(&mut self) {
        let plans = std::mem::take(self.plans.get_mut().unwrap_or_else(PoisonError::into_inner));
        // SAFETY: each descriptor is destroyed once, and nothing uses them any more.
        #[allow(unsafe_code)]
        unsafe {
            for plan in plans.into_values().flatten() {
                sys::cublasLtMatmulDescDestroy(plan.description);
                for layout in [plan.left, plan.right, plan.result] {
                    sys::cublasLtMatrixLayoutDestroy(layout);
                }
            }
            sys::cublasLtDestroy(self.handle);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_rows_at_multiples_of_sixteen_bytes_go_to_tensor_cores() {
        let product = |k, n| Product {
            m: 5,
            n,
            k,
            left_transposed: false,
            right_transposed: true,
            factors: Element::Bf16,
            result: Element::Bf16,
            add: false,
        };
        assert!(product(64, 8).is_aligned([256, 256, 512, 16]));
        assert!(!product(64, 8).is_aligned([256, 256, 520, 16]));
        assert!(!product(64, 4).is_aligned([256, 256, 512, 16]));
        assert!(!product(33, 8).is_aligned([256, 256, 512, 16]));
    }
}
