// Causal attention on tensor cores: bf16 in and out, f32 sums. The method of Dao (FlashAttention-2, 2023), written for
// mma.m16n8k16; the shapes and tiles of attention.cu, with tiles of 64 rows.
//
// A block has four warps, each with 16 of the 64 rows. Backward is two kernels, one by queries and one by keys: a fifth
// more arithmetic than one kernel with atomic additions, and the same bits each time.
//
// Fragments (g = lane / 4, t = lane % 4): a register of a left factor holds row g or g + 8 and two of 16 columns, a
// register of a right factor two of 16 rows and column g, results are c[0..1]: row g, columns 2t and 2t + 1;
// c[2..3]: row g + 8. So two results side by side, packed, are a left factor of the next product.
#include "common.cuh"

#define ROWS 64u
#define WARPS 4u

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

__device__ inline float exp2_fast(float x) {
#ifdef KBUILD_EMULATE
    return exp2f(x);
#else
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#endif
}

// Rows of HD values in shared memory, eight more apart, so that the eight rows of a matrix lie in different banks.
template <u32 HD> struct Rows {
    static constexpr u32 STRIDE = HD + 8;
    bf16 *at;

    // Copies COUNT rows from a column of wider rows; zeros from `last` on.
    template <u32 COUNT>
    __device__ void load(const bf16 *from, u32 stride, u32 column, u32 first, u32 last) const {
        constexpr u32 PACKS = HD / 8;
        for (u32 i = threadIdx.x; i < COUNT * PACKS; i += WARPS * WARP) {
            const u32 row = i / PACKS, pack = i % PACKS * 8;
            Pack<u32, 4> values = {};
            if (first + row < last)
                values = *(const Pack<u32, 4> *)(from + (u64)(first + row) * stride + column + pack);
            *(Pack<u32, 4> *)(at + row * STRIDE + pack) = values;
        }
    }

    // Left factor: 16 rows from `row`, 16 columns from `column`.
    __device__ void left(u32 (&a)[4], u32 row, u32 column) const {
        const u32 lane = threadIdx.x % WARP;
        load_matrices(a, at + (row + lane % 16) * STRIDE + column + lane / 16 * 8);
    }

    // Right factor of two results: columns of the product are 16 rows here; b[0..1] the first eight.
    __device__ void right(u32 (&b)[4], u32 row, u32 column) const {
        const u32 lane = threadIdx.x % WARP;
        load_matrices(b, at + (row + lane / 16 * 8 + lane % 8) * STRIDE + column + lane / 8 % 2 * 8);
    }

    // Right factor of two results: columns of the product are 16 columns here.
    __device__ void right_rows(u32 (&b)[4], u32 row, u32 column) const {
        const u32 lane = threadIdx.x % WARP;
        load_transposed(b, at + (row + lane / 8 % 2 * 8 + lane % 8) * STRIDE + column + lane / 16 * 8);
    }
};

// c [16, COLUMNS] = left [16, HD] at `row`, times the transpose of right [COLUMNS, HD].
template <u32 HD, u32 COLUMNS>
__device__ inline void product(float (&c)[COLUMNS / 8][4], Rows<HD> left, u32 row, Rows<HD> right) {
#pragma unroll
    for (u32 n = 0; n < COLUMNS / 8; n++)
        c[n][0] = c[n][1] = c[n][2] = c[n][3] = 0;
#pragma unroll
    for (u32 k = 0; k < HD; k += 16) {
        u32 a[4], b[4];
        left.left(a, row, k);
#pragma unroll
        for (u32 n = 0; n < COLUMNS; n += 16) {
            right.right(b, n, k);
            mma(c[n / 8], a, b[0], b[1]);
            mma(c[n / 8 + 1], a, b[2], b[3]);
        }
    }
}

