// variant: -DWEIGHT=0
// variant: -DWEIGHT=1
// variant: -DWEIGHT=2
// The halves of a block for a few rows, two products a half, over plain weights:
//
//   norm_qkv      q, k, v = W norm(x + pending) + b; q and k turned; k and v into their caches
//   norm_gate_up  out = silu(G n + g) * (U n + u) with n = norm(x + pending)
//   project       out = W y + b; x += pending, which all readers of x are done with by then
//
// A warp takes two rows of W at once (those that turn together, or a gate with what it gates), and
// `split` warps of a block share them where rows are few. The grid walks over all pairs, so that the
// norm is taken once a block. The loads of one batch are on their way while the last is multiplied; the
// first are sent before the kernel waits for the one before it, since nobody writes weights.
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
};

#define WARPS 8
#define THREADS (WARPS * WARP)
#if WEIGHT == 0
#define EACH 4
#define SIZE 4
#else
#define EACH 8
#define SIZE 2
#endif
// Loads of a row on their way at once; more rows of x take their registers.
#define AHEAD (M == 1 ? 4 : M == 2 ? 2 : 1)

// Two rows of W and where they belong.
struct Pair {
    const u8 *rows[2];
    u32 which;      // of the weights
    u32 first, second;  // rows of it
    u32 turn;       // pair of the head
};

__device__ __forceinline__ void wait_for_inputs() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;");
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

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

// The norm of every row of x + pending, into shared memory.
template <int M> __device__ __forceinline__ void take_norm(const Segment &p, float *normed) {
    __shared__ float parts[WARPS];
    for (u32 m = 0; m < M; m++) {
        float *row = normed + m * p.k;
        const u64 from = (u64)(m < p.m ? m : 0) * p.k;
        float sum = 0;
        for (u32 i = threadIdx.x; i < p.k; i += THREADS) {
            float value = p.x[from + i];
            if (p.pending) value += p.pending[from + i];
            row[i] = value;
            sum += value * value;
        }
        sum = warp_sum(sum);
        if (threadIdx.x % WARP == 0) parts[threadIdx.x / WARP] = sum;
        __syncthreads();
        sum = 0;
#pragma unroll
        for (int warp = 0; warp < WARPS; warp++) sum += parts[warp];
        const float scale = 1.0f / sqrtf(sum / (float)p.k + p.eps);
        for (u32 i = threadIdx.x; i < p.k; i += THREADS) row[i] = row[i] * scale * p.norm[i];
        __syncthreads();
    }
}

// Walks over all pairs. `pair_of` says which rows pair i is, `prepare` gives the input once what it
// reads is written, `finish` is called with both sums of row m by the lane that owns them.
template <int M, typename PairOf, typename Prepare, typename Finish>
__device__ __forceinline__ void walk(
    const Segment &p, PairOf pair_of, Prepare prepare, Finish finish) {
    __shared__ float shared_sums[WARPS][2][M];
    const u32 warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, part = warp % p.split;
    const u32 each = WARPS / p.split, stride = gridDim.x * each;
    const u32 rounds = (p.pairs + stride - 1) / stride;
    const u32 step = p.split * WARP * EACH;
    const u32 batches = (p.k + AHEAD * step - 1) / (AHEAD * step);
    const u32 first = blockIdx.x * each + warp / p.split, start = (part * WARP + lane) * EACH;
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
        if (last) {
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
#pragma unroll
        for (int a = 0; a < AHEAD; a++) bits[a][0] = next[a][0], bits[a][1] = next[a][1];
        batch = last ? 0 : batch + 1;
        index = next_index, e = next_e;
    }
}

__device__ __forceinline__ float biased(const Segment &p, u32 which, u32 row, float sum) {
    return p.biases[which] ? sum + p.biases[which][row] : sum;
}

// Two rows `first` and `second` of weight `which`.
__device__ __forceinline__ Pair rows_of(const Segment &p, u32 which, u32 first, u32 second) {
    Pair pair;
    pair.which = which, pair.first = first, pair.second = second, pair.turn = 0;
    pair.rows[0] = p.weights[which] + (u64)first * p.k * SIZE;
    pair.rows[1] = p.weights[which] + (u64)second * p.k * SIZE;
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
        wait_for_inputs();
        take_norm<M>(p, normed);
        return normed;
    };
    auto finish = [&](const Pair &pair, u32 m, float a, float b) {
        a = biased(p, pair.which, pair.first, a), b = biased(p, pair.which, pair.second, b);
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
    auto pair_of = [&](u32 i) {
        Pair pair = rows_of(p, 0, i, i);
        pair.rows[1] = p.weights[1] + (u64)i * p.k * SIZE;
        return pair;
    };
    auto prepare = [&]() {
        wait_for_inputs();
        take_norm<M>(p, normed);
        return normed;
    };
    auto finish = [&](const Pair &pair, u32 m, float a, float b) {
        const float gate = biased(p, 0, pair.first, a), up = biased(p, 1, pair.first, b);
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
    extern "C" __global__ void __launch_bounds__(THREADS, 2)                              \
        NAME##_##ROWS(const __grid_constant__ Segment p) {                                \
        NAME<ROWS>(p);                                                                    \
    }
#define KERNELS(NAME) KERNEL(NAME, 1) KERNEL(NAME, 2) KERNEL(NAME, 4) KERNEL(NAME, 8)

KERNELS(norm_qkv)
KERNELS(norm_gate_up)
KERNELS(project)
