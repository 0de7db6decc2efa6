// The k largest of each row with their columns, in two steps: `top_k_chunks` keeps the k best of
// every CHUNK elements, `top_k_merge` the k best of those.
//
// An element is one key of `order.cuh`. No two keys are equal.
// Selection after Shanbhag, Pirk, Madden 2018, "Efficient Top-K Query Processing on Massively
// Parallel Hardware": runs of k keys are sorted, then halved by taking the larger of each pair of two
// runs, one descending and one ascending, and sorted again.
#include "order.cuh"

// Keys in shared memory: 16 KiB. CHUNK and THREADS in top_k.rs.
#define CHUNK 2048u
#define THREADS 256u

struct TopK {
    const float *x;  // [rows, width], rows `row_stride` elements apart
    u64 *best;       // [rows, chunks, k]
    u32 *counts;     // [rows, chunks], of what is not finite
    float *values;   // [rows, k]
    i32 *ids;        // [rows, k]
    i32 *not_finite; // [rows]
    u64 row_stride;
    u32 width;
    u32 k;
    u32 run_log2;
    u32 chunks;
};

// Orders the pair (low, high): the larger key first where `descending`.
__device__ __forceinline__ void order_pair(u64 *keys, u32 low, u32 high, bool descending) {
    const u64 a = keys[low], b = keys[high];
    if ((a < b) == descending) {
        keys[low] = b;
        keys[high] = a;
    }
}

// The place of number `pair` of the pairs that lie `stride` apart.
__device__ __forceinline__ u32 pair_place(u32 pair, u32 stride) {
    return 2 * pair - (pair & (stride - 1));
}

// Brings the 1 << run_log2 largest keys to the front, in descending order. Called by all threads
// after keys were written; when it returns, all may read.
__device__ void select_best(u64 *keys, u32 run_log2) {
    const u32 run = 1u << run_log2;
    for (u32 size = 2; size <= run; size *= 2) {
        for (u32 stride = size / 2; stride > 0; stride /= 2) {
            __syncthreads();
            for (u32 pair = threadIdx.x; pair < CHUNK / 2; pair += THREADS) {
                const u32 low = pair_place(pair, stride);
                order_pair(keys, low, low + stride, (low & size) == 0);
            }
        }
    }
    // Runs lie `space` apart; of each two neighbours the first takes the larger keys.
    for (u32 space = run; space < CHUNK; space *= 2) {
        const u32 runs = CHUNK / (2 * space);
        __syncthreads();
        for (u32 at = threadIdx.x; at < runs << run_log2; at += THREADS) {
            const u32 low = (at >> run_log2) * 2 * space + (at & (run - 1));
            const u64 a = keys[low], b = keys[low + space];
            if (a < b) keys[low] = b;
        }
        for (u32 stride = run / 2; stride > 0; stride /= 2) {
            __syncthreads();
            for (u32 pair = threadIdx.x; pair < (runs << run_log2) / 2; pair += THREADS) {
                const u32 number = pair >> (run_log2 - 1);
                const u32 place = pair_place(pair & (run / 2 - 1), stride);
                const u32 low = number * 2 * space + place;
                order_pair(keys, low, low + stride, (number & 1) == 0);
            }
        }
    }
    __syncthreads();
}

// Blocks: (rows, chunks).
extern "C" __global__ void __launch_bounds__(THREADS) top_k_chunks(const __grid_constant__ TopK p) {
    __shared__ u64 keys[CHUNK];
    const float *row = p.x + blockIdx.x * p.row_stride;
    u32 odd = 0;
    for (u32 at = threadIdx.x; at < CHUNK; at += THREADS) {
        const u32 column = blockIdx.y * CHUNK + at;
        bool is_odd = false;
        u64 key = 0;
        if (column < p.width) {
            const float value = row[column];
            key = key_of(value, column);
            is_odd = (__float_as_uint(value) & 0x7f800000u) == 0x7f800000u;
        }
        keys[at] = key;
        odd += __syncthreads_count(is_odd);
    }
    select_best(keys, p.run_log2);
    const u64 chunk = (u64)blockIdx.x * p.chunks + blockIdx.y;
    for (u32 at = threadIdx.x; at < p.k; at += THREADS) p.best[chunk * p.k + at] = keys[at];
    if (threadIdx.x == 0) p.counts[chunk] = odd;
}

// Blocks: rows.
extern "C" __global__ void __launch_bounds__(THREADS) top_k_merge(const __grid_constant__ TopK p) {
    __shared__ u64 keys[CHUNK];
    __shared__ u32 odd;
    const u64 row = blockIdx.x, first_chunk = row * p.chunks;
    const u64 *best = p.best + first_chunk * p.k;
    const u32 run = 1u << p.run_log2, all = p.chunks * p.k;
    if (threadIdx.x == 0) odd = 0;
    for (u32 at = threadIdx.x; at < run; at += THREADS) keys[at] = 0;
    // The best so far stay in front; what follows takes the rest of the room.
    for (u32 first = 0; first < all; first += CHUNK - run) {
        for (u32 at = run + threadIdx.x; at < CHUNK; at += THREADS) {
            const u32 from = first + (at - run);
            keys[at] = from < all ? best[from] : 0;
        }
        select_best(keys, p.run_log2);
    }
    for (u32 at = threadIdx.x; at < p.k; at += THREADS) {
        const u64 key = keys[at];
        p.values[row * p.k + at] = value_of(key);
        p.ids[row * p.k + at] = (i32)~(u32)key;
    }
    for (u32 at = threadIdx.x; at < p.chunks; at += THREADS)
        atomicAdd(&odd, p.counts[first_chunk + at]);
    __syncthreads();
    if (threadIdx.x == 0) p.not_finite[row] = (i32)odd;
}