// c [16, HD] += weights [16, COUNT] rows [COUNT, HD]; the weights are a result of `product`.
template <u32 HD, u32 COUNT>
__device__ inline void combine(float (&c)[HD / 8][4], const float (&weights)[COUNT / 8][4], Rows<HD> rows) {
#pragma unroll
    for (u32 k = 0; k < COUNT; k += 16) {
        const float(&low)[4] = weights[k / 8], (&high)[4] = weights[k / 8 + 1];
        const u32 a[4] = {bf16_pair(low[0], low[1]), bf16_pair(low[2], low[3]), bf16_pair(high[0], high[1]),
                          bf16_pair(high[2], high[3])};
#pragma unroll
        for (u32 n = 0; n < HD; n += 16) {
            u32 b[4];
            rows.right_rows(b, k, n);
            mma(c[n / 8], a, b[0], b[1]);
            mma(c[n / 8 + 1], a, b[2], b[3]);
        }
    }
}

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

#define LOG2E 1.4426950408889634f
#define LN2 0.6931471805599453f

#ifdef KBUILD_EMULATE
#define DYNAMIC_SHARED(NAME) bf16 *NAME = (bf16 *)emulate::dynamic_shared()
#else
#define DYNAMIC_SHARED(NAME) extern __shared__ __align__(16) bf16 NAME[]
#endif

// Dynamic shared memory: 3 times 64 rows (q, k, v).
template <u32 HD>
__device__ void flash(bf16 *out, float *lse, const bf16 *qkv, const u32 *tiles, Heads shape) {
    DYNAMIC_SHARED(memory);
    const Rows<HD> q{memory}, k{memory + ROWS * Rows<HD>::STRIDE}, v{memory + 2 * ROWS * Rows<HD>::STRIDE};
    const Tile tile = tile_of(tiles);
    const u32 head = blockIdx.y, group = head / (shape.heads / shape.groups), stride = row_width(shape);
    const u32 lane = threadIdx.x % WARP, g = lane / 4, t = lane % 4, own = threadIdx.x / WARP * 16;
    const u32 row = tile.first + own + g;
    const float scale = LOG2E / sqrtf((float)HD);
    q.template load<ROWS>(qkv, stride, head * HD, tile.first, tile.end);
    float o[HD / 8][4] = {};
    float largest[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};
    const u32 last = min(tile.first + ROWS, tile.end);
    for (u32 first = tile.start; first < last; first += ROWS) {
        __syncthreads();
        k.template load<ROWS>(qkv, stride, key_column(shape, group), first, tile.end);
        v.template load<ROWS>(qkv, stride, value_column(shape, group), first, tile.end);
        __syncthreads();
        float s[ROWS / 8][4];
        product<HD, ROWS>(s, q, own, k);
        // Tiles of keys begin where tiles of queries do: only the last one is cut by the diagonal.
        if (first + ROWS > tile.first) {
#pragma unroll
            for (u32 n = 0; n < ROWS / 8; n++)
#pragma unroll
                for (u32 i = 0; i < 4; i++)
                    if (first + n * 8 + 2 * t + i % 2 > row + i / 2 * 8)
                        s[n][i] = -INFINITY;
        }
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            float top = largest[half];
#pragma unroll
            for (u32 n = 0; n < ROWS / 8; n++)
                top = fmaxf(top, fmaxf(s[n][2 * half], s[n][2 * half + 1]));
            top = quad_max(top);
            const float shrink = exp2_fast((largest[half] - top) * scale);
            float more = 0;
#pragma unroll
            for (u32 n = 0; n < ROWS / 8; n++)
#pragma unroll
                for (u32 i = 2 * half; i < 2 * half + 2; i++) {
                    s[n][i] = exp2_fast(s[n][i] * scale - top * scale);
                    more += s[n][i];
                }
            sum[half] = sum[half] * shrink + more;
            largest[half] = top;
#pragma unroll
            for (u32 n = 0; n < HD / 8; n++) {
                o[n][2 * half] *= shrink;
                o[n][2 * half + 1] *= shrink;
            }
        }
        combine<HD, ROWS>(o, s, v);
    }
    sum[0] = quad_sum(sum[0]);
    sum[1] = quad_sum(sum[1]);
    store<HD>(out, shape.heads * HD, head * HD, tile.first + own, tile.end, o, 1 / sum[0], 1 / sum[1]);
    if (t == 0)
        for (u32 half = 0; half < 2; half++)
            if (row + 8 * half < tile.end)
                lse[(u64)(row + 8 * half) * shape.heads + head] = (largest[half] * scale + log2f(sum[half])) * LN2;
}

