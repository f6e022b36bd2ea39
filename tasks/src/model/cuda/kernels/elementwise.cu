// Rotary position embeddings and SwiGLU.
#include "common.cuh"

// Turns `heads` heads of each row, in place: y = x cos + rot(x) sin, rot([a, b]) = [-b, a]. rows [n, width] begin with
// the heads; cos, sin [positions, half]. `direction` is 1, or -1 for gradients. A block for each row.
template <class T>
__device__ void rope_row(T *rows, const u32 *positions, const float *cosines, const float *sines, u32 width, u32 heads,
                         u32 half, float direction) {
    T *row = rows + (u64)blockIdx.x * width;
    const u64 angles = (u64)positions[blockIdx.x] * half;
    for (u32 i = threadIdx.x; i < heads * half; i += blockDim.x) {
        const u32 at = i % half;
        T *first = row + i / half * 2 * half + at;
        T *second = first + half;
        const float c = cosines[angles + at], s = direction * sines[angles + at];
        const float a = to_float(*first), b = to_float(*second);
        *first = from_float<T>(a * c - b * s);
        *second = from_float<T>(b * c + a * s);
    }
}

BOTH(rope, (void *rows, const u32 *positions, const float *cosines, const float *sines, u32 width, u32 heads, u32 half, float direction),
     rope_row((T *)rows, positions, cosines, sines, width, heads, half, direction))

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
