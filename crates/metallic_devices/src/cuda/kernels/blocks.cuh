// The quantised block formats of GGUF files, eight elements at a time.
//
// Eight neighbours that start at a multiple of eight share one scale in every format, so one shape
// serves all: unsigned byte codes with a scale and a minimum or an offset,
//     value[i] = scale * (code[i] - OFFSET) + minimum.
// The bytes may lie in device or shared memory, at any address that is a multiple of ALIGN.
#pragma once
#include "numbers.cuh"

struct Eight {
    u32 codes[2];
    float scale;
    float minimum;  // 0 unless HAS_MIN
};

template <int DTYPE> struct Format;

// Four bytes at a multiple of ALIGN.
template <int ALIGN> __device__ __forceinline__ u32 word_at(const u8 *at) {
    if (ALIGN >= 4) return *(const u32 *)at;
    return (u32)*(const u16 *)at | (u32)*(const u16 *)(at + 2) << 16;
}

__device__ __forceinline__ float f16_at(const u8 *at) { return f16_to_f32(*(const u16 *)at); }

// Bits 0..3 of `bits` to bit `to` of the bytes 0..3.
__device__ __forceinline__ u32 spread(u32 bits, int to) {
    return (((bits & 15) * 0x00204081u) & 0x01010101u) << to;
}

#define FORMAT(CODE, LENGTH, SIZE, ALIGNMENT, SUBTRACTED, MINIMUM)                  \
    template <> struct Format<CODE> {                                               \
        static const int LEN = LENGTH, BYTES = SIZE, ALIGN = ALIGNMENT;             \
        static const int OFFSET = SUBTRACTED;                                       \
        static const bool HAS_MIN = MINIMUM;                                        \
        static __device__ __forceinline__ Eight read(const u8 *b, int e);           \
    };                                                                              \
    __device__ __forceinline__ Eight Format<CODE>::read(const u8 *b, int e)

// f16 scale, 32 x i8; codes are the values plus 128.
FORMAT(DTYPE_Q8_0, 32, 34, 2, 128, false) {
    Eight r;
    r.scale = f16_at(b), r.minimum = 0;
    r.codes[0] = word_at<2>(b + 2 + e) ^ 0x80808080u;
    r.codes[1] = word_at<2>(b + 6 + e) ^ 0x80808080u;
    return r;
}

// Elements 0..16 in the low, 16..32 in the high halves of 16 bytes.
template <int ALIGN> __device__ __forceinline__ void halves(const u8 *at, int e, u32 *codes) {
    const int shift = e < 16 ? 0 : 4;
    codes[0] = (word_at<ALIGN>(at + (e & 15)) >> shift) & 0x0f0f0f0fu;
    codes[1] = (word_at<ALIGN>(at + (e & 15) + 4) >> shift) & 0x0f0f0f0fu;
}

FORMAT(DTYPE_Q4_0, 32, 18, 2, 8, false) {
    Eight r;
    r.scale = f16_at(b), r.minimum = 0;
    halves<2>(b + 2, e, r.codes);
    return r;
}

FORMAT(DTYPE_Q4_1, 32, 20, 4, 0, true) {
    Eight r;
    r.scale = f16_at(b), r.minimum = f16_at(b + 2);
    halves<4>(b + 4, e, r.codes);
    return r;
}

FORMAT(DTYPE_Q5_0, 32, 22, 2, 16, false) {
    Eight r;
    r.scale = f16_at(b), r.minimum = 0;
    halves<2>(b + 6, e, r.codes);
    const u32 fifths = word_at<2>(b + 2) >> e;
    r.codes[0] |= spread(fifths, 4), r.codes[1] |= spread(fifths >> 4, 4);
    return r;
}

FORMAT(DTYPE_Q5_1, 32, 24, 4, 0, true) {
    Eight r;
    r.scale = f16_at(b), r.minimum = f16_at(b + 2);
    halves<4>(b + 8, e, r.codes);
    const u32 fifths = word_at<4>(b + 4) >> e;
    r.codes[0] |= spread(fifths, 4), r.codes[1] |= spread(fifths >> 4, 4);
    return r;
}

FORMAT(DTYPE_Q2_K, 256, 84, 4, 0, true) {
    Eight r;
    const u32 packed = b[e / 16];
    r.scale = f16_at(b + 80) * (float)(packed & 15);
    r.minimum = -(f16_at(b + 82) * (float)(packed >> 4));
    const u8 *low = b + 16 + 32 * (e / 128) + e % 32;
    const int shift = 2 * (e / 32 % 4);
    r.codes[0] = (word_at<4>(low) >> shift) & 0x03030303u;
    r.codes[1] = (word_at<4>(low + 4) >> shift) & 0x03030303u;
    return r;
}

