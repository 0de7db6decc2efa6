// Products of quantised weights with inputs rounded to 8 bits per 32 elements, four an instruction.
//
//     x = d * q, S = sum of d * q over a half of 32
//     sum over a half = d * scale * sum(code * q) + (minimum - scale * OFFSET) * S
#pragma once
#include "blocks.cuh"

__device__ __forceinline__ void copy16(u32 to, const u8 *from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from));
}

// sum + the four products of unsigned codes and signed numbers.
__device__ __forceinline__ i32 dot4(u32 codes, u32 numbers, i32 sum) {
    i32 result;
    asm("dp4a.u32.s32 %0, %1, %2, %3;" : "=r"(result) : "r"(codes), "r"(numbers), "r"(sum));
    return result;
}

// Thirty-two rounded neighbours: the numbers q, and {d, S of each half}.
struct RoundedGroup {
    u32 numbers[8];
    float4 meta;
};

// Rounded rows in shared memory, 48 bytes a group of 32: two planes of numbers a row, then the rest.
struct Rounded {
    uint4 *codes;  // [rows][2][groups]
    u8 *start;
    u32 groups;

    __device__ __forceinline__ Rounded(u8 *at, u32 groups)
        : codes((uint4 *)at), start(at), groups(groups) {}

    template <int M> __device__ __forceinline__ float4 *meta() const {
        return (float4 *)(start + M * groups * 32);
    }

    template <int M> __device__ __forceinline__ RoundedGroup at(u32 m, u32 group) const {
        const uint4 a = codes[2 * m * groups + group], b = codes[(2 * m + 1) * groups + group];
        return {{a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w}, meta<M>()[m * groups + group]};
    }

    // Rounds four neighbours of row m, number `quad` of them. Eight lanes share a group, and all lanes
    // of a warp call it.
    template <int M> __device__ __forceinline__ void put(u32 m, u32 quad, float4 four, bool there) const {
        const float v[4] = {four.x, four.y, four.z, four.w};
        float most = 0, strange = 0;
#pragma unroll
        for (int e = 0; e < 4; e++) most = fmaxf(most, fabsf(v[e])), strange += v[e] * 0.0f;
#pragma unroll
        for (int lanes = 1; lanes < 8; lanes *= 2) {
            most = fmaxf(most, __shfl_xor_sync(FULL_MASK, most, lanes));
            // What is no number shows in every product.
            strange += __shfl_xor_sync(FULL_MASK, strange, lanes);
        }
        const float d = most / 127.0f, inverse = most == 0.0f ? 0.0f : 127.0f / most;
        u32 word = 0;
        i32 half = 0;
#pragma unroll
        for (int e = 0; e < 4; e++) {
            const i32 code = __float2int_rn(v[e] * inverse);
            half += code;
            word |= (u32)(code & 255) << (8 * e);
        }
        half += __shfl_xor_sync(FULL_MASK, half, 1);
        half += __shfl_xor_sync(FULL_MASK, half, 2);
        const i32 other = __shfl_xor_sync(FULL_MASK, half, 4);
        if (!there) return;
        const u32 group = quad / 8, place = quad % 8;
        ((u32 *)(codes + (2 * m + place / 4) * groups + group))[place % 4] = word;
        if (place == 0)
            meta<M>()[m * groups + group] = make_float4(
                d + strange, d * (float)half + strange, d * (float)other + strange, 0);
    }

    // Rounds M rows at x, of which the first `rows` are there; all LANES threads of the block
    // call it.
    template <int M, int LANES> __device__ __forceinline__ void round(const float *x, u32 rows) const {
        const u32 quads = groups * 8, all = M * quads;
        for (u32 first = 0; first < all; first += LANES) {
            const u32 i = first + threadIdx.x;
            const bool there = i < all;
            const u32 m = there ? i / quads : 0, quad = there ? i % quads : 0;
            put<M>(m, quad, ((const float4 *)x)[(m < rows ? m : 0) * quads + quad], there);
        }
    }
};

// The product of 32 elements of W with 32 of x.
template <int DTYPE>
__device__ __forceinline__ float product32(const ThirtyTwo &w, const RoundedGroup &x) {
    typedef Format<DTYPE> F;
    i32 first = 0, second = 0;
#pragma unroll
    for (int q = 0; q < 4; q++) {
        first = dot4(w.codes[q], x.numbers[q], first);
        second = dot4(w.codes[q + 4], x.numbers[q + 4], second);
    }
    const float offset = (float)F::OFFSET;
    float sum = w.scale[0] * (x.meta.x * (float)first - offset * x.meta.y) +
                w.scale[1] * (x.meta.x * (float)second - offset * x.meta.z);
    if (F::HAS_MIN) sum += w.minimum[0] * x.meta.y + w.minimum[1] * x.meta.z;
    return sum;
}
