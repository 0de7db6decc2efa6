// Logits in the order in which tokens are chosen.
//
// An element is one key that is larger for what comes first: the value's order in the upper 32 bits,
// the column's complement in the lower, so that equal values come by column. NaN comes last.
#pragma once
#include "numbers.cuh"

__device__ __forceinline__ u64 key_of(float value, u32 column) {
    const u32 bits = __float_as_uint(value), magnitude = bits & 0x7fffffffu;
    u32 order = bits >> 31 ? ~bits : bits | 0x80000000u;
    if (magnitude == 0) order = 0x80000000u;
    if (magnitude > 0x7f800000u) order = 0;
    return (u64)order << 32 | (u64)~column;
}

__device__ __forceinline__ float value_of(u64 key) {
    const u32 order = (u32)(key >> 32);
    if (order == 0) return __uint_as_float(0x7fc00000u);
    return __uint_as_float(order >> 31 ? order & 0x7fffffffu : ~order);
}

__device__ __forceinline__ u32 column_of(u64 key) { return ~(u32)key; }
