// Products of the pieces in a warp's ring with a block's input, which lies in shared memory: plain, or
// rounded to 8 bits per 32 elements where weights are quantised.
#pragma once
#include "blocks_i8.cuh"
#include "persistent_ring.cuh"

// Pieces whose sums are added up together.
#define BATCH 4

#define HAS(DTYPE) ((WEIGHTS >> (DTYPE)) & 1)

__device__ __forceinline__ bool is_quantised(u32 dtype) {
    return (WEIGHTS & 7) == 0 || ((WEIGHTS >> 5) != 0 && dtype >= DTYPE_Q8_0);
}

// Puts four neighbours of the input, number `quad`, where products look for them; all lanes of a warp
// call it.
__device__ __forceinline__ void put_input(u8 *input, u32 k, bool quantised, u32 quad, float4 value, bool there) {
    if ((WEIGHTS >> 5) != 0 && quantised) {
        Rounded(input, k / 32).put<1>(0, quad, value, there);
    } else if (there) {
        ((float4 *)input)[quad] = value;
    }
}

// Adds up four numbers over the lanes of a warp; lane 8 * i has the sum of number i.
__device__ __forceinline__ float sums_of_four(const float (&v)[BATCH]) {
    const u32 lane = threadIdx.x % WARP;
    const bool upper = lane & 16, odd = lane & 8;
    float a = upper ? v[2] : v[0], b = upper ? v[3] : v[1];
    a += __shfl_xor_sync(FULL_MASK, upper ? v[0] : v[2], 16);
    b += __shfl_xor_sync(FULL_MASK, upper ? v[1] : v[3], 16);
    float sum = odd ? b : a;
    sum += __shfl_xor_sync(FULL_MASK, odd ? a : b, 8);
#pragma unroll
    for (int other = 4; other > 0; other /= 2) sum += __shfl_xor_sync(FULL_MASK, sum, other);
    return sum;
}

// A lane's 32 numbers of a piece of a plain input: EACH at a time.
template <int EACH> struct PlainInput {
    float x[32];

    __device__ __forceinline__ void load(const u8 *input, u32 k, u32 chunk) {
        const float *row = (const float *)input;
#pragma unroll
        for (int q = 0; q < 32 / EACH; q++) {
            const u32 e = chunk * PIECE + (q * WARP + threadIdx.x % WARP) * EACH;
#pragma unroll
            for (int i = 0; i < EACH; i += 4) {
                const float4 v = e < k ? *(const float4 *)(row + e + i) : make_float4(0, 0, 0, 0);
                x[q * EACH + i] = v.x, x[q * EACH + i + 1] = v.y;
                x[q * EACH + i + 2] = v.z, x[q * EACH + i + 3] = v.w;
            }
        }
    }

    // `left`: elements of the row from this piece on.
    __device__ __forceinline__ float product(const u8 *piece, u32 dtype, u32 left) const {
        float sums[4] = {};
        const u32 lane = threadIdx.x % WARP;
#pragma unroll
        for (int q = 0; q < 32 / EACH; q++) {
            if ((q * WARP + lane) * EACH >= left) continue;
            const uint4 bits = ((const uint4 *)piece)[q * WARP + lane];
            const u32 words[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
            for (int w = 0; w < 4; w++) {
                if (EACH == 4) {
                    sums[w] += __uint_as_float(words[w]) * x[q * EACH + w];
                } else {
                    const bool half = HAS(DTYPE_F16) && (!HAS(DTYPE_BF16) || dtype == DTYPE_F16);
                    const float low = half ? f16_to_f32((u16)words[w]) : bf16_to_f32((u16)words[w]);
                    const float high = half ? f16_to_f32((u16)(words[w] >> 16))
                                            : __uint_as_float(words[w] & 0xffff0000u);
                    sums[w] += low * x[q * EACH + 2 * w];
                    sums[w] += high * x[q * EACH + 2 * w + 1];
                }
            }
        }
        return (sums[0] + sums[1]) + (sums[2] + sums[3]);
    }
};

// A lane's group of 32 rounded numbers.
struct RoundedInput {
    RoundedGroup group;

    __device__ __forceinline__ void load(const u8 *input, u32 k, u32 chunk) {
        const u32 mine = chunk * WARP + threadIdx.x % WARP;
        if (mine < k / 32) group = Rounded((u8 *)input, k / 32).at<1>(0, mine);
    }

    template <int DTYPE> __device__ __forceinline__ float of(const u8 *piece) const {
        typedef Format<DTYPE> F;
        const u32 e = threadIdx.x % WARP * 32;
        return product32<DTYPE>(read32<DTYPE>(piece + e / F::LEN * F::BYTES, e % F::LEN), group);
    }

    __device__ __forceinline__ float product(const u8 *piece, u32 dtype, u32 left) const {
        if (threadIdx.x % WARP * 32 >= left) return 0;
#define ONE(DTYPE) \
    if (HAS(DTYPE) && ((WEIGHTS >> 5) == (1u << (DTYPE - 5)) || dtype == DTYPE)) return of<DTYPE>(piece)
        ONE(DTYPE_Q8_0);
        ONE(DTYPE_Q4_0);
        ONE(DTYPE_Q5_0);
        ONE(DTYPE_Q4_K);
        ONE(DTYPE_Q6_K);
#undef ONE
        return 0;
    }
};

// The sums of this warp's items of `work`, into `sums`: [chunks][rows].
template <typename Input>
__device__ __forceinline__ void multiply_all(Ring &ring, const Work &work, const u8 *input, float *sums) {
    Place place(work);
    Input x;
    u32 loaded = NOTHING;
    while (place.item < place.end) {
        const u32 first = place.item;
        float batch[BATCH] = {};
        // Not unrolled: the work around a product is long, and its sum goes to one of four registers.
#pragma unroll 1
        for (int i = 0; i < BATCH && place.item < place.end; i++) {
            if (place.chunk != loaded) x.load(input, work.k, loaded = place.chunk);
            u32 dtype;
            const u8 *piece = ring.next(dtype);
            const float sum = x.product(piece, dtype, work.k - place.chunk * PIECE);
#pragma unroll
            for (int other = 0; other < BATCH; other++) batch[other] = other == i ? sum : batch[other];
            ring.done();
            place.advance(work);
        }
        const float sum = sums_of_four(batch);
        const u32 lane = threadIdx.x % WARP, mine = first + lane / 8;
        if (lane % 8 == 0 && mine < place.item) sums[mine] = sum;
    }
}

__device__ __forceinline__ void multiply(Ring &ring, const Work &work, u32 dtype, const u8 *input, float *sums) {
    if ((WEIGHTS >> 5) != 0 && is_quantised(dtype)) {
        multiply_all<RoundedInput>(ring, work, input, sums);
    } else if (HAS(DTYPE_F32) && ((WEIGHTS & 6) == 0 || dtype == DTYPE_F32)) {
        multiply_all<PlainInput<4>>(ring, work, input, sums);
    } else if (WEIGHTS & 6) {
        multiply_all<PlainInput<8>>(ring, work, input, sums);
    }
}

// The product of row `row` of a block's own.
__device__ __forceinline__ float total(const Work &work, const float *sums, u32 row) {
    float all = 0;
    for (u32 chunk = 0; chunk < work.chunks; chunk++) all += sums[chunk * work.rows + row];
    return all;
}
