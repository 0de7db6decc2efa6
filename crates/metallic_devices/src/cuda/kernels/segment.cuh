// The halves of a block for a few rows, two products a half:
//
//   norm_qkv      q, k, v = W norm(x + pending) + b; q and k turned; k and v into their caches
//   norm_gate_up  out = silu(G n + g) * (U n + u) with n = norm(x + pending)
//   project       out = W y + b; x += pending, which all readers of x are done with by then
//
// A warp takes two rows of W at once (those that turn together, or a gate with what it gates), and
// `split` warps of a block share them where rows are few. The grid walks over all pairs, so that the
// norm is taken once a block; neighbouring pairs go to neighbouring blocks, so that each has equally
// many. How a walk multiplies is the including file's: plain weights or quantised ones.
#pragma once
#include "early.cuh"
#include "numbers.cuh"

struct Segment {
    float *x;              // [m, hidden], the stream
    const float *pending;  // [m, hidden] or null
    const float *norm;     // [k]
    const float *input;    // [m, k] of `project`
    const u8 *weights[3];  // q, k, v; gate, up; or one
    const float *biases[3];
    float *out;  // [m, q_width], [m, ffn] or [m, hidden]
    const float *cos;  // [m, pairs]
    const float *sin;
    const i32 *starts;  // [sequences]
    Fault *fault;
    View caches[2];  // [sequences, kv_heads, kv_len, dim]
    u32 widths[3];   // rows of each weight
    u32 dims[2];     // width of a key and of a value
    u32 m;
    u32 k;
    u32 pairs;  // of rows of W
    u32 split;
    u32 len;  // rows of one sequence
    u32 interleaved;
    u32 aligned;  // weights start at multiples of 16 bytes
    float eps;
    u32 codes_at;  // where rounded inputs lie in shared memory, in bytes
};

#define WARPS 8
#define THREADS (WARPS * WARP)

// Two rows of W and where they belong.
struct Pair {
    const u8 *rows[2];
    u32 which;      // of the weights
    u32 first, second;  // rows of it
    u32 turn;       // pair of the head
};

// Asks for what nobody writes before it is needed.
__device__ __forceinline__ void prefetch(const void *at) {
    asm volatile("prefetch.global.L2 [%0];" ::"l"(at));
}

// Sums of squares of the rows of x + pending, by warp.
typedef float Squares[WARPS];

// (x + pending) * norm of every row, into shared memory, and the squares that it is to be scaled by:
// products are linear, so their sums are scaled instead.
template <int M>
__device__ __forceinline__ void take_norm(const Segment &p, float *normed, Squares (&squares)[M]) {
    // Loads on their way at once.
    const int ahead = 4;
    for (u32 line = threadIdx.x; line < p.k / 32; line += THREADS) prefetch(p.norm + 32 * line);
    wait_for_inputs();
    for (int m = 0; m < M; m++) {
        float *row = normed + m * p.k;
        const u64 from = (u64)(m < p.m ? m : 0) * p.k;
        float sum = 0;
        for (u32 first = threadIdx.x; first < p.k; first += ahead * THREADS) {
            float value[ahead], norm[ahead];
#pragma unroll
            for (int a = 0; a < ahead; a++) {
                const u32 i = first + a * THREADS;
                value[a] = i < p.k ? p.x[from + i] : 0.0f;
                norm[a] = i < p.k ? p.norm[i] : 0.0f;
            }
            if (p.pending)
#pragma unroll
                for (int a = 0; a < ahead; a++) {
                    const u32 i = first + a * THREADS;
                    if (i < p.k) value[a] += p.pending[from + i];
                }
#pragma unroll
            for (int a = 0; a < ahead; a++) {
                const u32 i = first + a * THREADS;
                if (i < p.k) row[i] = value[a] * norm[a];
                sum += value[a] * value[a];
            }
        }
        sum = warp_sum(sum);
        if (threadIdx.x % WARP == 0) squares[m][threadIdx.x / WARP] = sum;
    }
    __syncthreads();
}

