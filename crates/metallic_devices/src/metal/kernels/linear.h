// What the kernels of `out = x W^T + bias` share: how 16 neighbouring weights of a row are read.
//
// A weight type is a format of dequantize.h or `Plain<T>`. Activations stay f32 in both precisions:
// rounding them to 8 bits is allowed, but Apple GPUs have no integer dot product that would repay it.
#pragma once
#include "common.h"
#include "dequantize.h"

struct LinearParams {
    uint rows, in_features, out_features;
    uint has_bias;
    // Bytes from one row of W to the next.
    ulong row_bytes;
};

// Weights stored as numbers.
template <typename T>
struct Plain {};

// 16 weights of one row as `scale * code + minimum`; `minimum` is 0 where `HAS_MINIMUM` is not set.
template <typename Format>
struct Weights {
    enum { HAS_MINIMUM = 0 };
    static float2 read(device const uchar *row, uint run, uint, thread float *codes) {
        constexpr uint RUNS = Format::LEN / 16;
        device const uchar *block = row + run / RUNS * uint(Format::BYTES);
        char stored[16];
        Format::codes(block, run % RUNS, stored);
        for (ushort j = 0; j < 16; j++) codes[j] = float(stored[j]);
        return Format::scale_min(block, run % RUNS);
    }
};

template <typename T>
struct Weights<Plain<T>> {
    enum { HAS_MINIMUM = 0 };
    // Zeros stand for what lies past the `in_features` weights of the row.
    static float2 read(device const uchar *row, uint run, uint in_features, thread float *codes) {
        device const T *from = (device const T *)row + run * 16;
        const uint left = in_features - run * 16;
        for (ushort j = 0; j < 16; j++) codes[j] = j < left ? float(from[j]) : 0.0f;
        return float2(1.0f, 0.0f);
    }
};

// The formats with minimums read as the others do.
template <typename Format>
struct WithMinimum {
    enum { LEN = Format::LEN, BYTES = Format::BYTES };
};

template <typename Format>
struct Weights<WithMinimum<Format>> {
    enum { HAS_MINIMUM = 1 };
    static float2 read(device const uchar *row, uint run, uint in_features, thread float *codes) {
        return Weights<Format>::read(row, run, in_features, codes);
    }
};

// Elements `column .. column + 4` of a row of x, which may begin at any element; zeros past its end.
static inline float4 activations(device const float *row, uint column, uint in_features) {
    if (column + 4 <= in_features) return float4(*(device const packed_float4 *)(row + column));
    float4 tail = float4(0.0f);
    for (ushort i = 0; i < 4; i++) {
        if (column + i < in_features) tail[i] = row[column + i];
    }
    return tail;
}

// `instantiate(name, weight type)` for every weight type.
#define EVERY_WEIGHT(instantiate)                                                                  \
    instantiate(f32, Plain<float>)                                                                 \
    instantiate(f16, Plain<half>)                                                                  \
    instantiate(bf16, Plain<bfloat>)                                                               \
    instantiate(q8_0, Q8_0)                                                                        \
    instantiate(q4_0, Q4_0)                                                                        \
    instantiate(q4_1, WithMinimum<Q4_1>)                                                           \
    instantiate(q5_0, Q5_0)                                                                        \
    instantiate(q5_1, WithMinimum<Q5_1>)                                                           \
    instantiate(q2_k, WithMinimum<Q2K>)                                                            \
    instantiate(q3_k, Q3K)                                                                         \
    instantiate(q4_k, WithMinimum<Q4K>)                                                            \
    instantiate(q5_k, WithMinimum<Q5K>)                                                            \
    instantiate(q6_k, Q6K)                                                                         \
    instantiate(iq4_nl, Iq4Nl)                                                                     \
    instantiate(iq4_xs, Iq4Xs)
