// variant: -DWEIGHT=0
// variant: -DWEIGHT=1
// variant: -DWEIGHT=2
// variant: -DWEIGHT=5
// variant: -DWEIGHT=6
// variant: -DWEIGHT=7
// variant: -DWEIGHT=8
// variant: -DWEIGHT=9
// variant: -DWEIGHT=10
// variant: -DWEIGHT=11
// variant: -DWEIGHT=12
// variant: -DWEIGHT=13
// variant: -DWEIGHT=14
// variant: -DWEIGHT=15
// variant: -DWEIGHT=16
// out = x W^T + bias for a few rows of x: W is read once, x stays f32.
//
// A warp works on ROWS rows of W at once, and `split` warps of a block share them. Plain weights come
// straight into registers, 16 bytes a lane and eight loads ahead. Rows of blocks start at any byte, so
// a warp copies the aligned 16-byte words around a piece of its row into shared memory, one piece
// ahead of the one it multiplies, and reads blocks there.
#include "blocks.cuh"

struct Gemv {
    const float *x;      // [m, k]
    const u8 *weight;    // [n, k], stored
    const float *bias;   // [n] or null
    float *out;          // [m, n]
    u64 row_bytes;
    u32 n;
    u32 k;
    u32 m;
    u32 split;  // warps that share a row: 1, 2 or 4
};

#define WARPS 4
#define THREADS (WARPS * WARP)

// Adds up what the warps of a row have, and writes it.
template <int M, int ROWS>
__device__ __forceinline__ void finish(const Gemv &p, float (&sums)[ROWS][M], u32 first, u32 part) {
    __shared__ float shared[WARPS][ROWS][M];
    const u32 warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
#pragma unroll
    for (int r = 0; r < ROWS; r++)
#pragma unroll
        for (int m = 0; m < M; m++) {
            sums[r][m] = warp_sum(sums[r][m]);
            if (lane == 0) shared[warp][r][m] = sums[r][m];
        }
    __syncthreads();
    if (part != 0 || lane >= ROWS * M) return;
    const u32 r = lane / M, m = lane % M;
    if (first + r >= p.n || m >= p.m) return;
    float sum = p.bias ? p.bias[first + r] : 0.0f;
    for (u32 other = 0; other < p.split; other++) sum += shared[warp + other][r][m];
    p.out[(u64)m * p.n + first + r] = sum;
}

#if WEIGHT <= 2

#if WEIGHT == 0
#define EACH 4
#else
#define EACH 8
#endif

// The numbers in 16 bytes.
__device__ __forceinline__ void widen(uint4 bits, float *out) {
    const u32 words[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
    for (int w = 0; w < 4; w++) {
#if WEIGHT == 0
        out[w] = __uint_as_float(words[w]);
#elif WEIGHT == 1
        out[2 * w] = f16_to_f32((u16)words[w]), out[2 * w + 1] = f16_to_f32((u16)(words[w] >> 16));
#else
        out[2 * w] = __uint_as_float(words[w] << 16);
        out[2 * w + 1] = __uint_as_float(words[w] & 0xffff0000u);
#endif
    }
}

// Loads on their way at once; more rows of x take their registers.
#define AHEAD (M == 1 ? 8 : M == 2 ? 4 : 2)

// Adds the products of 16 bytes of each row with the numbers of x from e on.
template <int M, int ROWS>
__device__ __forceinline__ void add_products(
    const Gemv &p, const uint4 (&bits)[ROWS], u32 e, float (&sums)[ROWS][M]) {
    float w[ROWS][EACH];
#pragma unroll
    for (int r = 0; r < ROWS; r++) widen(bits[r], w[r]);
#pragma unroll
    for (int m = 0; m < M; m++) {
        const float4 *x = (const float4 *)(p.x + (u64)(m < p.m ? m : 0) * p.k + e);
#pragma unroll
        for (int q = 0; q < EACH / 4; q++) {
            const float4 v = __ldg(x + q);
#pragma unroll
            for (int r = 0; r < ROWS; r++)
                sums[r][m] += w[r][4 * q] * v.x + w[r][4 * q + 1] * v.y + w[r][4 * q + 2] * v.z +
                              w[r][4 * q + 3] * v.w;
        }
    }
}

template <int M, int ROWS> __device__ __forceinline__ void gemv(const Gemv &p) {
    const u32 warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, part = warp % p.split;
    const u32 first = (blockIdx.x * (WARPS / p.split) + warp / p.split) * ROWS;
    const u32 size = WEIGHT == 0 ? 4 : 2;
    float sums[ROWS][M] = {};
    if (first < p.n) {
        const u8 *rows[ROWS];
#pragma unroll
        for (int r = 0; r < ROWS; r++)
            rows[r] = p.weight + (u64)(first + r < p.n ? first + r : first) * p.row_bytes;
        // Sixteen bytes at once need aligned rows of both operands.
        const bool aligned = (((u64)p.weight | p.row_bytes | (u64)p.x | (u64)p.k * 4) & 15) == 0;
        if (aligned) {
            // Eight loads a lane are on their way before the first is used.
            const u32 step = p.split * WARP * EACH;
            for (u32 e = (part * WARP + lane) * EACH; e < p.k; e += AHEAD / ROWS * step) {
                uint4 bits[AHEAD / ROWS][ROWS];
#pragma unroll
                for (u32 a = 0; a < AHEAD / ROWS; a++)
                    if (e + a * step < p.k)
#pragma unroll
                        for (int r = 0; r < ROWS; r++)
                            bits[a][r] = __ldg((const uint4 *)(rows[r] + (u64)(e + a * step) * size));
#pragma unroll
                for (u32 a = 0; a < AHEAD / ROWS; a++)
                    if (e + a * step < p.k) add_products<M, ROWS>(p, bits[a], e + a * step, sums);
            }
        } else {
            for (u32 e = part * WARP + lane; e < p.k; e += p.split * WARP)
#pragma unroll
                for (int r = 0; r < ROWS; r++) {
#if WEIGHT == 0
                    const float w = ((const float *)rows[r])[e];
#elif WEIGHT == 1
                    const float w = f16_to_f32(((const u16 *)rows[r])[e]);
#else
                    const float w = bf16_to_f32(((const u16 *)rows[r])[e]);
#endif
#pragma unroll
                    for (int m = 0; m < M; m++)
                        sums[r][m] += w * p.x[(u64)(m < p.m ? m : 0) * p.k + e];
                }
        }
    }
    finish(p, sums, first, part);
}

#else

typedef Format<WEIGHT> F;
// Elements of a piece: whole blocks, and eight for each lane in each of its rounds.
#define PIECE 1024
#define PIECE_BYTES (PIECE / F::LEN * F::BYTES)
// The aligned words around a piece.
#define STAGE_BYTES ((PIECE_BYTES + 15) / 16 * 16 + 16)

__device__ __forceinline__ void copy16(u32 to, const u8 *from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from));
}

