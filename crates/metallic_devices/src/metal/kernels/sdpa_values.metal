// The sum over values of the composed attention: weights [rows, keys] times v [keys, v_dim].
//
// grid: (tiles of 64 columns of v, tiles of 32 rows, key heads), 128 threads. NaN and infinities are
// taken out of the tiles of v, since 0 times NaN would let a hidden one through; where there were
// any, a second, slow pass adds them for the rows that see them.
#include "gemm.h"
#include "sdpa.h"

#define ROWS 32
#define COLUMNS 64
#define COLUMN_STRIDE 68
#define THREADS 128

[[kernel]] void sdpa_values(
    device const float *weights [[buffer(0)]],
    device const float *inverses [[buffer(1)]],
    device const uchar *v [[buffer(2)]],
    device const int *kv_lens [[buffer(3)]],
    device uchar *out [[buffer(4)]],
    constant SdpaParams &p [[buffer(5)]],
    uint3 tile [[threadgroup_position_in_grid]],
    ushort thread_index [[thread_index_in_threadgroup]],
    ushort simdgroup [[simdgroup_index_in_threadgroup]],
    ushort lane [[thread_index_in_simdgroup]])
{
    TILE(weight_tile, ROWS);
    // Values first, the result at the end.
    threadgroup float4 v_memory[TILE_K * COLUMN_STRIDE / 4];
    threadgroup float *v_tile = (threadgroup float *)v_memory;
    threadgroup uint found[THREADS / 32];

    const uint head = p.first_head + tile.z;
    const uint batch = head / p.kv_heads, kv_head = head % p.kv_heads;
    const uint in_chunk = tile.y * ROWS, first_row = p.first_row + in_chunk;
    if (first_row >= p.rows) return;
    const uint first_column = tile.x * COLUMNS;
    const KeyRange seen = visible_to_rows(p, live_keys(p, kv_lens, batch), first_row, ROWS);

    device const uchar *v_head = v + batch * p.v_batch + kv_head * p.v_head;
    const ulong first = ulong(tile.z) * p.chunk_rows + in_chunk;
    device const float *tile_weights = weights + first * p.score_stride;

    // 2 x 2 simdgroups of 16 rows and 32 columns.
    threadgroup const float *left = weight_tile + simdgroup / 2 * 16 * TILE_STRIDE;
    threadgroup const float *right = v_tile + simdgroup % 2 * 32;
    Sums<2, 4> sums;
    clear(sums);
    bool non_finite = false;
    for (int start = seen.start / TILE_K * TILE_K; start < seen.end; start += TILE_K) {
        for (ushort at = thread_index; at < ROWS * TILE_K / 4; at += THREADS) {
            const ushort row = at / (TILE_K / 4), column = at % (TILE_K / 4) * 4;
            float4 value = float4(0.0f);
            if (first_row + row < p.rows) {
                device const float *from = tile_weights + row * ulong(p.score_stride) + start + column;
                value = *(device const float4 *)from;
                for (ushort i = 0; i < 4; i++) value[i] = is_hidden(value[i]) ? 0.0f : value[i];
            }
            *(threadgroup float4 *)(weight_tile + row * TILE_STRIDE + column) = value;
        }
        for (ushort at = thread_index; at < TILE_K * COLUMNS / 4; at += THREADS) {
            const ushort key = at / (COLUMNS / 4), column = at % (COLUMNS / 4) * 4;
            float4 value = float4(0.0f);
            if (start + key < seen.end && first_column + column < p.v_dim) {
                device const uchar *row = v_head + uint(start + key) * p.v_row;
                value = load4(row, first_column + column, p.v_dim, v_type);
                for (ushort i = 0; i < 4; i++) {
                    if (!is_non_finite(value[i])) continue;
                    non_finite = true;
                    value[i] = 0.0f;
                }
            }
            *(threadgroup float4 *)(v_tile + key * COLUMN_STRIDE + column) = value;
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
        multiply_nn(left, right, COLUMN_STRIDE, sums);
        threadgroup_barrier(mem_flags::mem_threadgroup);
    }

    for (ushort i = 0; i < 2; i++)
        for (ushort j = 0; j < 4; j++)
            simdgroup_store(
                sums.at[i][j],
                v_tile + (simdgroup / 2 * 16 + i * 8) * COLUMN_STRIDE + simdgroup % 2 * 32 + j * 8,
                COLUMN_STRIDE);
    const uint simd_found = simd_or(non_finite ? 1u : 0u);
    if (lane == 0) found[simdgroup] = simd_found;
    threadgroup_barrier(mem_flags::mem_threadgroup);
    const bool slow = (found[0] | found[1] | found[2] | found[3]) != 0u;

    for (ushort at = thread_index; at < ROWS * COLUMNS; at += THREADS) {
        const uint row = first_row + at / COLUMNS, column = first_column + at % COLUMNS;
        if (row >= p.rows || column >= p.v_dim) continue;
        float sum = v_tile[at / COLUMNS * COLUMN_STRIDE + at % COLUMNS];
        if (slow) {
            device const float *row_weights = tile_weights + (at / COLUMNS) * ulong(p.score_stride);
            for (int key = seen.start; key < seen.end; key++) {
                const float value = load1(v_head + uint(key) * p.v_row, column, v_type);
                if (is_non_finite(value) && !is_hidden(row_weights[key])) sum += row_weights[key] * value;
            }
        }
        const Row to = stacked_row(p, kv_head, row);
        device uchar *out_row =
            out + batch * p.out_batch + to.head * p.out_head + to.position * p.out_row;
        store1(out_row, column, q_type, sum * inverses[first + at / COLUMNS]);
    }
}
