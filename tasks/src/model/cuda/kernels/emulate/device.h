// CUDA C as plain C++, for checks on a machine without a GPU: each thread of a block is a fiber that runs until it
// waits for its warp or its block. Only what the kernels use. It is slow, and it is exact about what it models: threads
// that wait for each other in vain, and lanes that are missing from an exchange, end the program.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

#include <ucontext.h>

#define __global__
#define __device__
#define __shared__ static
#define __align__(n) alignas(n)
#define __launch_bounds__(...)

using std::isfinite;
using std::max;
using std::min;

struct Dim3 {
    unsigned x, y, z;
};

inline Dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulate {

enum class State { Runs, WaitsForWarp, WaitsForBlock, Done };

struct Fiber {
    ucontext_t context;
    std::vector<char> stack;
    State state;
};

inline std::vector<Fiber> fibers;
inline ucontext_t scheduler;
inline unsigned current;
inline std::function<void()> body;
// Fibers run from the last to the first: a kernel that forgot to wait gives other numbers.
inline bool backwards = false;
inline std::vector<char> dynamic_memory;

inline void *dynamic_shared() { return dynamic_memory.data(); }

[[noreturn]] inline void fail(const char *message) {
    std::fprintf(stderr, "emulated kernel: %s (block %u %u, thread %u)\n", message, blockIdx.x, blockIdx.y, current);
    std::abort();
}

inline void wait(State state) {
    const unsigned self = current;
    fibers[self].state = state;
    swapcontext(&fibers[self].context, &scheduler);
    current = self;
    threadIdx = {self, 0, 0};
}

inline void entry() {
    body();
    fibers[current].state = State::Done;
    swapcontext(&fibers[current].context, &scheduler);
}

inline bool release(unsigned first, unsigned last, State from) {
    unsigned waiting = 0, done = 0;
    for (unsigned i = first; i < last; i++) {
        waiting += fibers[i].state == from;
        done += fibers[i].state == State::Done;
    }
    if (waiting == 0 || waiting + done < last - first)
        return false;
    if (from == State::WaitsForWarp && done > 0)
        fail("an exchange in a warp that lanes have left");
    for (unsigned i = first; i < last; i++)
        if (fibers[i].state == from)
            fibers[i].state = State::Runs;
    return true;
}

inline bool run_once(unsigned threads) {
    bool ran = false;
    for (unsigned n = 0; n < threads; n++) {
        const unsigned i = backwards ? threads - 1 - n : n;
        if (fibers[i].state == State::Runs) {
            ran = true;
            current = i;
            threadIdx = {i, 0, 0};
            swapcontext(&scheduler, &fibers[i].context);
        }
    }
    return ran;
}

inline void run_block(unsigned threads) {
    for (unsigned i = 0; i < threads; i++) {
        Fiber &fiber = fibers[i];
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.data();
        fiber.context.uc_stack.ss_size = fiber.stack.size();
        fiber.context.uc_link = &scheduler;
        makecontext(&fiber.context, entry, 0);
        fiber.state = State::Runs;
    }
    for (bool moved = true; moved;) {
        moved = run_once(threads);
        for (unsigned first = 0; first < threads; first += 32)
            moved |= release(first, min(first + 32, threads), State::WaitsForWarp);
        moved |= release(0, threads, State::WaitsForBlock);
    }
    for (unsigned i = 0; i < threads; i++)
        if (fibers[i].state != State::Done) {
            current = i;
            fail("threads wait for each other in vain");
        }
}

inline void launch(Dim3 grid, unsigned threads, size_t shared_bytes, std::function<void()> kernel) {
    while (fibers.size() < threads)
        fibers.push_back(Fiber{{}, std::vector<char>(1 << 16), State::Done});
    body = std::move(kernel);
    // Not zeros: shared memory holds what the block before it left.
    dynamic_memory.assign(shared_bytes, char(0x7f));
    gridDim = grid;
    blockDim = {threads, 1, 1};
    for (unsigned y = 0; y < grid.y; y++)
        for (unsigned x = 0; x < grid.x; x++) {
            blockIdx = {x, y, 0};
            run_block(threads);
        }
}

// What the lanes of a warp show each other.
struct Exchange {
    uint64_t bits[32];
    const void *pointers[32];
    uint32_t registers[32][6];
};

inline Exchange exchanges[32];

inline Exchange &exchange() { return exchanges[current / 32]; }
inline void warp() { wait(State::WaitsForWarp); }

inline uint16_t bf16_bits(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    if (value != value)
        return 0x7fff;
    return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

inline float bf16_value(uint32_t bits) {
    bits <<= 16;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

// mma.m16n8k16 by the fragments of its specification (PTX ISA, "Matrix Fragments for mma.m16n8k16").
inline void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    Exchange &shown = exchange();
    const unsigned lane = current % 32, g = lane / 4, t = lane % 4;
    uint32_t own[6] = {a[0], a[1], a[2], a[3], b0, b1};
    std::memcpy(shown.registers[lane], own, sizeof own);
    warp();
    auto half = [](uint32_t pair, unsigned i) { return bf16_value(i ? pair >> 16 : pair & 0xffff); };
    auto left = [&](unsigned row, unsigned k) {
        return half(shown.registers[row % 8 * 4 + k % 8 / 2][row / 8 + k / 8 * 2], k % 2);
    };
    auto right = [&](unsigned k, unsigned column) {
        return half(shown.registers[column * 4 + k % 8 / 2][4 + k / 8], k % 2);
    };
    for (unsigned i = 0; i < 4; i++)
        for (unsigned k = 0; k < 16; k++)
            c[i] += left(g + i / 2 * 8, k) * right(k, 2 * t + i % 2);
    warp();
}

// ldmatrix.x4, with or without .trans.
inline void load_matrices(uint32_t (&r)[4], const void *row, bool transposed) {
    Exchange &shown = exchange();
    const unsigned lane = current % 32;
    if ((uintptr_t)row % 16)
        fail("ldmatrix needs rows that begin at a multiple of 16 bytes");
    shown.pointers[lane] = row;
    warp();
    for (unsigned matrix = 0; matrix < 4; matrix++) {
        auto value = [&](unsigned row, unsigned column) {
            return (uint32_t)((const uint16_t *)shown.pointers[8 * matrix + row])[column];
        };
        const unsigned outer = lane / 4, inner = lane % 4 * 2;
        r[matrix] = transposed ? value(inner, outer) | value(inner + 1, outer) << 16
                               : value(outer, inner) | value(outer, inner + 1) << 16;
    }
    warp();
}

} // namespace emulate

inline void __syncthreads() { emulate::wait(emulate::State::WaitsForBlock); }

template <class T> T __shfl_xor_sync(unsigned, T value, unsigned lane) {
    static_assert(sizeof(T) <= 8);
    emulate::Exchange &shown = emulate::exchange();
    const unsigned own = emulate::current % 32;
    std::memcpy(&shown.bits[own], &value, sizeof(T));
    emulate::warp();
    T other;
    std::memcpy(&other, &shown.bits[own ^ lane], sizeof(T));
    emulate::warp();
    return other;
}

inline float __uint_as_float(unsigned bits) {
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

inline unsigned __float_as_uint(float value) {
    unsigned bits;
    std::memcpy(&bits, &value, 4);
    return bits;
}

inline unsigned atomicMin(unsigned *at, unsigned value) {
    const unsigned old = *at;
    *at = min(old, value);
    return old;
}
