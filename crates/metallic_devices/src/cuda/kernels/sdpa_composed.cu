// Attention as three passes over scores in memory: products of queries and keys, softmax under all
// masks, the sum over values. All arithmetic is f32, for every storage type.
//
// Rows of one product are the queries of all heads that share a key head, so keys and values are read
// where they lie and never repeated: row r of key head h is head h * group + r / positions, position
// r % positions of the piece.
//
// What a mask hides becomes -0 among the weights, what underflows +0: where a tile of values holds NaN
// or infinity, the sum leaves out hidden keys alone.
#include "numbers.cuh"

struct Sdpa {
    View q;
    View k;
    View v;
    View out;
    View mask;         // broadcast to [batch, q_heads, q_len, kv_len]; start 0 for none
    const i32 *lens;   // live keys of each sequence, or null
    float *scores;     // [batches, kv_heads, group * positions, kv_len]
    float *inverse;    // [batches, kv_heads, group * positions], one over the sum of weights
    i64 first_shift;   // a query sees keys from position + first_shift
    i64 end_shift;     // to position + end_shift, exclusive
    u32 aligned_end;   // whether live - q_len is added to both
    i32 first_batch;   // of this piece
    i32 first_position;
    i32 positions;     // of this piece
    i32 group;
    float scale;
    float softcap;     // 0 for none
    u32 unused;
};

#define KEYS 64
#define DEPTH 32
#define THREADS 256

__device__ __forceinline__ i32 live_keys(const Sdpa &p, i32 batch) {
    const i32 all = p.k.shape[2];
    if (!p.lens) return all;
    const i32 live = p.lens[batch];
    return live < 0 ? 0 : live < all ? live : all;
}

// One element of a row of any attention type.
__device__ __forceinline__ float element(u32 dtype, const char *row, i32 e) {
    if (dtype == DTYPE_F32) return ((const float *)row)[e];
    if (dtype == DTYPE_F16) return f16_to_f32(((const u16 *)row)[e]);
    if (dtype == DTYPE_BF16) return bf16_to_f32(((const u16 *)row)[e]);
    const u8 *block = (const u8 *)row + e / 32 * 34;
    return f16_to_f32(*(const u16 *)block) * (float)(i8)block[2 + e % 32];
}

// The query of row r of this piece.
__device__ __forceinline__ const char *query_row(const Sdpa &p, const View &view, i32 b, i32 h, i32 r) {
    return row_of(view, b, h * p.group + r / p.positions, p.first_position + r % p.positions);
}

// A tile of ROWS x KEYS scores. Grid: key tiles, row tiles, batches * kv_heads.
template <int ROWS> __device__ __forceinline__ void products(const Sdpa &p) {
    // A column more keeps the reads of a column in different banks.
    __shared__ float queries[ROWS][DEPTH + 1];
    __shared__ float keys[KEYS][DEPTH + 1];
    const i32 kv_heads = p.k.shape[1], dim = p.q.shape[3], kv_len = p.k.shape[2];
    const i32 local = blockIdx.z / kv_heads, h = blockIdx.z % kv_heads, b = p.first_batch + local;
    const i32 rows = p.group * p.positions, first_row = blockIdx.y * ROWS, first_key = blockIdx.x * KEYS;
    const i32 live = live_keys(p, b);
    if (first_key >= live) return;
    const i32 column = threadIdx.x % 16, line = threadIdx.x / 16;
    float sums[ROWS / 16][KEYS / 16] = {};
    for (i32 start = 0; start < dim; start += DEPTH) {
        for (i32 i = threadIdx.x; i < ROWS * DEPTH; i += THREADS) {
            const i32 r = first_row + i / DEPTH, e = start + i % DEPTH;
            const bool in = r < rows && e < dim;
            queries[i / DEPTH][i % DEPTH] =
                in ? element(p.q.dtype, query_row(p, p.q, b, h, r), e) * p.scale : 0.0f;
        }
        for (i32 i = threadIdx.x; i < KEYS * DEPTH; i += THREADS) {
            const i32 key = first_key + i / DEPTH, e = start + i % DEPTH;
            const bool in = key < live && e < dim;
            keys[i / DEPTH][i % DEPTH] = in ? element(p.k.dtype, row_of(p.k, b, h, key), e) : 0.0f;
        }
        __syncthreads();
#pragma unroll 8
        for (i32 d = 0; d < DEPTH; d++) {
            float key[KEYS / 16];
#pragma unroll
            for (i32 j = 0; j < KEYS / 16; j++) key[j] = keys[column + 16 * j][d];
#pragma unroll
            for (i32 i = 0; i < ROWS / 16; i++) {
                const float query = queries[line + 16 * i][d];
#pragma unroll
                for (i32 j = 0; j < KEYS / 16; j++) sums[i][j] += query * key[j];
            }
        }
        __syncthreads();
    }
#pragma unroll
    for (i32 i = 0; i < ROWS / 16; i++)
#pragma unroll
        for (i32 j = 0; j < KEYS / 16; j++) {
            const i32 r = first_row + line + 16 * i, key = first_key + column + 16 * j;
            if (r >= rows || key >= live) continue;
            float score = sums[i][j];
            if (p.softcap != 0.0f) score = p.softcap * tanhf(score / p.softcap);
            p.scores[((u64)blockIdx.z * rows + r) * kv_len + key] = score;
        }
}

