// Softmax losses on a chunk of logits [n, V], in place: a block for each row.
//
// stats [n, 4] of a row: -ln p(target), (ln Z)^2, KL(teacher || student), 1 if the target is the largest.
#include "common.cuh"

#define NO_TARGET 0xffffffffu

// The largest value and the sum of e^(scale (x - largest)), of a whole row in every thread.
struct Softmax {
    float largest, sum;
};

template <class T, u32 WIDE> __device__ Softmax softmax_of(const T *row, u32 V, float scale) {
    float largest = -INFINITY, sum = 0, v[WIDE];
    for (u32 i = threadIdx.x * WIDE; i < V; i += blockDim.x * WIDE) {
        read<WIDE>(v, row + i);
        float here = v[0];
#pragma unroll
        for (u32 j = 1; j < WIDE; j++)
            here = fmaxf(here, v[j]);
        if (here > largest) {
            sum *= exp_of<T>(scale * (largest - here));
            largest = here;
        }
#pragma unroll
        for (u32 j = 0; j < WIDE; j++)
            sum += exp_of<T>(scale * (v[j] - largest));
    }
    const float all = block_max(largest);
    // A thread without values has no largest: its sum is 0 and stays so.
    return Softmax{all, block_sum(sum > 0 ? sum * exp_of<T>(scale * (largest - all)) : 0.0f)};
}

__device__ inline void write_stats(float *stats, float cross_entropy, float log_z, float divergence, bool correct) {
    float *row = stats + 4u * blockIdx.x;
    row[0] = cross_entropy;
    row[1] = log_z * log_z;
    row[2] = divergence;
    row[3] = correct ? 1.0f : 0.0f;
}

template <class T, u32 WIDE>
__device__ void cross_entropy_row(T *logits, float *stats, const u32 *targets, const float *weights, float weight,
                                  float z_loss, u32 gradient, u32 V) {
    T *row = logits + (u64)blockIdx.x * V;
    const u32 target = targets[blockIdx.x];
    const bool counts = target != NO_TARGET;
    float chosen = 0;
    if (counts) {
        const Softmax softmax = softmax_of<T, WIDE>(row, V, 1.0f);
        const float log_z = softmax.largest + logf(softmax.sum);
        chosen = to_float(row[target]);
        if (threadIdx.x == 0)
            write_stats(stats, log_z - chosen, log_z, 0, chosen >= softmax.largest);
        if (gradient) {
            if (weights)
                weight = weights[blockIdx.x];
            const float slope = weight * (1.0f + 2.0f * z_loss * log_z) / softmax.sum;
            // Everybody has read the chosen logit before anybody replaces it.
            __syncthreads();
            float v[WIDE];
            for (u32 i = threadIdx.x * WIDE; i < V; i += blockDim.x * WIDE) {
                read<WIDE>(v, row + i);
#pragma unroll
                for (u32 j = 0; j < WIDE; j++)
                    v[j] = slope * exp_of<T>(v[j] - softmax.largest) - (i + j == target ? weight : 0.0f);
                write<WIDE>(row + i, v);
            }
        }
    } else {
        if (threadIdx.x == 0)
            write_stats(stats, 0, 0, 0, false);
        if (gradient)
            for (u32 i = threadIdx.x; i < V; i += blockDim.x)
                row[i] = from_float<T>(0);
    }
}

// Cross entropy with z-loss (ln Z)^2. With `gradient`, logits become their gradient times `weight`, or times the weight
// of their row where `weights [n]` is not null; the gradient of sum c ln p is that of weights -c.
BOTH(cross_entropy,
     (void *logits, float *stats, const u32 *targets, const float *weights, float weight, float z_loss, u32 gradient, u32 V),
     constexpr u32 WIDE = Wide<T>::WIDE;
     if (V % WIDE == 0) cross_entropy_row<T, WIDE>((T *)logits, stats, targets, weights, weight, z_loss, gradient, V);
     else cross_entropy_row<T, 1>((T *)logits, stats, targets, weights, weight, z_loss, gradient, V))

// alpha KL(teacher || student) at a temperature + (1 - alpha) cross entropy. With `gradient`, student logits become
// `pulled` (p_s - p_t) + `taught` (p - target): the weights of both parts.
template <class T>
__device__ void distillation_row(T *student, const T *teacher, float *stats, const u32 *targets, float temperature,
                                 float pulled, float taught, u32 gradient, u32 V) {
    T *row = student + (u64)blockIdx.x * V;
    const T *taught_by = teacher + (u64)blockIdx.x * V;
    const u32 target = targets[blockIdx.x];
    const float cold = 1.0f / temperature;
    const Softmax plain = softmax_of<T, 1>(row, V, 1.0f);
    const Softmax own = softmax_of<T, 1>(row, V, cold);
    const Softmax other = softmax_of<T, 1>(taught_by, V, cold);
    const float log_z = plain.largest + logf(plain.sum);
    const float log_own = logf(own.sum), log_other = logf(other.sum);
    const float chosen = to_float(row[target]);
    __syncthreads();
    float divergence = 0;
    for (u32 i = threadIdx.x; i < V; i += blockDim.x) {
        const float logit = to_float(row[i]);
        const float log_s = cold * (logit - own.largest) - log_own;
        const float log_t = cold * (to_float(taught_by[i]) - other.largest) - log_other;
        const float p_t = expf(log_t);
        divergence += p_t * (log_t - log_s);
        if (gradient)
            row[i] = from_float<T>(pulled * (expf(log_s) - p_t) + taught * expf(logit - log_z) -
                                   (i == target ? taught : 0.0f));
    }
    divergence = block_sum(divergence);
    if (threadIdx.x == 0)
        write_stats(stats, log_z - chosen, log_z, divergence, chosen >= plain.largest);
}

BOTH(distillation,
     (void *student, const void *teacher, float *stats, const u32 *targets, float temperature, float pulled, float taught, u32 gradient, u32 V),
     distillation_row((T *)student, (const T *)teacher, stats, targets, temperature, pulled, taught, gradient, V))

// totals [4] = the sums of stats [n, 4] in f64. One block.
KERNEL add_stats(double *totals, const float *stats, u32 n) {
    for (u32 column = 0; column < 4; column++) {
        double sum = 0;
        for (u32 row = threadIdx.x; row < n; row += blockDim.x)
            sum += stats[4u * row + column];
        sum = block_sum(sum);
        if (threadIdx.x == 0)
            totals[column] = sum;
    }
}
