// `out = x W^T + bias` for many rows of x: tiles of 64 rows by 32 columns of out, W decoded to f32 in
// threadgroup memory, products by 8x8 matrices.
//
// grid: (tiles of 32 columns, tiles of 64 rows), 4 simdgroups of 32 x 16. Half of the threads decode
// W while the others fetch x. gemm.h says why tiles are f32.
#include "gemm.h"
#include "linear.h"

#define ROWS 64
#define COLUMNS 32
#define THREADS 128

template <typename W>
[[kernel]] void linear_gemm(
    device const float *x [[buffer(0)]],
    device const uchar *weight [[buffer(1)]],
    device const float *bias [[buffer(2)]],
    device float *out [[buffer(3)]],
    constant LinearParams &p [[buffer(4)]],
    uint3 tile [[threadgroup_position_in_grid]],
    ushort thread_index [[thread_index_in_threadgroup]],
    ushort simdgroup [[simdgroup_index_in_threadgroup]])
{
    // Rows of x first, the result at the end.
    TILE(x_tile, ROWS);
    TILE(w_tile, COLUMNS);

    const uint first_row = tile.y * ROWS, first_column = tile.x * COLUMNS;
    threadgroup float *left = x_tile + simdgroup / 2 * 32 * TILE_STRIDE;
    threadgroup const float *right = w_tile + simdgroup % 2 * 16 * TILE_STRIDE;
    Sums<4, 2> sums;
    clear(sums);
    for (uint k = 0; k < p.in_features; k += TILE_K) {
        if (thread_index < 64) {
            const uint column = first_column + thread_index / 2, run = k / 16 + thread_index % 2;
            float values[16];
            float2 scale = float2(0.0f);
            for (ushort j = 0; j < 16; j++) values[j] = 0.0f;
            if (column < p.out_features && run * 16 < p.in_features)
                scale = Weights<W>::read(weight + column * p.row_bytes, run, p.in_features, values);
            threadgroup float *to = w_tile + thread_index / 2 * TILE_STRIDE + thread_index % 2 * 16;
            for (ushort j = 0; j < 16; j++)
                to[j] = Weights<W>::HAS_MINIMUM != 0 ? scale.x * values[j] + scale.y : scale.x * values[j];
        } else {
            for (ushort at = thread_index - 64; at < ROWS * TILE_K / 4; at += 64) {
                const ushort row = at / (TILE_K / 4), column = at % (TILE_K / 4) * 4;
                float4 value = float4(0.0f);
                if (first_row + row < p.rows)
                    value = activations(
                        x + ulong(first_row + row) * p.in_features, k + column, p.in_features);
                *(threadgroup float4 *)(x_tile + row * TILE_STRIDE + column) = value;
            }
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
        multiply_nt(left, right, sums);
        threadgroup_barrier(mem_flags::mem_threadgroup);
    }

    for (ushort i = 0; i < 4; i++)
        for (ushort j = 0; j < 2; j++)
            simdgroup_store(
                sums.at[i][j], left + i * 8 * TILE_STRIDE + simdgroup % 2 * 16 + j * 8, TILE_STRIDE);
    threadgroup_barrier(mem_flags::mem_threadgroup);
    for (ushort at = thread_index; at < ROWS * COLUMNS; at += THREADS) {
        const uint row = first_row + at / COLUMNS, column = first_column + at % COLUMNS;
        if (row >= p.rows || column >= p.out_features) continue;
        const float added = p.has_bias != 0u ? bias[column] : 0.0f;
        out[ulong(row) * p.out_features + column] = x_tile[at / COLUMNS * TILE_STRIDE + at % COLUMNS] + added;
    }
}

#define GEMM(name, W)                                                                              \
    template [[host_name("linear_gemm_" #name)]] [[kernel]] decltype(linear_gemm<W>) linear_gemm<W>;

EVERY_WEIGHT(GEMM)
