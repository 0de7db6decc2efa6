// A block of CUDA threads on one thread of the host: each has a stack of its own and runs until it waits for its
// warp or its block. Blocks run one after another, so shared variables are static. What kernels ask of a GPU, as far
// as ours do without PTX.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#define __device__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __global__
#define __launch_bounds__(...)
#define __grid_constant__
#define __shared__ static

using std::max, std::min;

struct Index {
    unsigned x, y, z;
};
struct float4 {
    float x, y, z, w;
};
struct uint2 {
    unsigned x, y;
};
struct uint4 {
    unsigned x, y, z, w;
};
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

static Index blockDim, gridDim, blockIdx;
// Dynamic shared memory; `extern __shared__` declarations are pointed here.
alignas(16) static char dynamic_shared[1 << 16];

namespace soft {
constexpr size_t STACK = 1 << 16;
enum State { READY, IN_WARP, IN_BLOCK, DONE };
struct Thread {
    ucontext_t context;
    Index index;
    State state;
    char *stack;
};
static std::vector<Thread> threads;
static Thread *current;
static ucontext_t scheduler;
static void (*body)(void *);
static void *argument;
static float lanes[32][32];

static void enter() {
    body(argument);
    current->state = DONE;
    swapcontext(&current->context, &scheduler);
}

static void wait(State state) {
    current->state = state;
    swapcontext(&current->context, &scheduler);
}

// Whether threads first .. end all wait as `state` or are done; then those go on.
static bool release(size_t first, size_t end, State state) {
    bool some = false;
    for (size_t i = first; i < end; i++) {
        if (threads[i].state == state) some = true;
        else if (threads[i].state != DONE) return false;
    }
    for (size_t i = first; i < end && some; i++)
        if (threads[i].state == state) threads[i].state = READY;
    return some;
}

static void run_block() {
    const size_t count = (size_t)blockDim.x * blockDim.y * blockDim.z;
    while (threads.size() < count) threads.push_back({{}, {}, READY, (char *)std::malloc(STACK)});
    for (size_t i = 0; i < count; i++) {
        Thread &thread = threads[i];
        getcontext(&thread.context);
        thread.context.uc_stack.ss_sp = thread.stack, thread.context.uc_stack.ss_size = STACK;
        thread.context.uc_link = &scheduler;
        thread.index = {(unsigned)i % blockDim.x, (unsigned)i / blockDim.x % blockDim.y, (unsigned)i / blockDim.x / blockDim.y};
        thread.state = READY;
        makecontext(&thread.context, enter, 0);
    }
    for (bool going = true; going;) {
        going = false;
        for (size_t i = 0; i < count; i++) {
            if (threads[i].state != READY) continue;
            current = &threads[i];
            swapcontext(&scheduler, &current->context);
            going = true;
        }
        for (size_t i = 0; i < count; i += 32) going |= release(i, min(count, i + 32), IN_WARP);
        going |= release(0, count, IN_BLOCK);
    }
    for (size_t i = 0; i < count; i++) {
        if (threads[i].state == DONE) continue;
        std::fprintf(stderr, "softcuda: threads of a block wait for each other\n");
        std::abort();
    }
}

// Runs `body` in every thread of the grid.
static void run_grid(Index grid, Index block, void (*work)(void *), void *with) {
    gridDim = grid, blockDim = block, body = work, argument = with;
    for (unsigned z = 0; z < grid.z; z++)
        for (unsigned y = 0; y < grid.y; y++)
            for (unsigned x = 0; x < grid.x; x++) blockIdx = {x, y, z}, run_block();
}
}  // namespace soft

#define threadIdx (soft::current->index)

inline void __syncthreads() { soft::wait(soft::IN_BLOCK); }
inline void __syncwarp() { soft::wait(soft::IN_WARP); }
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
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }

inline unsigned __byte_perm(unsigned low, unsigned high, unsigned selector) {
    const unsigned long long both = (unsigned long long)high << 32 | low;
    unsigned result = 0;
    for (int byte = 0; byte < 4; byte++) {
        const unsigned pick = selector >> 4 * byte & 15, value = both >> 8 * (pick & 7) & 255;
        result |= (pick & 8 ? (value & 128 ? 255 : 0) : value) << 8 * byte;
    }
    return result;
}

inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
    return ((unsigned long long)high << 32 | low) >> (shift & 31);
}

// Threads run in turn, so no more is needed.
inline void atomicMax(unsigned *at, unsigned value) { *at = max(*at, value); }

// Runs `kernel` on `grid` blocks of `threads` threads.
template <class Kernel>
void launch(unsigned grid, unsigned threads, Kernel kernel) {
    soft::run_grid({grid, 1, 1}, {threads, 1, 1}, [](void *kernel) { (*(Kernel *)kernel)(); }, &kernel);
}
