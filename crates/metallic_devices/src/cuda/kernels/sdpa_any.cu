// Attention over keys and values of any type, f32 and q8_0 too: each tile is decoded to f32 on its way
// into shared memory, and all products are f32 on the ordinary units. One pass with a running softmax.
//
// Rows are packed: row p of a key head is query p / group of head p % group. A half warp owns a row, so
// scores, weights and sums of a row never leave it. Blocks may share the keys of their rows; then each
// leaves its part behind and sdpa_any_merge adds them up. Rows that come out with NaN or infinity are
// done again exactly.
//
// Grid: (splits, kv_heads * tiles of packed rows, batch); merge: (1, the same, batch).
// variant: any
// variant: -DQT=0 -DHEAD_DIM=64 -DV_DIM=64
// variant: -DQT=0 -DKT=3 -DVT=3 -DHEAD_DIM=64 -DV_DIM=64
// variant: -DQT=0 -DKT=3 -DVT=3 -DHEAD_DIM=128 -DV_DIM=128
#include "sdpa_common.cuh"

constexpr int ROWS = 16;
constexpr int KEYS = 32;
constexpr int THREADS = ROWS * 16;
// Floats of a row in shared memory: 4 more than its width keep the reads of 8 rows in different banks.
constexpr int Q_ROW = HEAD_DIM + 4;
constexpr int K_ROW = HEAD_DIM + 4;
constexpr int P_ROW = KEYS + 4;
// Pieces of 4 columns of a value, and how many a thread has.
constexpr int PIECES = V_DIM / 4;
constexpr int OWN = (PIECES + 15) / 16;
// Floats of a part: the sums, the highest score, the sum of weights.
constexpr int PART = V_DIM + 2;
static_assert(HEAD_DIM % 4 == 0 && V_DIM % 4 == 0, "rows of whole pieces");

// The place of a packed row.
struct Row {
    int head;
    int query;
    bool live;
};

__device__ __forceinline__ Row row_of(const SdpaCall& call, int packed) {
    const int group = call.q_heads / call.kv_heads;
    const int tiles = (group * call.q_len + ROWS - 1) / ROWS;
    const int kv_head = blockIdx.y / tiles;
    const int p = (blockIdx.y % tiles) * ROWS + packed;
    return {kv_head * group + p % group, p / group, p < group * call.q_len};
}

__device__ __forceinline__ float half_warp_max(float value) {
#pragma unroll
    for (int lane = 8; lane > 0; lane /= 2) value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, lane));
    return value;
}

__device__ __forceinline__ float half_warp_sum(float value) {
#pragma unroll
    for (int lane = 8; lane > 0; lane /= 2) value += __shfl_xor_sync(0xffffffffu, value, lane);
    return value;
}

// KEYS rows from `first` on into shared memory as f32, zeros past `end`. Neighbours in memory go to
// neighbouring threads, so rows may lie at any address.
template <int TYPE, int WIDTH, int TO_ROW>
__device__ __forceinline__ void load_tile(float* to, const void* rows, i64 stride, int first, int end) {
#pragma unroll 4
    for (int i = threadIdx.x; i < KEYS * WIDTH; i += THREADS) {
        const int key = i / WIDTH, d = i - key * WIDTH;
        const int at = first + key;
        to[key * TO_ROW + d] = at < end ? load_element<TYPE>(advance<TYPE>(rows, at * stride), d) : 0.0f;
    }
}

// The address of a row of the result.
__device__ __forceinline__ u64 out_row(const SdpaCall& call, int head, int query) {
    return reinterpret_cast<u64>(call.out) +
           (blockIdx.z * call.o_stride[0] + head * call.o_stride[1] + query * call.o_stride[2]) *
               (QT == 0 ? 4 : 2);
}

