// What lies between Apple's matrix kernels in the `softmax_mps` attention: scale, bound and mask before
// MPSMatrixSoftMax, weights as halves for the second product, and the result's place after it.
#include "sdpa.h"

// Weights go into a product of halves times this, so that those of long sequences keep their
// digits; the product takes it out again. `WEIGHT_SCALE` in softmax_mps.rs.
#define WEIGHT_SCALE 1024.0f

// Raw products become masked scores in place. One threadgroup a row; grid: (rows of the chunk, key
// heads).
[[kernel]] void sdpa_mps_mask(
    device float *scores [[buffer(0)]],
    device const uchar *mask [[buffer(1)]],
    device const int *kv_lens [[buffer(2)]],
    constant SdpaParams &p [[buffer(3)]],
    uint3 group [[threadgroup_position_in_grid]],
    uint thread_index [[thread_index_in_threadgroup]],
    uint3 size [[threads_per_threadgroup]])
{
    const uint head = p.first_head + group.y, batch = head / p.kv_heads;
    const Row row = stacked_row(p, head % p.kv_heads, p.first_row + group.x);
    const KeyRange seen = visible_keys(p, live_keys(p, kv_lens, batch), row.position);
    device const uchar *mask_row = mask_row_at(p, mask, batch, row);
    device float *row_scores = scores + (ulong(group.y) * p.chunk_rows + group.x) * p.score_stride;
    for (uint key = thread_index; key < p.kv_len; key += size.x) {
        float score = row_scores[key];
        const bool visible = int(key) >= seen.start && int(key) < seen.end &&
                             finish_score(p, mask_row, key, score);
        row_scores[key] = visible ? score : -INFINITY;
    }
}

// Weights as scaled halves, rows as far apart in elements. grid as above.
[[kernel]] void sdpa_mps_halves(
    device const float *weights [[buffer(0)]],
    device half *halves [[buffer(1)]],
    constant SdpaParams &p [[buffer(2)]],
    uint3 group [[threadgroup_position_in_grid]],
    uint thread_index [[thread_index_in_threadgroup]],
    uint3 size [[threads_per_threadgroup]])
{
    const ulong first = (ulong(group.y) * p.chunk_rows + group.x) * p.score_stride;
    for (uint key = thread_index; key < p.kv_len; key += size.x)
        halves[first + key] = half(weights[first + key] * WEIGHT_SCALE);
}

// Sums [chunk rows, v_dim] of each key head to their places in out. A product adds 0 times the value
// of a hidden key, and the softmax of a row that sees nothing is NaN: where a sum is not finite, it
// is made again from what the row sees. One simdgroup a row; grid as above.
[[kernel]] void sdpa_mps_finish(
    device const float *sums [[buffer(0)]],
    device const float *weights [[buffer(1)]],
    device const uchar *v [[buffer(2)]],
    device const uchar *mask [[buffer(3)]],
    device const int *kv_lens [[buffer(4)]],
    device uchar *out [[buffer(5)]],
    constant SdpaParams &p [[buffer(6)]],
    uint3 group [[threadgroup_position_in_grid]],
    uint lane [[thread_index_in_threadgroup]],
    uint3 size [[threads_per_threadgroup]])
{
    const uint head = p.first_head + group.y;
    const uint batch = head / p.kv_heads, kv_head = head % p.kv_heads;
    const Row row = stacked_row(p, kv_head, p.first_row + group.x);
    const KeyRange seen = visible_keys(p, live_keys(p, kv_lens, batch), row.position);
    device const uchar *mask_row = mask_row_at(p, mask, batch, row);
    const ulong at = ulong(group.y) * p.chunk_rows + group.x;
    device const float *row_weights = weights + at * p.score_stride;
    device const uchar *v_head = v + batch * p.v_batch + kv_head * p.v_head;
    device uchar *to = out + batch * p.out_batch + row.head * p.out_head + row.position * p.out_row;
    for (uint column = lane; column < p.v_dim; column += size.x) {
        float sum = sums[at * p.v_dim + column];
        if (is_non_finite(sum)) {
            sum = 0.0f;
            for (int key = seen.start; key < seen.end; key++) {
                float unused = 0.0f;
                if (!finish_score(p, mask_row, uint(key), unused)) continue;
                sum += row_weights[key] * load1(v_head + uint(key) * p.v_row, column, v_type);
            }
        }
        store1(to, column, q_type, sum);
    }
}
