// Block-quantised formats, laid out as GGUF (ggml) files store them; the host's twin is cpu/quant.
//
// Every format is read in runs of 16 neighbouring elements, which share one scale and one minimum:
// element j of run r has the value  scale * code[j] + minimum.  A format is a struct with
//     LEN, BYTES                      elements and bytes of a block (always an even number of bytes)
//     scale_min(block, r)             float2: scale and minimum (0 where the format has none)
//     codes(block, r, thread char *)  16 signed codes
// and dequantize16<Format>(block, r, thread float *) gives the values. Blocks begin at even
// addresses, those of Q4K and Q5K at multiples of 16 where their row does.
#pragma once
#include "common.h"

static inline float half_at(device const uchar *bytes, uint at) {
    return float(*(device const half *)(bytes + at));
}

static inline float bfloat_bits(ushort bits) {
    return as_type<float>(uint(bits) << 16);
}

// 16 elements in the low (part 0) or high (part 1) halves of 16 bytes, less an offset.
static inline void nibbles(device const uchar *bytes, uint part, int offset, thread char *out) {
    const uint shift = 4u * part;
    for (uint j = 0; j < 16; j++) out[j] = char(int((bytes[j] >> shift) & 15u) - offset);
}

// As nibbles, with bit j of `fifths` as the fifth bit.
static inline void five_bits(
    device const uchar *bytes, uint part, uint fifths, int offset, thread char *out)
{
    const uint shift = 4u * part;
    for (uint j = 0; j < 16; j++) {
        const uint code = ((uint(bytes[j]) >> shift) & 15u) | (((fifths >> j) & 1u) << 4);
        out[j] = char(int(code) - offset);
    }
}

static inline uint u16_at(device const uchar *bytes, uint at) {
    return uint(*(device const ushort *)(bytes + at));
}

// 32 elements: f16 scale, 32 x i8.
struct Q8_0 {
    enum { LEN = 32, BYTES = 34 };
    static float2 scale_min(device const uchar *block, uint) {
        return float2(half_at(block, 0), 0.0f);
    }
    static void codes(device const uchar *block, uint run, thread char *out) {
        device const char *from = (device const char *)(block + 2 + 16 * run);
        for (uint j = 0; j < 16; j++) out[j] = from[j];
    }
};

// 32 elements: f16 scale, 32 x 4 bit, offset 8.
struct Q4_0 {
    enum { LEN = 32, BYTES = 18 };
    static float2 scale_min(device const uchar *block, uint) {
        return float2(half_at(block, 0), 0.0f);
    }
    static void codes(device const uchar *block, uint run, thread char *out) {
        nibbles(block + 2, run, 8, out);
    }
};

// 32 elements: f16 scale, f16 minimum, 32 x 4 bit.
struct Q4_1 {
    enum { LEN = 32, BYTES = 20 };
    static float2 scale_min(device const uchar *block, uint) {
        return float2(half_at(block, 0), half_at(block, 2));
    }
    static void codes(device const uchar *block, uint run, thread char *out) {
        nibbles(block + 4, run, 0, out);
    }
};

// 32 elements: f16 scale, 32 fifth bits, 32 x 4 bit, offset 16.
struct Q5_0 {
    enum { LEN = 32, BYTES = 22 };
    static float2 scale_min(device const uchar *block, uint) {
        return float2(half_at(block, 0), 0.0f);
    }
    static void codes(device const uchar *block, uint run, thread char *out) {
        five_bits(block + 6, run, u16_at(block, 2 + 2 * run), 16, out);
    }
};

// 32 elements: f16 scale, f16 minimum, 32 fifth bits, 32 x 4 bit.
struct Q5_1 {
    enum { LEN = 32, BYTES = 24 };
    static float2 scale_min(device const uchar *block, uint) {
        return float2(half_at(block, 0), half_at(block, 2));
    }
    static void codes(device const uchar *block, uint run, thread char *out) {
        five_bits(block + 8, run, u16_at(block, 4 + 2 * run), 0, out);
    }
};

// The runs of a block of 256 come in pairs: pair = run / 2 counts 32 elements, and half = pair / 4
// counts 128.

// 256 elements: 16 bytes of 4-bit scales (low) and minimums (high), 64 bytes of 2-bit codes, f16
// scale, f16 minimum.
struct Q2K {
    enum { LEN = 256, BYTES = 84 };
    static float2 scale_min(device const uchar *block, uint run) {
        const uint both = block[run];
        return float2(half_at(block, 80) * float(both & 15u), -(half_at(block, 82) * float(both >> 4)));
    }
    static void codes(device const uchar *block, uint run, thread char *out) {
        const uint pair = run / 2;
        const uint shift = 2 * (pair % 4);
        device const uchar *from = block + 16 + 32 * (pair / 4) + 16 * (run % 2);
        for (uint j = 0; j < 16; j++) out[j] = char((from[j] >> shift) & 3u);
    }
};

// 256 elements: 32 bytes of third bits, 64 bytes of 2-bit codes, 12 bytes of 6-bit scales, f16
// scale; offset 4.
struct Q3K {
    enum { LEN = 256, BYTES = 110 };
    static float2 scale_min(device const uchar *block, uint run) {
        device const uchar *packed = block + 96;
        const uint low = (uint(packed[run % 8]) >> (4 * (run / 8))) & 15u;
        const uint high = (uint(packed[8 + run % 4]) >> (2 * (run / 4))) & 3u;
        return float2(half_at(block, 108) * float(int(low | (high << 4)) - 32), 0.0f);
    }
    static void codes(device const uchar *block, uint run, thread char *out) {
        const uint pair = run / 2;
        const uint shift = 2 * (pair % 4);
        device const uchar *low = block + 32 + 32 * (pair / 4) + 16 * (run % 2);
        device const uchar *high = block + 16 * (run % 2);
        for (uint j = 0; j < 16; j++) {
            const uint code = ((uint(low[j]) >> shift) & 3u) | (((uint(high[j]) >> pair) & 1u) << 2);
            out[j] = char(int(code) - 4);
        }
    }
};

