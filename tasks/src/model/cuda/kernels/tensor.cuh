// Products on tensor cores of rows in shared memory, bf16 with f32 sums: by mma.m16n8k16, or, compiled for compute
// capability 9.0 alone, by wgmma. Both leave the same fragments, so that what is made of them (flash.cu) is written once.
//
// Fragments (g = lane / 4, t = lane % 4): a register of a left factor holds row g or g + 8 and two of 16 columns, a
// register of a right factor two of 16 rows and column g, results are c[0..1]: row g, columns 2t and 2t + 1;
// c[2..3]: row g + 8. So two results side by side, packed, are a left factor of the next product.
#pragma once
#include "common.cuh"

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#define HOPPER
#endif

__device__ inline void mma(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
#ifdef KBUILD_EMULATE
    emulate::mma(c, a, b0, b1);
#else
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}

// Four 8 by 8 matrices, lanes 8i to 8i + 7 giving the rows of matrix i.
__device__ inline void load_matrices(u32 (&r)[4], const bf16 *row) {
#ifdef KBUILD_EMULATE
    emulate::load_matrices(r, row, false);
#else
    const u32 at = (u32)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
#endif
}

__device__ inline void load_transposed(u32 (&r)[4], const bf16 *row) {
#ifdef KBUILD_EMULATE
    emulate::load_matrices(r, row, true);
#else
    const u32 at = (u32)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
#endif
}

// Copies 16 bytes, or zeros, to shared memory, and does not wait for them.
__device__ inline void copy_async(bf16 *to, const bf16 *from, bool real) {
#ifdef KBUILD_EMULATE
    *(Pack<u32, 4> *)to = real ? *(const Pack<u32, 4> *)from : Pack<u32, 4>{};
#else
    const u32 at = (u32)__cvta_generic_to_shared(to);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at), "l"(from), "r"(real ? 16 : 0) : "memory");
#endif
}

// The same of one number.
__device__ inline void copy_async(float *to, const float *from, bool real) {
#ifdef KBUILD_EMULATE
    *to = real ? *from : 0.0f;
#else
    const u32 at = (u32)__cvta_generic_to_shared(to);
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(at), "l"(from), "r"(real ? 4 : 0) : "memory");
#endif
}

// Everything that was to be copied is there, for every thread, and nobody reads what was there before.
__device__ inline void arrive() {
#ifndef KBUILD_EMULATE
    asm volatile("cp.async.wait_all;" ::: "memory");
#ifdef HOPPER
    // wgmma reads shared memory by another way than it was written.
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
#endif
    __syncthreads();
}

// COUNT rows of HD values in shared memory, as panels of 64 columns. The packs of 16 bytes of a row of a panel change
// places with its number, so that eight rows of a matrix lie in different banks: what wgmma calls a swizzle of 128 bytes.
template <u32 HD, u32 COUNT> struct Rows {
    static constexpr u32 PANEL = COUNT * 64;
    bf16 *at;

    __device__ bf16 *place(u32 row, u32 column) const {
        return at + column / 64 * PANEL + row * 64 + (column % 64 / 8 ^ row % 8) * 8;
    }

    // Copies them from a column of wider rows by all BLOCK threads; zeros from `last` on.
    template <u32 BLOCK>
    __device__ void load(const bf16 *from, u32 stride, u32 column, u32 first, u32 last) const {
        constexpr u32 PACKS = HD / 8, APART = BLOCK / PACKS;
        const u32 row = threadIdx.x / PACKS, pack = threadIdx.x % PACKS * 8;
        const bf16 *next = from + (u64)(first + row) * stride + column + pack;
#pragma unroll
        for (u32 i = 0; i < COUNT; i += APART, next += (u64)APART * stride) {
            const bool real = first + row + i < last;
            // Rows that far apart are permuted alike.
            static_assert(APART % 8 == 0 && COUNT % APART == 0);
            copy_async(place(row, pack) + i * 64, real ? next : from, real);
        }
    }

    // Left factor: 16 rows from `row`, 16 columns from `column`.
    __device__ void left(u32 (&a)[4], u32 row, u32 column) const {
        const u32 lane = threadIdx.x % WARP;
        load_matrices(a, place(row + lane % 16, column + lane / 16 * 8));
    }

    // Right factor of two results: columns of the product are 16 rows here; b[0..1] the first eight.
    __device__ void right(u32 (&b)[4], u32 row, u32 column) const {
        const u32 lane = threadIdx.x % WARP;
        load_matrices(b, place(row + lane / 16 * 8 + lane % 8, column + lane / 8 % 2 * 8));
    }

    // Right factor of two results: columns of the product are 16 columns here.
    __device__ void right_rows(u32 (&b)[4], u32 row, u32 column) const {
        const u32 lane = threadIdx.x % WARP;
        load_transposed(b, place(row + lane / 8 % 2 * 8 + lane % 8, column + lane / 16 * 8));
    }
};