// What sums over a row are to be multiplied by.
__device__ __forceinline__ float scale_of(const Segment &p, const Squares &squares) {
    float sum = 0;
#pragma unroll
    for (int warp = 0; warp < WARPS; warp++) sum += squares[warp];
    return 1.0f / sqrtf(sum / (float)p.k + p.eps);
}

// The first pair of this warp; the next one is as many on as the grid takes at once.
__device__ __forceinline__ u32 first_pair(const Segment &p) {
    return threadIdx.x / WARP / p.split * gridDim.x + blockIdx.x;
}

// Bytes of a row of weight `which`.
__device__ __forceinline__ u32 row_bytes(const Segment &p, u32 which);

// Walks over all pairs. `pair_of` says which rows pair i is, `prepare` gives the input once what it
// reads is written, `finish` is called with both sums of row m by the lane that owns them.
template <int M, typename PairOf, typename Prepare, typename Finish>
__device__ __forceinline__ void walk(
    const Segment &p, PairOf pair_of, Prepare prepare, Finish finish);

// Adds up what the lanes and the warps of a pair have; every warp of the block calls it.
template <int M, typename PairOf, typename Finish>
__device__ __forceinline__ void settle(
    const Segment &p, float (&sums)[2][M], u32 index, PairOf pair_of, Finish finish) {
    __shared__ float shared_sums[WARPS][2][M];
    const u32 warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, part = warp % p.split;
    float mine[2] = {};
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const float sum = warp_sum(sums[r][m]);
            if (lane == m) mine[r] = sum;
            sums[r][m] = 0;
        }
    if (p.split > 1) {
        if (lane < M) shared_sums[warp][0][lane] = mine[0], shared_sums[warp][1][lane] = mine[1];
        __syncthreads();
        if (part == 0 && lane < M) {
            mine[0] = mine[1] = 0;
            for (u32 other = 0; other < p.split; other++) {
                mine[0] += shared_sums[warp + other][0][lane];
                mine[1] += shared_sums[warp + other][1][lane];
            }
        }
        __syncthreads();
    }
    if (index < p.pairs && part == 0 && lane < M && lane < p.m)
        finish(pair_of(index), lane, mine[0], mine[1]);
}

__device__ __forceinline__ float biased(const Segment &p, u32 which, u32 row, float sum) {
    return p.biases[which] ? sum + p.biases[which][row] : sum;
}

// Two rows `first` and `second` of weight `which`.
__device__ __forceinline__ Pair rows_of(const Segment &p, u32 which, u32 first, u32 second) {
    Pair pair;
    pair.which = which, pair.first = first, pair.second = second, pair.turn = 0;
    pair.rows[0] = p.weights[which] + (u64)first * row_bytes(p, which);
    pair.rows[1] = p.weights[which] + (u64)second * row_bytes(p, which);
    return pair;
}

// Pair i of a weight of `width` rows: neighbours, or the last row alone.
__device__ __forceinline__ Pair neighbours(const Segment &p, u32 which, u32 i) {
    const u32 second = 2 * i + 1 < p.widths[which] ? 2 * i + 1 : 2 * i;
    return rows_of(p, which, 2 * i, second);
}

__device__ __forceinline__ void store_cached(const View &cache, char *row, u32 d, float value) {
    if (cache.dtype == DTYPE_F32) ((float *)row)[d] = value;
    if (cache.dtype == DTYPE_F16) ((u16 *)row)[d] = f32_to_f16(value);
    if (cache.dtype == DTYPE_BF16) ((u16 *)row)[d] = f32_to_bf16(value);
}

