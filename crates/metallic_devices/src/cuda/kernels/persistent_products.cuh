// Products of the pieces in a warp's ring with a block's input, which lies in shared memory: plain, or
// rounded to 8 bits per 32 elements where weights are quantised.
#pragma once
#include "blocks_i8.cuh"
#include "persistent_ring.cuh"


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

// Adds up N numbers over the lanes of a warp; lane 32 / N * i has the sum of number i.
template <int N> __device__ __forceinline__ float sums_of(const float (&v)[N]) {
    const u32 lane = threadIdx.x % WARP;
    float sums[N];
#pragma unroll
    for (int n = 0; n < N; n++) sums[n] = v[n];
#pragma unroll
    for (int left = N, other = 16; left > 1; left /= 2, other /= 2) {
        const bool upper = lane & other;
#pragma unroll
        for (int n = 0; n < left / 2; n++) {
            const float kept = upper ? sums[n + left / 2] : sums[n], given = upper ? sums[n] : sums[n + left / 2];
            sums[n] = kept + __shfl_xor_sync(FULL_MASK, given, other);
        }
    }
#pragma unroll
    for (int other = 16 / N; other > 0; other /= 2) sums[0] += __shfl_xor_sync(FULL_MASK, sums[0], other);
    return sums[0];
}

// A lane's 32 numbers of a piece of a plain input: EACH at a time.
template <int EACH> struct PlainInput {
    // Pieces whose arithmetic goes side by side, as registers allow.
    enum { MOST = (WEIGHTS >> 5) != 0 ? 1 : 2 };
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

    // The lane's share of the products with N pieces. `left`: elements of their rows from there on.
    template <int N>
    __device__ __forceinline__ void products(
        const u8 *const (&pieces)[N], const u32 (&dtypes)[N], u32 left, float (&out)[N]) const {
        const u32 lane = threadIdx.x % WARP;
        float sums[N][2] = {};
#pragma unroll
        for (int q = 0; q < 32 / EACH; q++) {
            const bool there = (q * WARP + lane) * EACH < left;
            uint4 bits[N];
#pragma unroll
            for (int n = 0; n < N; n++)
                bits[n] = there ? ((const uint4 *)pieces[n])[q * WARP + lane] : make_uint4(0, 0, 0, 0);
#pragma unroll
            for (int n = 0; n < N; n++) {
                const u32 words[4] = {bits[n].x, bits[n].y, bits[n].z, bits[n].w};
#pragma unroll
                for (int w = 0; w < 4; w++) {
                    if (EACH == 4) {
                        sums[n][w % 2] += __uint_as_float(words[w]) * x[q * EACH + w];
                    } else {
                        const bool half = HAS(DTYPE_F16) && (!HAS(DTYPE_BF16) || dtypes[n] == DTYPE_F16);
                        const float low = half ? f16_to_f32((u16)words[w]) : bf16_to_f32((u16)words[w]);
                        const float high = half ? f16_to_f32((u16)(words[w] >> 16))
                                                : __uint_as_float(words[w] & 0xffff0000u);
                        sums[n][0] += low * x[q * EACH + 2 * w];
                        sums[n][1] += high * x[q * EACH + 2 * w + 1];
                    }
                }
            }
        }
#pragma unroll
        for (int n = 0; n < N; n++) out[n] = sums[n][0] + sums[n][1];
    }
};

// A lane's group of 32 rounded numbers.
struct RoundedInput {
    enum { MOST = 1 };
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

    // One piece: the arithmetic of several would not fit the registers.
    __device__ __forceinline__ void products(
        const u8 *const (&pieces)[1], const u32 (&dtypes)[1], u32 left, float (&out)[1]) const {
        out[0] = 0;
        if (threadIdx.x % WARP * 32 >= left) return;
        const u32 dtype = dtypes[0];
#define ONE(DTYPE) \
    if (HAS(DTYPE) && ((WEIGHTS >> 5) == (1u << (DTYPE - 5)) || dtype == DTYPE)) out[0] = of<DTYPE>(pieces[0])
        ONE(DTYPE_Q8_0);
        ONE(DTYPE_Q4_0);
        ONE(DTYPE_Q5_0);
        ONE(DTYPE_Q4_K);
        ONE(DTYPE_Q6_K);
#undef ONE
    }
};

// The sums of the next N items of `work`, pieces of one chunk.
template <int N, typename Input>
__device__ __forceinline__ void multiply_some(Ring &ring, const Input &x, u32 left, float *sums) {
    const u8 *pieces[N];
    u32 dtypes[N];
#pragma unroll
    for (int n = 0; n < N; n++) pieces[n] = ring.piece(n, dtypes[n]);
    float all[N];
    x.products(pieces, dtypes, left, all);
    const float sum = sums_of<N>(all);
    const u32 lane = threadIdx.x % WARP;
    if (lane % (WARP / N) == 0) sums[lane / (WARP / N)] = sum;
}

// The sums of this warp's items of `work`, into `sums`: [chunks][rows].
template <typename Input>
__device__ __forceinline__ void multiply_all(Ring &ring, const Work &work, const u8 *input, float *sums) {
    Place place(work);
    Input x;
    u32 loaded = NOTHING;
#pragma unroll 1
    while (place.item < place.end) {
        if (place.chunk != loaded) x.load(input, work.k, loaded = place.chunk);
        u32 some = place.end - place.item;
        if (some > work.rows - place.row) some = work.rows - place.row;
        const u32 left = work.k - place.chunk * PIECE;
        if (some >= Input::MOST) {
            some = Input::MOST, multiply_some<Input::MOST>(ring, x, left, sums + place.item);
        } else {
            some = 1, multiply_some<1>(ring, x, left, sums + place.item);
        }
        ring.done(some);
        place.advance(work, some);
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

// The products of row `row` of a block's own and of the one `more` after it.
__device__ __forceinline__ float2 totals(const Work &work, const float *sums, u32 row, u32 more) {
    float2 all = make_float2(0, 0);
#pragma unroll 1
    for (u32 chunk = 0; chunk < work.chunks; chunk++, row += work.rows)
        all.x += sums[row], all.y += sums[row + more];
    return all;
}
