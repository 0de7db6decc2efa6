// The k largest of each row with their columns, in two steps: `top_k_chunks` keeps the k best of
// every CHUNK elements, `top_k_merge` the k best of those.
//
// An element is one key that is larger for what comes first: the value's order in the upper 32 bits,
// the column's complement in the lower, so that equal values come by column. No two keys are equal.
// Selection after Shanbhag, Pirk, Madden 2018, "Efficient Top-K Query Processing on Massively
// Parallel Hardware": runs of k keys are sorted, then halved by taking the larger of each pair of two
// runs, one descending and one ascending, and sorted again.
#include "common.h"

// Keys in threadgroup memory: 16 KiB. CHUNK in top_k.rs.
#define CHUNK 2048u
#define THREADS 256u

struct TopKParams {
    ulong row_stride;
    uint width;
    uint k;
    uint run_log2;
    uint chunks;
};

static inline ulong key_of(float value, uint column) {
    // Bits, not comparisons with NaN, which fast math may leave out.
    const uint bits = as_type<uint>(value);
    const uint magnitude = bits & 0x7fffffffu;
    uint order = bits | 0x80000000u;
    if (bits >> 31 == 1u) order = ~bits;
    if (magnitude == 0u) order = 0x80000000u;
    if (magnitude > 0x7f800000u) order = 0u;
    return (ulong(order) << 32) | ulong(~column);
}

static inline float value_of(ulong key) {
    const uint order = uint(key >> 32);
    if (order == 0u) return as_type<float>(0x7fc00000u);
    return as_type<float>(order >> 31 == 1u ? order & 0x7fffffffu : ~order);
}

// Orders the pair (low, high): the larger key first where `descending`.
static inline void order_pair(threadgroup ulong *keys, uint low, uint high, bool descending) {
    const ulong a = keys[low], b = keys[high];
    if ((a < b) == descending) {
        keys[low] = b;
        keys[high] = a;
    }
}

// The place of number `pair` of the pairs that lie `stride` apart.
static inline uint pair_place(uint pair, uint stride) {
    return 2u * pair - (pair & (stride - 1u));
}

// Brings the 1 << run_log2 largest keys to the front, in descending order. Called by all threads
// after keys were written; when it returns, all may read.
static inline void select_best(threadgroup ulong *keys, uint run_log2, uint thread_index) {
    const uint run = 1u << run_log2;
    for (uint size = 2u; size <= run; size *= 2u) {
        for (uint stride = size / 2u; stride > 0u; stride /= 2u) {
            threadgroup_barrier(mem_flags::mem_threadgroup);
            for (uint pair = thread_index; pair < CHUNK / 2u; pair += THREADS) {
                const uint low = pair_place(pair, stride);
                order_pair(keys, low, low + stride, (low & size) == 0u);
            }
        }
    }
    // Runs lie `space` apart; of each two neighbours the first takes the larger keys.
    for (uint space = run; space < CHUNK; space *= 2u) {
        const uint runs = CHUNK / (2u * space);
        threadgroup_barrier(mem_flags::mem_threadgroup);
        for (uint at = thread_index; at < runs << run_log2; at += THREADS) {
            const uint low = (at >> run_log2) * 2u * space + (at & (run - 1u));
            const ulong a = keys[low], b = keys[low + space];
            if (a < b) keys[low] = b;
        }
        for (uint stride = run / 2u; stride > 0u; stride /= 2u) {
            threadgroup_barrier(mem_flags::mem_threadgroup);
            for (uint pair = thread_index; pair < (runs << run_log2) / 2u; pair += THREADS) {
                const uint number = pair >> (run_log2 - 1u);
                const uint place = pair_place(pair & (run / 2u - 1u), stride);
                const uint low = number * 2u * space + place;
                order_pair(keys, low, low + stride, (number & 1u) == 0u);
            }
        }
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
}

// The sum of one number of each thread.
static inline uint sum_of(threadgroup uint *partial, uint value, uint lane, uint simdgroup) {
    const uint sum = simd_sum(value);
    if (lane == 0u) partial[simdgroup] = sum;
    threadgroup_barrier(mem_flags::mem_threadgroup);
    return simd_sum(lane < THREADS / 32u ? partial[lane] : 0u);
}

// Grid: (chunks, rows). best: [rows, chunks, k]; counts: [rows, chunks], of what is not finite.
[[kernel]] void top_k_chunks(
    device const float *x [[buffer(0)]],
    device ulong *best [[buffer(1)]],
    device uint *counts [[buffer(2)]],
    constant TopKParams &p [[buffer(3)]],
    uint3 group [[threadgroup_position_in_grid]],
    uint thread_index [[thread_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]],
    uint simdgroup [[simdgroup_index_in_threadgroup]])
{
    threadgroup ulong keys[CHUNK];
    threadgroup uint partial[32];
    device const float *row = x + ulong(group.y) * p.row_stride;
    uint odd = 0u;
    for (uint at = thread_index; at < CHUNK; at += THREADS) {
        const uint column = group.x * CHUNK + at;
        ulong key = 0u;
        if (column < p.width) {
            const float value = row[column];
            key = key_of(value, column);
            odd += (as_type<uint>(value) & 0x7f800000u) == 0x7f800000u ? 1u : 0u;
        }
        keys[at] = key;
    }
    const uint all_odd = sum_of(partial, odd, lane, simdgroup);
    select_best(keys, p.run_log2, thread_index);
    const ulong chunk = ulong(group.y) * p.chunks + group.x;
    for (uint at = thread_index; at < p.k; at += THREADS) best[chunk * p.k + at] = keys[at];
    if (thread_index == 0u) counts[chunk] = all_odd;
}

// Grid: rows. values, ids: [rows, k]; not_finite: [rows].
[[kernel]] void top_k_merge(
    device const ulong *best [[buffer(0)]],
    device const uint *counts [[buffer(1)]],
    device float *values [[buffer(2)]],
    device int *ids [[buffer(3)]],
    device int *not_finite [[buffer(4)]],
    constant TopKParams &p [[buffer(5)]],
    uint row [[threadgroup_position_in_grid]],
    uint thread_index [[thread_position_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]],
    uint simdgroup [[simdgroup_index_in_threadgroup]])
{
    threadgroup ulong keys[CHUNK];
    threadgroup uint partial[32];
    const ulong first_chunk = ulong(row) * p.chunks;
    device const ulong *row_best = best + first_chunk * p.k;
    const uint run = 1u << p.run_log2;
    const uint all = p.chunks * p.k;
    for (uint at = thread_index; at < run; at += THREADS) keys[at] = 0u;
    // The best so far stay in front; what follows takes the rest of the room.
    for (uint first = 0u; first < all; first += CHUNK - run) {
        for (uint at = run + thread_index; at < CHUNK; at += THREADS) {
            const uint from = first + (at - run);
            keys[at] = from < all ? row_best[from] : 0u;
        }
        select_best(keys, p.run_log2, thread_index);
    }
    for (uint at = thread_index; at < p.k; at += THREADS) {
        const ulong key = keys[at];
        values[ulong(row) * p.k + at] = value_of(key);
        ids[ulong(row) * p.k + at] = int(~uint(key));
    }
    uint odd = 0u;
    for (uint at = thread_index; at < p.chunks; at += THREADS) odd += counts[first_chunk + at];
    const uint all_odd = sum_of(partial, odd, lane, simdgroup);
    if (thread_index == 0u) not_finite[row] = int(all_odd);
}
