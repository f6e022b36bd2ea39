// From rows of logits to tokens: greedy, or temperature, top-k, top-p and min-p, as the sampler of the CPU does it.
//
// Instead of sorting, the smallest weight that stays is searched among the bit patterns of floats, which order as their
// values do. No random numbers: the caller brings a uniform one for each row.
#include "common.cuh"

struct Sampling {
    float temperature, top_p, min_p;
    u32 top_k;
};

// How many weights, and how much of them, reach a bound.
struct Above {
    u32 count;
    double mass;
};

__device__ Above above(const float *weights, u32 V, float bound) {
    double count = 0, mass = 0;
    for (u32 i = threadIdx.x; i < V; i += blockDim.x)
        if (weights[i] >= bound && weights[i] > 0) {
            count += 1;
            mass += weights[i];
        }
    return Above{(u32)block_sum(count), block_sum(mass)};
}

// The largest bound that keeps at least `count` weights and `mass` of them; 0 if none does.
__device__ float bound_of(const float *weights, u32 V, u32 count, double mass) {
    u32 bound = 0;
    for (u32 bit = 1u << 30; bit > 0; bit /= 2) {
        const Above kept = above(weights, V, __uint_as_float(bound | bit));
        if ((bound | bit) <= 0x7f800000u && kept.count >= count && kept.mass >= mass)
            bound |= bit;
    }
    return __uint_as_float(bound);
}

__device__ void cut_below(float *weights, u32 V, float bound) {
    __syncthreads();
    for (u32 i = threadIdx.x; i < V; i += blockDim.x)
        if (weights[i] < bound)
            weights[i] = 0;
    __syncthreads();
}

// Of equal weights at the bound, those with the lowest ids stay, until the mass is reached.
__device__ void cut_top_p(float *weights, u32 V, float p) {
    const double wanted = (double)p * above(weights, V, 0).mass;
    const float bound = bound_of(weights, V, 1, wanted);
    const Above more = above(weights, V, __uint_as_float(__float_as_uint(bound) + 1));
    cut_below(weights, V, bound);
    if (threadIdx.x == 0) {
        double mass = more.mass;
        for (u32 i = 0; i < V; i++)
            if (weights[i] == bound) {
                if (mass >= wanted)
                    weights[i] = 0;
                mass += bound;
            }
    }
    __syncthreads();
}

// The first token whose weights up to it exceed `uniform` of all; the last that weighs anything at the end.
__device__ u32 draw(const float *weights, u32 V, double uniform, double *sums) {
    const u32 each = (V + blockDim.x - 1) / blockDim.x;
    const u32 first = min(V, threadIdx.x * each), last = min(V, first + each);
    double sum = 0;
    for (u32 i = first; i < last; i++)
        sum += weights[i];
    sums[threadIdx.x] = sum;
    __shared__ u32 chosen;
    __syncthreads();
    if (threadIdx.x == 0) {
        double total = 0;
        for (u32 share = 0; share < blockDim.x; share++)
            total += sums[share];
        double left = uniform * total;
        u32 share = 0;
        while (share + 1 < blockDim.x && left >= sums[share])
            left -= sums[share++];
        u32 token = 0;
        for (u32 i = share * each; i < V; i++)
            if (weights[i] > 0) {
                token = i;
                left -= weights[i];
                if (left < 0)
                    break;
            }
        chosen = token;
    }
    __syncthreads();
    return chosen;
}

__device__ u32 argmax(const float *logits, u32 V, float largest) {
    __shared__ u32 chosen;
    if (threadIdx.x == 0)
        chosen = V;
    __syncthreads();
    for (u32 i = threadIdx.x; i < V; i += blockDim.x)
        if (logits[i] == largest) {
            // The smallest of some integers is the same in any order.
            atomicMin(&chosen, i);
            break;
        }
    __syncthreads();
    return chosen;
}

// tokens [n] and their log-probabilities under the model itself, from logits [n, V]; `weights [n, V]` is scratch,
// `uniform [n]`. A block of at most 256 threads for each row.
KERNEL sample(u32 *tokens, float *log_probs, float *weights, const float *logits, const double *uniform, u32 V,
              Sampling sampling) {
    __shared__ double sums[256];
    logits += (u64)blockIdx.x * V;
    weights += (u64)blockIdx.x * V;
    float largest = -INFINITY;
    for (u32 i = threadIdx.x; i < V; i += blockDim.x)
        largest = fmaxf(largest, logits[i]);
    largest = block_max(largest);
    double sum = 0;
    for (u32 i = threadIdx.x; i < V; i += blockDim.x)
        sum += expf(logits[i] - largest);
    sum = block_sum(sum);
    u32 token;
    if (sampling.temperature <= 0) {
        token = argmax(logits, V, largest);
    } else {
        for (u32 i = threadIdx.x; i < V; i += blockDim.x)
            weights[i] = expf((logits[i] - largest) / sampling.temperature);
        __syncthreads();
        if (sampling.top_k > 0 && sampling.top_k < V)
            cut_below(weights, V, bound_of(weights, V, sampling.top_k, 0));
        if (sampling.top_p < 1)
            cut_top_p(weights, V, sampling.top_p);
        if (sampling.min_p > 0)
            cut_below(weights, V, sampling.min_p);
        token = draw(weights, V, uniform[blockIdx.x], sums);
    }
    if (threadIdx.x == 0) {
        tokens[blockIdx.x] = token;
        log_probs[blockIdx.x] = logits[token] - largest - (float)log(sum);
    }
}
