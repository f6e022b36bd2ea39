// Matrix products without tensor cores: the plain reference of cuBLASLt, for f32 and for shapes that it does not take.
#include "common.cuh"

#define TILE 64u
#define DEPTH 16u

// An element of a matrix that may be transposed: [rows, columns] with `stride` from row to row.
template <class T> struct Matrix {
    const T *values;
    u32 stride, transposed;

    __device__ float at(u32 row, u32 column) const {
        return to_float(values[transposed ? (u64)column * stride + row : (u64)row * stride + column]);
    }
};

// c [m, n] = left [m, k] right [k, n] (+ c0 where `add` is not null). Blocks of 256 threads, each a tile of 64 by 64,
// each thread 4 by 4 of it; sums over k in order.
template <class In, class Out>
__device__ void matmul_tile(Out *c, const Out *add, Matrix<In> left, Matrix<In> right, u32 m, u32 n, u32 k) {
    __shared__ float a[DEPTH][TILE + 1], b[DEPTH][TILE + 1];
    const u32 first_row = blockIdx.y * TILE, first_column = blockIdx.x * TILE;
    const u32 row = threadIdx.x / 16 * 4, column = threadIdx.x % 16 * 4;
    float sums[4][4] = {};
    for (u32 first = 0; first < k; first += DEPTH) {
        for (u32 at = threadIdx.x; at < TILE * DEPTH; at += blockDim.x) {
            // Consecutive threads read consecutive memory.
            const u32 i = left.transposed ? at % TILE : at / DEPTH, p = left.transposed ? at / TILE : at % DEPTH;
            a[p][i] = first_row + i < m && first + p < k ? left.at(first_row + i, first + p) : 0.0f;
            const u32 j = right.transposed ? at / DEPTH : at % TILE, q = right.transposed ? at % DEPTH : at / TILE;
            b[q][j] = first_column + j < n && first + q < k ? right.at(first + q, first_column + j) : 0.0f;
        }
        __syncthreads();
        for (u32 p = 0; p < DEPTH; p++)
#pragma unroll
            for (u32 i = 0; i < 4; i++)
#pragma unroll
                for (u32 j = 0; j < 4; j++)
                    sums[i][j] += a[p][row + i] * b[p][column + j];
        __syncthreads();
    }
    for (u32 i = 0; i < 4; i++)
        for (u32 j = 0; j < 4; j++) {
            const u32 r = first_row + row + i, s = first_column + column + j;
            if (r < m && s < n) {
                const u64 at = (u64)r * n + s;
                c[at] = from_float<Out>(sums[i][j] + (add ? to_float(add[at]) : 0.0f));
            }
        }
}

// Strides and transposition of both factors, and the shape.
struct Product {
    u32 left_stride, left_transposed, right_stride, right_transposed, m, n, k;
};

#define MATMUL(NAME, In, Out)                                                                                          \
    KERNEL NAME(Out *c, const Out *add, const In *left, const In *right, Product p) {                                  \
        matmul_tile<In, Out>(c, add, Matrix<In>{left, p.left_stride, p.left_transposed},                               \
                             Matrix<In>{right, p.right_stride, p.right_transposed}, p.m, p.n, p.k);                    \
    }

MATMUL(matmul_f32, float, float)
MATMUL(matmul_bf16, bf16, bf16)
MATMUL(matmul_bf16_f32, bf16, float)
