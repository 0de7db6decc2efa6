// What every attention kernel shares: the call's parameters, element types, warp-wide helpers, and
// the exact row that the fused kernels fall back to.
//
// Element types come as macros, since a kernel is compiled for one call's types at run time:
// QT, KT and VT are 0 for f32, 1 for f16, 2 for bf16, 3 for q8_0 (keys and values only); KT and VT
// are QT unless given.
// HEAD_DIM and V_DIM are the widths; MASK_TENSOR is 0 for none, 1 for additive, 2 for bool;
// MASK_T is the additive mask's type; SOFTCAP is 0 or 1.
//
// No header of the toolkit is included: conversions are single instructions.
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

#ifndef KT
#define KT QT
#endif
#ifndef VT
#define VT QT
#endif
#ifndef MASK_TENSOR
#define MASK_TENSOR 0
#endif
#ifndef MASK_T
#define MASK_T 0
#endif
#ifndef SOFTCAP
#define SOFTCAP 0
#endif

// f32 queries meet keys of two bytes as a sum of this many parts in the keys' type, and so do weights
// and values: 2 parts of f16 hold 22 bits, 3 of bf16 hold 24.
#define PARTS (QT != 0 ? 1 : KT == 2 ? 3 : 2)
// With parts, weights are larger by this power of two, so that the lower parts are no subnormals.
#define WEIGHT_SHIFT (QT == 0 && KT == 1 ? 12.0f : 0.0f)

#define LOG2E 1.4426950408889634f
#define NEG_INF (__int_as_float(0xff800000))

// One call. Strides are in elements (in blocks along keys of q8_0 rows); the last axis is dense.
// `left` and `right` are at least as large as any length where the band is open on that side.
struct SdpaCall {
    const void* q;
    const void* k;
    const void* v;
    void* out;
    const void* mask;
    const int* kv_lens;
    float* partials;
    u32* counters;
    i64 q_stride[3];  // batch, head, row
    i64 k_stride[3];
    i64 v_stride[3];
    i64 o_stride[3];
    i64 mask_stride[4];  // batch, head, row, key; 0 where the mask repeats
    i64 left;
    i64 right;
    i64 offset;
    int fixed_offset;
    int batch;
    int q_heads;
    int kv_heads;
    int q_len;
    int kv_len;
    int splits;
    int heads_per_wave;
    float scale;
    float softcap;
};

__device__ __forceinline__ float half_to_float(u16 bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}

__device__ __forceinline__ float bf16_to_float(u16 bits) {
    return __uint_as_float(static_cast<u32>(bits) << 16);
}

__device__ __forceinline__ u16 float_to_half(float value) {
    u16 bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}

__device__ __forceinline__ u16 float_to_bf16(float value) {
    u16 bits;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}

// Two floats in one register as the storage type TYPE, `low` in the low half.
template <int TYPE>
__device__ __forceinline__ u32 pack2(float low, float high) {
    u32 packed;
    if (TYPE == 2) {
        asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    } else {
        asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    }
    return packed;
}

template <int TYPE>
__device__ __forceinline__ float low_of(u32 packed) {
    return TYPE == 2 ? __uint_as_float(packed << 16) : half_to_float(static_cast<u16>(packed));
}

template <int TYPE>
__device__ __forceinline__ float high_of(u32 packed) {
    return TYPE == 2 ? __uint_as_float(packed & 0xffff0000u) : half_to_float(static_cast<u16>(packed >> 16));
}

// Two floats as `PARTS` registers of two elements whose sum they are.
__device__ __forceinline__ void split2(float low, float high, u32 (&parts)[PARTS]) {
#pragma unroll
    for (int part = 0; part < PARTS; ++part) {
        parts[part] = pack2<KT>(low, high);
        low -= low_of<KT>(parts[part]);
        high -= high_of<KT>(parts[part]);
    }
}

__device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// Element `d` of a row that starts at `row`.
template <int TYPE>
__device__ __forceinline__ float load_element(const void* row, int d) {
    if (TYPE == 0) return static_cast<const float*>(row)[d];
    if (TYPE == 1) return half_to_float(static_cast<const u16*>(row)[d]);
    if (TYPE == 2) return bf16_to_float(static_cast<const u16*>(row)[d]);
    // q8_0: blocks of an f16 scale and 32 signed bytes.
    const u8* block = static_cast<const u8*>(row) + (d / 32) * 34;
    const u16 scale = static_cast<u16>(block[0] | (block[1] << 8));
    return half_to_float(scale) * static_cast<float>(static_cast<signed char>(block[2 + d % 32]));
}

