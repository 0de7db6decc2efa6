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

// Adds one key to each group of lanes; where it is not there, nothing.
__device__ __forceinline__ void add_key(
    Sum &sum, const float (&q)[8], const float (&k)[8], const float (&v)[8], bool there) {
    float score = 0;
#pragma unroll
    for (int e = 0; e < 8; e++) score += q[e] * k[e];
#pragma unroll
    for (int lane = 1; lane < KEY_LANES; lane *= 2) score += __shfl_xor_sync(FULL_MASK, score, lane);
    if (!there) return;
    const float highest = fmaxf(sum.highest, score), base = base_of(highest);
    const float factor = exp2f(sum.highest - base), weight = exp2f(score - base);
    sum.highest = highest, sum.total = sum.total * factor + weight;
#pragma unroll
    for (int e = 0; e < 8; e++) sum.value[e] = sum.value[e] * factor + weight * v[e];
}

// The keys of one block: a head and a part.
struct Part {
    u32 head, kv_head, split, begin, end;

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
__device__ __forceinline__ void bring_layer(const Step &p, const Layer &layer, u32 live, u32 number) {
    const u32 line = 128, lines = HEAD_DIM * (KV == 0 ? 4 : 2) / line;
    const Part part(p, live);
    if (part.split < p.splits && part.begin < part.end) {
#pragma unroll
        for (int c = 0; c < 2; c++) {
            const Cache &cache = layer.caches[c];
            const char *start = cache.start + part.kv_head * cache.head_stride + part.begin * cache.row_stride;
            for (u32 i = threadIdx.x; i < (part.end - part.begin) * lines; i += THREADS)
                bring(start + i / lines * cache.row_stride + i % lines * line);
        }
    }
    if (blockIdx.x != gridDim.x - 1 - number % gridDim.x) return;
    for (u32 e = threadIdx.x * 32; e < p.hidden; e += THREADS * 32)
        bring(layer.norms[0] + e), bring(layer.norms[1] + e);
    for (u32 m = 0; m < MATRICES; m++)
        if (layer.matrices[m].bias)
            for (u32 e = threadIdx.x * 32; e < layer.matrices[m].rows; e += THREADS * 32)
                bring(layer.matrices[m].bias + e);
}

// This block's part of layer `layer`, published. `shared`: WARPS * (HEAD_DIM + 4) floats.
__device__ __forceinline__ void attend(
    const Step &p, const Layer &layer, u32 *published, u32 position, u32 live, float *shared) {
    if (blockIdx.x >= p.q_heads * p.splits) return;
    const Places places(p);
    const Part part(p, live);
    const u32 head = part.head, kv_head = part.kv_head, split = part.split, begin = part.begin, end = part.end;
    const u32 warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, d = lane % KEY_LANES * 8;
    const char *keys = layer.caches[0].start + kv_head * layer.caches[0].head_stride;
    const char *values = layer.caches[1].start + kv_head * layer.caches[1].head_stride;
    const u64 key_stride = layer.caches[0].row_stride, value_stride = layer.caches[1].row_stride;
    const int ahead = KV == 0 ? 2 : 4;
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
    const u32 *at = published + places.qkv;
    float q[1][8];
    await8<1>(p, {at + head * HEAD_DIM + d}, q);
#pragma unroll
    for (int e = 0; e < 8; e++) q[0][e] *= p.scale;
    Sum sum = {-infinity(), 0, {}};
    for (u32 first = begin; first < end; first += ahead * step) {
#pragma unroll
        for (int a = 0; a < ahead; a++) {
            float x[8], y[8];
            k[a].widen(x), v[a].widen(y);
            add_key(sum, q[0], x, y, is_old(key + a * step));
        }
        key += ahead * step;
        load(key, k, v);
    }
    if (warp == WARPS - 1 && begin <= position && position < end) {
        float newest[2][8];
        at += (p.q_heads + kv_head) * HEAD_DIM + d;
        await8<2>(p, {at, at + p.kv_heads * HEAD_DIM}, newest);
        add_key(sum, q[0], newest[0], newest[1], lane / KEY_LANES == 0);
    }
    // The groups of lanes of a warp, then the warps.
#pragma unroll
    for (int other = KEY_LANES; other < WARP; other *= 2) {
        const float highest = fmaxf(sum.highest, __shfl_xor_sync(FULL_MASK, sum.highest, other));
        const float factor = exp2f(sum.highest - base_of(highest));
        sum.highest = highest, sum.total *= factor;
        sum.total += __shfl_xor_sync(FULL_MASK, sum.total, other);
#pragma unroll
        for (int e = 0; e < 8; e++) {
            sum.value[e] *= factor;
            sum.value[e] += __shfl_xor_sync(FULL_MASK, sum.value[e], other);
        }
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
        const float factor = exp2f(sums[HEAD_DIM] - base_of(highest));
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
    for (u32 first = 0; first < p.splits; first += ahead) {
        uint4 values[ahead];
        uint2 stats[ahead];
        // What is published last stands for the rest: looks at all of it by everybody would keep the cache
        // busy while others publish.
        await_all(p, [&] {
            bool there = true;
#pragma unroll
            for (int a = 0; a < ahead; a++)
                if (first + a < p.splits) stats[a] = look2(at + (first + a) * (HEAD_DIM + 4) + HEAD_DIM);
#pragma unroll
            for (int a = 0; a < ahead; a++)
                if (first + a < p.splits) there = there && is_there(stats[a]);
            return there;
        });
        await_all(p, [&] {
            bool there = true;
#pragma unroll
            for (int a = 0; a < ahead; a++)
                if (first + a < p.splits) values[a] = look4(at + (first + a) * (HEAD_DIM + 4) + d);
#pragma unroll
            for (int a = 0; a < ahead; a++)
                if (first + a < p.splits) there = there && is_there(values[a]);
            return there;
        });
#pragma unroll
        for (int a = 0; a < ahead; a++)
            if (first + a < p.splits) {
                const float4 value = as_floats(values[a]);
                const float2 stat = make_float2(__uint_as_float(stats[a].x), __uint_as_float(stats[a].y));
                const float most = fmaxf(highest, stat.x), base = base_of(most);
                const float before = exp2f(highest - base), factor = exp2f(stat.x - base);
                highest = most, total = total * before + stat.y * factor;
                all.x = all.x * before + value.x * factor, all.y = all.y * before + value.y * factor;
                all.z = all.z * before + value.z * factor, all.w = all.w * before + value.w * factor;
            }
    }
    // Without keys there is nothing to divide.
    const float inverse = total == 0.0f ? 0.0f : 1.0f / total;
    return make_float4(all.x * inverse, all.y * inverse, all.z * inverse, all.w * inverse);
}
