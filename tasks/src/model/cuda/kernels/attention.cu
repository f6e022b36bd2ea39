// Causal attention of packed sequences with grouped queries, in f32 arithmetic: the plain reference of flash.cu, for
// f32 and for every width of a head up to 128.
//
// Probabilities are never stored; backward makes them again from lse, the logarithm of their sum (Dao et al. 2022).
// Tiles have QUERIES rows.
#include "heads.cuh"

#define QUERIES 16u
#define KEYS 32u
#define WIDEST 128u
#define THREADS 128u

// ROWS rows of a head in shared memory, zeros beyond `last`.
template <u32 ROWS, class T>
__device__ void load_rows(float (*to)[WIDEST + 1], const T *from, u32 stride, u32 column, u32 first, u32 last, u32 width) {
    for (u32 i = threadIdx.x; i < ROWS * width; i += THREADS) {
        const u32 row = i / width, at = i % width;
        to[row][at] = first + row < last ? to_float(from[(u64)(first + row) * stride + column + at]) : 0.0f;
    }
}

__device__ inline float dot(const float *a, const float *b, u32 n) {
    float sum = 0;
#pragma unroll 4
    for (u32 i = 0; i < n; i++)
        sum += a[i] * b[i];
    return sum;
}

// Threads stand as 16 rows of 8: a row of threads for each query, or for two keys.
template <class T>
__device__ void attend(T *out, float *lse, const T *qkv, const u32 *tiles, Heads shape) {
    __shared__ float q[QUERIES][WIDEST + 1], kv[KEYS][WIDEST + 1], p[QUERIES][KEYS + 1];
    const Tile tile = tile_of(tiles);
    const u32 head = blockIdx.y, group = head / (shape.heads / shape.groups), width = shape.width;
    const u32 stride = row_width(shape), lane = threadIdx.x % 8, own = threadIdx.x / 8, row = tile.first + own;
    const float scale = 1.0f / sqrtf((float)width);
    load_rows<QUERIES>(q, qkv, stride, head * width, tile.first, tile.end, width);
    float o[WIDEST / 8] = {};
    float largest = -INFINITY, sum = 0;
    const u32 last = min(tile.first + QUERIES, tile.end);
    for (u32 first = tile.start; first < last; first += KEYS) {
        __syncthreads();
        load_rows<KEYS>(kv, qkv, stride, key_column(shape, group), first, tile.end, width);
        __syncthreads();
        float s[KEYS / 8], top = largest;
        for (u32 i = 0; i < KEYS / 8; i++) {
            const u32 key = lane + 8 * i;
            s[i] = first + key <= row ? scale * dot(q[own], kv[key], width) : -INFINITY;
            top = fmaxf(top, s[i]);
        }
        for (u32 step = 4; step > 0; step /= 2)
            top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, step));
        // The first key of a sequence is seen by every row of its tiles, so `top` is finite from the first block on.
        const float shrink = expf(largest - top);
        float more = 0;
        for (u32 i = 0; i < KEYS / 8; i++) {
            const float value = expf(s[i] - top);
            p[own][lane + 8 * i] = value;
            more += value;
        }
        for (u32 step = 4; step > 0; step /= 2)
            more += __shfl_xor_sync(0xffffffffu, more, step);
        sum = sum * shrink + more;
        largest = top;
        __syncthreads();
        load_rows<KEYS>(kv, qkv, stride, value_column(shape, group), first, tile.end, width);
        __syncthreads();
#pragma unroll
        for (u32 i = 0; i < WIDEST / 8; i++) {
            const u32 at = lane + 8 * i;
            if (at < width) {
                o[i] *= shrink;
#pragma unroll 4
                for (u32 key = 0; key < KEYS; key++)
                    o[i] += p[own][key] * kv[key][at];
            }
        }
    }
    if (row < tile.end) {
        T *to = out + ((u64)row * shape.heads + head) * width;
#pragma unroll
        for (u32 i = 0; i < WIDEST / 8; i++)
            if (lane + 8 * i < width)
                to[lane + 8 * i] = from_float<T>(o[i] / sum);
        if (lane == 0)
            lse[(u64)row * shape.heads + head] = largest + logf(sum);
    }
}