template <int TYPE>
__device__ __forceinline__ void store_element(void* row, int d, float value) {
    if (TYPE == 0) static_cast<float*>(row)[d] = value;
    if (TYPE == 1) static_cast<u16*>(row)[d] = float_to_half(value);
    if (TYPE == 2) static_cast<u16*>(row)[d] = float_to_bf16(value);
}

// The address `elements` after `base`.
template <int TYPE>
__device__ __forceinline__ const void* advance(const void* base, i64 elements) {
    const i64 bytes = TYPE == 0 ? elements * 4 : TYPE == 3 ? elements / 32 * 34 : elements * 2;
    return static_cast<const u8*>(base) + bytes;
}

__device__ __forceinline__ int live_keys(const SdpaCall& call, int batch) {
    if (call.kv_lens == nullptr) return call.kv_len;
    return max(0, min(call.kv_lens[batch], call.kv_len));
}

// The key on the diagonal of query 0.
__device__ __forceinline__ i64 diagonal(const SdpaCall& call, int live) {
    return call.fixed_offset ? call.offset : static_cast<i64>(live) - call.q_len;
}

// The visible keys first .. end of query `row`.
__device__ __forceinline__ int first_key(const SdpaCall& call, i64 diag, int row, int live) {
    const i64 first = diag + row - call.left;
    return static_cast<int>(first < 0 ? 0 : first > live ? live : first);
}

__device__ __forceinline__ int end_key(const SdpaCall& call, i64 diag, int row, int live) {
    const i64 end = diag + row + call.right + 1;
    return static_cast<int>(end < 0 ? 0 : end > live ? live : end);
}

// What the mask tensor adds to a score at one place; −inf where it hides the key.
__device__ __forceinline__ float mask_value(const SdpaCall& call, i64 row_start, int key) {
#if MASK_TENSOR == 1
    return load_element<MASK_T>(advance<MASK_T>(call.mask, row_start + key * call.mask_stride[3]), 0);
#elif MASK_TENSOR == 2
    return static_cast<const u8*>(call.mask)[row_start + key * call.mask_stride[3]] ? 0.0f : NEG_INF;
#else
    return 0.0f;
#endif
}

__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
    for (int lane = 16; lane > 0; lane /= 2) value += __shfl_xor_sync(0xffffffffu, value, lane);
    return value;
}

__device__ __forceinline__ bool is_finite(float value) {
    return (__float_as_uint(value) & 0x7f800000u) != 0x7f800000u;
}

// One row by one warp, in the order of the keys, with no product that a hidden key takes part in:
// what the words of the op say when values hold NaN or infinity. Slow; for odd types, odd widths,
// and rows of a fused kernel that came out with NaN or infinity.
static __device__ __noinline__ void exact_row(const SdpaCall& call, int batch, int head, int row, int lane) {
    constexpr int Q_PARTS = (HEAD_DIM + 31) / 32;
    constexpr int V_PARTS = (V_DIM + 31) / 32;
    const int kv_head = head / (call.q_heads / call.kv_heads);
    const int live = live_keys(call, batch);
    const i64 diag = diagonal(call, live);
    const int first = first_key(call, diag, row, live);
    const int end = end_key(call, diag, row, live);
    const void* q =
        advance<QT>(call.q, batch * call.q_stride[0] + head * call.q_stride[1] + row * call.q_stride[2]);
    const void* keys = advance<KT>(call.k, batch * call.k_stride[0] + kv_head * call.k_stride[1]);
    const void* values = advance<VT>(call.v, batch * call.v_stride[0] + kv_head * call.v_stride[1]);
    const i64 mask_row = batch * call.mask_stride[0] + head * call.mask_stride[1] + row * call.mask_stride[2];
    float query[Q_PARTS], sum[V_PARTS];
#pragma unroll
    for (int part = 0; part < Q_PARTS; ++part) {
        const int d = part * 32 + lane;
        query[part] = d < HEAD_DIM ? load_element<QT>(q, d) : 0.0f;
    }
#pragma unroll
    for (int part = 0; part < V_PARTS; ++part) sum[part] = 0.0f;
    float highest = NEG_INF, total = 0.0f;
    for (int key = first; key < end; ++key) {
        const float added = mask_value(call, mask_row, key);
        if (added == NEG_INF) continue;
        const void* k = advance<KT>(keys, key * call.k_stride[2]);
        float dot = 0.0f;
#pragma unroll
        for (int part = 0; part < Q_PARTS; ++part) {
            const int d = part * 32 + lane;
            if (d < HEAD_DIM) dot = fmaf(query[part], load_element<KT>(k, d), dot);
        }
        float score = warp_sum(dot) * call.scale;
#if SOFTCAP
        score = call.softcap * tanhf(score / call.softcap);
#endif
        score += added;
        const float higher = fmaxf(highest, score);
        const float shrink = highest == higher ? 1.0f : expf(highest - higher);
        const float weight = expf(score - higher);
        const void* v = advance<VT>(values, key * call.v_stride[2]);
#pragma unroll
        for (int part = 0; part < V_PARTS; ++part) {
            const int d = part * 32 + lane;
            if (d < V_DIM) sum[part] = sum[part] * shrink + weight * load_element<VT>(v, d);
        }
        total = total * shrink + weight;
        highest = higher;
    }
    u8* out =
        static_cast<u8*>(call.out) +
        (batch * call.o_stride[0] + head * call.o_stride[1] + row * call.o_stride[2]) * (QT == 0 ? 4 : 2);
#pragma unroll
    for (int part = 0; part < V_PARTS; ++part) {
        const int d = part * 32 + lane;
        if (d < V_DIM) store_element<QT>(out, d, total == 0.0f ? 0.0f : sum[part] / total);
    }
}