extern "C" __global__ void __launch_bounds__(THREADS) sdpa_products_16(const __grid_constant__ Sdpa p) {
    products<16>(p);
}

extern "C" __global__ void __launch_bounds__(THREADS) sdpa_products_64(const __grid_constant__ Sdpa p) {
    products<64>(p);
}

// The largest or the sum over a block; every thread gets it.
template <bool SUM> __device__ __forceinline__ float block_all(float value) {
    __shared__ float parts[THREADS / WARP];
    value = SUM ? warp_sum(value) : warp_max(value);
    __syncthreads();
    if (threadIdx.x % WARP == 0) parts[threadIdx.x / WARP] = value;
    __syncthreads();
    float all = SUM ? 0.0f : -infinity();
#pragma unroll
    for (i32 i = 0; i < THREADS / WARP; i++) all = SUM ? all + parts[i] : fmaxf(all, parts[i]);
    return all;
}

// Weights of one row: exp(score - largest), hidden keys -0. Grid: rows, batches * kv_heads.
extern "C" __global__ void __launch_bounds__(THREADS) sdpa_softmax(const __grid_constant__ Sdpa p) {
    const i32 kv_heads = p.k.shape[1], kv_len = p.k.shape[2];
    const i32 local = blockIdx.y / kv_heads, h = blockIdx.y % kv_heads, b = p.first_batch + local;
    const i32 rows = p.group * p.positions, r = blockIdx.x;
    const i32 head = h * p.group + r / p.positions, position = p.first_position + r % p.positions;
    const i32 live = live_keys(p, b);
    i64 from = position + p.first_shift, end = position + p.end_shift;
    if (p.aligned_end) from += live - p.q.shape[2], end += live - p.q.shape[2];
    from = from < 0 ? 0 : from, end = end > live ? live : end;
    float *scores = p.scores + ((u64)blockIdx.y * rows + r) * kv_len;
    const char *mask = p.mask.start ? row_of(p.mask, b, head, position) : nullptr;
    // The masked score of a key; whether something hides it.
    auto masked = [&](i32 key, float &score) {
        if (key < from || key >= end) return true;
        score = scores[key];
        if (!mask) return false;
        const char *at = mask + key * p.mask.strides[3];
        if (p.mask.dtype == DTYPE_BOOL) return *at == 0;
        const float added = element(p.mask.dtype, at, 0);
        score += added;
        return added == -infinity();
    };
    float most = -infinity();
    for (i32 key = threadIdx.x; key < live; key += THREADS) {
        float score;
        if (!masked(key, score)) most = fmaxf(most, score);
    }
    most = block_all<false>(most);
    float sum = 0;
    for (i32 key = threadIdx.x; key < live; key += THREADS) {
        float score;
        if (masked(key, score)) {
            scores[key] = -0.0f;
            continue;
        }
        // Where no attended score is a number above -inf, only NaN is left to show.
        const float weight = most == -infinity() ? (score != score ? score : 0.0f) : expf(score - most);
        scores[key] = weight;
        sum += weight;
    }
    sum = block_all<true>(sum);
    if (threadIdx.x == 0) p.inverse[(u64)blockIdx.y * rows + r] = sum == 0.0f ? 0.0f : 1.0f / sum;
}