extern "C" __global__ void __launch_bounds__(THREADS, 2) sdpa_any(const __grid_constant__ SdpaCall call) {
    extern __shared__ float4 shared[];
    float* queries = reinterpret_cast<float*>(shared);
    float* keys = queries + ROWS * Q_ROW;
    float* values = keys + KEYS * K_ROW;
    float* weights = values + KEYS * V_DIM;
    const int lane = threadIdx.x % 32, own = threadIdx.x / 16, column = threadIdx.x % 16;
    const int batch = blockIdx.z;
    const int group = call.q_heads / call.kv_heads;
    const int live = live_keys(call, batch);
    const i64 diag = diagonal(call, live);
    const Row row = row_of(call, own);
    for (int i = threadIdx.x; i < ROWS * HEAD_DIM; i += THREADS) {
        const int r = i / HEAD_DIM, d = i - r * HEAD_DIM;
        const Row of = row_of(call, r);
        const i64 start = batch * call.q_stride[0] + of.head * call.q_stride[1] + of.query * call.q_stride[2];
        queries[r * Q_ROW + d] = of.live ? load_element<QT>(advance<QT>(call.q, start), d) : 0.0f;
    }
    const int first = row.live ? first_key(call, diag, row.query, live) : 0;
    const int end = row.live ? end_key(call, diag, row.query, live) : 0;
    // Queries ascend with rows, so the first row sees the first key and the last live one the last.
    const Row top = row_of(call, 0);
    const int last_query = min(call.q_len - 1, row_of(call, ROWS - 1).query);
    const int begin = first_key(call, diag, top.query, live);
    const int stop = end_key(call, diag, last_query, live);
    const int kv_head = top.head / group;
    const void* k = advance<KT>(call.k, batch * call.k_stride[0] + kv_head * call.k_stride[1]);
    const void* v = advance<VT>(call.v, batch * call.v_stride[0] + kv_head * call.v_stride[1]);
    const i64 mask_row =
        batch * call.mask_stride[0] + row.head * call.mask_stride[1] + row.query * call.mask_stride[2];
    float4 sums[OWN];
#pragma unroll
    for (int j = 0; j < OWN; ++j) sums[j] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    float highest = NEG_INF, total = 0.0f;
    for (int tile = begin + blockIdx.x * KEYS; tile < stop; tile += gridDim.x * KEYS) {
        __syncthreads();
        load_tile<KT, HEAD_DIM, K_ROW>(keys, k, call.k_stride[2], tile, stop);
        load_tile<VT, V_DIM, V_DIM>(values, v, call.v_stride[2], tile, stop);
        __syncthreads();
        float score[2] = {0.0f, 0.0f};
        const float4* q4 = reinterpret_cast<const float4*>(queries + own * Q_ROW);
        const float4* k4 = reinterpret_cast<const float4*>(keys + column * K_ROW);
#pragma unroll 4
        for (int d = 0; d < HEAD_DIM / 4; ++d) {
            const float4 a = q4[d];
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const float4 b = k4[d + half * 16 * (K_ROW / 4)];
                score[half] = fmaf(a.x, b.x, score[half]);
                score[half] = fmaf(a.y, b.y, score[half]);
                score[half] = fmaf(a.z, b.z, score[half]);
                score[half] = fmaf(a.w, b.w, score[half]);
            }
        }
        bool seen[2];
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int key = tile + column + half * 16;
            seen[half] = key >= first && key < end;
            float value = score[half] * call.scale;
#if SOFTCAP
            value = call.softcap * tanhf(value / call.softcap);
#endif
            const float added = seen[half] ? mask_value(call, mask_row, key) : NEG_INF;
            seen[half] = added != NEG_INF;
            score[half] = seen[half] ? value + added : NEG_INF;
        }
        const float higher = fmaxf(highest, half_warp_max(fmaxf(score[0], score[1])));
        const float shrink = highest == higher ? 1.0f : expf(highest - higher);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const float weight = seen[half] ? expf(score[half] - higher) : 0.0f;
            weights[own * P_ROW + column + half * 16] = weight;
            score[half] = weight;
        }
        total = total * shrink + score[0] + score[1];
        highest = higher;
        __syncwarp();
#pragma unroll
        for (int j = 0; j < OWN; ++j) {
            sums[j].x *= shrink;
            sums[j].y *= shrink;
            sums[j].z *= shrink;
            sums[j].w *= shrink;
        }