// Two results side by side as a left factor.
__device__ inline void left_factor(u32 (&a)[4], const float (&low)[4], const float (&high)[4]) {
    a[0] = bf16_pair(low[0], low[1]);
    a[1] = bf16_pair(low[2], low[3]);
    a[2] = bf16_pair(high[0], high[1]);
    a[3] = bf16_pair(high[2], high[3]);
}

#ifdef HOPPER

// Rows whose warps multiply together.
template <u32 STRIPS> constexpr u32 TOGETHER = 64;

// How wgmma finds rows in shared memory (PTX ISA, "Matrix Descriptor Format"): a swizzle of 128 bytes, groups of eight
// rows one after the other, panels `apart` bytes. What lies eight values further on has a description larger by one.
__device__ inline u64 description(const bf16 *rows, u32 apart) {
    const u64 at = (u32)__cvta_generic_to_shared(rows);
    return (at & 0x3ffff) >> 4 | (u64)(apart >> 4) << 16 | (u64)(1024 >> 4) << 32 | (u64)1 << 62;
}

#define EIGHT(c, n)                                                                                                    \
    "+f"(c[n][0]), "+f"(c[n][1]), "+f"(c[n][2]), "+f"(c[n][3]), "+f"(c[n + 1][0]), "+f"(c[n + 1][1]),                  \
        "+f"(c[n + 1][2]), "+f"(c[n + 1][3])
#define THIRTY_TWO(c, n) EIGHT(c, n), EIGHT(c, n + 2), EIGHT(c, n + 4), EIGHT(c, n + 6)
#define FIRST_32                                                                                                       \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, "   \
    "%24, %25, %26, %27, %28, %29, %30, %31"
#define NEXT_32                                                                                                        \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, "   \
    "%54, %55, %56, %57, %58, %59, %60, %61, %62, %63"

// c [64, 8 N] (+)= left [64, 16] right [16, 8 N] by the four warps of a group, both factors in shared memory.
__device__ inline void wgmma(float (&c)[8][4], u64 left, u64 right, u32 add) {
    asm volatile("{ .reg .pred add; setp.ne.u32 add, %34, 0; wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
                 "{" FIRST_32 "}, %32, %33, add, 1, 1, 0, 0; }"
                 : THIRTY_TWO(c, 0)
                 : "l"(left), "l"(right), "r"(add));
}

__device__ inline void wgmma(float (&c)[16][4], u64 left, u64 right, u32 add) {
    asm volatile("{ .reg .pred add; setp.ne.u32 add, %66, 0; wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
                 "{" FIRST_32 ", " NEXT_32 "}, %64, %65, add, 1, 1, 0, 0; }"
                 : THIRTY_TWO(c, 0), THIRTY_TWO(c, 8)
                 : "l"(left), "l"(right), "r"(add));
}

// c [64, 8 N] += left [64, 16] right [16, 8 N], the left factor in registers, the right one by its columns.
__device__ inline void wgmma(float (&c)[8][4], const u32 (&a)[4], u64 right) {
    asm volatile("{ .reg .pred add; setp.ne.u32 add, %37, 0; wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
                 "{" FIRST_32 "}, {%32, %33, %34, %35}, %36, add, 1, 1, 1; }"
                 : THIRTY_TWO(c, 0)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(right), "r"(1));
}

__device__ inline void wgmma(float (&c)[16][4], const u32 (&a)[4], u64 right) {
    asm volatile("{ .reg .pred add; setp.ne.u32 add, %69, 0; wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
                 "{" FIRST_32 ", " NEXT_32 "}, {%64, %65, %66, %67}, %68, add, 1, 1, 1; }"
                 : THIRTY_TWO(c, 0), THIRTY_TWO(c, 8)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(right), "r"(1));
}

