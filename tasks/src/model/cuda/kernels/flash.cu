// Causal attention on tensor cores: bf16 in and out, f32 sums. The method of Dao (FlashAttention-2, 2023), over the
// products of tensor.cuh; the shapes and tiles of attention.cu, with tiles of 128 rows.
//
// A block owns the rows of a tile, each warp STRIPS times 16 of them: what it loads of the rows that pass serves all its
// strips. While PASSING rows are worked on, the next ones are on their way to shared memory. Backward is two kernels, one
// by queries and one by keys: two fifths more arithmetic than one kernel with atomic additions, and the same bits each
// time.
#include "heads.cuh"
#include "tensor.cuh"

#define ROWS 128u
template <u32 STRIPS> constexpr u32 BLOCK = ROWS / (16 * STRIPS) * WARP;

// Writes a result [16, HD] times a factor for each half of it, as rows at a column of wider rows; none from `last` on.
template <u32 HD>
__device__ inline void store(bf16 *to, u32 stride, u32 column, u32 row, u32 last, const float (&c)[HD / 8][4],
                             float upper, float lower) {
    const u32 lane = threadIdx.x % WARP, g = lane / 4, t = lane % 4;
#pragma unroll
    for (u32 n = 0; n < HD / 8; n++) {
        const u64 at = (u64)(row + g) * stride + column + n * 8 + 2 * t;
        if (row + g < last)
            *(u32 *)(to + at) = bf16_pair(c[n][0] * upper, c[n][1] * upper);
        if (row + g + 8 < last)
            *(u32 *)(to + at + 8 * (u64)stride) = bf16_pair(c[n][2] * lower, c[n][3] * lower);
    }
}

// A value over the four lanes that share a row.
__device__ inline float quad_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}

