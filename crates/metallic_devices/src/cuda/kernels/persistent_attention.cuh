// Attention of one position, in parts: a block takes one head and one part of the keys. Old keys and
// values lie in the caches and are asked for before the query is there; those of this step are published
// words.
#pragma once
#include "persistent.cuh"

// Eight neighbours of a stored row.
struct Stored {
#if KV == 0
    float4 words[2];
#else
    uint4 words;
#endif

    __device__ __forceinline__ void load(const char *row, u32 d) {
#if KV == 0
        words[0] = ((const float4 *)row)[d / 4], words[1] = ((const float4 *)row)[d / 4 + 1];
#else
        words = ((const uint4 *)row)[d / 8];
#endif
    }

    __device__ __forceinline__ void widen(float (&out)[8]) const {
#if KV == 0
        out[0] = words[0].x, out[1] = words[0].y, out[2] = words[0].z, out[3] = words[0].w;
        out[4] = words[1].x, out[5] = words[1].y, out[6] = words[1].z, out[7] = words[1].w;
#else
        const u32 bits[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
        for (int w = 0; w < 4; w++) {
#if KV == 1
            out[2 * w] = f16_to_f32((u16)bits[w]), out[2 * w + 1] = f16_to_f32((u16)(bits[w] >> 16));
#else
            out[2 * w] = bf16_to_f32((u16)bits[w]), out[2 * w + 1] = bf16_to_f32((u16)(bits[w] >> 16));
#endif
        }
#endif
    }
};

// `value` as a cache holds it.
__device__ __forceinline__ float as_stored(float value) {
#if KV == 1
    return f16_to_f32(f32_to_f16(value));
#elif KV == 2
    return bf16_to_f32(f32_to_bf16(value));
#else
    return value;
#endif
}

__device__ __forceinline__ void store(char *row, u32 d, float value) {
#if KV == 0
    ((float *)row)[d] = value;
#elif KV == 1
    ((u16 *)row)[d] = f32_to_f16(value);
#else
    ((u16 *)row)[d] = f32_to_bf16(value);
#endif
}

// Eight neighbours of each of N rows of published words.
template <int N>
__device__ __forceinline__ void await8(const Step &p, const u32 *const (&at)[N], float (&out)[N][8]) {
    uint4 words[N][2];
    await_all(p, [&] {
        bool there = true;
#pragma unroll
        for (int n = 0; n < N; n++) words[n][0] = look4(at[n]), words[n][1] = look4(at[n] + 4);
#pragma unroll
        for (int n = 0; n < N; n++) there = there && is_there(words[n][0]) && is_there(words[n][1]);
        return there;
    });
#pragma unroll
    for (int n = 0; n < N; n++) {
        const float4 a = as_floats(words[n][0]), b = as_floats(words[n][1]);
        out[n][0] = a.x, out[n][1] = a.y, out[n][2] = a.z, out[n][3] = a.w;
        out[n][4] = b.x, out[n][5] = b.y, out[n][6] = b.z, out[n][7] = b.w;
    }
}

// Weighted values of some keys: not yet divided by `total`, relative to the highest score.
struct Sum {
    float highest, total, value[8];
};

__device__ __forceinline__ float base_of(float highest) {
    return highest == -infinity() ? 0.0f : highest;
}

// Lanes that share a key, and keys of a warp.
#define KEY_LANES (HEAD_DIM / 8)
#define KEYS (WARP / KEY_LANES)

// Adds N keys to each group of lanes, `scores` summed over the group: the work of one does not wait for that of
// another. `value_of(n, out)` gives the values of key n; of one that is not there nothing is taken.
template <int N, typename Values>
__device__ __forceinline__ void add_keys(Sum &sum, float (&scores)[N], const bool (&there)[N], Values value_of) {
#pragma unroll
    for (int lane = 1; lane < KEY_LANES; lane *= 2)
#pragma unroll
        for (int n = 0; n < N; n++) scores[n] += __shfl_xor_sync(FULL_MASK, scores[n], lane);
    float highest = sum.highest;
#pragma unroll
    for (int n = 0; n < N; n++)
        if (there[n]) highest = fmaxf(highest, scores[n]);
    const float base = base_of(highest), factor = power_of_two(sum.highest - base);
    sum.highest = highest, sum.total *= factor;
#pragma unroll
    for (int e = 0; e < 8; e++) sum.value[e] *= factor;
#pragma unroll
    for (int n = 0; n < N; n++) {
        if (!there[n]) continue;
        const float weight = power_of_two(scores[n] - base);
        float v[8];
        value_of(n, v);
        sum.total += weight;
#pragma unroll
        for (int e = 0; e < 8; e++) sum.value[e] += weight * v[e];
    }
}

__device__ __forceinline__ float dot8(const float (&a)[8], const float (&b)[8]) {
    float sum = 0;
#pragma unroll
    for (int e = 0; e < 8; e++) sum += a[e] * b[e];
    return sum;
}

// The keys of one block: a head and a part.
struct Part {
    u32 head, kv_head, split, begin, end;

