// Rows that are looked up, moved and added: embedding, rows of a loss, casts.
#include "common.cuh"

// out [n, width]: row i is row index [i] of a table; a block for each row.
template <class To, class From> __device__ void gather_row(To *out, const From *table, const u32 *index, u32 width) {
    const From *from = table + (u64)index[blockIdx.x] * width;
    To *to = out + (u64)blockIdx.x * width;
    for (u32 i = threadIdx.x; i < width; i += blockDim.x)
        to[i] = from_float<To>(to_float(from[i]));
}

BOTH(gather_rows, (void *out, const void *table, const u32 *index, u32 width),
     gather_row((T *)out, (const T *)table, index, width))

// The same from f32 weights.
BOTH(embed, (void *out, const float *table, const u32 *index, u32 width), gather_row((T *)out, table, index, width))

// The transpose of gather_rows: `order` names the rows of d_rows that belong to one row of d_table together, in order;
// `groups [count, 3]`: that row, first and last place in `order`. A block for each group.
template <class To, class From>
__device__ void scatter_group(To *d_table, const From *d_rows, const u32 *order, const u32 *groups, u32 width) {
    const u32 *group = groups + 3u * blockIdx.x;
    To *to = d_table + (u64)group[0] * width;
    for (u32 i = threadIdx.x; i < width; i += blockDim.x) {
        float sum = to_float(to[i]);
        for (u32 at = group[1]; at < group[2]; at++)
            sum += to_float(d_rows[(u64)order[at] * width + i]);
        to[i] = from_float<To>(sum);
    }
}

BOTH(scatter_rows, (void *d_table, const void *d_rows, const u32 *order, const u32 *groups, u32 width),
     scatter_group((T *)d_table, (const T *)d_rows, order, groups, width))

// The transpose of embed: gradients of the table are f32.
BOTH(embed_backward, (float *d_table, const void *d_rows, const u32 *order, const u32 *groups, u32 width),
     scatter_group(d_table, (const T *)d_rows, order, groups, width))

// The same for frequent tokens, without a long loop: their rows are cut into pieces (`pieces [count, 3]`: first and last
// place in `order`, number of its sum), and a block sums a piece in order.
template <class T> __device__ void embedding_piece(float *sums, const T *d_rows, const u32 *order, const u32 *pieces,
                                                   u32 width) {
    const u32 *piece = pieces + 3u * blockIdx.x;
    for (u32 i = blockIdx.y * blockDim.x + threadIdx.x; i < width; i += gridDim.y * blockDim.x) {
        float sum = 0;
        for (u32 at = piece[0]; at < piece[1]; at++)
            sum += to_float(d_rows[(u64)order[at] * width + i]);
        sums[(u64)piece[2] * width + i] = sum;
    }
}

BOTH(embedding_pieces, (float *sums, const void *d_rows, const u32 *order, const u32 *pieces, u32 width),
     embedding_piece(sums, (const T *)d_rows, order, pieces, width))

// d_table [V, width] += the sums of the pieces of each token, in order; `tokens [count, 3]`: token, first, last piece.
KERNEL embedding_sums(float *d_table, const float *sums, const u32 *tokens, u32 width) {
    const u32 *token = tokens + 3u * blockIdx.x;
    for (u32 i = blockIdx.y * blockDim.x + threadIdx.x; i < width; i += gridDim.y * blockDim.x) {
        float sum = 0;
        for (u32 at = token[1]; at < token[2]; at++)
            sum += sums[(u64)at * width + i];
        d_table[(u64)token[0] * width + i] += sum;
    }
}

// y [n] = x [n], rounded or widened.
KERNEL to_bf16(bf16 *y, const float *x, u64 n) {
    const u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n)
        y[i] = from_float<bf16>(x[i]);
}

KERNEL from_bf16(float *y, const bf16 *x, u64 n) {
    const u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n)
        y[i] = to_float(x[i]);
}