// The columns of q in d_qkv. Dynamic shared memory: 4 times 64 rows (q, d_out, k, v).
template <u32 HD>
__device__ void flash_queries(bf16 *d_qkv, const bf16 *d_out, const float *lse, const float *delta, const bf16 *qkv,
                              const u32 *tiles, Heads shape) {
    DYNAMIC_SHARED(memory);
    constexpr u32 SIZE = ROWS * Rows<HD>::STRIDE;
    const Rows<HD> q{memory}, d_o{memory + SIZE}, k{memory + 2 * SIZE}, v{memory + 3 * SIZE};
    const Tile tile = tile_of(tiles);
    const u32 head = blockIdx.y, group = head / (shape.heads / shape.groups), stride = row_width(shape);
    const u32 lane = threadIdx.x % WARP, g = lane / 4, t = lane % 4, own = threadIdx.x / WARP * 16;
    const u32 row = tile.first + own + g;
    const float natural = 1.0f / sqrtf((float)HD), scale = LOG2E * natural;
    q.template load<ROWS>(qkv, stride, head * HD, tile.first, tile.end);
    d_o.template load<ROWS>(d_out, shape.heads * HD, head * HD, tile.first, tile.end);
    float log_sum[2], constant[2];
    for (u32 half = 0; half < 2; half++) {
        const u64 at = (u64)(row + 8 * half) * shape.heads + head;
        const bool real = row + 8 * half < tile.end;
        log_sum[half] = real ? lse[at] * LOG2E : 0;
        constant[half] = real ? delta[at] : 0;
    }
    float dq[HD / 8][4] = {};
    const u32 last = min(tile.first + ROWS, tile.end);
    for (u32 first = tile.start; first < last; first += ROWS) {
        __syncthreads();
        k.template load<ROWS>(qkv, stride, key_column(shape, group), first, tile.end);
        v.template load<ROWS>(qkv, stride, value_column(shape, group), first, tile.end);
        __syncthreads();
        float s[ROWS / 8][4], dp[ROWS / 8][4];
        product<HD, ROWS>(s, q, own, k);
        product<HD, ROWS>(dp, d_o, own, v);
        const bool cut = first + ROWS > tile.first;
#pragma unroll
        for (u32 n = 0; n < ROWS / 8; n++)
#pragma unroll
            for (u32 i = 0; i < 4; i++) {
                const bool hidden = cut && first + n * 8 + 2 * t + i % 2 > row + i / 2 * 8;
                const float p = hidden ? 0.0f : exp2_fast(s[n][i] * scale - log_sum[i / 2]);
                s[n][i] = p * (dp[n][i] - constant[i / 2]);
            }
        combine<HD, ROWS>(dq, s, k);
    }
    store<HD>(d_qkv, stride, head * HD, tile.first + own, tile.end, dq, natural, natural);
}