template <int M, int ROWS> __device__ __forceinline__ void gemv(const Gemv &p) {
    __shared__ __align__(16) u8 stages[WARPS][2][ROWS][STAGE_BYTES];
    const u32 warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, part = warp % p.split;
    const u32 first = (blockIdx.x * (WARPS / p.split) + warp / p.split) * ROWS;
    float sums[ROWS][M] = {};
    if (first < p.n) {
        const u8 *rows[ROWS];
#pragma unroll
        for (int r = 0; r < ROWS; r++)
            rows[r] = p.weight + (u64)(first + r < p.n ? first + r : first) * p.row_bytes;
        const u32 pieces = (p.k + PIECE - 1) / PIECE;
        // Copies the words that hold piece `piece`. They stay inside the weight's buffer, which
        // starts and ends at multiples of 16 bytes.
        auto fetch = [&](u32 piece, u32 stage) {
            if (piece < pieces) {
#pragma unroll
                for (int r = 0; r < ROWS; r++) {
                    const u64 offset = (u64)piece * PIECE_BYTES;
                    const u64 left = p.row_bytes - offset;
                    const u64 bytes = left < PIECE_BYTES ? left : PIECE_BYTES;
                    const u64 start = (u64)(rows[r] + offset), end = start + bytes;
                    const u64 base = start & ~15ull;
                    const u32 to = (u32)__cvta_generic_to_shared(stages[warp][stage][r]);
                    for (u64 at = base + 16 * lane; at < end; at += 16 * WARP)
                        copy16(to + (u32)(at - base), (const u8 *)at);
                }
            }
            asm volatile("cp.async.commit_group;");
        };
        u32 stage = 0;
        fetch(part, 0);
        for (u32 piece = part; piece < pieces; piece += p.split, stage ^= 1) {
            fetch(piece + p.split, stage ^ 1);
            asm volatile("cp.async.wait_group 1;");
            __syncwarp();
            const u32 start = piece * PIECE;
            const u32 count = p.k - start < PIECE ? p.k - start : PIECE;
            for (u32 e = 8 * lane; e < count; e += 8 * WARP) {
                float w[ROWS][8], scale[ROWS], minimum[ROWS];
#pragma unroll
                for (int r = 0; r < ROWS; r++) {
                    const u32 skew = (u32)(u64)(rows[r] + (u64)piece * PIECE_BYTES) & 15;
                    const u8 *block = stages[warp][stage][r] + skew + e / F::LEN * F::BYTES;
                    const Eight eight = F::read(block, e % F::LEN);
                    scale[r] = eight.scale, minimum[r] = eight.minimum;
#pragma unroll
                    for (int i = 0; i < 8; i++) w[r][i] = number<F::OFFSET>(eight, i);
                }
#pragma unroll
                for (int m = 0; m < M; m++) {
                    const float *x = p.x + (u64)(m < p.m ? m : 0) * p.k + start + e;
                    float v[8];
                    if (((u64)x & 15) == 0) {
                        const float4 a = __ldg((const float4 *)x), b = __ldg((const float4 *)x + 1);
                        v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w;
                        v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
                    } else {
#pragma unroll
                        for (int i = 0; i < 8; i++) v[i] = x[i];
                    }
                    float all = 0;
                    if (F::HAS_MIN)
#pragma unroll
                        for (int i = 0; i < 8; i++) all += v[i];
#pragma unroll
                    for (int r = 0; r < ROWS; r++) {
                        float sum = 0;
#pragma unroll
                        for (int i = 0; i < 8; i++) sum += w[r][i] * v[i];
                        sums[r][m] += scale[r] * sum;
                        if (F::HAS_MIN) sums[r][m] += minimum[r] * all;
                    }
                }
            }
            // The stage is written again two pieces on.
            __syncwarp();
        }
        asm volatile("cp.async.wait_all;");
    }
    finish(p, sums, first, part);
}

#endif

#define KERNEL(M, ROWS)                                                                   \
    extern "C" __global__ void __launch_bounds__(THREADS, M <= 2 ? 6 : 4)                   \
        gemv_##M##x##ROWS(const __grid_constant__ Gemv p) {                               \
        gemv<M, ROWS>(p);                                                                 \
    }

KERNEL(1, 1)
KERNEL(1, 2)
KERNEL(2, 1)
KERNEL(4, 1)
KERNEL(8, 1)