// Registers that wgmma uses are left alone between these two.
template <u32 N> __device__ inline void begin(float (&c)[N][4]) {
#pragma unroll
    for (u32 n = 0; n < N; n++)
#pragma unroll
        for (u32 i = 0; i < 4; i++)
            asm volatile("" : "+f"(c[n][i])::"memory");
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

template <u32 N> __device__ inline void finish(float (&c)[N][4]) {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
#pragma unroll
    for (u32 n = 0; n < N; n++)
#pragma unroll
        for (u32 i = 0; i < 4; i++)
            asm volatile("" : "+f"(c[n][i])::"memory");
}

// c [16, COLUMNS] = left [16, HD] at `row`, times the transpose of right [COLUMNS, HD]; the four warps of a group come
// together, with 64 rows.
template <u32 STRIPS, u32 COLUMNS, u32 HD, u32 COUNT>
__device__ inline void product(float (&c)[STRIPS][COLUMNS / 8][4], Rows<HD, COUNT> left, u32 row,
                               Rows<HD, COLUMNS> right) {
    static_assert(STRIPS == 1);
    const u64 a = description(left.at + row / 64 * 64 * 64, 16), b = description(right.at, 16);
    begin(c[0]);
#pragma unroll
    for (u32 k = 0; k < HD; k += 16)
        wgmma(c[0], a + (k / 64 * left.PANEL + k % 64) / 8, b + (k / 64 * right.PANEL + k % 64) / 8, k > 0);
    finish(c[0]);
}

// c [16, HD] += weights [16, COUNT] rows [COUNT, HD]; the weights are a result of `product`.
template <u32 STRIPS, u32 COUNT, u32 HD>
__device__ inline void combine(float (&c)[STRIPS][HD / 8][4], const float (&weights)[STRIPS][COUNT / 8][4],
                               Rows<HD, COUNT> rows) {
    u32 a[COUNT / 16][4];
#pragma unroll
    for (u32 k = 0; k < COUNT / 16; k++)
        left_factor(a[k], weights[0][2 * k], weights[0][2 * k + 1]);
    const u64 b = description(rows.at, rows.PANEL * 2);
    begin(c[0]);
#pragma unroll
    for (u32 k = 0; k < COUNT / 16; k++)
        wgmma(c[0], a[k], b + k * 16 * 64 / 8);
    finish(c[0]);
}

#else

template <u32 STRIPS> constexpr u32 TOGETHER = 16 * STRIPS;

// c [STRIPS 16, COLUMNS] = left [STRIPS 16, HD] at `row`, times the transpose of right [COLUMNS, HD].
template <u32 STRIPS, u32 COLUMNS, u32 HD, u32 COUNT>
__device__ inline void product(float (&c)[STRIPS][COLUMNS / 8][4], Rows<HD, COUNT> left, u32 row,
                               Rows<HD, COLUMNS> right) {
#pragma unroll
    for (u32 s = 0; s < STRIPS; s++)
#pragma unroll
        for (u32 n = 0; n < COLUMNS / 8; n++)
            c[s][n][0] = c[s][n][1] = c[s][n][2] = c[s][n][3] = 0;
#pragma unroll
    for (u32 k = 0; k < HD; k += 16) {
        u32 a[STRIPS][4], b[4];
#pragma unroll
        for (u32 s = 0; s < STRIPS; s++)
            left.left(a[s], row + 16 * s, k);
#pragma unroll
        for (u32 n = 0; n < COLUMNS; n += 16) {
            right.right(b, n, k);
#pragma unroll
            for (u32 s = 0; s < STRIPS; s++) {
                mma(c[s][n / 8], a[s], b[0], b[1]);
                mma(c[s][n / 8 + 1], a[s], b[2], b[3]);
            }
        }
    }
}

// c [STRIPS 16, HD] += weights [STRIPS 16, COUNT] rows [COUNT, HD]; the weights are a result of `product`.
template <u32 STRIPS, u32 COUNT, u32 HD>
__device__ inline void combine(float (&c)[STRIPS][HD / 8][4], const float (&weights)[STRIPS][COUNT / 8][4],
                               Rows<HD, COUNT> rows) {
#pragma unroll
    for (u32 k = 0; k < COUNT; k += 16) {
        u32 a[STRIPS][4], b[4];
#pragma unroll
        for (u32 s = 0; s < STRIPS; s++)
            left_factor(a[s], weights[s][k / 8], weights[s][k / 8 + 1]);
#pragma unroll
        for (u32 n = 0; n < HD; n += 16) {
            rows.right_rows(b, k, n);
#pragma unroll
            for (u32 s = 0; s < STRIPS; s++) {
                mma(c[s][n / 8], a[s], b[0], b[1]);
                mma(c[s][n / 8 + 1], a[s], b[2], b[3]);
            }
        }
    }
}

#endif
