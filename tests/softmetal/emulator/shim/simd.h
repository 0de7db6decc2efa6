// Barriers and the functions of a simdgroup (32 threads) and a quadgroup (4 threads).
#pragma once
#include "math.h"
#if MSL_RUN
#include "abi.h"
#endif

namespace metal {
enum class mem_flags : uint { mem_none = 0, mem_device = 1, mem_threadgroup = 2, mem_texture = 4, mem_threadgroup_imageblock = 8 };
MSL_INLINE constexpr mem_flags operator|(mem_flags a, mem_flags b) { return mem_flags(uint(a) | uint(b)); }
enum memory_order { memory_order_relaxed = 0 };
enum thread_scope { thread_scope_thread, thread_scope_simdgroup, thread_scope_threadgroup, thread_scope_device };

#if MSL_RUN
// The line of the .metal source that a default argument is evaluated for.
struct call_site : msl_site {
    static constexpr call_site here(const char* file = __builtin_FILE(), unsigned line = __builtin_LINE()) { return call_site{{file, line}}; }
};
#define MSL_SITE_PARAMETER , call_site site = call_site::here()
#define MSL_ONLY_SITE_PARAMETER call_site site = call_site::here()
#define MSL_SITE , site
#define MSL_UNSANITIZED __attribute__((no_sanitize("thread", "address", "undefined")))

MSL_INLINE const msl_context& this_thread() {
    const ulong here = ulong(__builtin_frame_address(0)), region = here & ~(MSL_REGION_BYTES - 1);
    return ((const msl_context*)(region + MSL_CONTEXTS_OFFSET))[(here - region - MSL_STACKS_OFFSET) / MSL_STACK_STRIDE];
}
MSL_INLINE uint this_lane() { return this_thread().thread_index_in_simdgroup; }

inline void threadgroup_barrier(mem_flags flags MSL_SITE_PARAMETER) { this_thread().runtime->threadgroup_barrier(uint(flags), site); }
inline void simdgroup_barrier(mem_flags flags MSL_SITE_PARAMETER) { this_thread().runtime->simdgroup_barrier(uint(flags), site); }

// What one lane brings to a collective and takes from it.
template <class T> struct lane_value { T in; T out; uint lane; };

template <class T, class F> struct reduce_lanes {
    // A tree, as the hardware adds: neighbours 16 apart first.
    MSL_UNSANITIZED static bool run(void* const* lanes, uint mask) {
        T value[32];
        bool present[32];
        for (uint i = 0; i < 32; i++) {
            present[i] = (mask >> i) & 1;
            if (present[i]) value[i] = ((const lane_value<T>*)lanes[i])->in;
        }
        for (uint step = 16; step; step >>= 1)
            for (uint i = 0; i < step; i++) {
                if (!present[i + step]) continue;
                value[i] = present[i] ? F::apply(value[i], value[i + step]) : value[i + step];
                present[i] = true;
            }
        for (uint i = 0; i < 32; i++)
            if ((mask >> i) & 1) ((lane_value<T>*)lanes[i])->out = value[0];
        return true;
    }
};
template <class T, class F> struct permute_lanes {
    // Reading a lane that is not there gives the reader's own value.
    MSL_UNSANITIZED static bool run(void* const* lanes, uint mask) {
        for (uint i = 0; i < 32; i++) {
            if (!((mask >> i) & 1)) continue;
            lane_value<T>* mine = (lane_value<T>*)lanes[i];
            const int from = F::source(int(i), int(mine->lane));
            const bool there = from >= 0 && from < 32 && ((mask >> from) & 1);
            mine->out = there ? ((const lane_value<T>*)lanes[from])->in : mine->in;
        }
        return true;
    }
};
template <class T, class F, bool inclusive> struct scan_lanes {
    MSL_UNSANITIZED static bool run(void* const* lanes, uint mask) {
        T sum = T(F::identity);
        for (uint i = 0; i < 32; i++) {
            if (!((mask >> i) & 1)) continue;
            lane_value<T>* mine = (lane_value<T>*)lanes[i];
            const T next = F::apply(sum, mine->in);
            mine->out = inclusive ? next : sum;
            sum = next;
        }
        return true;
    }
};
template <class Run, class T> inline T collective(T value, uint lane, call_site site) {
    lane_value<T> mine;
    mine.in = value;
    mine.lane = lane;
    this_thread().runtime->collective(&Run::run, &mine, site);
    return mine.out;
}
template <class F, class T> MSL_INLINE T reduce_(T value, call_site site) { return collective<reduce_lanes<T, F>>(value, 0, site); }
template <class F, class T> MSL_INLINE T permute_(T value, uint lane, call_site site) { return collective<permute_lanes<T, F>>(value, lane, site); }
template <class F, bool inclusive, class T> MSL_INLINE T scan_(T value, call_site site) { return collective<scan_lanes<T, F, inclusive>>(value, 0, site); }
#else
#define MSL_SITE_PARAMETER
#define MSL_ONLY_SITE_PARAMETER
#define MSL_SITE
uint this_lane();
void threadgroup_barrier(mem_flags flags);
void simdgroup_barrier(mem_flags flags);
template <class F, class T> T reduce_(T value);
template <class F, class T> T permute_(T value, uint lane);
template <class F, bool inclusive, class T> T scan_(T value);
#endif

#define MSL_OPERATION(name, first, expression) \
    struct name { \
        static constexpr int identity = first; \
        template <class T> MSL_INLINE static T apply(T a, T b) { return T(expression); } \
    };
MSL_OPERATION(op_sum, 0, a + b)
MSL_OPERATION(op_product, 1, a * b)
MSL_OPERATION(op_max, 0, metal::max(a, b))
MSL_OPERATION(op_min, 0, metal::min(a, b))
MSL_OPERATION(op_and, 0, a & b)
MSL_OPERATION(op_or, 0, a | b)
MSL_OPERATION(op_xor, 0, a ^ b)
#undef MSL_OPERATION
#define MSL_LANE_MAP(name, expression) \
    struct name { MSL_INLINE static int source(int lane, int n) { return expression; } };
MSL_LANE_MAP(lane_down, lane + n)
MSL_LANE_MAP(lane_up, lane - n)
MSL_LANE_MAP(lane_xor, lane ^ n)
MSL_LANE_MAP(lane_at, (void(lane), n))
MSL_LANE_MAP(lane_rotate_down, (lane + n) & 31)
MSL_LANE_MAP(lane_rotate_up, (lane - n) & 31)
MSL_LANE_MAP(quad_lane_xor, (lane & ~3) | ((lane ^ n) & 3))
MSL_LANE_MAP(quad_lane_at, (lane & ~3) | (n & 3))
MSL_LANE_MAP(quad_lane_down, (lane & 3) + n < 4 ? lane + n : lane)
MSL_LANE_MAP(quad_lane_up, (lane & 3) >= n ? lane - n : lane)
#undef MSL_LANE_MAP

#define MSL_REDUCE(name, op) template <class T> MSL_INLINE T name(T v MSL_SITE_PARAMETER) { return reduce_<op>(v MSL_SITE); }
MSL_REDUCE(simd_sum, op_sum) MSL_REDUCE(simd_product, op_product) MSL_REDUCE(simd_max, op_max) MSL_REDUCE(simd_min, op_min)
MSL_REDUCE(simd_and, op_and) MSL_REDUCE(simd_or, op_or) MSL_REDUCE(simd_xor, op_xor)
#undef MSL_REDUCE
MSL_INLINE bool simd_any(bool v MSL_SITE_PARAMETER) { return reduce_<op_or>(uint(v) MSL_SITE) != 0; }
MSL_INLINE bool simd_all(bool v MSL_SITE_PARAMETER) { return reduce_<op_and>(uint(v) MSL_SITE) != 0; }

#define MSL_PERMUTE(name, map) template <class T> MSL_INLINE T name(T v, ushort n MSL_SITE_PARAMETER) { return permute_<map>(v, n MSL_SITE); }
MSL_PERMUTE(simd_shuffle, lane_at) MSL_PERMUTE(simd_broadcast, lane_at) MSL_PERMUTE(simd_shuffle_xor, lane_xor)
MSL_PERMUTE(simd_shuffle_down, lane_down) MSL_PERMUTE(simd_shuffle_up, lane_up)
MSL_PERMUTE(simd_shuffle_rotate_down, lane_rotate_down) MSL_PERMUTE(simd_shuffle_rotate_up, lane_rotate_up)
MSL_PERMUTE(quad_shuffle, quad_lane_at) MSL_PERMUTE(quad_broadcast, quad_lane_at) MSL_PERMUTE(quad_shuffle_xor, quad_lane_xor)
MSL_PERMUTE(quad_shuffle_down, quad_lane_down) MSL_PERMUTE(quad_shuffle_up, quad_lane_up)
#undef MSL_PERMUTE
template <class T> MSL_INLINE T simd_broadcast_first(T v MSL_SITE_PARAMETER) { return permute_<lane_at>(v, 0 MSL_SITE); }
template <class T> MSL_INLINE T simd_shuffle_and_fill_up(T v, T fill, ushort n MSL_SITE_PARAMETER) {
    T r = permute_<lane_up>(v, n MSL_SITE);
    return this_lane() >= n ? r : fill;
}
template <class T> MSL_INLINE T simd_shuffle_and_fill_down(T v, T fill, ushort n MSL_SITE_PARAMETER) {
    T r = permute_<lane_down>(v, n MSL_SITE);
    return this_lane() + n < 32 ? r : fill;
}

#define MSL_QUAD(name, op) \
    template <class T> MSL_INLINE T name(T v MSL_SITE_PARAMETER) { \
        v = op::apply(v, permute_<quad_lane_xor>(v, 1 MSL_SITE)); \
        return op::apply(v, permute_<quad_lane_xor>(v, 2 MSL_SITE)); \
    }
MSL_QUAD(quad_sum, op_sum) MSL_QUAD(quad_product, op_product) MSL_QUAD(quad_max, op_max) MSL_QUAD(quad_min, op_min)
MSL_QUAD(quad_and, op_and) MSL_QUAD(quad_or, op_or) MSL_QUAD(quad_xor, op_xor)
#undef MSL_QUAD

#define MSL_SCAN(name, op, inclusive) template <class T> MSL_INLINE T name(T v MSL_SITE_PARAMETER) { return scan_<op, inclusive>(v MSL_SITE); }
MSL_SCAN(simd_prefix_inclusive_sum, op_sum, true) MSL_SCAN(simd_prefix_exclusive_sum, op_sum, false)
MSL_SCAN(simd_prefix_inclusive_product, op_product, true) MSL_SCAN(simd_prefix_exclusive_product, op_product, false)
#undef MSL_SCAN

struct simd_vote {
    typedef ulong vote_t;
    vote_t bits;
    MSL_INLINE explicit operator vote_t() const { return bits; }
    MSL_INLINE bool all() const { return bits == 0xffffffffu; }
    MSL_INLINE bool any() const { return bits != 0; }
};
MSL_INLINE simd_vote simd_ballot(bool v MSL_SITE_PARAMETER) { return simd_vote{reduce_<op_or>(v ? 1u << this_lane() : 0u MSL_SITE)}; }
MSL_INLINE bool simd_is_first(MSL_ONLY_SITE_PARAMETER) { return reduce_<op_min>(this_lane() MSL_SITE) == this_lane(); }
}  // namespace metal