// --- matrix units of sm_80 and later -------------------------------------------------------------

__device__ __forceinline__ u32 shared_address(const void* pointer) {
    return static_cast<u32>(__cvta_generic_to_shared(pointer));
}

// Tiles in shared memory: rows of WIDTH elements of two bytes, in chunks of 16 bytes. Rows of whole 128
// bytes lie without gaps, chunk `c` of row `r` at place `c ^ r % 8`: eight rows of one column then lie in
// eight different bank groups. Other rows end in a chunk of padding for the same reason. Padding moves every
// second row off the multiples of 32 bytes, and then asynchronous copies reach 5 % less of an H200's
// bandwidth (docs/cuda.md).
template <int WIDTH>
constexpr bool SWIZZLED = WIDTH % 64 == 0;

// Bytes from a row to the next.
template <int WIDTH>
constexpr int PITCH = WIDTH * 2 + (SWIZZLED<WIDTH> ? 0 : 16);

// Where a chunk lies, in bytes from the start of the tile, which is a multiple of 128.
template <int WIDTH>
__device__ __forceinline__ int place_of(int row, int chunk) {
    return row * PITCH<WIDTH> + (SWIZZLED<WIDTH> ? chunk ^ row % 8 : chunk) * 16;
}

// The place two chunks further on for each of `pairs`, in the same row; the chunk at `place` is its first or
// second.
template <int WIDTH>
__device__ __forceinline__ u32 pairs_after(u32 place, int pairs) {
    return SWIZZLED<WIDTH> ? (place ^ pairs * 32 % 128) + pairs * 32 / 128 * 128 : place + pairs * 32;
}

// 16 bytes into shared memory, zeros where `live` is false (then nothing is read).
__device__ __forceinline__ void copy_async_16(u32 to, const void* from, bool live) {
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
                 "r"(live ? 16 : 0)
                 : "memory");
}

__device__ __forceinline__ void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

template <int PENDING>
__device__ __forceinline__ void copy_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

__device__ __forceinline__ void load_matrix_4(u32 (&r)[4], u32 address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

__device__ __forceinline__ void load_matrix_4_transposed(u32 (&r)[4], u32 address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

// c += a b with a: 16x16, b: 16x8, c: 16x8 in f32.
template <int TYPE>
__device__ __forceinline__ void multiply_add(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    if (TYPE == 2) {
        asm volatile(
            "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
            "{%8,%9}, {%0,%1,%2,%3};"
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    } else {
        asm volatile(
            "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
            "{%8,%9}, {%0,%1,%2,%3};"
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    }
}

__device__ __forceinline__ float quad_max(float value) {
    value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, 1));
    return fmaxf(value, __shfl_xor_sync(0xffffffffu, value, 2));
}

__device__ __forceinline__ float quad_sum(float value) {
    value += __shfl_xor_sync(0xffffffffu, value, 1);
    return value + __shfl_xor_sync(0xffffffffu, value, 2);
}
