// variant: any
// variant: -DWEIGHT=5 -DLAST=5
// variant: -DWEIGHT=6 -DLAST=6
// variant: -DWEIGHT=8 -DLAST=8
// variant: -DWEIGHT=8 -DLAST=5
// variant: -DWEIGHT=12 -DLAST=12
// variant: -DWEIGHT=12 -DLAST=14
// variant: -DWEIGHT=14 -DLAST=14
// The halves of a block over quantised weights, with activations rounded to 8 bits per 32 elements.
// WEIGHT is the type of the weights, LAST that of v.
//
// A block rounds its input into shared memory once. A warp copies the aligned words around each piece
// of its two rows into shared memory STAGES - 1 pieces ahead, on into its next rows; the first ones
// before the kernel waits for the one before it, since nobody writes weights.
#include "blocks.cuh"
#include "blocks_i8.cuh"
#include "segment.cuh"

#define BLOCKS(M) (M == 1 ? 3 : 2)
// Elements of a piece: 32 for each lane.
#define PIECE 1024

template <int DTYPE> struct Piece {
    static const u32 BYTES = PIECE / Format<DTYPE>::LEN * Format<DTYPE>::BYTES;
};
#define PIECE_BYTES (Piece<WEIGHT>::BYTES > Piece<LAST>::BYTES ? Piece<WEIGHT>::BYTES : Piece<LAST>::BYTES)
// The aligned words around a piece, and a word that `words_at` may look at.
#define STAGE_BYTES ((PIECE_BYTES + 15) / 16 * 16 + 16)
// Pieces in shared memory at once; the host counts on this rule.
#define STAGES (PIECE_BYTES > 768 ? 3 : 4)

template <int DTYPE> __device__ __forceinline__ u32 bytes_of(u32 k) {
    return k / Format<DTYPE>::LEN * Format<DTYPE>::BYTES;
}

__device__ __forceinline__ u32 row_bytes(const Segment &p, u32 which) {
    return which == 2 ? bytes_of<LAST>(p.k) : bytes_of<WEIGHT>(p.k);
}

// Copies the words that hold piece `piece` of both rows to `stage`. They stay inside the weight's
// buffer, which starts and ends at multiples of 16 bytes.
template <int DTYPE>
__device__ __forceinline__ void fetch(const Pair &pair, u32 k, u32 piece, u32 stage) {
    const u32 lane = threadIdx.x % WARP, whole = Piece<DTYPE>::BYTES, offset = piece * whole;
    const u32 left = bytes_of<DTYPE>(k) - offset;
    const u32 bytes = left < whole ? left : whole;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const u64 start = (u64)pair.rows[r] + offset;
        const u32 skew = (u32)start & 15;
        const u8 *from = (const u8 *)(start - skew) + 16 * lane;
#pragma unroll
        for (u32 at = 0; at < STAGE_BYTES; at += 16 * WARP)
            if (at + 16 * lane < skew + bytes) copy16(stage + r * STAGE_BYTES + at + 16 * lane, from + at);
    }
}

// Adds the products of this lane's 32 elements of a piece.
template <int DTYPE, int M>
__device__ __forceinline__ void multiply(
    const Pair &pair, u32 piece, const u8 *stage, const Rounded &x, float (&sums)[2][M]) {
    typedef Format<DTYPE> F;
    const u32 lane = threadIdx.x % WARP, group = (piece * PIECE) / 32 + lane;
    if (group >= x.groups) return;
    ThirtyTwo w[2];
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const u32 skew = ((u32)(u64)pair.rows[r] + piece * Piece<DTYPE>::BYTES) & 15;
        w[r] = read32<DTYPE>(stage + r * STAGE_BYTES + skew + 32 * lane / F::LEN * F::BYTES,
                             32 * lane % F::LEN);
    }
#pragma unroll
    for (int m = 0; m < M; m++) {
        const RoundedGroup y = x.at<M>(m, group);
#pragma unroll
        for (int r = 0; r < 2; r++) sums[r][m] += product32<DTYPE>(w[r], y);
    }
}

template <int M, typename PairOf, typename Prepare, typename Finish>
__device__ __forceinline__ void walk(
    const Segment &p, PairOf pair_of, Prepare prepare, Finish finish) {
    extern __shared__ __align__(16) u8 shared[];
    const u32 warp = threadIdx.x / WARP, part = warp % p.split;
    const u32 each = WARPS / p.split, stride = gridDim.x * each;
    const u32 rounds = (p.pairs + stride - 1) / stride;
    const u32 first = first_pair(p);
    const u32 pieces = (p.k + PIECE - 1) / PIECE;
    const u32 mine = pieces > part ? (pieces - part + p.split - 1) / p.split : 0;
    const Rounded x(shared + p.codes_at, p.k / 32);
    // [STAGES][2][STAGE_BYTES] of this warp.
    const u8 *stages = shared + p.codes_at + M * x.groups * 48 + warp * (STAGES * 2 * STAGE_BYTES);
    const u32 to = (u32)__cvta_generic_to_shared(stages);
    // Where the copies are: the next pair and piece, and the stage they go to.
    u32 next_round = 0, next = 0, next_stage = 0;
    auto fetch_next = [&]() {
        const u32 index = first + next_round * stride;
        if (next_round < rounds && next < mine) {
            if (index < p.pairs) {
                const Pair pair = pair_of(index);
                const u32 piece = part + next * p.split, stage = to + next_stage * 2 * STAGE_BYTES;
                if (WEIGHT != LAST && pair.which == 2) fetch<LAST>(pair, p.k, piece, stage);
                else fetch<WEIGHT>(pair, p.k, piece, stage);
            }
            next_stage = next_stage + 1 == STAGES ? 0 : next_stage + 1;
            if (++next == mine) next = 0, next_round++;
        }
        asm volatile("cp.async.commit_group;");
    };
#pragma unroll
    for (u32 step = 0; step < STAGES - 1; step++) fetch_next();

    x.round<M, THREADS>(prepare(), p.m);
    __syncthreads();

    u32 stage = 0;
    for (u32 round = 0; round < rounds; round++) {
        float sums[2][M] = {};
        const u32 index = first + round * stride;
        for (u32 i = 0; i < mine; i++) {
            fetch_next();
            asm volatile("cp.async.wait_group %0;" ::"n"(STAGES - 1));
            __syncwarp();
            if (index < p.pairs) {
                const Pair pair = pair_of(index);
                const u32 piece = part + i * p.split;
                const u8 *from = stages + stage * 2 * STAGE_BYTES;
                if (WEIGHT != LAST && pair.which == 2) multiply<LAST, M>(pair, piece, from, x, sums);
                else multiply<WEIGHT, M>(pair, piece, from, x, sums);
            }
            // The stage is written again in the next step.
            __syncwarp();
            stage = stage + 1 == STAGES ? 0 : stage + 1;
        }
        settle<M>(p, sums, index, pair_of, finish);
    }
    asm volatile("cp.async.wait_all;");
}

KERNELS(norm_qkv)
#if WEIGHT == LAST
KERNELS(norm_gate_up)
KERNELS(project)
#endif
