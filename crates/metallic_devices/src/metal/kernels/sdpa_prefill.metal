// Fused attention for many query rows: tiles of 32 stacked rows pass over the keys in blocks of 32
// with an online softmax (Dao 2022, "FlashAttention"), products by 8x8 matrices, f32 sums. Blocks
// that no row of the tile sees are not visited.
//
// grid: (tiles of 32 rows, key heads), 4 simdgroups of 8 rows each. Tiles of keys and values share
// one place. `Tile` is what the matrices are made of: half where q, k and v are f16 (products of
// halves are exact in f32 and a weight in half is what a tolerance of f16 allows), else float.
#include "sdpa.h"
#include <metal_simdgroup_matrix>

#define SIMDGROUPS 4
#define ROWS 8
#define KEYS 32
#define THREADS (32 * SIMDGROUPS)

// Weights are kept below e^LIFT instead of 1: as halves, small ones would round to 0 too early.
static inline float lift(half) { return 6.0f; }
static inline float lift(float) { return 0.0f; }

// A block of keys or values into threadgroup memory, rows `stride` apart. Zeros stand for what lies
// outside and, where `bad_keys` counts them by bits, for NaN and infinities.
template <typename Tile>
static inline void load_block(
    device const uchar *head, ulong row_bytes, int first_key, int end, uint width, uint padded, uint type,
    threadgroup Tile *tile, ushort stride, ushort thread_index, bool values,
    threadgroup atomic_uint *bad_keys)
{
    const uint chunks = padded / 4;
    for (uint at = thread_index; at < KEYS * chunks; at += THREADS) {
        const uint key = at / chunks, column = at % chunks * 4;
        float4 value = float4(0.0f);
        if (first_key + int(key) < end)
            value = load4(head + uint(first_key + int(key)) * row_bytes, column, width, type);
        bool bad = false;
        for (ushort i = 0; i < 4; i++) {
            if (!values || !is_non_finite(value[i])) continue;
            bad = true;
            value[i] = 0.0f;
        }
        *(threadgroup vec<Tile, 4> *)(tile + key * stride + column) = vec<Tile, 4>(value);
        if (bad) atomic_fetch_or_explicit(bad_keys, 1u << key, memory_order_relaxed);
    }
}