    Part() = default;

    __device__ __forceinline__ Part(const Step &p, u32 live) {
        head = blockIdx.x % p.q_heads, split = blockIdx.x / p.q_heads;
        kv_head = head / (p.q_heads / p.kv_heads);
        const u32 each = (live + p.splits - 1) / p.splits;
        begin = split * each, end = begin + each < live ? begin + each : live;
    }
};

// Brings into the second-level cache what layer number `number` reads beside its weights: the keys and values
// of this block, norms and biases. A read of device memory waits behind all weights that were asked for before
// it, for microseconds.
__device__ __noinline__ void bring_layer(const Step &p, const Layer &layer, const Part &part, u32 number) {
    const u32 line = 128, lines = HEAD_DIM * (KV == 0 ? 4 : 2) / line;
    if (part.split < p.splits && part.begin < part.end) {
#pragma unroll 1
        for (int c = 0; c < 2; c++) {
            const Cache &cache = layer.caches[c];
            const char *start = cache.start + part.kv_head * cache.head_stride + part.begin * cache.row_stride;
#pragma unroll 1
            for (u32 i = threadIdx.x; i < (part.end - part.begin) * lines; i += THREADS)
                bring(start + i / lines * cache.row_stride + i % lines * line);
        }
    }
    if (blockIdx.x != gridDim.x - 1 - number % gridDim.x) return;
#pragma unroll 1
    for (u32 e = threadIdx.x * 32; e < p.hidden; e += THREADS * 32)
        bring(layer.norms[0] + e), bring(layer.norms[1] + e);
#pragma unroll 1
    for (u32 m = 0; m < MATRICES; m++)
        if (layer.matrices[m].bias)
#pragma unroll 1
            for (u32 e = threadIdx.x * 32; e < layer.matrices[m].rows; e += THREADS * 32)
                bring(layer.matrices[m].bias + e);
}

// This block's part of layer `layer`, published. `shared`: WARPS * (HEAD_DIM + 4) floats.
__device__ __forceinline__ void attend(
    const Step &p, const Layer &layer, u32 *published, u32 position, const Part &part, float *shared) {
    if (blockIdx.x >= p.q_heads * p.splits) return;
    const Places places(p);
    const u32 head = part.head, kv_head = part.kv_head, split = part.split, begin = part.begin, end = part.end;
    const u32 warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, d = lane % KEY_LANES * 8;
    const char *keys = layer.caches[0].start + kv_head * layer.caches[0].head_stride;
    const char *values = layer.caches[1].start + kv_head * layer.caches[1].head_stride;
    const u64 key_stride = layer.caches[0].row_stride, value_stride = layer.caches[1].row_stride;
    const int ahead = KV == 0 ? 1 : 4;
    const u32 step = WARPS * KEYS;
    auto is_old = [&](u32 key) { return key < end && key != position; };
    auto load = [&](u32 key, Stored(&k)[ahead], Stored(&v)[ahead]) {
#pragma unroll
        for (int a = 0; a < ahead; a++)
            if (is_old(key + a * step)) {
                k[a].load(keys + (key + a * step) * key_stride, d);
                v[a].load(values + (key + a * step) * value_stride, d);
            }
    };
    Stored k[ahead] = {}, v[ahead] = {};
    u32 key = begin + warp * KEYS + lane / KEY_LANES;
    load(key, k, v);
    // The query, and for one warp the newest key and its values, all looked at together.
    const u32 *at = published + places.qkv, *q_at = at + head * HEAD_DIM + d;
    const u32 *k_at = at + (p.q_heads + kv_head) * HEAD_DIM + d, *v_at = k_at + p.kv_heads * HEAD_DIM;
    const bool has_newest = warp == WARPS - 1 && begin <= position && position < end;
    float q[8];
    Sum sum = {-infinity(), 0, {}};
    if (has_newest) {
        float words[3][8];
        await8<3>(p, {q_at, k_at, v_at}, words);
#pragma unroll
        for (int e = 0; e < 8; e++) q[e] = words[0][e] * p.scale;
        float scores[1] = {dot8(q, words[1])};
        add_keys<1>(sum, scores, {lane / KEY_LANES == 0}, [&](int, float(&out)[8]) {
#pragma unroll
            for (int e = 0; e < 8; e++) out[e] = words[2][e];
        });
    } else {
        float words[1][8];
        await8<1>(p, {q_at}, words);
#pragma unroll
        for (int e = 0; e < 8; e++) q[e] = words[0][e] * p.scale;
    }
#pragma unroll 1
    for (u32 first = begin; first < end; first += ahead * step) {
        float scores[ahead];
        bool there[ahead];
#pragma unroll
        for (int a = 0; a < ahead; a++) {
            float x[8];
            k[a].widen(x);
            scores[a] = dot8(q, x), there[a] = is_old(key + a * step);
        }
        add_keys<ahead>(sum, scores, there, [&](int a, float(&out)[8]) { v[a].widen(out); });
        if (first + ahead * step >= end) break;
        key += ahead * step;
        load(key, k, v);
    }
    // The groups of lanes of a warp, then the warps.
    float most = sum.highest;
#pragma unroll
    for (int other = KEY_LANES; other < WARP; other *= 2) most = fmaxf(most, __shfl_xor_sync(FULL_MASK, most, other));
    const float own = power_of_two(sum.highest - base_of(most));
    sum.highest = most, sum.total *= own;
#pragma unroll
    for (int e = 0; e < 8; e++) sum.value[e] *= own;
#pragma unroll
    for (int other = KEY_LANES; other < WARP; other *= 2) {
        sum.total += __shfl_xor_sync(FULL_MASK, sum.total, other);
#pragma unroll
        for (int e = 0; e < 8; e++) sum.value[e] += __shfl_xor_sync(FULL_MASK, sum.value[e], other);
    }
    float *mine = shared + warp * (HEAD_DIM + 4);
    if (lane < KEY_LANES) {
        ((float4 *)(mine + d))[0] = make_float4(sum.value[0], sum.value[1], sum.value[2], sum.value[3]);
        ((float4 *)(mine + d))[1] = make_float4(sum.value[4], sum.value[5], sum.value[6], sum.value[7]);
        if (lane == 0) mine[HEAD_DIM] = sum.highest, mine[HEAD_DIM + 1] = sum.total;
    }
    __syncthreads();
    if (threadIdx.x >= HEAD_DIM) return;
    float highest = -infinity(), total = 0, value = 0;
#pragma unroll
    for (int w = 0; w < WARPS; w++) highest = fmaxf(highest, shared[w * (HEAD_DIM + 4) + HEAD_DIM]);
#pragma unroll
    for (int w = 0; w < WARPS; w++) {
        const float *sums = shared + w * (HEAD_DIM + 4);
        const float factor = power_of_two(sums[HEAD_DIM] - base_of(highest));
        total += sums[HEAD_DIM + 1] * factor, value += sums[threadIdx.x] * factor;
    }
    u32 *to = published + places.attended + (head * p.splits + split) * (HEAD_DIM + 4);
    publish(to + threadIdx.x, value);
    if (threadIdx.x == 0) publish(to + HEAD_DIM, highest), publish(to + HEAD_DIM + 1, total);
}

// Four neighbours of what attention gives, number `quad`, from all parts of their head.
__device__ __forceinline__ float4 attended4(const Step &p, const u32 *published, u32 quad) {
    const u32 head = quad / (HEAD_DIM / 4), d = quad % (HEAD_DIM / 4) * 4;
    const u32 *at = published + Places(p).attended + head * p.splits * (HEAD_DIM + 4);
    float4 all = make_float4(0, 0, 0, 0);
    float highest = -infinity(), total = 0;
    // As many are asked for at once.
    const int ahead = 4;
#pragma unroll 1
    for (u32 first = 0; first < p.splits; first += ahead) {
        uint4 values[ahead];
        uint2 stats[ahead];
        // What is published last stands for the rest: looks at all of it by everybody would keep the cache
        // busy while others publish.
        await_all(p, [&] {
            bool there = true;
#pragma unroll
            for (int a = 0; a < ahead; a++)
                if (first + a < p.splits) {
                    stats[a] = look2(at + (first + a) * (HEAD_DIM + 4) + HEAD_DIM);
                    values[a] = look4(at + (first + a) * (HEAD_DIM + 4) + d);
                }
#pragma unroll
            for (int a = 0; a < ahead; a++)
                if (first + a < p.splits) there = there && is_there(stats[a]) && is_there(values[a]);
            return there;
        });
        float most = highest;
#pragma unroll
        for (int a = 0; a < ahead; a++)
            if (first + a < p.splits) most = fmaxf(most, __uint_as_float(stats[a].x));
        const float base = base_of(most), before = power_of_two(highest - base);
        highest = most, total *= before;
        all.x *= before, all.y *= before, all.z *= before, all.w *= before;
#pragma unroll
        for (int a = 0; a < ahead; a++)
            if (first + a < p.splits) {
                const float4 value = as_floats(values[a]);
                const float factor = power_of_two(__uint_as_float(stats[a].x) - base);
                total += __uint_as_float(stats[a].y) * factor;
                all.x += value.x * factor, all.y += value.y * factor;
                all.z += value.z * factor, all.w += value.w * factor;
            }
    }
    // Without keys there is nothing to divide.
    const float inverse = total == 0.0f ? 0.0f : quotient(1.0f, total);
    return make_float4(all.x * inverse, all.y * inverse, all.z * inverse, all.w * inverse);
}