// The columns of k and v in d_qkv: QUERIES_AT_ONCE queries pass by 64 keys. Dynamic shared memory: twice 64 rows
// (k, v) and twice QUERIES_AT_ONCE rows (q, d_out), then 2 QUERIES_AT_ONCE floats (lse, delta).
template <u32 HD, u32 AT_ONCE>
__device__ void flash_keys(bf16 *d_qkv, const bf16 *d_out, const float *lse, const float *delta, const bf16 *qkv,
                           const u32 *tiles, Heads shape) {
    DYNAMIC_SHARED(memory);
    constexpr u32 SIZE = ROWS * Rows<HD>::STRIDE, PASSING = AT_ONCE * Rows<HD>::STRIDE;
    const Rows<HD> k{memory}, v{memory + SIZE}, q{memory + 2 * SIZE}, d_o{memory + 2 * SIZE + PASSING};
    float *log_sums = (float *)(memory + 2 * SIZE + 2 * PASSING), *constants = log_sums + AT_ONCE;
    const Tile tile = tile_of(tiles);
    const u32 group = blockIdx.y, per_group = shape.heads / shape.groups, stride = row_width(shape);
    const u32 lane = threadIdx.x % WARP, g = lane / 4, t = lane % 4, own = threadIdx.x / WARP * 16;
    const u32 key = tile.first + own + g;
    const float natural = 1.0f / sqrtf((float)HD), scale = LOG2E * natural;
    k.template load<ROWS>(qkv, stride, key_column(shape, group), tile.first, tile.end);
    v.template load<ROWS>(qkv, stride, value_column(shape, group), tile.first, tile.end);
    float dk[HD / 8][4] = {}, dv[HD / 8][4] = {};
    for (u32 head = group * per_group; head < (group + 1) * per_group; head++)
        for (u32 first = tile.first; first < tile.end; first += AT_ONCE) {
            __syncthreads();
            q.template load<AT_ONCE>(qkv, stride, head * HD, first, tile.end);
            d_o.template load<AT_ONCE>(d_out, shape.heads * HD, head * HD, first, tile.end);
            for (u32 i = threadIdx.x; i < AT_ONCE; i += WARPS * WARP) {
                const u64 at = (u64)(first + i) * shape.heads + head;
                // A query beyond the sequence has probability 0 everywhere.
                log_sums[i] = first + i < tile.end ? lse[at] * LOG2E : INFINITY;
                constants[i] = first + i < tile.end ? delta[at] : 0;
            }
            __syncthreads();
            float p[AT_ONCE / 8][4], ds[AT_ONCE / 8][4];
            product<HD, AT_ONCE>(p, k, own, q);
            product<HD, AT_ONCE>(ds, v, own, d_o);
            const bool cut = first < tile.first + ROWS;
#pragma unroll
            for (u32 n = 0; n < AT_ONCE / 8; n++)
#pragma unroll
                for (u32 i = 0; i < 4; i++) {
                    const u32 query = n * 8 + 2 * t + i % 2;
                    const bool hidden = cut && key + i / 2 * 8 > first + query;
                    p[n][i] = hidden ? 0.0f : exp2_fast(p[n][i] * scale - log_sums[query]);
                    ds[n][i] = p[n][i] * (ds[n][i] - constants[query]);
                }
            combine<HD, AT_ONCE>(dv, p, d_o);
            combine<HD, AT_ONCE>(dk, ds, q);
        }
    store<HD>(d_qkv, stride, key_column(shape, group), tile.first + own, tile.end, dk, natural, natural);
    store<HD>(d_qkv, stride, value_column(shape, group), tile.first + own, tile.end, dv, 1, 1);
}

#define FLASH(HD, AT_ONCE)                                                                                             \
    KERNEL flash_forward_##HD(void *out, float *lse, const void *qkv, const u32 *tiles, Heads shape) {                 \
        flash<HD>((bf16 *)out, lse, (const bf16 *)qkv, tiles, shape);                                                  \
    }                                                                                                                  \
    KERNEL flash_backward_queries_##HD(void *d_qkv, const void *d_out, const float *lse, const float *delta,           \
                                       const void *qkv, const u32 *tiles, Heads shape) {                               \
        flash_queries<HD>((bf16 *)d_qkv, (const bf16 *)d_out, lse, delta, (const bf16 *)qkv, tiles, shape);            \
    }                                                                                                                  \
    KERNEL flash_backward_keys_##HD(void *d_qkv, const void *d_out, const float *lse, const float *delta,              \
                                    const void *qkv, const u32 *tiles, Heads shape) {                                  \
        flash_keys<HD, AT_ONCE>((bf16 *)d_qkv, (const bf16 *)d_out, lse, delta, (const bf16 *)qkv, tiles, shape);      \
    }

FLASH(64, 64)
FLASH(128, 32)
