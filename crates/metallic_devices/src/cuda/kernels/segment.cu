// variant: -DWEIGHT=0
// variant: -DWEIGHT=1
// variant: -DWEIGHT=2
// The halves of a block over plain weights.
//
// The loads of one batch are on their way while the last is multiplied; the first are sent before the
// kernel waits for the one before it, since nobody writes weights.
#include "segment.cuh"

#define BLOCKS(M) 2
#if WEIGHT == 0
#define EACH 4
#define SIZE 4
#else
#define EACH 8
#define SIZE 2
#endif
// Loads of a row on their way at once; more rows of x take their registers.
#define AHEAD (M == 1 ? 4 : M == 2 ? 2 : 1)

__device__ __forceinline__ u32 row_bytes(const Segment &p, u32) { return p.k * SIZE; }

__device__ __forceinline__ void widen(uint4 bits, float *out) {
    const u32 words[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
    for (int w = 0; w < 4; w++) {
#if WEIGHT == 0
        out[w] = __uint_as_float(words[w]);
#elif WEIGHT == 1
        out[2 * w] = f16_to_f32((u16)words[w]), out[2 * w + 1] = f16_to_f32((u16)(words[w] >> 16));
#else
        out[2 * w] = bf16_to_f32((u16)words[w]), out[2 * w + 1] = bf16_to_f32((u16)(words[w] >> 16));
#endif
    }
}

// Sixteen bytes of weights, wherever they start.
__device__ __forceinline__ uint4 load16(const u8 *at, bool aligned) {
    if (aligned) return __ldg((const uint4 *)at);
    const u16 *halves = (const u16 *)at;
    u32 words[4];
#pragma unroll
    for (int i = 0; i < 4; i++) words[i] = (u32)halves[2 * i] | (u32)halves[2 * i + 1] << 16;
    return make_uint4(words[0], words[1], words[2], words[3]);
}

template <int M, typename PairOf, typename Prepare, typename Finish>
__device__ __forceinline__ void walk(
    const Segment &p, PairOf pair_of, Prepare prepare, Finish finish) {
    const u32 warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, part = warp % p.split;
    const u32 each = WARPS / p.split, stride = gridDim.x * each;
    const u32 rounds = (p.pairs + stride - 1) / stride;
    const u32 step = p.split * WARP * EACH;
    const u32 batches = (p.k + AHEAD * step - 1) / (AHEAD * step);
    const u32 first = first_pair(p), start = (part * WARP + lane) * EACH;
    auto load = [&](u32 index, u32 e, uint4(&bits)[AHEAD][2]) {
        if (index >= p.pairs) return;
        const Pair pair = pair_of(index);
#pragma unroll
        for (int a = 0; a < AHEAD; a++)
            if (e + a * step < p.k)
#pragma unroll
                for (int r = 0; r < 2; r++)
                    bits[a][r] = load16(pair.rows[r] + (u64)(e + a * step) * SIZE, p.aligned);
    };
    uint4 bits[AHEAD][2];
    load(first, start, bits);
    const float *input = prepare();
    float sums[2][M] = {};
    u32 index = first, batch = 0, e = start;
    for (u32 left = rounds * batches; left > 0; left--) {
        const bool last = batch + 1 == batches;
        const u32 next_index = last ? index + stride : index;
        const u32 next_e = last ? start : e + AHEAD * step;
        uint4 next[AHEAD][2];
        if (left > 1) load(next_index, next_e, next);
        if (index < p.pairs) {
#pragma unroll
            for (int a = 0; a < AHEAD; a++) {
                const u32 at = e + a * step;
                if (at < p.k) {
                    float w[2][EACH];
                    widen(bits[a][0], w[0]);
                    widen(bits[a][1], w[1]);
#pragma unroll
                    for (int m = 0; m < M; m++) {
                        const float4 *x = (const float4 *)(input + (m < p.m ? m : 0) * p.k + at);
#pragma unroll
                        for (int q = 0; q < EACH / 4; q++) {
                            const float4 v = x[q];
#pragma unroll
                            for (int r = 0; r < 2; r++)
                                sums[r][m] += w[r][4 * q] * v.x + w[r][4 * q + 1] * v.y +
                                              w[r][4 * q + 2] * v.z + w[r][4 * q + 3] * v.w;
                        }
                    }
                }
            }
        }
        if (last) settle<M>(p, sums, index, pair_of, finish);
#pragma unroll
        for (int a = 0; a < AHEAD; a++) bits[a][0] = next[a][0], bits[a][1] = next[a][1];
        batch = last ? 0 : batch + 1;
        index = next_index, e = next_e;
    }
}

KERNELS(norm_qkv)
KERNELS(norm_gate_up)
KERNELS(project)
