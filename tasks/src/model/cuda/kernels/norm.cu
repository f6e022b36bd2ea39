// RMSNorm over rows: y = x s w, s = 1 / sqrt(mean(x^2) + eps) (Zhang and Sennrich 2019). Statistics in f32.
#include "common.cuh"

// y [n, d], scales [n] from x [n, d], w [d]; a warp for each row.
template <class T, u32 WIDE>
__device__ void rmsnorm_row(T *y, float *scales, const T *x, const float *w, u32 n, u32 d, float eps) {
    const u32 row = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
    if (row >= n)
        return;
    x += (u64)row * d;
    y += (u64)row * d;
    float sum = 0;
    float v[WIDE], c[WIDE];
    for (u32 i = threadIdx.x % WARP * WIDE; i < d; i += WARP * WIDE) {
        read<WIDE>(v, x + i);
#pragma unroll
        for (u32 j = 0; j < WIDE; j++)
            sum += v[j] * v[j];
    }
    const float scale = 1.0f / sqrtf(warp_sum(sum) / (float)d + eps);
    for (u32 i = threadIdx.x % WARP * WIDE; i < d; i += WARP * WIDE) {
        read<WIDE>(v, x + i);
        read<WIDE>(c, w + i);
#pragma unroll
        for (u32 j = 0; j < WIDE; j++)
            v[j] = v[j] * scale * c[j];
        write<WIDE>(y + i, v);
    }
    if (threadIdx.x % WARP == 0)
        scales[row] = scale;
}

BOTH(rmsnorm_forward, (void *y, float *scales, const void *x, const float *w, u32 n, u32 d, float eps),
     constexpr u32 WIDE = Wide<T>::WIDE;
     if (d % WIDE == 0) rmsnorm_row<T, WIDE>((T *)y, scales, (const T *)x, w, n, d, eps);
     else rmsnorm_row<T, 1>((T *)y, scales, (const T *)x, w, n, d, eps))

// dx += s (dy w - x^ mean(dy w x^)), x^ = s x, and parts [ceil(n / rows), d]: the sum of dy x^ over `rows` rows. A block
// for so many rows, a warp for each of them in turn. Dynamic shared memory: d floats for each warp.
template <class T, u32 WIDE>
__device__ void rmsnorm_backward_rows(T *dx, float *parts, const T *dy, const T *x, const float *w, const float *scales,
                                      u32 n, u32 d, u32 rows) {
    DYNAMIC_SHARED(float, sums);
    const u32 warp = threadIdx.x / WARP, warps = blockDim.x / WARP, from = threadIdx.x % WARP * WIDE;
    const u32 first = blockIdx.x * rows, last = min(n, first + rows);
    // Of its columns only this thread knows until the end.
    float *const own = sums + warp * d;
    for (u32 i = from; i < d; i += WARP * WIDE) {
        const float nothing[WIDE] = {};
        write<WIDE>(own + i, nothing);
    }
    for (u32 row = first + warp; row < last; row += warps) {
        const u64 at = (u64)row * d;
        const float scale = scales[row];
        float g[WIDE], v[WIDE], b[WIDE], c[WIDE], all[WIDE];
        float sum = 0;
        for (u32 i = from; i < d; i += WARP * WIDE) {
            read<WIDE>(g, dy + at + i);
            read<WIDE>(v, x + at + i);
            read<WIDE>(c, w + i);
#pragma unroll
            for (u32 j = 0; j < WIDE; j++)
                sum += g[j] * c[j] * v[j];
        }
        const float mean = warp_sum(sum) * scale / (float)d;
        for (u32 i = from; i < d; i += WARP * WIDE) {
            read<WIDE>(g, dy + at + i);
            read<WIDE>(v, x + at + i);
            read<WIDE>(c, w + i);
            read<WIDE>(b, dx + at + i);
            read<WIDE>(all, own + i);
#pragma unroll
            for (u32 j = 0; j < WIDE; j++) {
                const float normed = v[j] * scale;
                b[j] += scale * (g[j] * c[j] - normed * mean);
                all[j] += g[j] * normed;
            }
            write<WIDE>(dx + at + i, b);
            write<WIDE>(own + i, all);
        }
    }
    __syncthreads();
    for (u32 i = threadIdx.x; i < d; i += blockDim.x) {
        float sum = 0;
        for (u32 other = 0; other < warps; other++)
            sum += sums[other * d + i];
        parts[(u64)blockIdx.x * d + i] = sum;
    }
}

BOTH(rmsnorm_backward,
     (void *dx, float *parts, const void *dy, const void *x, const float *w, const float *scales, u32 n, u32 d, u32 rows),
     constexpr u32 WIDE = Wide<T>::WIDE;
     if (d % WIDE == 0) rmsnorm_backward_rows<T, WIDE>((T *)dx, parts, (const T *)dy, (const T *)x, w, scales, n, d, rows);
     else rmsnorm_backward_rows<T, 1>((T *)dx, parts, (const T *)dy, (const T *)x, w, scales, n, d, rows))

// total [d] += the sum of parts [count, d] by columns. Blocks of 32 columns by 32 shares of the parts.
KERNEL add_columns(float *total, const float *parts, u32 count, u32 d) {
    __shared__ float shares[WARP][WARP];
    const u32 lane = threadIdx.x % WARP, share = threadIdx.x / WARP;
    const u32 column = blockIdx.x * WARP + lane;
    float sum = 0;
    if (column < d)
        for (u32 part = share; part < count; part += WARP)
            sum += parts[(u64)part * d + column];
    shares[share][lane] = sum;
    __syncthreads();
    if (share == 0 && column < d) {
        for (u32 other = 1; other < WARP; other++)
            sum += shares[other][lane];
        total[column] += sum;
    }
}
