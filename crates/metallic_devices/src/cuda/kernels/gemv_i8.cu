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
// out = x W^T + bias for a few rows of x, with x rounded to 8 bits per 32 elements: four products an
// instruction, so that quantised weights stream at the memory's rate.
//
// A block rounds x into shared memory once, then walks over rows of W. A warp takes ROWS rows at once
// (`split` warps share them where rows are few), and copies the aligned words around each piece into
// shared memory STAGES - 1 pieces ahead, on into its next rows.
#include "blocks_i8.cuh"

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

typedef Format<WEIGHT> F;
#define WARPS 8
#define THREADS (WARPS * WARP)
// Elements of a piece: 32 for each lane.
#define PIECE 1024
#define PIECE_BYTES (PIECE / F::LEN * F::BYTES)
// The aligned words around a piece, and a word that `words_at` may look at.
#define STAGE_BYTES ((PIECE_BYTES + 15) / 16 * 16 + 16)
// Pieces in shared memory at once. The memory answers after about a microsecond, so a multiprocessor
// wants some 40 KiB on their way; the host counts on this rule (`linear.rs`).
#define STAGES (PIECE_BYTES > 768 ? 3 : 4)

template <int M, int ROWS> __device__ __forceinline__ void gemv(const Gemv &p) {
    extern __shared__ __align__(16) u8 shared[];
    __shared__ float parts[WARPS][ROWS][M];
    const u32 warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const u32 part = warp % p.split, groups = p.k / 32;
    const Rounded x(shared, groups);
    // [STAGES][ROWS][STAGE_BYTES] of this warp.
    u8 *stages = shared + M * groups * 48 + warp * (STAGES * ROWS * STAGE_BYTES);

    const u32 each = WARPS / p.split * ROWS;  // rows of a block at once
    const u32 rounds = (p.n - blockIdx.x * each + gridDim.x * each - 1) / (gridDim.x * each);
    const u32 pieces = (p.k + PIECE - 1) / PIECE;
    const u32 mine = pieces > part ? (pieces - part + p.split - 1) / p.split : 0;
    auto first_row = [&](u32 round) {
        return (round * gridDim.x + blockIdx.x) * each + warp / p.split * ROWS;
    };
    auto row_start = [&](u32 round, int r) {
        const u32 row = first_row(round) + r;
        return (u64)p.weight + (u64)(row < p.n ? row : p.n - 1) * p.row_bytes;
    };
    // Where the copies are: the next round and piece, and the stage they go to.
    u32 next_round = 0, next = 0, next_stage = 0;
    const u32 to = (u32)__cvta_generic_to_shared(stages) + 16 * lane;
    // Copies the words that hold the next pieces. They stay inside the weight's buffer, which starts
    // and ends at multiples of 16 bytes.
    auto fetch = [&]() {
        if (next_round < rounds && next < mine) {
            const u32 offset = (part + next * p.split) * PIECE_BYTES;
            const u32 left = (u32)p.row_bytes - offset;
            const u32 bytes = left < PIECE_BYTES ? left : PIECE_BYTES;
#pragma unroll
            for (int r = 0; r < ROWS; r++) {
                const u64 start = row_start(next_round, r) + offset;
                const u32 skew = F::BYTES % 16 ? (u32)start & 15 : 0;
                const u8 *from = (const u8 *)(start - skew) + 16 * lane;
                const u32 stage = to + (next_stage * ROWS + r) * STAGE_BYTES;
#pragma unroll
                for (u32 at = 0; at < STAGE_BYTES; at += 16 * WARP)
                    if (at + 16 * lane < skew + bytes) copy16(stage + at, from + at);
            }
            next_stage = next_stage + 1 == STAGES ? 0 : next_stage + 1;
            if (++next == mine) next = 0, next_round++;
        }
        asm volatile("cp.async.commit_group;");
    };
#pragma unroll
    for (u32 step = 0; step < STAGES - 1; step++) fetch();

    x.round<M, THREADS>(p.x, p.m);
    __syncthreads();

    u32 stage = 0;
    for (u32 round = 0; round < rounds; round++) {
        float sums[ROWS][M] = {};
        u32 starts[ROWS];
#pragma unroll
        for (int r = 0; r < ROWS; r++) starts[r] = (u32)row_start(round, r);
        for (u32 i = 0; i < mine; i++) {
            fetch();
            asm volatile("cp.async.wait_group %0;" ::"n"(STAGES - 1));
            __syncwarp();
            const u32 piece = part + i * p.split, e = piece * PIECE + 32 * lane, g = e / 32;
            if (e < p.k) {
                ThirtyTwo w[ROWS];
#pragma unroll
                for (int r = 0; r < ROWS; r++) {
                    const u32 skew = F::BYTES % 16 ? (starts[r] + piece * PIECE_BYTES) & 15 : 0;
                    const u8 *block = stages + (stage * ROWS + r) * STAGE_BYTES + skew +
                                      32 * lane / F::LEN * F::BYTES;
                    w[r] = read32<WEIGHT>(block, 32 * lane % F::LEN);
                }
#pragma unroll
                for (int m = 0; m < M; m++) {
                    const RoundedGroup y = x.at<M>(m, g);
#pragma unroll
                    for (int r = 0; r < ROWS; r++) sums[r][m] += product32<WEIGHT>(w[r], y);
                }
            }
            // The stage is written again in the next step.
            __syncwarp();
            stage = stage + 1 == STAGES ? 0 : stage + 1;
        }
        const u32 first = first_row(round);
#pragma unroll
        for (int r = 0; r < ROWS; r++)
#pragma unroll
            for (int m = 0; m < M; m++) {
                const float sum = warp_sum(sums[r][m]);
                if (p.split > 1) {
                    if (lane == 0) parts[warp][r][m] = sum;
                } else if (lane == 0 && first + r < p.n && m < p.m) {
                    const float bias = p.bias ? p.bias[first + r] : 0.0f;
                    p.out[(u64)m * p.n + first + r] = sum + bias;
                }
            }
        if (p.split > 1) {
            __syncthreads();
            if (part == 0 && lane < ROWS * M) {
                const u32 r = lane / M, m = lane % M;
                if (first + r < p.n && m < p.m) {
                    float sum = p.bias ? p.bias[first + r] : 0.0f;
                    for (u32 other = 0; other < p.split; other++) sum += parts[warp + other][r][m];
                    p.out[(u64)m * p.n + first + r] = sum;
                }
            }
            __syncthreads();
        }
    }
    asm volatile("cp.async.wait_all;");
}

#define KERNEL(M, ROWS)                                                                   \
    extern "C" __global__ void __launch_bounds__(THREADS, M == 1 ? 3 : 2)                   \
        gemv_i8_##M##x##ROWS(const __grid_constant__ Gemv p) {                            \
        gemv<M, ROWS>(p);                                                                 \
    }

KERNEL(1, 1)
KERNEL(1, 2)
KERNEL(2, 1)
KERNEL(4, 1)