// A tile of ROWS x KEYS outputs. Grid: tiles of v_dim, row tiles, batches * kv_heads.
template <int ROWS> __device__ __forceinline__ void values(const Sdpa &p) {
    __shared__ float weights[ROWS][DEPTH + 1];
    __shared__ float tile[DEPTH][KEYS];
    const i32 kv_heads = p.k.shape[1], dim = p.v.shape[3], kv_len = p.k.shape[2];
    const i32 local = blockIdx.z / kv_heads, h = blockIdx.z % kv_heads, b = p.first_batch + local;
    const i32 rows = p.group * p.positions, first_row = blockIdx.y * ROWS, first_column = blockIdx.x * KEYS;
    const i32 live = live_keys(p, b);
    const i32 column = threadIdx.x % 16, line = threadIdx.x / 16;
    float sums[ROWS / 16][KEYS / 16] = {};
    for (i32 start = 0; start < live; start += DEPTH) {
        bool strange = false;
        for (i32 i = threadIdx.x; i < DEPTH * KEYS; i += THREADS) {
            const i32 key = start + i / KEYS, e = first_column + i % KEYS;
            const bool in = key < live && e < dim;
            const float value = in ? element(p.v.dtype, row_of(p.v, b, h, key), e) : 0.0f;
            tile[i / KEYS][i % KEYS] = value;
            strange |= !(fabsf(value) < infinity());
        }
        for (i32 i = threadIdx.x; i < ROWS * DEPTH; i += THREADS) {
            const i32 r = first_row + i / DEPTH, key = start + i % DEPTH;
            const bool in = r < rows && key < live;
            weights[i / DEPTH][i % DEPTH] =
                in ? p.scores[((u64)blockIdx.z * rows + r) * kv_len + key] : -0.0f;
        }
        if (__syncthreads_or(strange)) {
            for (i32 d = 0; d < DEPTH; d++)
#pragma unroll
                for (i32 i = 0; i < ROWS / 16; i++) {
                    const float weight = weights[line + 16 * i][d];
                    if (__float_as_uint(weight) == 0x80000000u) continue;
#pragma unroll
                    for (i32 j = 0; j < KEYS / 16; j++) sums[i][j] += weight * tile[d][column + 16 * j];
                }
        } else {
#pragma unroll 8
            for (i32 d = 0; d < DEPTH; d++) {
                float value[KEYS / 16];
#pragma unroll
                for (i32 j = 0; j < KEYS / 16; j++) value[j] = tile[d][column + 16 * j];
#pragma unroll
                for (i32 i = 0; i < ROWS / 16; i++) {
                    const float weight = weights[line + 16 * i][d];
#pragma unroll
                    for (i32 j = 0; j < KEYS / 16; j++) sums[i][j] += weight * value[j];
                }
            }
        }
        __syncthreads();
    }
#pragma unroll
    for (i32 i = 0; i < ROWS / 16; i++) {
        const i32 r = first_row + line + 16 * i;
        if (r >= rows) continue;
        const float inverse = p.inverse[(u64)blockIdx.z * rows + r];
        char *out = (char *)query_row(p, p.out, b, h, r);
#pragma unroll
        for (i32 j = 0; j < KEYS / 16; j++) {
            const i32 e = first_column + column + 16 * j;
            if (e >= dim) continue;
            const float value = sums[i][j] * inverse;
            if (p.out.dtype == DTYPE_F32) ((float *)out)[e] = value;
            if (p.out.dtype == DTYPE_F16) ((u16 *)out)[e] = f32_to_f16(value);
            if (p.out.dtype == DTYPE_BF16) ((u16 *)out)[e] = f32_to_bf16(value);
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS) sdpa_values_16(const __grid_constant__ Sdpa p) {
    values<16>(p);
}

extern "C" __global__ void __launch_bounds__(THREADS) sdpa_values_64(const __grid_constant__ Sdpa p) {
    values<64>(p);
}
