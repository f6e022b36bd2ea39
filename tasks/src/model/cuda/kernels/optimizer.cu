// Norm of a gradient and AdamW over flat arenas, in f32 with a bf16 copy of the weights for the matrix products.
#include "common.cuh"

// Sum over `each` values by block, in f64.
KERNEL squares(double *parts, const float *x, u64 n, u32 each) {
    const u64 first = (u64)blockIdx.x * each, last = min(n, first + each);
    double sum = 0;
    for (u64 i = first + threadIdx.x; i < last; i += blockDim.x)
        sum += (double)x[i] * (double)x[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0)
        parts[blockIdx.x] = sum;
}

// total [1] = the sum of parts [count]. One block.
KERNEL sum_parts(double *total, const double *parts, u32 count) {
    double sum = 0;
    for (u32 i = threadIdx.x; i < count; i += blockDim.x)
        sum += parts[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0)
        *total = sum;
}

// The constants of one update, in the order of `AdamWStep` in Rust.
struct AdamW {
    float clip, keep, beta1, rest1, beta2, rest2, rate, root, eps;
};

// One update of n weights with their moments. `copy`, the weights in bf16, may be null.
KERNEL adamw(float *w, float *m, float *v, bf16 *copy, const float *g, u64 n, AdamW step) {
    const u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n)
        return;
    const float gradient = g[i] * step.clip;
    const float first = step.beta1 * m[i] + step.rest1 * gradient;
    const float second = step.beta2 * v[i] + step.rest2 * gradient * gradient;
    m[i] = first;
    v[i] = second;
    const float weight = w[i] * step.keep - step.rate * first / (sqrtf(second) * step.root + step.eps);
    w[i] = weight;
    if (copy)
        copy[i] = from_float<bf16>(weight);
}
