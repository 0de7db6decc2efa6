// What the attention kernels share: where operands lie, which keys a query sees, what a mask adds.
//
// Rows are stacked: for one key head, row `r` is query head `r / q_len` of the group at position
// `r % q_len`. So a tile of rows meets each key of its head once, however many heads share it.
#pragma once
#include "common.h"

// Element types, as `element_type` in legacy/sdpa/params.rs numbers them.
#define TYPE_F32 0u
#define TYPE_F16 1u
#define TYPE_BF16 2u
#define TYPE_Q8_0 3u

// Mask tensors, as `mask_type` there numbers them: an element type for additive ones, or these.
#define MASK_BOOL 4u
#define MASK_NONE 5u

// Baked into a pipeline state, so that each loader is one branch of these.
constant uint q_type [[function_constant(0)]];
constant uint k_type [[function_constant(1)]];
constant uint v_type [[function_constant(2)]];
constant uint mask_type [[function_constant(3)]];

// Strides are bytes from one index to the next.
struct SdpaParams {
    ulong q_batch, q_head, q_row;
    ulong k_batch, k_head, k_row;
    ulong v_batch, v_head, v_row;
    ulong out_batch, out_head, out_row;
    ulong mask_batch, mask_head, mask_row, mask_key;
    // Place of the diagonal where it is given.
    long offset;
    // Keys visible before and after the diagonal; negative for all.
    long left, right;
    uint kv_heads, group, q_len, kv_len, head_dim, v_dim;
    // group * q_len
    uint rows;
    // Whether live lengths and the diagonal's place are given.
    uint has_lens, has_offset;
    float scale;
    // 0 for none.
    float softcap;
    // Parts of the keys that run side by side.
    uint splits;
    // What part of the call scores in memory stand for: key heads of all sequences from
    // `first_head` on, for each `chunk_rows` stacked rows (a multiple of a tile) from `first_row` on,
    // rows `score_stride` floats apart.
    uint first_head, first_row, chunk_rows, score_stride;
};

// The keys `start .. end` that band and live length leave.
struct KeyRange {
    int start, end;
};

static inline int live_keys(constant SdpaParams &p, device const int *kv_lens, uint batch) {
    return p.has_lens != 0u ? clamp(kv_lens[batch], 0, int(p.kv_len)) : int(p.kv_len);
}

// `key` within `0 ..= live`.
static inline int among(long key, int live) {
    return key < 0 ? 0 : key > long(live) ? live : int(key);
}

static inline KeyRange visible_keys(constant SdpaParams &p, int live, uint position) {
    const long diagonal = p.has_offset != 0u ? p.offset : long(live) - long(p.q_len);
    const long center = long(position) + diagonal;
    const int start = p.left < 0 ? 0 : among(center - p.left, live);
    const int end = p.right < 0 ? live : among(center + p.right + 1, live);
    return KeyRange{start, max(start, end)};
}

// The keys that some of `count` stacked rows from `first` on may see.
static inline KeyRange visible_to_rows(constant SdpaParams &p, int live, uint first, uint count) {
    const uint last = min(first + count, p.rows) - 1;
    const bool one_head = first / p.q_len == last / p.q_len;
    const uint low = one_head ? first % p.q_len : 0u;
    const uint high = one_head ? last % p.q_len : p.q_len - 1;
    const int start = visible_keys(p, live, low).start;
    return KeyRange{start, max(start, visible_keys(p, live, high).end)};
}

// Bit tests, which no math mode optimises away.
static inline bool is_non_finite(float x) {
    return (as_type<uint>(x) & 0x7f800000u) == 0x7f800000u;
}

static inline bool is_minus_infinity(float x) {
    return as_type<uint>(x) == 0xff800000u;
}

// Element `column` of a row of `type`. Rows may start at any element.
static inline float load1(device const uchar *row, uint column, uint type) {
    switch (type) {
    case TYPE_F32: return ((device const float *)row)[column];
    case TYPE_F16: return float(((device const half *)row)[column]);
    case TYPE_BF16: return float(((device const bfloat *)row)[column]);
    default: {
        device const uchar *block = row + column / 32u * 34u;
        const float scale = float(*(device const half *)block);
        return scale * float(((device const char *)block)[2u + column % 32u]);
    }
    }
}

// Elements `column .. column + 4`; `column` is a multiple of 4. What lies past `width` counts as 0.
static inline float4 load4(device const uchar *row, uint column, uint width, uint type) {
    if (column + 4u > width) {
        float4 tail = float4(0.0f);
        for (ushort i = 0; i < 4; i++) {
            if (column + i < width) tail[i] = load1(row, column + i, type);
        }
        return tail;
    }
    switch (type) {
    case TYPE_F32: return float4(((device const packed_float4 *)row)[column / 4u]);
    case TYPE_F16: return float4(half4(((device const packed_half4 *)row)[column / 4u]));
    case TYPE_BF16: return float4(bfloat4(((device const packed_bfloat4 *)row)[column / 4u]));
    default: {
        device const uchar *block = row + column / 32u * 34u;
        const float scale = float(*(device const half *)block);
        device const packed_char4 *codes = (device const packed_char4 *)(block + 2);
        return scale * float4(char4(codes[column % 32u / 4u]));
    }
    }
}

static inline void store1(device uchar *row, uint column, uint type, float value) {
    switch (type) {
    case TYPE_F32: ((device float *)row)[column] = value; break;
    case TYPE_F16: ((device half *)row)[column] = half(value); break;
    default: ((device bfloat *)row)[column] = bfloat(value); break;
    }
}

// A stacked row of one key head of one sequence.
struct Row {
    uint head, position;
};

static inline Row stacked_row(constant SdpaParams &p, uint kv_head, uint row) {
    return Row{kv_head * p.group + row / p.q_len, row % p.q_len};
}

static inline device const uchar *
mask_row_at(constant SdpaParams &p, device const uchar *mask, uint batch, Row row) {
    return mask + batch * p.mask_batch + row.head * p.mask_head + row.position * p.mask_row;
}

// Scales and bounds a product of query and key and adds the mask; false where the tensor hides it.
static inline bool
finish_score(constant SdpaParams &p, device const uchar *mask_row, uint key, thread float &score) {
    score *= p.scale;
    if (p.softcap > 0.0f) score = p.softcap * precise::tanh(score / p.softcap);
    if (mask_type == MASK_NONE) return true;
    device const uchar *at = mask_row + key * p.mask_key;
    if (mask_type == MASK_BOOL) return *at != 0;
    const float added = load1(at, 0u, mask_type);
    if (is_minus_infinity(added)) return false;
    score += added;
    return true;
}

// Below every finite score, and finite, so that differences from it are defined.
constant float LOWEST = -3.402823466e38f;

// What stands for the weight of a hidden key in memory: below every weight.
constant float HIDDEN = -1.0f;

static inline bool is_hidden(float weight) {
    return as_type<uint>(weight) == as_type<uint>(HIDDEN);
}
