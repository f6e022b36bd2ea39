// Rotary position embeddings and SwiGLU.
#include "common.cuh"

// Turns `heads` heads of each row, in place: y = x cos + rot(x) sin, rot([a, b]) = [-b, a]. rows [n, width] begin with
// the heads; cos, sin [positions, half]. `direction` is 1, or -1 for gradients. A thread for WIDE pairs.
template <class T, u32 WIDE>
__device__ void rope_pairs(T *rows, const u32 *positions, const float *cosines, const float *sines, u32 n, u32 width,
                           u32 heads, u32 half, float direction) {
    const u32 packs = half / WIDE, per_row = heads * packs;
    const u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    const u32 row = i / per_row, pack = i % per_row;
    if (row >= n)
        return;
    const u32 at = pack % packs * WIDE;
    const u64 angles = (u64)positions[row] * half + at;
    T *first = rows + (u64)row * width + pack / packs * 2 * half + at;
    float a[WIDE], b[WIDE], c[WIDE], s[WIDE];
    read<WIDE>(a, first);
    read<WIDE>(b, first + half);
    read<WIDE>(c, cosines + angles);
    read<WIDE>(s, sines + angles);
#pragma unroll
    for (u32 j = 0; j < WIDE; j++) {
        const float turned = a[j] * c[j] - b[j] * direction * s[j];
        b[j] = b[j] * c[j] + a[j] * direction * s[j];
        a[j] = turned;
    }
    write<WIDE>(first, a);
    write<WIDE>(first + half, b);
}

BOTH(rope,
     (void *rows, const u32 *positions, const float *cosines, const float *sines, u32 n, u32 width, u32 heads, u32 half, float direction),
     constexpr u32 WIDE = Wide<T>::WIDE;
     if (half % WIDE == 0) rope_pairs<T, WIDE>((T *)rows, positions, cosines, sines, n, width, heads, half, direction);
     else rope_pairs<T, 1>((T *)rows, positions, cosines, sines, n, width, heads, half, direction))

__device__ inline float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// act [n, f] = silu(gate) up, from gate_up [n, 2f] (Shazeer 2020). Rows by blocks of columns.
template <class T, u32 WIDE> __device__ void swiglu(T *act, const T *gate_up, u32 f) {
    const u32 i = (blockIdx.y * blockDim.x + threadIdx.x) * WIDE;
    if (i >= f)
        return;
    const T *row = gate_up + (u64)blockIdx.x * 2 * f;
    float gate[WIDE], up[WIDE];
    read<WIDE>(gate, row + i);
    read<WIDE>(up, row + f + i);
#pragma unroll
    for (u32 j = 0; j < WIDE; j++)
        gate[j] = gate[j] * sigmoid(gate[j]) * up[j];
    write<WIDE>(act + (u64)blockIdx.x * f + i, gate);
}

BOTH(swiglu_forward, (void *act, const void *gate_up, u32 f),
     constexpr u32 WIDE = Wide<T>::WIDE;
     if (f % WIDE == 0) swiglu<T, WIDE>((T *)act, (const T *)gate_up, f);
     else swiglu<T, 1>((T *)act, (const T *)gate_up, f))

// Replaces gate_up [n, 2f] by its gradient and makes act [n, f] again, from d_act [n, f].
template <class T, u32 WIDE> __device__ void swiglu_back(T *gate_up, T *act_again, const T *d_act, u32 f) {
    const u32 i = (blockIdx.y * blockDim.x + threadIdx.x) * WIDE;
    if (i >= f)
        return;
    T *row = gate_up + (u64)blockIdx.x * 2 * f;
    float gate[WIDE], up[WIDE], act[WIDE];
    read<WIDE>(gate, row + i);
    read<WIDE>(up, row + f + i);
    read<WIDE>(act, d_act + (u64)blockIdx.x * f + i);
#pragma unroll
    for (u32 j = 0; j < WIDE; j++) {
        const float s = sigmoid(gate[j]), silu = gate[j] * s, d = act[j];
        act[j] = silu * up[j];
        gate[j] = d * up[j] * s * (1.0f + gate[j] * (1.0f - s));
        up[j] = d * silu;
    }
    write<WIDE>(row + i, gate);
    write<WIDE>(row + f + i, up);
    write<WIDE>(act_again + (u64)blockIdx.x * f + i, act);
}

BOTH(swiglu_backward, (void *gate_up, void *act, const void *d_act, u32 f),
     constexpr u32 WIDE = Wide<T>::WIDE;
     if (f % WIDE == 0) swiglu_back<T, WIDE>((T *)gate_up, (T *)act, (const T *)d_act, f);
     else swiglu_back<T, 1>((T *)gate_up, (T *)act, (const T *)d_act, f))
