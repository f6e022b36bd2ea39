// What every kernel shares: numbers, reductions, 16-byte accesses, and the tensor-core instructions.
//
// The sources hold no header of the toolkit, so that NVRTC compiles them anywhere; with KBUILD_EMULATE they are plain
// C++ (see emulate/), where the instructions below are made of loops.
//
// No float is ever added atomically: every sum has one order, which depends on shapes alone.
#pragma once

#ifdef KBUILD_EMULATE
#include "emulate/device.h"
#endif

#ifndef INFINITY
#define INFINITY __int_as_float(0x7f800000)
#endif

typedef unsigned int u32;
typedef unsigned long long u64;
typedef unsigned short u16;

#define KERNEL extern "C" __global__ void
#define WARP 32u

struct bf16 {
    u16 bits;
};

// The shared memory that a launch asked for.
#ifdef KBUILD_EMULATE
#define DYNAMIC_SHARED(T, NAME) T *NAME = (T *)emulate::dynamic_shared()
#else
extern __shared__ __align__(1024) unsigned char dynamic_shared[];
#define DYNAMIC_SHARED(T, NAME) T *NAME = (T *)dynamic_shared
#endif

// Rounded to nearest, ties to even.
__device__ inline u16 bf16_bits(float value) {
#ifdef KBUILD_EMULATE
    return emulate::bf16_bits(value);
#else
    u16 bits;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
#endif
}

// Two values in one register, the first in the low half.
__device__ inline u32 bf16_pair(float low, float high) {
#ifdef KBUILD_EMULATE
    return (u32)emulate::bf16_bits(high) << 16 | emulate::bf16_bits(low);
#else
    u32 pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
#endif
}

__device__ inline float to_float(float value) { return value; }
__device__ inline float to_float(bf16 value) { return __uint_as_float((u32)value.bits << 16); }

template <class T> __device__ inline T from_float(float value);
template <> __device__ inline float from_float<float>(float value) { return value; }
template <> __device__ inline bf16 from_float<bf16>(float value) { return bf16{bf16_bits(value)}; }

#define LOG2E 1.4426950408889634f
#define LN2 0.6931471805599453f

__device__ inline float exp2_fast(float x) {
#ifdef KBUILD_EMULATE
    return exp2f(x);
#else
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#endif
}

// e^x, for bf16 by the fast instruction: a few units of the last place of f32.
template <class T> __device__ inline float exp_of(float x);
template <> __device__ inline float exp_of<float>(float x) { return expf(x); }
template <> __device__ inline float exp_of<bf16>(float x) { return exp2_fast(x * LOG2E); }

// `WIDE` values that are read and written in one access of 16 bytes.
template <class T> struct Wide {
    static constexpr u32 WIDE = 16 / sizeof(T);
};

template <class T, u32 WIDE> struct alignas(sizeof(T) * WIDE) Pack {
    T values[WIDE];
};

template <u32 WIDE, class T> __device__ inline void read(float (&to)[WIDE], const T *from) {
    const Pack<T, WIDE> pack = *(const Pack<T, WIDE> *)from;
#pragma unroll
    for (u32 i = 0; i < WIDE; i++)
        to[i] = to_float(pack.values[i]);
}

template <u32 WIDE, class T> __device__ inline void write(T *to, const float (&from)[WIDE]) {
    Pack<T, WIDE> pack;
#pragma unroll
    for (u32 i = 0; i < WIDE; i++)
        pack.values[i] = from_float<T>(from[i]);
    *(Pack<T, WIDE> *)to = pack;
}

__device__ inline float warp_sum(float value) {
#pragma unroll
    for (u32 step = WARP / 2; step > 0; step /= 2)
        value += __shfl_xor_sync(0xffffffffu, value, step);
    return value;
}

__device__ inline double warp_sum(double value) {
#pragma unroll
    for (u32 step = WARP / 2; step > 0; step /= 2)
        value += __shfl_xor_sync(0xffffffffu, value, step);
    return value;
}

__device__ inline float warp_max(float value) {
#pragma unroll
    for (u32 step = WARP / 2; step > 0; step /= 2)
        value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, step));
    return value;
}

// The sum over a block of whole warps, the same in every thread: a tree of fixed shape.
template <class F> __device__ inline F block_sum(F value) {
    __shared__ F parts[WARP];
    value = warp_sum(value);
    __syncthreads();
    if (threadIdx.x % WARP == 0)
        parts[threadIdx.x / WARP] = value;
    __syncthreads();
    const F part = threadIdx.x % WARP < blockDim.x / WARP ? parts[threadIdx.x % WARP] : F(0);
    return warp_sum(part);
}

__device__ inline float block_max(float value) {
    __shared__ float parts[WARP];
    value = warp_max(value);
    __syncthreads();
    if (threadIdx.x % WARP == 0)
        parts[threadIdx.x / WARP] = value;
    __syncthreads();
    return warp_max(parts[threadIdx.x % WARP < blockDim.x / WARP ? threadIdx.x % WARP : 0]);
}

// Both numerics of a kernel template under names that the host finds: NAME_f32 and NAME_bf16.
#define BOTH(NAME, PARAMETERS, ...)                                                                                    \
    KERNEL NAME##_f32 PARAMETERS {                                                                                     \
        typedef float T;                                                                                               \
        __VA_ARGS__;                                                                                                   \
    }                                                                                                                  \
    KERNEL NAME##_bf16 PARAMETERS {                                                                                    \
        typedef bf16 T;                                                                                                \
        __VA_ARGS__;                                                                                                   \
    }