#pragma unroll 4
        for (int key = 0; key < KEYS; ++key) {
            const float weight = weights[own * P_ROW + key];
            const float4* v4 = reinterpret_cast<const float4*>(values + key * V_DIM);
#pragma unroll
            for (int j = 0; j < OWN; ++j) {
                const int piece = column + j * 16;
                if (piece >= PIECES) continue;
                const float4 b = v4[piece];
                sums[j].x = fmaf(weight, b.x, sums[j].x);
                sums[j].y = fmaf(weight, b.y, sums[j].y);
                sums[j].z = fmaf(weight, b.z, sums[j].z);
                sums[j].w = fmaf(weight, b.w, sums[j].w);
            }
        }
        __syncwarp();
    }
    total = half_warp_sum(total);
    if (gridDim.x > 1) {
        float* part =
            call.partials +
            (((i64)(batch * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x) * ROWS + own) * PART;
#pragma unroll
        for (int j = 0; j < OWN; ++j) {
            const int piece = column + j * 16;
            if (piece >= PIECES) continue;
            part[piece * 4] = sums[j].x;
            part[piece * 4 + 1] = sums[j].y;
            part[piece * 4 + 2] = sums[j].z;
            part[piece * 4 + 3] = sums[j].w;
        }
        if (column == 0) {
            part[V_DIM] = highest;
            part[V_DIM + 1] = total;
        }
        return;
    }
    const float inverse = total == 0.0f ? 0.0f : 1.0f / total;
    bool finite = is_finite(total);
    void* out = reinterpret_cast<void*>(out_row(call, row.head, row.query));
#pragma unroll
    for (int j = 0; j < OWN; ++j) {
        const int piece = column + j * 16;
        if (piece >= PIECES) continue;
        const float of[4] = {sums[j].x, sums[j].y, sums[j].z, sums[j].w};
#pragma unroll
        for (int c = 0; c < 4; ++c) {
            finite = finite && is_finite(of[c]);
            if (row.live) store_element<QT>(out, piece * 4 + c, of[c] * inverse);
        }
    }
    const u32 odd = __ballot_sync(0xffffffffu, row.live && !finite);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        if ((odd >> (half * 16) & 0xffffu) == 0) continue;
        const Row again = row_of(call, threadIdx.x / 32 * 2 + half);
        exact_row(call, batch, again.head, again.query, lane);
    }
}

// Adds up the parts of `call.splits` blocks, a warp for a row.
extern "C" __global__ void __launch_bounds__(ROWS * 32) sdpa_any_merge(const __grid_constant__ SdpaCall call) {
    constexpr int COLUMNS = (V_DIM + 31) / 32;
    const int lane = threadIdx.x % 32, own = threadIdx.x / 32;
    const Row row = row_of(call, own);
    if (!row.live) return;
    const float* parts = call.partials + ((i64)(blockIdx.z * gridDim.y + blockIdx.y) * call.splits * ROWS + own) * PART;
    const i64 next = (i64)ROWS * PART;
    float highest = NEG_INF;
    for (int split = 0; split < call.splits; ++split) highest = fmaxf(highest, parts[split * next + V_DIM]);
    float sums[COLUMNS], total = 0.0f;
#pragma unroll
    for (int j = 0; j < COLUMNS; ++j) sums[j] = 0.0f;
    for (int split = 0; split < call.splits; ++split) {
        const float* part = parts + split * next;
        const float peak = part[V_DIM];
        const float factor = peak == highest ? 1.0f : expf(peak - highest);
        total += part[V_DIM + 1] * factor;
#pragma unroll
        for (int j = 0; j < COLUMNS; ++j) {
            const int d = j * 32 + lane;
            if (d < V_DIM) sums[j] += part[d] * factor;
        }
    }
    bool finite = is_finite(total);
    void* out = reinterpret_cast<void*>(out_row(call, row.head, row.query));
    const float inverse = total == 0.0f ? 0.0f : 1.0f / total;
#pragma unroll
    for (int j = 0; j < COLUMNS; ++j) {
        const int d = j * 32 + lane;
        if (d >= V_DIM) continue;
        finite = finite && is_finite(sums[j]);
        store_element<QT>(out, d, sums[j] * inverse);
    }
    if (__any_sync(0xffffffffu, !finite)) exact_row(call, blockIdx.z, row.head, row.query, lane);
}
