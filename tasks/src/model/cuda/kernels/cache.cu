// Keys and values that stay while a sequence grows, and attention of its new rows to them; shapes as in attention.cu.
//
// cache [slots * capacity, 2G hd]: a slot is `capacity` rows, a row the key and value columns of a row of qkv.
// `places [n, 2]` says of each row of qkv in which row of the cache its slot begins, and its position there.
#include "common.cuh"

#define LANES 8u
#define TEAMS 32u

// A block for each row.
template <class T> __device__ void append_row(T *cache, const T *qkv, const u32 *places, Heads shape) {
    const u32 *place = places + 2u * blockIdx.x;
    const u32 width = 2 * shape.groups * shape.width;
    const T *from = qkv + (u64)blockIdx.x * row_width(shape) + shape.heads * shape.width;
    T *to = cache + (u64)(place[0] + place[1]) * width;
    for (u32 i = threadIdx.x; i < width; i += blockDim.x)
        to[i] = from[i];
}

BOTH(append, (void *cache, const void *qkv, const u32 *places, Heads shape),
     append_row((T *)cache, (const T *)qkv, places, shape))

// out [n, H hd]: a block of LANES * TEAMS threads for each row and head. A team meets every TEAMS-th key, so that no team
// waits for another on the way; each has its own largest score and sum, and at the end they are added in order. What is
// added in which order depends on the position alone.
//
// A lane has the columns (lane + 8 i) WIDE to (lane + 8 i + 1) WIDE of its head.
template <class T, u32 WIDE>
__device__ void attend_in_cache(T *out, const T *qkv, const T *cache, const u32 *places, Heads shape) {
    __shared__ float tops[TEAMS], sums[TEAMS], parts[TEAMS][WIDEST];
    constexpr u32 EACH = WIDEST / LANES / WIDE;
    const u32 *place = places + 2u * blockIdx.x;
    const u32 head = blockIdx.y, width = shape.width, groups_width = shape.groups * width;
    const u32 lane = threadIdx.x % LANES, team = threadIdx.x / LANES, count = place[1] + 1;
    const T *query = qkv + (u64)blockIdx.x * row_width(shape) + head * width;
    const T *keys = cache + (u64)place[0] * 2 * groups_width + head / (shape.heads / shape.groups) * width;
    const float scale = 1.0f / sqrtf((float)width);
    float q[EACH][WIDE], o[EACH][WIDE] = {};
#pragma unroll
    for (u32 i = 0; i < EACH; i++)
        if ((lane + LANES * i) * WIDE < width)
            read<WIDE>(q[i], query + (lane + LANES * i) * WIDE);
    float largest = -INFINITY, sum = 0;
    for (u32 first = 0; first < count; first += TEAMS) {
        const bool seen = first + team < count;
        const T *key = keys + (u64)(first + team) * 2 * groups_width;
        float score = 0, v[EACH][WIDE];
        if (seen)
#pragma unroll
            for (u32 i = 0; i < EACH; i++) {
                const u32 column = (lane + LANES * i) * WIDE;
                if (column < width) {
                    float k[WIDE];
                    read<WIDE>(k, key + column);
                    read<WIDE>(v[i], key + groups_width + column);
#pragma unroll
                    for (u32 j = 0; j < WIDE; j++)
                        score += q[i][j] * k[j];
                }
            }
#pragma unroll
        for (u32 step = LANES / 2; step > 0; step /= 2)
            score += __shfl_xor_sync(0xffffffffu, score, step);
        if (seen) {
            const float top = fmaxf(largest, scale * score);
            const float shrink = expf(largest - top), weight = expf(scale * score - top);
            sum = sum * shrink + weight;
            largest = top;
#pragma unroll
            for (u32 i = 0; i < EACH; i++)
                if ((lane + LANES * i) * WIDE < width)
#pragma unroll
                    for (u32 j = 0; j < WIDE; j++)
                        o[i][j] = o[i][j] * shrink + weight * v[i][j];
        }
    }
    tops[team] = largest;
    sums[team] = sum;
#pragma unroll
    for (u32 i = 0; i < EACH; i++)
        if ((lane + LANES * i) * WIDE < width)
#pragma unroll
            for (u32 j = 0; j < WIDE; j++)
                parts[team][(lane + LANES * i) * WIDE + j] = o[i][j];
    __syncthreads();
    if (threadIdx.x >= width)
        return;
    // The first team has seen a key; one that has seen none adds 0.
    float top = tops[0], total = 0, value = 0;
    for (u32 i = 1; i < TEAMS; i++)
        top = fmaxf(top, tops[i]);
    for (u32 i = 0; i < TEAMS; i++) {
        const float share = expf(tops[i] - top);
        total += share * sums[i];
        value += share * parts[i][threadIdx.x];
    }
    out[((u64)blockIdx.x * shape.heads + head) * width + threadIdx.x] = from_float<T>(value / total);
}

BOTH(attention_in_cache, (void *out, const void *qkv, const void *cache, const u32 *places, Heads shape),
     constexpr u32 WIDE = Wide<T>::WIDE;
     if (shape.width % WIDE == 0) attend_in_cache<T, WIDE>((T *)out, (const T *)qkv, (const T *)cache, places, shape);
     else attend_in_cache<T, 1>((T *)out, (const T *)qkv, (const T *)cache, places, shape))
