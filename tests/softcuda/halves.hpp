// Stand-ins for the instructions of sdpa_common.cuh that a kernel of attention needs beside products.
#pragma once

inline float half_to_float(u16 bits) {
    _Float16 value;
    memcpy(&value, &bits, 2);
    return value;
}

inline u16 float_to_half(float value) {
    const _Float16 half = value;
    u16 bits;
    memcpy(&bits, &half, 2);
    return bits;
}

inline u16 float_to_bf16(float value) {
    const u32 bits = __float_as_uint(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
    return (u16)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

template <int TYPE>
u32 pack2(float low, float high) {
    const auto to = TYPE == 2 ? float_to_bf16 : float_to_half;
    return to(low) | (u32)to(high) << 16;
}

inline float exp2_fast(float x) { return exp2f(x); }

// Places in shared memory count from its start.
inline u32 shared_address(const void *pointer) { return (u32)((const u8 *)pointer - soft::shared); }
