// A block of CUDA threads as threads of the host: barriers, shuffles of a warp, shared memory. Blocks run one
// after another, so shared variables are static. What kernels ask of a GPU, as far as ours do without PTX.
#pragma once

#include <atomic>
#include <barrier>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#define __device__
#define __forceinline__ inline
#define __global__
#define __launch_bounds__(...)
#define __grid_constant__
#define __shared__ static

struct Index {
    unsigned x, y, z;
};
struct float4 {
    float x, y, z, w;
};
struct uint2 {
    unsigned x, y;
};
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }

inline thread_local Index threadIdx, blockIdx;
inline Index blockDim, gridDim;
// Dynamic shared memory; `extern __shared__` declarations are pointed here.
alignas(16) inline char dynamic_shared[1 << 16];

namespace soft {
inline std::unique_ptr<std::barrier<>> block;
inline std::vector<std::unique_ptr<std::barrier<>>> warps;
inline float lanes[32][32];
}  // namespace soft

inline void __syncthreads() { soft::block->arrive_and_wait(); }
inline void __syncwarp() { soft::warps[threadIdx.x / 32]->arrive_and_wait(); }
inline void __threadfence_system() {}

inline float __shfl_xor_sync(unsigned, float value, int mask) {
    const unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    soft::lanes[warp][lane] = value;
    __syncwarp();
    const float other = soft::lanes[warp][lane ^ mask];
    __syncwarp();
    return other;
}

template <class To, class From>
inline To bits_as(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}
inline unsigned __float_as_uint(float value) { return bits_as<unsigned>(value); }
inline float __uint_as_float(unsigned bits) { return bits_as<float>(bits); }
inline float __int_as_float(int bits) { return bits_as<float>(bits); }

inline void atomicMax(unsigned *at, unsigned value) {
    std::atomic_ref<unsigned> word(*at);
    unsigned old = word.load();
    while (old < value && !word.compare_exchange_weak(old, value)) {
    }
}

// Runs `kernel` on `grid` blocks of `threads` threads.
template <class Kernel>
void launch(unsigned grid, unsigned threads, Kernel kernel) {
    gridDim = {grid, 1, 1}, blockDim = {threads, 1, 1};
    for (unsigned b = 0; b < grid; b++) {
        soft::block = std::make_unique<std::barrier<>>(threads);
        soft::warps.clear();
        for (unsigned w = 0; w < threads / 32; w++) soft::warps.push_back(std::make_unique<std::barrier<>>(32));
        std::vector<std::thread> all;
        for (unsigned t = 0; t < threads; t++) {
            all.emplace_back([=] {
                threadIdx = {t, 0, 0}, blockIdx = {b, 0, 0};
                kernel();
                soft::block->arrive_and_drop();
            });
        }
        for (auto &thread : all) thread.join();
    }
}