__device__ inline float quad_sum(float x) {
    x += __shfl_xor_sync(0xffffffffu, x, 1);
    return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

// Scores of keys behind their query become nothing. `row` and `column` are those of a thread's first score: a query and
// a key.
template <u32 STRIPS, u32 PASSING>
__device__ inline void hide_keys(float (&scores)[STRIPS][PASSING / 8][4], u32 row, u32 column) {
#pragma unroll
    for (u32 s = 0; s < STRIPS; s++)
#pragma unroll
        for (u32 n = 0; n < PASSING / 8; n++)
#pragma unroll
            for (u32 i = 0; i < 4; i++)
                if (column + 8 * n + i % 2 > row + 16 * s + i / 2 * 8)
                    scores[s][n][i] = -INFINITY;
}

// The same where rows are keys and columns are queries.
template <u32 STRIPS, u32 PASSING>
__device__ inline void hide_queries(float (&scores)[STRIPS][PASSING / 8][4], u32 row, u32 column) {
#pragma unroll
    for (u32 s = 0; s < STRIPS; s++)
#pragma unroll
        for (u32 n = 0; n < PASSING / 8; n++)
#pragma unroll
            for (u32 i = 0; i < 4; i++)
                if (column + 8 * n + i % 2 < row + 16 * s + i / 2 * 8)
                    scores[s][n][i] = -INFINITY;
}

// Dynamic shared memory: 128 rows (q) and 4 times PASSING rows (k and v, twice).
template <u32 HD, u32 STRIPS, u32 PASSING>
__device__ void flash(bf16 *out, float *lse, const bf16 *qkv, const u32 *tiles, Heads shape) {
    DYNAMIC_SHARED(bf16, memory);
    const Rows<HD, ROWS> q{memory};
    bf16 *const passing = memory + ROWS * HD;
    const Tile tile = tile_of(tiles);
    const u32 head = blockIdx.y, group = head / (shape.heads / shape.groups), stride = row_width(shape);
    const u32 lane = threadIdx.x % WARP, g = lane / 4, t = lane % 4, own = threadIdx.x / WARP * 16 * STRIPS;
    const u32 row = tile.first + own, bottom = tile.first + (own / TOGETHER<STRIPS> + 1) * TOGETHER<STRIPS> - 1;
    const float scale = LOG2E / sqrtf((float)HD);
    // The k and v of one turn, and those of the next.
    auto rows = [&](u32 turn, u32 which) {
        return Rows<HD, PASSING>{passing + (turn % 2 * 2 + which) * PASSING * HD};
    };
    auto load = [&](u32 turn, u32 first) {
        rows(turn, 0).template load<BLOCK<STRIPS>>(qkv, stride, key_column(shape, group), first, tile.end);
        rows(turn, 1).template load<BLOCK<STRIPS>>(qkv, stride, value_column(shape, group), first, tile.end);
    };
    q.template load<BLOCK<STRIPS>>(qkv, stride, head * HD, tile.first, tile.end);
    load(0, tile.start);
    float o[STRIPS][HD / 8][4] = {};
    float largest[STRIPS][2], sum[STRIPS][2] = {};
#pragma unroll
    for (u32 s = 0; s < STRIPS; s++)
        largest[s][0] = largest[s][1] = -INFINITY;
    const u32 last = min(tile.first + ROWS, tile.end);
    u32 turn = 0;
    for (u32 first = tile.start; first < last; first += PASSING, turn++) {
        arrive();
        if (first + PASSING < last)
            load(turn + 1, first + PASSING);
        // The diagonal: no row of these warps sees these keys.
        if (first > bottom)
            continue;
        float p[STRIPS][PASSING / 8][4];
        product<STRIPS, PASSING>(p, q, own, rows(turn, 0));
        if (first + PASSING - 1 > row)
            hide_keys<STRIPS, PASSING>(p, row + g, first + 2 * t);
#pragma unroll
        for (u32 s = 0; s < STRIPS; s++)
#pragma unroll
            for (u32 half = 0; half < 2; half++) {
                float top = largest[s][half];
#pragma unroll
                for (u32 n = 0; n < PASSING / 8; n++)
                    top = fmaxf(top, fmaxf(p[s][n][2 * half], p[s][n][2 * half + 1]));
                // The first key of a sequence is seen by every row of its tiles, so `top` is finite from the start on.
                top = quad_max(top);
                const float shrink = exp2_fast((largest[s][half] - top) * scale);
                float more = 0;
#pragma unroll
                for (u32 n = 0; n < PASSING / 8; n++)
#pragma unroll
                    for (u32 i = 2 * half; i < 2 * half + 2; i++) {
                        p[s][n][i] = exp2_fast(p[s][n][i] * scale - top * scale);
                        more += p[s][n][i];
                    }
                sum[s][half] = sum[s][half] * shrink + more;
                largest[s][half] = top;
#pragma unroll
                for (u32 n = 0; n < HD / 8; n++) {
                    o[s][n][2 * half] *= shrink;
                    o[s][n][2 * half + 1] *= shrink;
                }
            }
        combine<STRIPS, PASSING>(o, p, rows(turn, 1));
    }
#pragma unroll
    for (u32 s = 0; s < STRIPS; s++) {
        sum[s][0] = quad_sum(sum[s][0]);
        sum[s][1] = quad_sum(sum[s][1]);
        store<HD>(out, shape.heads * HD, head * HD, row + 16 * s, tile.end, o[s], 1 / sum[s][0], 1 / sum[s][1]);
        for (u32 half = 0; half < 2; half++) {
            const u32 query = row + 16 * s + g + 8 * half;
            if (t == 0 && query < tile.end)
                lse[(u64)query * shape.heads + head] = (largest[s][half] * scale + log2f(sum[s][half])) * LN2;
        }
    }
}

// The columns of q in d_qkv. Dynamic shared memory: 256 rows (q, d_out) and 4 times PASSING rows (k and v, twice).
template <u32 HD, u32 STRIPS, u32 PASSING>
__device__ void flash_queries(bf16 *d_qkv, const bf16 *d_out, const float *lse, const float *delta, const bf16 *qkv,
                              const u32 *tiles, Heads shape) {
    DYNAMIC_SHARED(bf16, memory);
    const Rows<HD, ROWS> q{memory}, d_o{memory + ROWS * HD};
    bf16 *const passing = memory + 2 * ROWS * HD;
    const Tile tile = tile_of(tiles);
    const u32 head = blockIdx.y, group = head / (shape.heads / shape.groups), stride = row_width(shape);
    const u32 lane = threadIdx.x % WARP, g = lane / 4, t = lane % 4, own = threadIdx.x / WARP * 16 * STRIPS;
    const u32 row = tile.first + own, bottom = tile.first + (own / TOGETHER<STRIPS> + 1) * TOGETHER<STRIPS> - 1;
    const float natural = 1.0f / sqrtf((float)HD), scale = LOG2E * natural;
    auto rows = [&](u32 turn, u32 which) {
        return Rows<HD, PASSING>{passing + (turn % 2 * 2 + which) * PASSING * HD};
    };
    auto load = [&](u32 turn, u32 first) {
        rows(turn, 0).template load<BLOCK<STRIPS>>(qkv, stride, key_column(shape, group), first, tile.end);
        rows(turn, 1).template load<BLOCK<STRIPS>>(qkv, stride, value_column(shape, group), first, tile.end);
    };
    q.template load<BLOCK<STRIPS>>(qkv, stride, head * HD, tile.first, tile.end);
    d_o.template load<BLOCK<STRIPS>>(d_out, shape.heads * HD, head * HD, tile.first, tile.end);
    load(0, tile.start);
    float log_sum[STRIPS][2], constant[STRIPS][2];
#pragma unroll
    for (u32 s = 0; s < STRIPS; s++)
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            const u32 query = row + 16 * s + g + 8 * half;
            const u64 at = (u64)query * shape.heads + head;
            log_sum[s][half] = query < tile.end ? lse[at] * LOG2E : 0;
            constant[s][half] = query < tile.end ? delta[at] : 0;
        }
    float dq[STRIPS][HD / 8][4] = {};
    const u32 last = min(tile.first + ROWS, tile.end);
    u32 turn = 0;
    for (u32 first = tile.start; first < last; first += PASSING, turn++) {
        arrive();
        if (first + PASSING < last)
            load(turn + 1, first + PASSING);
        if (first > bottom)
            continue;
        float p[STRIPS][PASSING / 8][4], dp[STRIPS][PASSING / 8][4];
        product<STRIPS, PASSING>(p, q, own, rows(turn, 0));
        product<STRIPS, PASSING>(dp, d_o, own, rows(turn, 1));
        if (first + PASSING - 1 > row)
            hide_keys<STRIPS, PASSING>(p, row + g, first + 2 * t);
#pragma unroll
        for (u32 s = 0; s < STRIPS; s++)
#pragma unroll
            for (u32 n = 0; n < PASSING / 8; n++)
#pragma unroll
                for (u32 i = 0; i < 4; i++) {
                    const float value = exp2_fast(p[s][n][i] * scale - log_sum[s][i / 2]);
                    p[s][n][i] = value * (dp[s][n][i] - constant[s][i / 2]);
                }
        combine<STRIPS, PASSING>(dq, p, rows(turn, 0));
    }
#pragma unroll
    for (u32 s = 0; s < STRIPS; s++)
        store<HD>(d_qkv, stride, head * HD, row + 16 * s, tile.end, dq[s], natural, natural);
}