FORMAT(DTYPE_Q3_K, 256, 110, 2, 4, false) {
    Eight r;
    const int g = e / 16, i = e / 32;
    const u32 low4 = (b[96 + g % 8] >> (4 * (g / 8))) & 15;
    const u32 high2 = (b[104 + g % 4] >> (2 * (g / 4))) & 3;
    r.scale = f16_at(b + 108) * (float)((int)(low4 | high2 << 4) - 32), r.minimum = 0;
    const u8 *low = b + 32 + 32 * (i / 4) + e % 32, *high = b + e % 32;
    const int shift = 2 * (i % 4);
#pragma unroll
    for (int w = 0; w < 2; w++)
        r.codes[w] = ((word_at<2>(low + 4 * w) >> shift) & 0x03030303u) |
                     ((word_at<2>(high + 4 * w) >> i) & 0x01010101u) << 2;
    return r;
}

// The 6-bit scale and minimum of sub-block g, of the 12 bytes that Q4_K and Q5_K pack them in.
__device__ __forceinline__ void packed_scales(const u8 *b, int g, Eight &r) {
    const u8 *p = b + 4;
    u32 scale, minimum;
    if (g < 4) {
        scale = p[g] & 63, minimum = p[g + 4] & 63;
    } else {
        scale = (p[g + 4] & 15) | (u32)(p[g - 4] >> 6) << 4;
        minimum = (p[g + 4] >> 4) | (u32)(p[g] >> 6) << 4;
    }
    r.scale = f16_at(b) * (float)scale;
    r.minimum = -(f16_at(b + 2) * (float)minimum);
}

FORMAT(DTYPE_Q4_K, 256, 144, 4, 0, true) {
    Eight r;
    packed_scales(b, e / 32, r);
    const u8 *low = b + 16 + 32 * (e / 64) + e % 32;
    const int shift = 4 * (e / 32 % 2);
    r.codes[0] = (word_at<4>(low) >> shift) & 0x0f0f0f0fu;
    r.codes[1] = (word_at<4>(low + 4) >> shift) & 0x0f0f0f0fu;
    return r;
}

FORMAT(DTYPE_Q5_K, 256, 176, 4, 0, true) {
    Eight r;
    packed_scales(b, e / 32, r);
    const u8 *low = b + 48 + 32 * (e / 64) + e % 32, *high = b + 16 + e % 32;
    const int shift = 4 * (e / 32 % 2);
#pragma unroll
    for (int w = 0; w < 2; w++)
        r.codes[w] = ((word_at<4>(low + 4 * w) >> shift) & 0x0f0f0f0fu) |
                     ((word_at<4>(high + 4 * w) >> (e / 32)) & 0x01010101u) << 4;
    return r;
}

FORMAT(DTYPE_Q6_K, 256, 210, 2, 32, false) {
    Eight r;
    const int half = e / 128, quarter = e / 32 % 4;
    r.scale = f16_at(b + 208) * (float)(i8)b[192 + e / 16], r.minimum = 0;
    const u8 *low = b + 64 * half + 32 * (quarter % 2) + e % 32, *high = b + 128 + 32 * half + e % 32;
#pragma unroll
    for (int w = 0; w < 2; w++)
        r.codes[w] = ((word_at<2>(low + 4 * w) >> (4 * (quarter / 2))) & 0x0f0f0f0fu) |
                     ((word_at<2>(high + 4 * w) >> (2 * quarter)) & 0x03030303u) << 4;
    return r;
}

// The values of the non-linear table plus 128, for the 4-bit index in each byte.
__device__ __forceinline__ u32 iq4_values(u32 index) {
    u32 selector = index & 0x07070707u;
    selector = (selector | selector >> 4) & 0x00ff00ffu;
    selector = (selector | selector >> 8) & 0xffffu;
    const u32 low = __byte_perm(0x3f2d1801u, 0x766a5d4fu, selector);
    const u32 high = __byte_perm(0xa6998d81u, 0xf1d9c5b5u, selector);
    const u32 upper = ((index >> 3) & 0x01010101u) * 0xffu;
    return (high & upper) | (low & ~upper);
}

FORMAT(DTYPE_IQ4_NL, 32, 18, 2, 128, false) {
    Eight r;
    r.scale = f16_at(b), r.minimum = 0;
    halves<2>(b + 2, e, r.codes);
    r.codes[0] = iq4_values(r.codes[0]), r.codes[1] = iq4_values(r.codes[1]);
    return r;
}

