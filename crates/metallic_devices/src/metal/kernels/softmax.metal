// Masked softmax of the composed attention, in place over raw products of queries and keys.
//
// One threadgroup a row; grid: (rows of the chunk, key heads). Scores become weights relative to the
// row's largest; `inverses` holds what they are to be multiplied by, 0 for a row that sees no key.
// Keys that the row may not see become HIDDEN, which no weight is: a weight of 0 still lets a NaN
// of its value through.
#include "sdpa.h"

[[kernel]] void sdpa_softmax(
    device float *scores [[buffer(0)]],
    device float *inverses [[buffer(1)]],
    device const uchar *mask [[buffer(2)]],
    device const int *kv_lens [[buffer(3)]],
    constant SdpaParams &p [[buffer(4)]],
    uint3 group [[threadgroup_position_in_grid]],
    uint thread_index [[thread_index_in_threadgroup]],
    uint3 size [[threads_per_threadgroup]],
    ushort lane [[thread_index_in_simdgroup]],
    ushort simdgroup [[simdgroup_index_in_threadgroup]],
    ushort simdgroups [[simdgroups_per_threadgroup]])
{
    threadgroup float maxima[32];
    threadgroup float totals[32];
    threadgroup uint counts[32];

    const uint stacked = p.first_row + group.x;
    if (stacked >= p.rows) return;
    const uint head = p.first_head + group.y;
    const uint batch = head / p.kv_heads;
    const Row row = stacked_row(p, head % p.kv_heads, stacked);
    const KeyRange seen = visible_keys(p, live_keys(p, kv_lens, batch), row.position);
    device const uchar *mask_row = mask_row_at(p, mask, batch, row);
    const ulong at = ulong(group.y) * p.chunk_rows + group.x;
    device float *row_scores = scores + at * p.score_stride;

    // The largest score and the sum of weights relative to it, of this thread's keys.
    float largest = LOWEST, total = 0.0f;
    uint count = 0;
    for (int key = seen.start + int(thread_index); key < seen.end; key += int(size.x)) {
        float score = row_scores[key];
        if (!finish_score(p, mask_row, uint(key), score)) continue;
        const float next = max(largest, score);
        total = total * exp(largest - next) + exp(score - next);
        largest = next;
        count += 1;
    }
    const float simd_largest = simd_max(largest);
    const float simd_total = simd_sum(total * exp(largest - simd_largest));
    const uint simd_count = simd_sum(count);
    if (lane == 0) {
        maxima[simdgroup] = simd_largest;
        totals[simdgroup] = simd_total;
        counts[simdgroup] = simd_count;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    const bool taken = lane < simdgroups;
    const float part = taken ? maxima[lane] : LOWEST;
    const float row_largest = simd_max(part);
    const float row_total = simd_sum(taken ? totals[lane] * exp(part - row_largest) : 0.0f);
    const uint row_count = simd_sum(taken ? counts[lane] : 0u);
    if (thread_index == 0) inverses[at] = row_count > 0u ? 1.0f / row_total : 0.0f;

    for (int key = int(thread_index); key < int(p.score_stride); key += int(size.x)) {
        float weight = HIDDEN;
        if (key >= seen.start && key < seen.end) {
            float score = row_scores[key];
            if (finish_score(p, mask_row, uint(key), score)) weight = exp(score - row_largest);
        }
        row_scores[key] = weight;
    }
}
