// Products of f32 tiles in threadgroup memory by 8x8 matrices.
//
// Tiles are f32, not half: activations and scores beyond 65504 occur (Qwen2), a bf16 weight does not
// fit half, and `Precision::Exact` forbids the rounding. A tile of 64 x 32 floats leaves room for two
// threadgroups on a core.
#pragma once
#include "common.h"
#include <metal_simdgroup_matrix>

// Steps of the inner dimension held at once.
#define TILE_K 32
// Floats from one row of a tile to the next: 4 more than it has, so that rows start in other banks.
#define TILE_STRIDE 36

// Threadgroup memory for `rows` rows, whose type makes it as aligned as the stores by fours need.
#define TILE(name, rows)                                                                           \
    threadgroup float4 name##_memory[(rows) * TILE_STRIDE / 4];                                    \
    threadgroup float *name = (threadgroup float *)name##_memory

// The sums of one simdgroup: 8M x 8N.
template <ushort M, ushort N>
struct Sums {
    simdgroup_float8x8 at[M][N];
};

template <ushort M, ushort N>
static inline void clear(thread Sums<M, N> &sums) {
    for (ushort i = 0; i < M; i++)
        for (ushort j = 0; j < N; j++) sums.at[i][j] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
}

// sums += a b^T with a: [8M, TILE_K] and b: [8N, TILE_K], rows TILE_STRIDE floats apart.
template <ushort M, ushort N>
static inline void
multiply_nt(threadgroup const float *a, threadgroup const float *b, thread Sums<M, N> &sums) {
    for (ushort k = 0; k < TILE_K; k += 8) {
        simdgroup_float8x8 left[M], right[N];
        for (ushort i = 0; i < M; i++)
            simdgroup_load(left[i], a + i * 8 * TILE_STRIDE + k, TILE_STRIDE);
        for (ushort j = 0; j < N; j++)
            simdgroup_load(right[j], b + j * 8 * TILE_STRIDE + k, TILE_STRIDE, ulong2(0, 0), true);
        for (ushort i = 0; i < M; i++)
            for (ushort j = 0; j < N; j++)
                simdgroup_multiply_accumulate(sums.at[i][j], left[i], right[j], sums.at[i][j]);
    }
}

// sums += a b with a: [8M, TILE_K], rows TILE_STRIDE floats apart, and b: [TILE_K, 8N], rows
// `stride` floats apart.
template <ushort M, ushort N>
static inline void multiply_nn(
    threadgroup const float *a, threadgroup const float *b, ushort stride, thread Sums<M, N> &sums) {
    for (ushort k = 0; k < TILE_K; k += 8) {
        simdgroup_float8x8 left[M], right[N];
        for (ushort i = 0; i < M; i++)
            simdgroup_load(left[i], a + i * 8 * TILE_STRIDE + k, TILE_STRIDE);
        for (ushort j = 0; j < N; j++) simdgroup_load(right[j], b + k * stride + j * 8, stride);
        for (ushort i = 0; i < M; i++)
            for (ushort j = 0; j < N; j++)
                simdgroup_multiply_accumulate(sums.at[i][j], left[i], right[j], sums.at[i][j]);
    }
}