BOTH(attention_forward, (void *out, float *lse, const void *qkv, const u32 *tiles, Heads shape),
     attend<T>((T *)out, lse, (const T *)qkv, tiles, shape))

// delta [N, H] = sum of out d_out over a head; `lanes` neighbours, a power of two, for each row and head.
template <class T, u32 WIDE>
__device__ void delta_of(float *delta, const T *out, const T *d_out, u32 count, u32 width, u32 lanes) {
    const u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    const u32 at = i / lanes;
    float sum = 0;
    if (at < count)
        for (u32 column = i % lanes * WIDE; column < width; column += lanes * WIDE) {
            float o[WIDE], d[WIDE];
            read<WIDE>(o, out + (u64)at * width + column);
            read<WIDE>(d, d_out + (u64)at * width + column);
#pragma unroll
            for (u32 j = 0; j < WIDE; j++)
                sum += o[j] * d[j];
        }
    for (u32 step = lanes / 2; step > 0; step /= 2)
        sum += __shfl_xor_sync(0xffffffffu, sum, step);
    if (at < count && i % lanes == 0)
        delta[at] = sum;
}

BOTH(attention_delta, (float *delta, const void *out, const void *d_out, u32 count, u32 width, u32 lanes),
     constexpr u32 WIDE = Wide<T>::WIDE;
     if (width % WIDE == 0) delta_of<T, WIDE>(delta, (const T *)out, (const T *)d_out, count, width, lanes);
     else delta_of<T, 1>(delta, (const T *)out, (const T *)d_out, count, width, lanes))

// The columns of q in d_qkv, a block for each tile of queries and head: dq = scale sum_j p (dp - delta) k.
template <class T>
__device__ void queries_back(T *d_qkv, const T *d_out, const float *lse, const float *delta, const T *qkv,
                             const u32 *tiles, Heads shape) {
    __shared__ float q[QUERIES][WIDEST + 1], d_o[QUERIES][WIDEST + 1], kv[KEYS][WIDEST + 1], p[QUERIES][KEYS + 1];
    const Tile tile = tile_of(tiles);
    const u32 head = blockIdx.y, group = head / (shape.heads / shape.groups), width = shape.width;
    const u32 stride = row_width(shape), lane = threadIdx.x % 8, own = threadIdx.x / 8, row = tile.first + own;
    const float scale = 1.0f / sqrtf((float)width);
    load_rows<QUERIES>(q, qkv, stride, head * width, tile.first, tile.end, width);
    load_rows<QUERIES>(d_o, d_out, shape.heads * width, head * width, tile.first, tile.end, width);
    const bool real = row < tile.end;
    const float log_sum = real ? lse[(u64)row * shape.heads + head] : 0;
    const float constant = real ? delta[(u64)row * shape.heads + head] : 0;
    float dq[WIDEST / 8] = {};
    const u32 last = min(tile.first + QUERIES, tile.end);
    for (u32 first = tile.start; first < last; first += KEYS) {
        float dp[KEYS / 8];
        __syncthreads();
        load_rows<KEYS>(kv, qkv, stride, value_column(shape, group), first, tile.end, width);
        __syncthreads();
        for (u32 i = 0; i < KEYS / 8; i++)
            dp[i] = dot(d_o[own], kv[lane + 8 * i], width);
        __syncthreads();
        load_rows<KEYS>(kv, qkv, stride, key_column(shape, group), first, tile.end, width);
        __syncthreads();
        for (u32 i = 0; i < KEYS / 8; i++) {
            const u32 key = lane + 8 * i;
            const bool seen = real && first + key <= row;
            const float value = seen ? expf(scale * dot(q[own], kv[key], width) - log_sum) : 0.0f;
            p[own][key] = value * (dp[i] - constant);
        }
        __syncthreads();
#pragma unroll
        for (u32 i = 0; i < WIDEST / 8; i++)
            if (lane + 8 * i < width)
#pragma unroll 4
                for (u32 key = 0; key < KEYS; key++)
                    dq[i] += p[own][key] * kv[key][lane + 8 * i];
    }
    if (real) {
        T *to = d_qkv + (u64)row * stride + head * width;
#pragma unroll
        for (u32 i = 0; i < WIDEST / 8; i++)
            if (lane + 8 * i < width)
                to[lane + 8 * i] = from_float<T>(scale * dq[i]);
    }
}

