// Fused attention for few query rows: every key and value is read once for up to 8 stacked rows, and
// no score leaves the threadgroup.
//
// grid: (parts of the keys, tiles of R rows, key heads), 4 simdgroups of which each takes every
// fourth block of 32 keys. Within a block, 8 lanes share a key for the products (so a row of keys is
// read in whole cache lines and three shuffles finish a product), then each lane stands for one
// key, then the lanes stand for columns of the values. The maxima follow the online softmax of
// Milakov and Gimelshein (2018); parts are merged by `sdpa_decode_merge`.
#include "sdpa.h"

#define SIMDGROUPS 4
#define BLOCK 32

template <ushort D, ushort R>
[[kernel]] void sdpa_decode(
    device const uchar *q [[buffer(0)]],
    device const uchar *k [[buffer(1)]],
    device const uchar *v [[buffer(2)]],
    device const uchar *mask [[buffer(3)]],
    device const int *kv_lens [[buffer(4)]],
    device uchar *out [[buffer(5)]],
    device float *part_sums [[buffer(6)]],
    device float2 *part_stats [[buffer(7)]],
    constant SdpaParams &p [[buffer(8)]],
    uint3 tile [[threadgroup_position_in_grid]],
    ushort thread_index [[thread_index_in_threadgroup]],
    ushort simdgroup [[simdgroup_index_in_threadgroup]],
    ushort lane [[thread_index_in_simdgroup]])
{
    // Lanes that share a row of values, rows read at a time, float4s of a lane.
    constexpr ushort LANES = D < 128 ? D / 4 : 32;
    constexpr ushort ROWS_AT_ONCE = 32 / LANES;
    constexpr ushort CHUNKS = D / (4 * LANES);

    // Queries first, partial sums at the end.
    threadgroup float4 q_tile[R * D / 4];
    threadgroup float weight_tiles[SIMDGROUPS * R * BLOCK];
    threadgroup float2 other_stats[R];
    threadgroup float *weights = weight_tiles + simdgroup * R * BLOCK;

    const uint batch = tile.z / p.kv_heads, kv_head = tile.z % p.kv_heads;
    const uint first_row = tile.y * R;
    const int live = live_keys(p, kv_lens, batch);
    const KeyRange seen = visible_to_rows(p, live, first_row, R);
    device const uchar *k_head = k + batch * p.k_batch + kv_head * p.k_head;
    device const uchar *v_head = v + batch * p.v_batch + kv_head * p.v_head;

    KeyRange ranges[R];
    for (ushort r = 0; r < R; r++) {
        const Row row = stacked_row(p, kv_head, min(first_row + r, p.rows - 1));
        ranges[r] = visible_keys(p, live, row.position);
    }
    for (ushort at = thread_index; at < R * D / 4; at += SIMDGROUPS * 32) {
        const Row row = stacked_row(p, kv_head, min(first_row + at / (D / 4), p.rows - 1));
        device const uchar *from = q + batch * p.q_batch + row.head * p.q_head + row.position * p.q_row;
        q_tile[at] = load4(from, at % (D / 4) * 4, p.head_dim, q_type);
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);

    float4 sums[R][CHUNKS];
    float largest[R], total[R];
    uint seen_keys[R];
    for (ushort r = 0; r < R; r++) {
        for (ushort c = 0; c < CHUNKS; c++) sums[r][c] = float4(0.0f);
        largest[r] = LOWEST;
        total[r] = 0.0f;
        seen_keys[r] = 0;
    }

    const uint first_block = uint(seen.start) / BLOCK;
    const uint blocks = (uint(seen.end) + BLOCK - 1) / BLOCK - first_block;
    const uint share = (blocks + p.splits - 1) / p.splits;
    const uint begin = first_block + tile.x * share;
    const uint end = min(begin + share, first_block + blocks);
    const ushort slot = lane / 8, part = lane % 8;
    const ushort v_slot = lane / LANES, v_column = lane % LANES * 4;
    for (uint block = begin + simdgroup; block < end; block += SIMDGROUPS) {
        const uint first_key = block * BLOCK;
        for (ushort round = 0; round < BLOCK; round += 4) {
            const uint key = first_key + round + slot;
            float products[R];
            for (ushort r = 0; r < R; r++) products[r] = 0.0f;
            if (int(key) < seen.end) {
                device const uchar *k_row = k_head + key * p.k_row;
                for (uint d = part * 4; d < p.head_dim; d += 32) {
                    const float4 key4 = load4(k_row, d, p.head_dim, k_type);
                    for (ushort r = 0; r < R; r++) products[r] += dot(q_tile[r * (D / 4) + d / 4], key4);
                }
            }
            for (ushort r = 0; r < R; r++) {
                float product = products[r];
                product += simd_shuffle_xor(product, 1);
                product += simd_shuffle_xor(product, 2);
                product += simd_shuffle_xor(product, 4);
                if (part == r) weights[r * BLOCK + round + slot] = product;
            }
        }
        simdgroup_barrier(mem_flags::mem_threadgroup);

        uint visible_keys_of[R];
        for (ushort r = 0; r < R; r++) {
            const int key = int(first_key + lane);
            float score = weights[r * BLOCK + lane];
            bool visible = key >= ranges[r].start && key < ranges[r].end;
            if (visible) {
                const Row row = stacked_row(p, kv_head, min(first_row + r, p.rows - 1));
                visible = finish_score(p, mask_row_at(p, mask, batch, row), uint(key), score);
            }
            const float next = max(largest[r], simd_max(visible ? score : LOWEST));
            const float correction = exp(largest[r] - next);
            const float weight = visible ? exp(score - next) : 0.0f;
            total[r] = total[r] * correction + simd_sum(weight);
            largest[r] = next;
            visible_keys_of[r] = simd_or(visible ? 1u << lane : 0u);
            seen_keys[r] |= visible_keys_of[r];
            weights[r * BLOCK + lane] = weight;
            for (ushort c = 0; c < CHUNKS; c++) sums[r][c] *= correction;
        }
        simdgroup_barrier(mem_flags::mem_threadgroup);

        for (ushort key = v_slot; key < BLOCK; key += ROWS_AT_ONCE) {
            if (int(first_key + key) >= seen.end) break;
            device const uchar *v_row = v_head + (first_key + key) * p.v_row;
            for (ushort c = 0; c < CHUNKS; c++) {
                const float4 value = load4(v_row, v_column + c * 128, p.v_dim, v_type);
                const bool non_finite = is_non_finite(value.x) || is_non_finite(value.y) ||
                                        is_non_finite(value.z) || is_non_finite(value.w);
                for (ushort r = 0; r < R; r++) {
                    // A hidden weight of 0 times NaN would be NaN.
                    if (non_finite && ((visible_keys_of[r] >> key) & 1u) == 0u) continue;
                    sums[r][c] += weights[r * BLOCK + key] * value;
                }
            }
        }
        simdgroup_barrier(mem_flags::mem_threadgroup);
    }
    if (ROWS_AT_ONCE == 2) {
        for (ushort r = 0; r < R; r++)
            for (ushort c = 0; c < CHUNKS; c++)
                for (ushort i = 0; i < 4; i++) sums[r][c][i] += simd_shuffle_xor(sums[r][c][i], 16);
    }

    // The first simdgroup takes the sums of the others, one after another.
    for (ushort other = 1; other < SIMDGROUPS; other++) {
        threadgroup_barrier(mem_flags::mem_threadgroup);
        if (simdgroup == other) {
            for (ushort r = 0; r < R; r++) {
                if (lane == 0) other_stats[r] = float2(largest[r], seen_keys[r] != 0u ? total[r] : HIDDEN);
                if (v_slot > 0) continue;
                for (ushort c = 0; c < CHUNKS; c++) q_tile[r * (D / 4) + v_column / 4 + c * 32] = sums[r][c];
            }
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
        if (simdgroup == 0) {
            for (ushort r = 0; r < R; r++) {
                const float2 stats = other_stats[r];
                if (is_hidden(stats.y)) continue;
                const float next = max(largest[r], stats.x);
                const float correction = exp(largest[r] - next), factor = exp(stats.x - next);
                total[r] = total[r] * correction + stats.y * factor;
                largest[r] = next;
                seen_keys[r] = 1;
                for (ushort c = 0; c < CHUNKS; c++) {
                    const float4 more = q_tile[r * (D / 4) + v_column / 4 + c * 32];
                    sums[r][c] = sums[r][c] * correction + more * factor;
                }
            }
        }
    }
    if (simdgroup > 0 || v_slot > 0) return;
    for (ushort r = 0; r < R; r++) {
        if (first_row + r >= p.rows) break;
        const bool empty = seen_keys[r] == 0u;
        if (p.splits == 1) {
            const Row row = stacked_row(p, kv_head, first_row + r);
            device uchar *to = out + batch * p.out_batch + row.head * p.out_head + row.position * p.out_row;
            for (ushort c = 0; c < CHUNKS; c++)
                for (ushort i = 0; i < 4; i++) {
                    const uint column = v_column + c * 128 + i;
                    if (column < p.v_dim) store1(to, column, q_type, empty ? 0.0f : sums[r][c][i] / total[r]);
                }
        } else {
            const ulong at = (ulong(tile.z) * p.rows + first_row + r) * p.splits + tile.x;
            if (lane == 0) part_stats[at] = float2(largest[r], empty ? HIDDEN : total[r]);
            for (ushort c = 0; c < CHUNKS; c++)
                for (ushort i = 0; i < 4; i++) {
                    const uint column = v_column + c * 128 + i;
                    if (column < p.v_dim) part_sums[at * p.v_dim + column] = sums[r][c][i];
                }
        }
    }
}

#define DECODE(D, R)                                                                               \
    template [[host_name("sdpa_decode_d" #D "_r" #R)]] [[kernel]] decltype(sdpa_decode<D, R>)       \
        sdpa_decode<D, R>;

DECODE(64, 1)
DECODE(64, 4)
DECODE(64, 8)
DECODE(128, 1)
DECODE(128, 4)
DECODE(128, 8)
DECODE(256, 1)
DECODE(256, 4)
DECODE(256, 8)

// Merges the parts of each row. grid: (rows, key heads), one simdgroup a row.
[[kernel]] void sdpa_decode_merge(
    device const float *part_sums [[buffer(0)]],
    device const float2 *part_stats [[buffer(1)]],
    device uchar *out [[buffer(2)]],
    constant SdpaParams &p [[buffer(3)]],
    uint3 group [[threadgroup_position_in_grid]],
    uint lane [[thread_index_in_threadgroup]])
{
    const uint batch = group.y / p.kv_heads;
    const Row row = stacked_row(p, group.y % p.kv_heads, group.x);
    device uchar *to = out + batch * p.out_batch + row.head * p.out_head + row.position * p.out_row;
    const ulong first = (ulong(group.y) * p.rows + group.x) * p.splits;

    float largest = LOWEST;
    bool empty = true;
    for (uint s = 0; s < p.splits; s++) {
        const float2 stats = part_stats[first + s];
        if (is_hidden(stats.y)) continue;
        largest = max(largest, stats.x);
        empty = false;
    }
    for (uint column = lane; column < p.v_dim; column += 32) {
        float total = 0.0f, sum = 0.0f;
        for (uint s = 0; s < p.splits; s++) {
            const float2 stats = part_stats[first + s];
            if (is_hidden(stats.y)) continue;
            const float factor = exp(stats.x - largest);
            total += stats.y * factor;
            sum += part_sums[(first + s) * p.v_dim + column] * factor;
        }
        store1(to, column, q_type, empty ? 0.0f : sum / total);
    }
}