// The columns of k and v in d_qkv. Dynamic shared memory: 256 rows (k, v) and 4 times PASSING rows (q and d_out, twice),
// then 4 PASSING floats (lse and delta, twice).
template <u32 HD, u32 STRIPS, u32 PASSING>
__device__ void flash_keys(bf16 *d_qkv, const bf16 *d_out, const float *lse, const float *delta, const bf16 *qkv,
                           const u32 *tiles, Heads shape) {
    DYNAMIC_SHARED(bf16, memory);
    const Rows<HD, ROWS> k{memory}, v{memory + ROWS * HD};
    bf16 *const passing = memory + 2 * ROWS * HD;
    float *const sums = (float *)(memory + (2 * ROWS + 4 * PASSING) * HD);
    const Tile tile = tile_of(tiles);
    const u32 group = blockIdx.y, per_group = shape.heads / shape.groups, stride = row_width(shape);
    const u32 lane = threadIdx.x % WARP, g = lane / 4, t = lane % 4, own = threadIdx.x / WARP * 16 * STRIPS;
    const u32 key = tile.first + own, top = tile.first + own / TOGETHER<STRIPS> * TOGETHER<STRIPS>;
    const float natural = 1.0f / sqrtf((float)HD), scale = LOG2E * natural;
    auto rows = [&](u32 turn, u32 which) {
        return Rows<HD, PASSING>{passing + (turn % 2 * 2 + which) * PASSING * HD};
    };
    auto numbers = [&](u32 turn, u32 which) { return sums + (turn % 2 * 2 + which) * PASSING; };
    // All heads of the group pass, each with its queries from the tile to the end of the sequence. What lies beyond is
    // zeros, whose share is 0 whatever their probability.
    auto load = [&](u32 turn, u32 head, u32 first) {
        rows(turn, 0).template load<BLOCK<STRIPS>>(qkv, stride, head * HD, first, tile.end);
        rows(turn, 1).template load<BLOCK<STRIPS>>(d_out, shape.heads * HD, head * HD, first, tile.end);
        if (const u32 i = threadIdx.x; i < 2 * PASSING) {
            const u32 query = first + i % PASSING;
            const bool real = query < tile.end;
            copy_async(numbers(turn, 0) + i, (i < PASSING ? lse : delta) + (real ? (u64)query * shape.heads + head : 0),
                       real);
        }
    };
    k.template load<BLOCK<STRIPS>>(qkv, stride, key_column(shape, group), tile.first, tile.end);
    v.template load<BLOCK<STRIPS>>(qkv, stride, value_column(shape, group), tile.first, tile.end);
    u32 turn = 0, head = group * per_group, next = tile.first;
    load(turn, head, next);
    float dk[STRIPS][HD / 8][4] = {}, dv[STRIPS][HD / 8][4] = {};
    for (bool more = true; more; turn++) {
        arrive();
        const u32 first = next;
        next += PASSING;
        if (next >= tile.end) {
            next = tile.first;
            head++;
        }
        more = head < (group + 1) * per_group;
        if (more)
            load(turn + 1, head, next);
        // The diagonal: none of these queries sees a key of these warps.
        if (top > first + PASSING - 1)
            continue;
        float p[STRIPS][PASSING / 8][4], ds[STRIPS][PASSING / 8][4];
        product<STRIPS, PASSING>(p, k, own, rows(turn, 0));
        product<STRIPS, PASSING>(ds, v, own, rows(turn, 1));
        if (first < key + 16 * STRIPS - 1)
            hide_queries<STRIPS, PASSING>(p, key + g, first + 2 * t);
#pragma unroll
        for (u32 n = 0; n < PASSING / 8; n++) {
            float log_sum[2], constant[2];
            read<2>(log_sum, numbers(turn, 0) + n * 8 + 2 * t);
            read<2>(constant, numbers(turn, 1) + n * 8 + 2 * t);
#pragma unroll
            for (u32 i = 0; i < 4; i++) {
                const float start = log_sum[i % 2] * LOG2E;
#pragma unroll
                for (u32 s = 0; s < STRIPS; s++) {
                    p[s][n][i] = exp2_fast(p[s][n][i] * scale - start);
                    ds[s][n][i] = p[s][n][i] * (ds[s][n][i] - constant[i % 2]);
                }
            }
        }
        combine<STRIPS, PASSING>(dv, p, rows(turn, 1));
        combine<STRIPS, PASSING>(dk, ds, rows(turn, 0));
    }
#pragma unroll
    for (u32 s = 0; s < STRIPS; s++) {
        store<HD>(d_qkv, stride, key_column(shape, group), key + 16 * s, tile.end, dk[s], natural, natural);
        store<HD>(d_qkv, stride, value_column(shape, group), key + 16 * s, tile.end, dv[s], 1, 1);
    }
}

