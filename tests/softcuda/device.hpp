// A GPU's words for a CPU: each thread of a block is a fiber, each block a system thread. Fibers run until
// they wait, in changing order; warps are not in step, so what counts on that shows.
#pragma once
#include <sched.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <thread>
#include <vector>

struct float2 { float x, y; };
struct float4 { float x, y, z, w; };
struct uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct Index { unsigned x, y, z; };

inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

namespace soft {

[[noreturn]] inline void fail(const char *what) {
    fprintf(stderr, "softcuda: %s\n", what);
    exit(1);
}

struct Barrier { unsigned arrived, generation; };

struct Fiber {
    ucontext_t context;
    std::vector<char> stack;
    Index thread;
    bool done;
    // Where it waits, while the generation is this one.
    const Barrier *at;
    unsigned generation;
};

static Index grid;
static unsigned threads;
static size_t shared_bytes;
// Bytes of what has not been written: NaN, but where a kernel does rows again that are not finite.
static int unwritten = 0xff;
static thread_local Index block;
static thread_local unsigned char *shared;
static thread_local Fiber *fiber;
static thread_local ucontext_t scheduler;
static thread_local Barrier of_block, of_warp[32];
static thread_local unsigned lanes[32][32];
static void (*entry)();

inline void yield() { swapcontext(&fiber->context, &scheduler); }

inline void wait(Barrier &barrier, unsigned count) {
    const unsigned generation = barrier.generation;
    if (++barrier.arrived == count) {
        barrier.arrived = 0, barrier.generation++;
    } else {
        fiber->at = &barrier, fiber->generation = generation;
        yield();
        fiber->at = nullptr;
    }
}

// Device memory: what copies may read.
static std::map<unsigned long long, size_t> allocations;

inline unsigned char *allocate(size_t bytes) {
    const size_t rounded = (bytes + 255) / 256 * 256;
    auto *start = (unsigned char *)aligned_alloc(256, rounded);
    memset(start, 0xff, rounded);
    allocations[(unsigned long long)start] = rounded;
    return start;
}

inline void check_device(unsigned long long from, size_t bytes) {
    // A program has memory of its own.
    if (allocations.empty()) return;
    auto next = allocations.upper_bound(from);
    if (next == allocations.begin()) fail("a copy from nowhere");
    --next;
    if (from + bytes > next->first + next->second) fail("a copy past the end of its memory");
}

inline void run_fiber() {
    entry();
    fiber->done = true;
    yield();
}

inline void run_block(unsigned index, unsigned seed) {
    srand(seed * 1000 + index);
    block = {index % grid.x, index / grid.x % grid.y, index / grid.x / grid.y};
    shared = (unsigned char *)aligned_alloc(256, (shared_bytes + 255) / 256 * 256);
    memset(shared, unwritten, shared_bytes);
    std::vector<Fiber> fibers(threads);
    for (unsigned i = 0; i < threads; i++) {
        Fiber &own = fibers[i];
        own.stack.resize(48 << 10);
        getcontext(&own.context);
        own.context.uc_stack.ss_sp = own.stack.data();
        own.context.uc_stack.ss_size = own.stack.size();
        own.context.uc_link = nullptr;
        own.thread = {i, 0, 0}, own.done = false, own.at = nullptr;
        makecontext(&own.context, run_fiber, 0);
    }
    for (unsigned left = threads; left > 0; sched_yield()) {
        const unsigned offset = (unsigned)rand();
        for (unsigned i = 0; i < threads; i++) {
            Fiber &next = fibers[(i * 7 + offset) % threads];
            if (next.done || (next.at && next.at->generation == next.generation)) continue;
            fiber = &next;
            swapcontext(&scheduler, &next.context);
            left -= next.done;
        }
    }
    free(shared);
}

// Runs a grid, all blocks at once.
inline void launch(Index blocks, unsigned seed) {
    grid = blocks;
    std::vector<std::thread> running;
    for (unsigned i = 0; i < grid.x * grid.y * grid.z; i++) running.emplace_back(run_block, i, seed);
    for (std::thread &one : running) one.join();
}

inline void launch(unsigned blocks, unsigned seed) { launch(Index{blocks, 1, 1}, seed); }

}  // namespace soft

#define threadIdx (soft::fiber->thread)
#define blockIdx (soft::block)
#define gridDim (soft::grid)
#define __device__
#define __global__
#define __forceinline__ inline
#define __noinline__
#define __grid_constant__
#define __align__(BYTES)

inline float __uint_as_float(unsigned bits) { float value; memcpy(&value, &bits, 4); return value; }
inline float __int_as_float(int bits) { float value; memcpy(&value, &bits, 4); return value; }
inline unsigned __float_as_uint(float value) { unsigned bits; memcpy(&bits, &value, 4); return bits; }
template <typename T> inline T __ldg(const T *at) { return *at; }
inline int __float2int_rn(float value) { return (int)lrintf(value); }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline void __threadfence_system() {}
inline void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
inline unsigned atomicAdd(unsigned *at, unsigned value) { return __atomic_fetch_add(at, value, __ATOMIC_SEQ_CST); }
// Counts up to `last` and starts again at 0.
inline unsigned atomicInc(unsigned *at, unsigned last) {
    unsigned old = __atomic_load_n(at, __ATOMIC_SEQ_CST);
    while (!__atomic_compare_exchange_n(at, &old, old >= last ? 0 : old + 1, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
    }
    return old;
}
template <typename T> inline T __ldcg(const T *at) { return *at; }
using std::max, std::min;

inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
    shift &= 31;
    return shift ? low >> shift | high << (32 - shift) : low;
}

inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
    const unsigned long long both = (unsigned long long)b << 32 | a;
    unsigned result = 0;
    for (int i = 0; i < 4; i++) result |= (unsigned)(both >> 8 * (selector >> 4 * i & 7) & 255) << 8 * i;
    return result;
}

inline void __syncthreads() { soft::wait(soft::of_block, soft::threads); }
inline bool __syncthreads_or(bool is) {
    static thread_local bool any;
    __syncthreads();
    any = false;
    __syncthreads();
    any |= is;
    __syncthreads();
    return any;
}
inline void __syncwarp() { soft::wait(soft::of_warp[threadIdx.x / 32], 32); }

// What the lane that `from` names holds, to each lane of the warp.
template <typename T> inline T of_lane(T value, int from) {
    auto &warp = soft::lanes[threadIdx.x / 32];
    memcpy(&warp[threadIdx.x % 32], &value, 4);
    __syncwarp();
    memcpy(&value, &warp[from], 4);
    __syncwarp();
    return value;
}
template <typename T> inline T __shfl_xor_sync(unsigned, T value, int mask) {
    return of_lane(value, threadIdx.x % 32 ^ mask);
}
template <typename T> inline T __shfl_sync(unsigned, T value, int lane) { return of_lane(value, lane); }
inline bool __any_sync(unsigned, bool is) {
    for (int mask = 1; mask < 32; mask *= 2) is |= __shfl_xor_sync(~0u, (unsigned)is, mask) != 0;
    return is;
}