template <typename Tile, ushort D>
[[kernel]] void sdpa_prefill(
    device const uchar *q [[buffer(0)]],
    device const uchar *k [[buffer(1)]],
    device const uchar *v [[buffer(2)]],
    device const uchar *mask [[buffer(3)]],
    device const int *kv_lens [[buffer(4)]],
    device uchar *out [[buffer(5)]],
    constant SdpaParams &p [[buffer(6)]],
    uint3 tile [[threadgroup_position_in_grid]],
    ushort thread_index [[thread_index_in_threadgroup]],
    ushort simdgroup [[simdgroup_index_in_threadgroup]],
    ushort lane [[thread_index_in_simdgroup]])
{
    typedef simdgroup_matrix<Tile, 8, 8> Matrix;
    constexpr ushort STRIDE = D + 16 / sizeof(Tile);
    // Of scores in floats, and of the weights that take their place.
    constexpr ushort SCORE_STRIDE = KEYS + 4, WEIGHT_STRIDE = SCORE_STRIDE * 4 / sizeof(Tile);

    threadgroup vec<Tile, 4> block_memory[KEYS * STRIDE / 4];
    threadgroup Tile *block = (threadgroup Tile *)block_memory;
    threadgroup float score_tiles[SIMDGROUPS * ROWS * SCORE_STRIDE];
    threadgroup float factor_tiles[SIMDGROUPS * 64];
    threadgroup uint visible_bits[SIMDGROUPS * ROWS];
    threadgroup atomic_uint bad_keys;
    threadgroup float *scores = score_tiles + simdgroup * ROWS * SCORE_STRIDE;
    threadgroup Tile *weights = (threadgroup Tile *)scores;
    threadgroup float *factors = factor_tiles + simdgroup * 64;

    const uint batch = tile.y / p.kv_heads, kv_head = tile.y % p.kv_heads;
    const uint tile_row = tile.x * SIMDGROUPS * ROWS;
    const int live = live_keys(p, kv_lens, batch);
    const KeyRange seen = visible_to_rows(p, live, tile_row, SIMDGROUPS * ROWS);
    device const uchar *k_head = k + batch * p.k_batch + kv_head * p.k_head;
    device const uchar *v_head = v + batch * p.v_batch + kv_head * p.v_head;

    // Four lanes share a row: its softmax, and its 8 keys of each block's 32.
    const ushort row_in_group = lane / 4, first_of_lane = lane % 4 * 8;
    const uint stacked = tile_row + simdgroup * ROWS + row_in_group;
    const bool inside = stacked < p.rows;
    const Row row = stacked_row(p, kv_head, min(stacked, p.rows - 1));
    KeyRange range = visible_keys(p, live, row.position);
    if (!inside) range.end = range.start;
    device const uchar *mask_row = mask_row_at(p, mask, batch, row);

    // This simdgroup's queries, by way of the block's place.
    Matrix queries[D / 8];
    const uint padded = (p.head_dim + 7) / 8 * 8, v_padded = (p.v_dim + 7) / 8 * 8;
    for (uint at = thread_index; at < SIMDGROUPS * ROWS * (D / 4); at += THREADS) {
        const uint r = at / (D / 4), column = at % (D / 4) * 4;
        float4 value = float4(0.0f);
        if (tile_row + r < p.rows && column < p.head_dim) {
            const Row from = stacked_row(p, kv_head, tile_row + r);
            device const uchar *at_row = q + batch * p.q_batch + from.head * p.q_head + from.position * p.q_row;
            value = load4(at_row, column, p.head_dim, q_type);
        }
        *(threadgroup vec<Tile, 4> *)(block + r * STRIDE + column) = vec<Tile, 4>(value);
    }
    if (thread_index == 0) atomic_store_explicit(&bad_keys, 0u, memory_order_relaxed);
    threadgroup_barrier(mem_flags::mem_threadgroup);
    for (ushort d = 0; d < D / 8; d++)
        simdgroup_load(queries[d], block + simdgroup * ROWS * STRIDE + d * 8, STRIDE);

    simdgroup_float8x8 sums[D / 8];
    for (ushort d = 0; d < D / 8; d++) sums[d] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
    float largest = LOWEST, total = 0.0f;
    bool any_seen = false;

    for (int first_key = seen.start / KEYS * KEYS; first_key < seen.end; first_key += KEYS) {
        threadgroup_barrier(mem_flags::mem_threadgroup);
        load_block<Tile>(
            k_head, p.k_row, first_key, seen.end, p.head_dim, padded, k_type, block, STRIDE, thread_index,
            false, &bad_keys);
        threadgroup_barrier(mem_flags::mem_threadgroup);

        for (ushort j = 0; j < KEYS / 8; j++) {
            simdgroup_float8x8 products = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
            for (ushort d = 0; d < D / 8; d++) {
                if (d * 8 >= padded) break;
                Matrix keys;
                simdgroup_load(keys, block + j * 8 * STRIDE + d * 8, STRIDE, ulong2(0, 0), true);
                simdgroup_multiply_accumulate(products, queries[d], keys, products);
            }
            simdgroup_store(products, scores + j * 8, SCORE_STRIDE);
        }
        simdgroup_barrier(mem_flags::mem_threadgroup);

        // The softmax of one row by its four lanes.
        uint visible = 0;
        float block_largest = LOWEST;
        float mine[8];
        for (ushort i = 0; i < 8; i++) {
            const int key = first_key + first_of_lane + i;
            float score = scores[row_in_group * SCORE_STRIDE + first_of_lane + i];
            const bool sees = key >= range.start && key < range.end &&
                              finish_score(p, mask_row, uint(key), score);
            mine[i] = score;
            if (!sees) continue;
            visible |= 1u << (first_of_lane + i);
            block_largest = max(block_largest, score);
        }
        block_largest = max(block_largest, simd_shuffle_xor(block_largest, 1));
        block_largest = max(block_largest, simd_shuffle_xor(block_largest, 2));
        const float next = max(largest, block_largest);
        const float factor = exp(largest - next);
        largest = next;
        float sum = 0.0f;
        simdgroup_barrier(mem_flags::mem_threadgroup);
        for (ushort i = 0; i < 8; i++) {
            const bool sees = ((visible >> (first_of_lane + i)) & 1u) != 0u;
            const float weight = sees ? exp(mine[i] - next + lift(Tile())) : 0.0f;
            sum += weight;
            weights[row_in_group * WEIGHT_STRIDE + first_of_lane + i] = Tile(weight);
        }
        sum += simd_shuffle_xor(sum, 1);
        sum += simd_shuffle_xor(sum, 2);
        visible |= simd_shuffle_xor(visible, 1);
        visible |= simd_shuffle_xor(visible, 2);
        total = total * factor + sum;
        any_seen = any_seen || visible != 0u;
        factors[row_in_group * 8 + lane % 4 * 2] = factor;
        factors[row_in_group * 8 + lane % 4 * 2 + 1] = factor;
        if (lane % 4 == 0) visible_bits[simdgroup * ROWS + row_in_group] = visible;

        threadgroup_barrier(mem_flags::mem_threadgroup);
        load_block<Tile>(
            v_head, p.v_row, first_key, seen.end, p.v_dim, v_padded, v_type, block, STRIDE, thread_index,
            true, &bad_keys);
        threadgroup_barrier(mem_flags::mem_threadgroup);

        // Where the elements of a matrix lie among the lanes is not documented, but two matrices of
        // one type lie alike.
        simdgroup_float8x8 scaling;
        simdgroup_load(scaling, factors, 8);
        Matrix left[KEYS / 8];
        for (ushort j = 0; j < KEYS / 8; j++) simdgroup_load(left[j], weights + j * 8, WEIGHT_STRIDE);
        for (ushort d = 0; d < D / 8; d++) {
            if (d * 8 >= v_padded) break;
            for (ushort i = 0; i < 2; i++) sums[d].thread_elements()[i] *= scaling.thread_elements()[i];
            for (ushort j = 0; j < KEYS / 8; j++) {
                Matrix values;
                simdgroup_load(values, block + j * 8 * STRIDE + d * 8, STRIDE);
                simdgroup_multiply_accumulate(sums[d], left[j], values, sums[d]);
            }
        }
        const uint bad = atomic_load_explicit(&bad_keys, memory_order_relaxed);
        if (bad == 0u) continue;

        // NaN and infinities were left out above; they count for the rows that see them.
        for (ushort d = 0; d < D / 8; d++) {
            if (d * 8 >= v_padded) break;
            simdgroup_barrier(mem_flags::mem_threadgroup);
            for (ushort at = lane; at < 64; at += 32) {
                const ushort r = at / 8, column = d * 8 + at % 8;
                const uint keys = bad & visible_bits[simdgroup * ROWS + r];
                float more = 0.0f;
                for (ushort key = 0; key < KEYS; key++) {
                    if (((keys >> key) & 1u) == 0u || column >= p.v_dim) continue;
                    const float value = load1(v_head + uint(first_key + int(key)) * p.v_row, column, v_type);
                    if (is_non_finite(value)) more += float(weights[r * WEIGHT_STRIDE + key]) * value;
                }
                factors[at] = more;
            }
            simdgroup_barrier(mem_flags::mem_threadgroup);
            simdgroup_float8x8 addend;
            simdgroup_load(addend, factors, 8);
            for (ushort i = 0; i < 2; i++) sums[d].thread_elements()[i] += addend.thread_elements()[i];
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
        if (thread_index == 0) atomic_store_explicit(&bad_keys, 0u, memory_order_relaxed);
    }

    // A row that saw no key has sums and a total of 0.
    for (ushort d = 0; d < D / 8; d++) {
        if (d * 8 >= v_padded) break;
        simdgroup_barrier(mem_flags::mem_threadgroup);
        simdgroup_store(sums[d], factors, 8);
        simdgroup_barrier(mem_flags::mem_threadgroup);
        if (!inside) continue;
        device uchar *to = out + batch * p.out_batch + row.head * p.out_head + row.position * p.out_row;
        for (ushort i = 0; i < 2; i++) {
            const ushort column = lane % 4 * 2 + i;
            const float sum = factors[row_in_group * 8 + column];
            if (d * 8 + column < p.v_dim) store1(to, d * 8 + column, q_type, any_seen ? sum / total : 0.0f);
        }
    }
}

#define PREFILL(T, D)                                                                              \
    template [[host_name("sdpa_prefill_" #T "_d" #D)]] [[kernel]] decltype(sdpa_prefill<T, D>)      \
        sdpa_prefill<T, D>;

PREFILL(half, 64)
PREFILL(half, 96)
PREFILL(half, 128)
PREFILL(float, 64)
PREFILL(float, 96)
PREFILL(float, 128)
