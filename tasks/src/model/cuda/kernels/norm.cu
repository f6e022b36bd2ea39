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
    float v[WIDE];
    for (u32 i = threadIdx.x % WARP * WIDE; i < d; i += WARP * WIDE) {
        read<WIDE>(v, x + i);
#pragma unroll
        for (u32 j = 0; j < WIDE; j++)
            sum += v[j] * v[j];
    }
    const float scale = 1.0f / sqrtf(warp_sum(sum) / (float)d + eps);
    for (u32 i = threadIdx.x % WARP * WIDE; i < d; i += WARP * WIDE) {
        read<WIDE>(v, x + i);
#pragma unroll
        for (u32 j = 0; j < WIDE; j++)
            v[j] = v[j] * scale * w[i + j];
        write<WIDE>(y + i, v);
    }
    if (threadIdx.x % WARP == 0)
        scales[row] = scale;
}

BOTH(rmsnorm_forward, (void *y, float *scales, const void *x, const float *w, u32 n, u32 d, float eps),
     constexpr u32 WIDE = Wide<T>::WIDE;
     if (d % WIDE == 0) rmsnorm_row<T, WIDE>((T *)y, scales, (const T *)x, w, n, d, eps);
     else rmsnorm_row<T, 1>((T *)y, scales, (const T *)x, w, n, d, eps))

// dx = base + s (dy w - x^ mean(dy w x^)), x^ = s x; a warp for each row. `base` may be `dx`.
template <class T, u32 WIDE>
__device__ void rmsnorm_backward_row(T *dx, const T *base, const T *dy, const T *x, const float *w,
                                     const float *scales, u32 n, u32 d) {
    const u32 row = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
    if (row >= n)
        return;
    const u64 first = (u64)row * d;
    const float scale = scales[row];
    float sum = 0;
    float g[WIDE], v[WIDE], b[WIDE];
    for (u32 i = threadIdx.x % WARP * WIDE; i < d; i += WARP * WIDE) {
        read<WIDE>(g, dy + first + i);
        read<WIDE>(v, x + first + i);
#pragma unroll
        for (u32 j = 0; j < WIDE; j++)
            sum += g[j] * w[i + j] * v[j];
    }
    const float mean = warp_sum(sum) * scale / (float)d;
    for (u32 i = threadIdx.x % WARP * WIDE; i < d; i += WARP * WIDE) {
        read<WIDE>(g, dy + first + i);
        read<WIDE>(v, x + first + i);
        read<WIDE>(b, base + first + i);
#pragma unroll
        for (u32 j = 0; j < WIDE; j++)
            b[j] += scale * (g[j] * w[i + j] - v[j] * scale * mean);
        write<WIDE>(dx + first + i, b);
    }
}

BOTH(rmsnorm_backward,
     (void *dx, const void *base, const void *dy, const void *x, const float *w, const float *scales, u32 n, u32 d),
     constexpr u32 WIDE = Wide<T>::WIDE;
     if (d % WIDE == 0) rmsnorm_backward_row<T, WIDE>((T *)dx, (const T *)base, (const T *)dy, (const T *)x, w, scales, n, d);
     else rmsnorm_backward_row<T, 1>((T *)dx, (const T *)base, (const T *)dy, (const T *)x, w, scales, n, d))

// parts [ceil(n / rows), d]: the sum of dy x^ over `rows` rows. Blocks of columns by blocks of rows.
template <class T>
__device__ void rmsnorm_weight_part(float *parts, const T *dy, const T *x, const float *scales, u32 n, u32 d, u32 rows) {
    const u32 column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= d)
        return;
    const u32 first = blockIdx.y * rows, last = min(n, first + rows);
    float sum = 0;
    for (u32 row = first; row < last; row++) {
        const u64 at = (u64)row * d + column;
        sum += to_float(dy[at]) * (to_float(x[at]) * scales[row]);
    }
    parts[(u64)blockIdx.y * d + column] = sum;
}

BOTH(rmsnorm_weight_parts, (float *parts, const void *dy, const void *x, const float *scales, u32 n, u32 d, u32 rows),
     rmsnorm_weight_part(parts, (const T *)dy, (const T *)x, scales, n, d, rows))

// total [d] += the sum of parts [count, d] by columns. Blocks of 32 columns by 8 shares of the parts.
KERNEL add_columns(float *total, const float *parts, u32 count, u32 d) {
    __shared__ float shares[8][WARP];
    const u32 lane = threadIdx.x % WARP, share = threadIdx.x / WARP;
    const u32 column = blockIdx.x * WARP + lane;
    float sum = 0;
    if (column < d)
        for (u32 part = share; part < count; part += 8)
            sum += parts[(u64)part * d + column];
    shares[share][lane] = sum;
    __syncthreads();
    if (share == 0 && column < d) {
        for (u32 other = 1; other < 8; other++)
            sum += shares[other][lane];
        total[column] += sum;
    }
}