BOTH(attention_backward_queries,
     (void *d_qkv, const void *d_out, const float *lse, const float *delta, const void *qkv, const u32 *tiles, Heads shape),
     queries_back<T>((T *)d_qkv, (const T *)d_out, lse, delta, (const T *)qkv, tiles, shape))

// The columns of k and v in d_qkv, a block for each tile of keys and group. It meets the heads of the group and the
// queries from the tile to the end of the sequence in order, so no sum is shared between blocks.
template <class T>
__device__ void keys_back(T *d_qkv, const T *d_out, const float *lse, const float *delta, const T *qkv,
                          const u32 *tiles, Heads shape) {
    // The names of queries_back with their roles exchanged: 16 keys stay, 32 queries pass.
    __shared__ float k[QUERIES][WIDEST + 1], v[QUERIES][WIDEST + 1], other[KEYS][WIDEST + 1];
    __shared__ float p[QUERIES][KEYS + 1];
    const Tile tile = tile_of(tiles);
    const u32 group = blockIdx.y, width = shape.width, per_group = shape.heads / shape.groups;
    const u32 stride = row_width(shape), lane = threadIdx.x % 8, own = threadIdx.x / 8, key = tile.first + own;
    const float scale = 1.0f / sqrtf((float)width);
    load_rows<QUERIES>(k, qkv, stride, key_column(shape, group), tile.first, tile.end, width);
    load_rows<QUERIES>(v, qkv, stride, value_column(shape, group), tile.first, tile.end, width);
    float dk[WIDEST / 8] = {}, dv[WIDEST / 8] = {};
    for (u32 head = group * per_group; head < (group + 1) * per_group; head++)
        for (u32 first = tile.first; first < tile.end; first += KEYS) {
            float score[KEYS / 8], ds[KEYS / 8];
            __syncthreads();
            load_rows<KEYS>(other, qkv, stride, head * width, first, tile.end, width);
            __syncthreads();
            for (u32 i = 0; i < KEYS / 8; i++)
                score[i] = scale * dot(k[own], other[lane + 8 * i], width);
            __syncthreads();
            load_rows<KEYS>(other, d_out, shape.heads * width, head * width, first, tile.end, width);
            __syncthreads();
            for (u32 i = 0; i < KEYS / 8; i++) {
                const u32 query = first + lane + 8 * i;
                const u64 at = (u64)query * shape.heads + head;
                const bool seen = query < tile.end && key <= query;
                const float value = seen ? expf(score[i] - lse[at]) : 0.0f;
                p[own][lane + 8 * i] = value;
                ds[i] = seen ? value * (dot(v[own], other[lane + 8 * i], width) - delta[at]) : 0.0f;
            }
            __syncthreads();
#pragma unroll
            for (u32 i = 0; i < WIDEST / 8; i++)
                if (lane + 8 * i < width)
#pragma unroll 4
                    for (u32 query = 0; query < KEYS; query++)
                        dv[i] += p[own][query] * other[query][lane + 8 * i];
            __syncthreads();
            for (u32 i = 0; i < KEYS / 8; i++)
                p[own][lane + 8 * i] = ds[i];
            load_rows<KEYS>(other, qkv, stride, head * width, first, tile.end, width);
            __syncthreads();
#pragma unroll
            for (u32 i = 0; i < WIDEST / 8; i++)
                if (lane + 8 * i < width)
#pragma unroll 4
                    for (u32 query = 0; query < KEYS; query++)
                        dk[i] += p[own][query] * other[query][lane + 8 * i];
        }
    if (key < tile.end) {
        T *row = d_qkv + (u64)key * stride;
#pragma unroll
        for (u32 i = 0; i < WIDEST / 8; i++)
            if (lane + 8 * i < width) {
                row[key_column(shape, group) + lane + 8 * i] = from_float<T>(scale * dk[i]);
                row[value_column(shape, group) + lane + 8 * i] = from_float<T>(dv[i]);
            }
    }
}

BOTH(attention_backward_keys,
     (void *d_qkv, const void *d_out, const float *lse, const float *delta, const void *qkv, const u32 *tiles, Heads shape),
     keys_back<T>((T *)d_qkv, (const T *)d_out, lse, delta, (const T *)qkv, tiles, shape))