FORMAT(DTYPE_IQ4_XS, 256, 136, 4, 128, false) {
    Eight r;
    const int g = e / 32;
    const u32 low = (b[4 + g / 2] >> (4 * (g % 2))) & 15;
    const u32 high = ((u32)*(const u16 *)(b + 2) >> (2 * g)) & 3;
    r.scale = f16_at(b) * (float)((int)(low | high << 4) - 32), r.minimum = 0;
    halves<4>(b + 8 + 16 * g, e % 32, r.codes);
    r.codes[0] = iq4_values(r.codes[0]), r.codes[1] = iq4_values(r.codes[1]);
    return r;
}

// Code i of eight, less OFFSET, as a number: the byte becomes the low bits of 2^23 + code.
template <int OFFSET> __device__ __forceinline__ float number(const Eight &eight, int i) {
    const u32 bits = __byte_perm(eight.codes[i / 4], 0x4b000000u, 0x7650 + i % 4);
    return __uint_as_float(bits) - (8388608.0f + (float)OFFSET);
}

// Elements e .. e + 8 of a row of blocks, as the CPU decodes them.
template <int DTYPE> __device__ __forceinline__ void decode8(const u8 *row, u64 e, float *out) {
    typedef Format<DTYPE> F;
    const Eight eight = F::read(row + e / F::LEN * F::BYTES, (int)(e % F::LEN));
#pragma unroll
    for (int i = 0; i < 8; i++) {
        const float scaled = __fmul_rn(eight.scale, number<F::OFFSET>(eight, i));
        out[i] = F::HAS_MIN ? __fadd_rn(scaled, eight.minimum) : scaled;
    }
}

// Up to eight elements of a row of plain numbers.
template <int DTYPE>
__device__ __forceinline__ void plain8(const u8 *row, u64 e, u64 end, float *out) {
#pragma unroll
    for (int i = 0; i < 8; i++) {
        out[i] = 0;
        if (e + i < end) {
            if (DTYPE == DTYPE_F32) out[i] = ((const float *)row)[e + i];
            if (DTYPE == DTYPE_F16) out[i] = f16_to_f32(((const u16 *)row)[e + i]);
            if (DTYPE == DTYPE_BF16) out[i] = bf16_to_f32(((const u16 *)row)[e + i]);
        }
    }
}

// Elements e .. min(e + 8, end) of a stored row of any type, as f32; e is a multiple of 8.
__device__ __forceinline__ void stored8(u32 dtype, const u8 *row, u64 e, u64 end, float *out) {
    switch (dtype) {
        case DTYPE_F32: return plain8<DTYPE_F32>(row, e, end, out);
        case DTYPE_F16: return plain8<DTYPE_F16>(row, e, end, out);
        case DTYPE_BF16: return plain8<DTYPE_BF16>(row, e, end, out);
        case DTYPE_Q8_0: return decode8<DTYPE_Q8_0>(row, e, out);
        case DTYPE_Q4_0: return decode8<DTYPE_Q4_0>(row, e, out);
        case DTYPE_Q4_1: return decode8<DTYPE_Q4_1>(row, e, out);
        case DTYPE_Q5_0: return decode8<DTYPE_Q5_0>(row, e, out);
        case DTYPE_Q5_1: return decode8<DTYPE_Q5_1>(row, e, out);
        case DTYPE_Q2_K: return decode8<DTYPE_Q2_K>(row, e, out);
        case DTYPE_Q3_K: return decode8<DTYPE_Q3_K>(row, e, out);
        case DTYPE_Q4_K: return decode8<DTYPE_Q4_K>(row, e, out);
        case DTYPE_Q5_K: return decode8<DTYPE_Q5_K>(row, e, out);
        case DTYPE_Q6_K: return decode8<DTYPE_Q6_K>(row, e, out);
        case DTYPE_IQ4_NL: return decode8<DTYPE_IQ4_NL>(row, e, out);
        case DTYPE_IQ4_XS: return decode8<DTYPE_IQ4_XS>(row, e, out);
    }
}

// Thirty-two neighbours that start at a multiple of 32: codes as above, with the scale and the
// minimum of each half. For integer products.
struct ThirtyTwo {
    u32 codes[8];
    float scale[2];
    float minimum[2];
};