template <int M> __device__ __forceinline__ void norm_qkv(const Segment &p) {
    extern __shared__ __align__(16) float normed[];
    __shared__ Squares squares[M];
    const u32 half = p.dims[0] / 2;
    auto pair_of = [&](u32 i) {
        const u32 q_pairs = p.widths[0] / 2, k_pairs = p.widths[1] / 2;
        if (i >= q_pairs + k_pairs) return neighbours(p, 2, i - q_pairs - k_pairs);
        const u32 which = i < q_pairs ? 0 : 1, at = i < q_pairs ? i : i - q_pairs;
        const u32 head = at / half, turn = at % half, base = head * p.dims[0];
        Pair pair = p.interleaved ? rows_of(p, which, base + 2 * turn, base + 2 * turn + 1)
                                  : rows_of(p, which, base + turn, base + turn + half);
        pair.turn = turn;
        return pair;
    };
    auto prepare = [&]() {
        if (first_pair(p) < p.pairs && threadIdx.x % WARP < 2) {
            const Pair pair = pair_of(first_pair(p));
            const u32 row = threadIdx.x % WARP == 0 ? pair.first : pair.second;
            if (p.biases[pair.which]) prefetch(p.biases[pair.which] + row);
        }
        take_norm<M>(p, normed, squares);
        return normed;
    };
    auto finish = [&](const Pair &pair, u32 m, float a, float b) {
        const float scale = scale_of(p, squares[m]);
        a = biased(p, pair.which, pair.first, a * scale);
        b = biased(p, pair.which, pair.second, b * scale);
        if (pair.which < 2) {
            const float cos = p.cos[m * half + pair.turn], sin = p.sin[m * half + pair.turn];
            const float turned = a * cos - b * sin;
            b = a * sin + b * cos, a = turned;
        }
        if (pair.which == 0) {
            float *q = p.out + (u64)m * p.widths[0];
            q[pair.first] = a, q[pair.second] = b;
            return;
        }
        const View &cache = p.caches[pair.which - 1];
        const u32 dim = p.dims[pair.which - 1], sequence = m / p.len;
        const i32 start = p.starts[sequence];
        if (start < 0 || (i64)start + p.len > cache.shape[2]) {
            report(p.fault, FAULT_POSITION, start, cache.shape[2]);
            return;
        }
        const i64 position = start + m % p.len;
        store_cached(cache, row_of(cache, sequence, pair.first / dim, position), pair.first % dim, a);
        store_cached(cache, row_of(cache, sequence, pair.second / dim, position), pair.second % dim, b);
    };
    walk<M>(p, pair_of, prepare, finish);
}

template <int M> __device__ __forceinline__ void norm_gate_up(const Segment &p) {
    extern __shared__ __align__(16) float normed[];
    __shared__ Squares squares[M];
    auto pair_of = [&](u32 i) {
        Pair pair = rows_of(p, 0, i, i);
        pair.rows[1] = p.weights[1] + (u64)i * row_bytes(p, 1);
        return pair;
    };
    auto prepare = [&]() {
        take_norm<M>(p, normed, squares);
        return normed;
    };
    auto finish = [&](const Pair &pair, u32 m, float a, float b) {
        const float scale = scale_of(p, squares[m]);
        const float gate = biased(p, 0, pair.first, a * scale);
        const float up = biased(p, 1, pair.first, b * scale);
        p.out[(u64)m * p.widths[0] + pair.first] = gate / (1.0f + expf(-gate)) * up;
    };
    walk<M>(p, pair_of, prepare, finish);
}

template <int M> __device__ __forceinline__ void project(const Segment &p) {
    auto pair_of = [&](u32 i) { return neighbours(p, 0, i); };
    auto prepare = [&]() {
        wait_for_inputs();
        return p.input;
    };
    auto finish = [&](const Pair &pair, u32 m, float a, float b) {
        const u64 at = (u64)m * p.widths[0];
        p.out[at + pair.first] = biased(p, 0, pair.first, a);
        if (pair.second != pair.first) p.out[at + pair.second] = biased(p, 0, pair.second, b);
        if (p.pending) {
            p.x[at + pair.first] += p.pending[at + pair.first];
            if (pair.second != pair.first) p.x[at + pair.second] += p.pending[at + pair.second];
        }
    };
    walk<M>(p, pair_of, prepare, finish);
}

#define KERNEL(NAME, ROWS)                                                                \
    extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS(ROWS))                   \
        NAME##_##ROWS(const __grid_constant__ Segment p) {                                \
        NAME<ROWS>(p);                                                                    \
    }
#define KERNELS(NAME) KERNEL(NAME, 1) KERNEL(NAME, 2) KERNEL(NAME, 4) KERNEL(NAME, 8)