// The 6-bit scale and the 6-bit minimum of pair `pair` of Q4_K and Q5_K, from their 12 bytes, times
// the block's scale and minimum.
static inline float2 scale_pair(device const uchar *block, uint pair) {
    device const uchar *packed = block + 4;
    uint scale;
    uint minimum;
    if (pair < 4) {
        scale = packed[pair] & 63u;
        minimum = packed[pair + 4] & 63u;
    } else {
        scale = (packed[pair + 4] & 15u) | ((uint(packed[pair - 4]) >> 6) << 4);
        minimum = (uint(packed[pair + 4]) >> 4) | ((uint(packed[pair]) >> 6) << 4);
    }
    return float2(half_at(block, 0) * float(scale), -(half_at(block, 2) * float(minimum)));
}

// 256 elements: f16 scale, f16 minimum, 12 bytes of 6-bit scales and minimums, 128 bytes of 4-bit
// codes.
struct Q4K {
    enum { LEN = 256, BYTES = 144 };
    static float2 scale_min(device const uchar *block, uint run) {
        return scale_pair(block, run / 2);
    }
    static void codes(device const uchar *block, uint run, thread char *out) {
        const uint pair = run / 2;
        nibbles(block + 16 + 32 * (pair / 2) + 16 * (run % 2), pair % 2, 0, out);
    }
};

// As Q4_K, with 32 bytes of fifth bits before the codes.
struct Q5K {
    enum { LEN = 256, BYTES = 176 };
    static float2 scale_min(device const uchar *block, uint run) {
        return scale_pair(block, run / 2);
    }
    static void codes(device const uchar *block, uint run, thread char *out) {
        const uint pair = run / 2;
        const uint shift = 4 * (pair % 2);
        device const uchar *low = block + 48 + 32 * (pair / 2) + 16 * (run % 2);
        device const uchar *high = block + 16 + 16 * (run % 2);
        for (uint j = 0; j < 16; j++) {
            const uint code = ((uint(low[j]) >> shift) & 15u) | (((uint(high[j]) >> pair) & 1u) << 4);
            out[j] = char(code);
        }
    }
};

// 256 elements: 128 bytes of low 4 bits, 64 bytes of high 2 bits, 16 i8 scales, f16 scale; offset
// 32.
struct Q6K {
    enum { LEN = 256, BYTES = 210 };
    static float2 scale_min(device const uchar *block, uint run) {
        const int scale = *(device const char *)(block + 192 + run);
        return float2(half_at(block, 208) * float(scale), 0.0f);
    }
    static void codes(device const uchar *block, uint run, thread char *out) {
        const uint pair = run / 2;
        const uint quarter = pair % 4;
        device const uchar *low = block + 64 * (pair / 4) + 32 * (quarter % 2) + 16 * (run % 2);
        device const uchar *high = block + 128 + 32 * (pair / 4) + 16 * (run % 2);
        const uint low_shift = 4 * (quarter / 2);
        const uint high_shift = 2 * quarter;
        for (uint j = 0; j < 16; j++) {
            const uint code =
                ((uint(low[j]) >> low_shift) & 15u) | (((uint(high[j]) >> high_shift) & 3u) << 4);
            out[j] = char(int(code) - 32);
        }
    }
};

// What the 4-bit codes of IQ4_NL and IQ4_XS stand for.
constant char IQ4_VALUES[16] = {
    -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

static inline void look_up(device const uchar *bytes, uint part, thread char *out) {
    const uint shift = 4u * part;
    for (uint j = 0; j < 16; j++) out[j] = IQ4_VALUES[(bytes[j] >> shift) & 15u];
}

// 32 elements: f16 scale, 32 x 4-bit index.
struct Iq4Nl {
    enum { LEN = 32, BYTES = 18 };
    static float2 scale_min(device const uchar *block, uint) {
        return float2(half_at(block, 0), 0.0f);
    }
    static void codes(device const uchar *block, uint run, thread char *out) {
        look_up(block + 2, run, out);
    }
};

// 256 elements: f16 scale, eight 6-bit scales (two high bits each in a u16, then four low bits each
// in 4 bytes), 256 x 4-bit index.
struct Iq4Xs {
    enum { LEN = 256, BYTES = 136 };
    static float2 scale_min(device const uchar *block, uint run) {
        const uint pair = run / 2;
        const uint low = (uint(block[4 + pair / 2]) >> (4 * (pair % 2))) & 15u;
        const uint six_bits = low | (((u16_at(block, 2) >> (2 * pair)) & 3u) << 4);
        return float2(half_at(block, 0) * float(int(six_bits) - 32), 0.0f);
    }
    static void codes(device const uchar *block, uint run, thread char *out) {
        look_up(block + 8 + 16 * (run / 2), run % 2, out);
    }
};

// The 16 values of run `run` of a block.
template <typename Format>
static inline void dequantize16(device const uchar *block, uint run, thread float *out) {
    const float2 scale_min = Format::scale_min(block, run);
    char codes[16];
    Format::codes(block, run, codes);
    for (uint j = 0; j < 16; j++) out[j] = scale_min.x * float(codes[j]) + scale_min.y;
}
