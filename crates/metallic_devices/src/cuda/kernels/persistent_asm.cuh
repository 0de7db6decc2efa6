// The instructions that a decode step needs beside the language: words that other blocks see, and copies
// that complete on a barrier.
#pragma once
#include "numbers.cuh"

// Ends the kernel, and with it everything that is queued.
__device__ __forceinline__ void stop() { asm volatile("trap;"); }

__device__ __forceinline__ void publish_word(u32 *at, u32 bits) {
    asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(at), "r"(bits) : "memory");
}

__device__ __forceinline__ uint4 look4(const u32 *at) {
    uint4 w;
    asm volatile("ld.relaxed.gpu.global.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(w.x), "=r"(w.y), "=r"(w.z), "=r"(w.w)
                 : "l"(at)
                 : "memory");
    return w;
}

__device__ __forceinline__ uint2 look2(const u32 *at) {
    uint2 w;
    asm volatile("ld.relaxed.gpu.global.v2.u32 {%0, %1}, [%2];"
                 : "=r"(w.x), "=r"(w.y)
                 : "l"(at)
                 : "memory");
    return w;
}

// A word with a tag that comes with it: 64 bits that are seen together.
__device__ __forceinline__ void publish_pair(u64 *at, u32 word, u32 tag) {
    asm volatile("st.relaxed.gpu.global.u64 [%0], %1;" ::"l"(at), "l"((u64)tag << 32 | word) : "memory");
}

// Two such words; each has a tag of its own.
struct Pairs {
    u32 words[2], tags[2];
};

__device__ __forceinline__ Pairs look_pairs(const u64 *at) {
    u64 a, b;
    asm volatile("ld.relaxed.gpu.global.v2.u64 {%0, %1}, [%2];" : "=l"(a), "=l"(b) : "l"(at) : "memory");
    return {{(u32)a, (u32)b}, {(u32)(a >> 32), (u32)(b >> 32)}};
}

// 2 to the power of `x`, 1 / sqrt(x) and a / b in one or two instructions, to 2 units of the last place.
// What is below 2^-126, or divided by more than 2^126, becomes 0.
__device__ __forceinline__ float power_of_two(float x) {
    float power;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
    return power;
}

__device__ __forceinline__ float inverse_root(float x) {
    float root;
    asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(root) : "f"(x));
    return root;
}

__device__ __forceinline__ float quotient(float a, float b) {
    float all;
    asm("div.approx.ftz.f32 %0, %1, %2;" : "=f"(all) : "f"(a), "f"(b));
    return all;
}

// Brings the 128 bytes around `at` into the second-level cache.
__device__ __forceinline__ void bring(const void *at) {
    asm volatile("prefetch.global.L2 [%0];" ::"l"(at));
}

// The address that instructions know a shared variable by.
__device__ __forceinline__ u32 shared_address(const void *at) {
    return (u32)__cvta_generic_to_shared(at);
}

// A barrier that one thread arrives at; call `barriers_are_made` after all of them.
__device__ __forceinline__ void make_barrier(u64 *barrier) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(shared_address(barrier)));
}

__device__ __forceinline__ void barriers_are_made() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// What is read once a step leaves the second-level cache first; caches of keys are to stay.
__device__ __forceinline__ u64 read_once() {
    u64 policy;
    asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    return policy;
}

// Starts a copy of `bytes` bytes into shared memory and arrives at `barrier`, whose phase ends when all
// are there. Both addresses and the size are multiples of 16.
__device__ __forceinline__ void copy_ahead(u8 *to, u64 from, u32 bytes, u64 *barrier, u64 policy) {
    const u32 at = shared_address(barrier);
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(at), "r"(bytes) : "memory");
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
        "[%0], [%1], %2, [%3], %4;" ::"r"(shared_address(to)),
        "l"(from), "r"(bytes), "r"(at), "l"(policy)
        : "memory");
}

// Waits for the end of the phase of that parity.
__device__ __forceinline__ void wait_for(u64 *barrier, u32 parity) {
    const u32 at = shared_address(barrier);
    u32 done = 0;
    while (!done)
        asm volatile(
            "{ .reg .pred there;\n"
            "mbarrier.try_wait.parity.shared::cta.b64 there, [%1], %2;\n"
            "selp.u32 %0, 1, 0, there; }"
            : "=r"(done)
            : "r"(at), "r"(parity)
            : "memory");
}
