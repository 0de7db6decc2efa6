// QK^T of the composed attention: raw products of stacked rows and keys, f32, into memory.
//
// grid: (tiles of 64 keys, tiles of 32 rows, key heads), 128 threads. A tile that no row sees is
// left unwritten: the softmax reads only what is visible.
#include "gemm.h"
#include "sdpa.h"

#define ROWS 32
#define KEYS 64
#define THREADS 128

[[kernel]] void sdpa_scores(
    device const uchar *q [[buffer(0)]],
    device const uchar *k [[buffer(1)]],
    device const int *kv_lens [[buffer(2)]],
    device float *scores [[buffer(3)]],
    constant SdpaParams &p [[buffer(4)]],
    uint3 tile [[threadgroup_position_in_grid]],
    ushort thread_index [[thread_index_in_threadgroup]],
    ushort simdgroup [[simdgroup_index_in_threadgroup]])
{
    TILE(q_tile, ROWS);
    TILE(k_tile, KEYS);

    const uint head = p.first_head + tile.z;
    const uint batch = head / p.kv_heads, kv_head = head % p.kv_heads;
    const uint in_chunk = tile.y * ROWS, first_row = p.first_row + in_chunk;
    const uint first_key = tile.x * KEYS;
    const int live = live_keys(p, kv_lens, batch);
    const KeyRange seen = visible_to_rows(p, live, first_row, ROWS);
    if (int(first_key) >= seen.end || int(first_key + KEYS) <= seen.start) return;

    device const uchar *k_head = k + batch * p.k_batch + kv_head * p.k_head;
    device const uchar *q_batch = q + batch * p.q_batch;

    // 2 x 2 simdgroups of 16 rows and 32 keys.
    threadgroup const float *left = q_tile + simdgroup / 2 * 16 * TILE_STRIDE;
    threadgroup const float *right = k_tile + simdgroup % 2 * 32 * TILE_STRIDE;
    Sums<2, 4> sums;
    clear(sums);
    for (uint d = 0; d < p.head_dim; d += TILE_K) {
        for (ushort at = thread_index; at < ROWS * TILE_K / 4; at += THREADS) {
            const ushort row = at / (TILE_K / 4), column = at % (TILE_K / 4) * 4;
            float4 value = float4(0.0f);
            if (first_row + row < p.rows && d + column < p.head_dim) {
                const Row from = stacked_row(p, kv_head, first_row + row);
                device const uchar *at_row = q_batch + from.head * p.q_head + from.position * p.q_row;
                value = load4(at_row, d + column, p.head_dim, q_type);
            }
            *(threadgroup float4 *)(q_tile + row * TILE_STRIDE + column) = value;
        }
        for (ushort at = thread_index; at < KEYS * TILE_K / 4; at += THREADS) {
            const ushort key = at / (TILE_K / 4), column = at % (TILE_K / 4) * 4;
            float4 value = float4(0.0f);
            if (int(first_key + key) < live && d + column < p.head_dim)
                value = load4(k_head + (first_key + key) * p.k_row, d + column, p.head_dim, k_type);
            *(threadgroup float4 *)(k_tile + key * TILE_STRIDE + column) = value;
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
        multiply_nt(left, right, sums);
        threadgroup_barrier(mem_flags::mem_threadgroup);
    }

    // Rows and keys of the scores are padded to whole tiles.
    const ulong row = ulong(tile.z) * p.chunk_rows + in_chunk + simdgroup / 2 * 16;
    device float *out = scores + row * p.score_stride + first_key + simdgroup % 2 * 32;
    for (ushort i = 0; i < 2; i++)
        for (ushort j = 0; j < 4; j++)
            simdgroup_store(sums.at[i][j], out + ulong(i) * 8 * p.score_stride + j * 8, p.score_stride);
}
