// Stand-ins for persistent_asm.cuh. A copy ends when somebody waits, in any order; until then its slot holds
// NaN, so that what is read too early or kept too long shows.
#pragma once

inline void stop() { soft::fail("a wait was lost"); }

inline void publish_word(u32 *at, u32 bits) { __atomic_store_n(at, bits, __ATOMIC_RELAXED); }

inline u32 look(const u32 *at) { return __atomic_load_n(at, __ATOMIC_RELAXED); }

inline uint4 look4(const u32 *at) {
    if ((u64)at % 16) soft::fail("four words at no multiple of 16");
    soft::yield();
    return {look(at), look(at + 1), look(at + 2), look(at + 3)};
}

inline uint2 look2(const u32 *at) {
    if ((u64)at % 8) soft::fail("two words at no multiple of 8");
    soft::yield();
    return {look(at), look(at + 1)};
}

inline void publish_pair(u64 *at, u32 word, u32 tag) { __atomic_store_n(at, (u64)tag << 32 | word, __ATOMIC_RELAXED); }

struct Pairs { u32 words[2], tags[2]; };

inline Pairs look_pairs(const u64 *at) {
    if ((u64)at % 16) soft::fail("two pairs at no multiple of 16");
    soft::yield();
    const u64 a = __atomic_load_n(at, __ATOMIC_RELAXED), b = __atomic_load_n(at + 1, __ATOMIC_RELAXED);
    return {{(u32)a, (u32)b}, {(u32)(a >> 32), (u32)(b >> 32)}};
}

inline float power_of_two(float x) { return exp2f(x); }
inline float inverse_root(float x) { return 1.0f / sqrtf(x); }
inline float quotient(float a, float b) { return a / b; }

inline void bring(const void *) {}

struct Copy {
    u8 *to;
    u64 from;
    u32 bytes;
    u64 *barrier;  // phases that ended
};

static thread_local std::vector<Copy> copies;

inline void make_barrier(u64 *barrier) { *barrier = 0; }
inline void barriers_are_made() {}
inline u64 read_once() { return 0; }

inline void copy_ahead(u8 *to, u64 from, u32 bytes, u64 *barrier, u64) {
    if (((u64)to | from | bytes) % 16) soft::fail("a copy at no multiple of 16");
    if (to < soft::shared || to + bytes > soft::shared + soft::shared_bytes)
        soft::fail("a copy outside shared memory");
    soft::check_device(from, bytes);
    memset(to, 0xff, bytes);
    copies.push_back({to, from, bytes, barrier});
}

inline void wait_for(u64 *barrier, u32 parity) {
    while ((*barrier & 1) == parity) {
        if (!copies.empty()) {
            std::swap(copies[rand() % copies.size()], copies.back());
            const Copy copy = copies.back();
            copies.pop_back();
            memcpy(copy.to, (const void *)copy.from, copy.bytes);
            ++*copy.barrier;
        }
        soft::yield();
    }
}
