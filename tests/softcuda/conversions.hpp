// Stand-ins for the conversions and integer products of numbers.cuh and blocks_i8.cuh.
#pragma once

inline float f16_to_f32(u16 bits) {
    _Float16 value;
    memcpy(&value, &bits, 2);
    return value;
}

inline u16 f32_to_f16(float value) {
    const _Float16 half = value;
    u16 bits;
    memcpy(&bits, &half, 2);
    return bits;
}

inline u16 f32_to_bf16(float value) {
    const u32 bits = __float_as_uint(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
    return (u16)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

inline i32 dot4(u32 codes, u32 numbers, i32 sum) {
    for (int i = 0; i < 4; i++) sum += (i32)(codes >> 8 * i & 255) * (i32)(i8)(numbers >> 8 * i & 255);
    return sum;
}