// COUNT words at a multiple of two bytes, through aligned loads.
template <int COUNT> __device__ __forceinline__ void words_at(const u8 *at, u32 *out) {
    const u32 *aligned = (const u32 *)((u64)at & ~3ull);
    const u32 shift = 8 * ((u32)(u64)at & 3);
    u32 last = aligned[0];
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
        // The word after the last one may lie outside, and is not needed when aligned.
        const u32 next = i + 1 < COUNT || shift ? aligned[i + 1] : 0;
        out[i] = __funnelshift_r(last, next, shift);
        last = next;
    }
}

// Elements e .. e + 32 of the block at b.
template <int DTYPE> __device__ __forceinline__ ThirtyTwo read32(const u8 *b, int e) {
    typedef Format<DTYPE> F;
    ThirtyTwo r;
    // The scales of both halves; the codes this reads beside them are not used.
    const Eight first = F::read(b, e);
    r.scale[0] = r.scale[1] = first.scale, r.minimum[0] = r.minimum[1] = first.minimum;
    if (DTYPE == DTYPE_Q2_K || DTYPE == DTYPE_Q3_K || DTYPE == DTYPE_Q6_K) {
        const Eight second = F::read(b, e + 16);
        r.scale[1] = second.scale, r.minimum[1] = second.minimum;
    }
    if (DTYPE == DTYPE_Q8_0) {
        words_at<8>(b + 2, r.codes);
#pragma unroll
        for (int i = 0; i < 8; i++) r.codes[i] ^= 0x80808080u;
    } else if (F::LEN == 32 || DTYPE == DTYPE_IQ4_XS) {
        u32 low[4];
        const int at = DTYPE == DTYPE_IQ4_XS ? 8 + e / 2 : F::BYTES - 16;
        words_at<4>(b + at, low);
        u32 fifths = 0;
        if (DTYPE == DTYPE_Q5_0) fifths = word_at<2>(b + 2);
        if (DTYPE == DTYPE_Q5_1) fifths = word_at<4>(b + 4);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            u32 a = low[i] & 0x0f0f0f0fu, c = (low[i] >> 4) & 0x0f0f0f0fu;
            if (DTYPE == DTYPE_Q5_0 || DTYPE == DTYPE_Q5_1)
                a |= spread(fifths >> (4 * i), 4), c |= spread(fifths >> (16 + 4 * i), 4);
            if (DTYPE == DTYPE_IQ4_NL || DTYPE == DTYPE_IQ4_XS) a = iq4_values(a), c = iq4_values(c);
            r.codes[i] = a, r.codes[4 + i] = c;
        }
    } else if (DTYPE == DTYPE_Q4_K || DTYPE == DTYPE_Q5_K) {
        const uint4 *low = (const uint4 *)(b + (DTYPE == DTYPE_Q4_K ? 16 : 48) + 32 * (e / 64));
        const uint4 x = low[0], y = low[1];
        const u32 words[8] = {x.x, x.y, x.z, x.w, y.x, y.y, y.z, y.w};
        const int shift = 4 * (e / 32 % 2);
#pragma unroll
        for (int i = 0; i < 8; i++) r.codes[i] = (words[i] >> shift) & 0x0f0f0f0fu;
        if (DTYPE == DTYPE_Q5_K) {
            const uint4 p = *(const uint4 *)(b + 16), q = *(const uint4 *)(b + 32);
            const u32 high[8] = {p.x, p.y, p.z, p.w, q.x, q.y, q.z, q.w};
#pragma unroll
            for (int i = 0; i < 8; i++) r.codes[i] |= ((high[i] >> (e / 32)) & 0x01010101u) << 4;
        }
    } else if (DTYPE == DTYPE_Q6_K) {
        const int half = e / 128, quarter = e / 32 % 4;
        u32 low[8], high[8];
        words_at<8>(b + 64 * half + 32 * (quarter % 2), low);
        words_at<8>(b + 128 + 32 * half, high);
#pragma unroll
        for (int i = 0; i < 8; i++)
            r.codes[i] = ((low[i] >> (4 * (quarter / 2))) & 0x0f0f0f0fu) |
                         ((high[i] >> (2 * quarter)) & 0x03030303u) << 4;
    } else {
        // Q2_K and Q3_K.
        const int i32s = e / 32;
        u32 low[8], high[8];
        words_at<8>(b + (DTYPE == DTYPE_Q2_K ? 16 : 32) + 32 * (e / 128), low);
        if (DTYPE == DTYPE_Q3_K) words_at<8>(b, high);
#pragma unroll
        for (int i = 0; i < 8; i++) {
            r.codes[i] = (low[i] >> (2 * (i32s % 4))) & 0x03030303u;
            if (DTYPE == DTYPE_Q3_K) r.codes[i] |= ((high[i] >> i32s) & 0x01010101u) << 2;
        }
    }
    return r;
}