#define FLASH(HD, STRIPS, FORWARD, QUERIES, KEYS, BLOCKS)                                                              \
    KERNEL __launch_bounds__(BLOCK<STRIPS>, BLOCKS)                                                                    \
        flash_forward_##HD(void *out, float *lse, const void *qkv, const u32 *tiles, Heads shape) {                    \
        flash<HD, STRIPS, FORWARD>((bf16 *)out, lse, (const bf16 *)qkv, tiles, shape);                                 \
    }                                                                                                                  \
    KERNEL __launch_bounds__(BLOCK<STRIPS>, BLOCKS)                                                                    \
        flash_backward_queries_##HD(void *d_qkv, const void *d_out, const float *lse, const float *delta,              \
                                    const void *qkv, const u32 *tiles, Heads shape) {                                  \
        flash_queries<HD, STRIPS, QUERIES>((bf16 *)d_qkv, (const bf16 *)d_out, lse, delta, (const bf16 *)qkv, tiles,   \
                                           shape);                                                                     \
    }                                                                                                                  \
    KERNEL __launch_bounds__(BLOCK<STRIPS>, 1)                                                                         \
        flash_backward_keys_##HD(void *d_qkv, const void *d_out, const float *lse, const float *delta,                 \
                                 const void *qkv, const u32 *tiles, Heads shape) {                                     \
        flash_keys<HD, STRIPS, KEYS>((bf16 *)d_qkv, (const bf16 *)d_out, lse, delta, (const bf16 *)qkv, tiles, shape); \
    }

// Strips of a warp, rows that pass at once, and blocks side by side, as they were fastest on an H200; elsewhere as much
// as registers and shared memory hold (99 KiB on cards of compute capability 8.6 and 8.9). Blocks of 128 / (16 STRIPS)
// warps. Rust knows the same numbers (ops/attention.rs).
#ifdef HOPPER
FLASH(64, 1, 128, 64, 128, 2)
FLASH(128, 1, 128, 64, 64, 1)
#else
FLASH(64, 2, 64, 32, 32, 1)
FLASH(128, 1, 64, 32, 32, 1)
#endif
