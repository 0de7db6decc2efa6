// What lies between the products of a block's halves when they have many rows. Activations leave each
// kernel in two bytes, as the next product takes them, so nothing is written in f32 only to be rounded.
//
// f16 holds magnitudes from 2^-14 to 65504 in full. Each kernel that rounds to it notes the largest; a
// second launch of the same kernel (`again`) looks at that. Between LEAST and MOST it has nothing to
// do. Elsewhere it does every row again, scaled by the power of two that brings the largest to
// 2^10 .. 2^11, and says by which factor the product is to be scaled back.
#include "numbers.cuh"

// Bits of 1 and of 2^15.
#define LEAST 0x3f800000u
#define MOST 0x47000000u

// What a product is scaled with, 0, and the bits of the largest magnitude (0 before).
struct Numbers {
    float alpha;
    float zero;
    u32 largest;
    u32 unused;
};

// Whether nothing is to be done again, else the factor to do it with.
__device__ __forceinline__ bool settled(const Numbers *numbers, float &factor) {
    const u32 bits = ((const volatile Numbers *)numbers)->largest;
    const u32 exponent = bits >> 23;
    // Zeros, subnormals and infinities stay as they are.
    if ((bits >= LEAST && bits < MOST) || exponent == 0 || exponent >= 255) return true;
    int shift = 10 + 127 - (int)exponent;
    shift = shift > 100 ? 100 : shift;
    factor = __uint_as_float((u32)(127 + shift) << 23);
    return false;
}

// Thread 0 of all says what the product is scaled with.
__device__ __forceinline__ void say(Numbers *numbers, float factor) {
    if (blockIdx.x == 0 && threadIdx.x == 0) numbers->alpha = 1.0f / factor, numbers->zero = 0.0f;
}

// Notes the largest of a warp, where it is larger than what is known.
__device__ __forceinline__ void note(Numbers *numbers, float most) {
    const u32 bits = __float_as_uint(warp_max(most));
    if (threadIdx.x % WARP == 0 && bits > ((volatile Numbers *)numbers)->largest)
        atomicMax(&numbers->largest, bits);
}

__device__ __forceinline__ u32 two(u32 dtype, float a, float b) {
    return dtype == DTYPE_F16 ? (u32)f32_to_f16(a) | (u32)f32_to_f16(b) << 16
                              : (u32)f32_to_bf16(a) | (u32)f32_to_bf16(b) << 16;
}

// x += pending (when there is one), out = x / sqrt(mean(x^2) + eps) * weight, a block a row. Rows are
// whole fours and start at multiples of 16 bytes.
struct Norm {
    float *x;
    const float *pending;  // null for none
    const float *weight;
    u16 *out;
    Numbers *numbers;
    u32 rows;
    u32 width;
    float eps;
    u32 to;
    u32 again;
    u32 unused;
};

#define NORM_THREADS 256

extern "C" __global__ void __launch_bounds__(NORM_THREADS) norm_halves(const __grid_constant__ Norm p) {
    extern __shared__ float4 kept[];
    __shared__ float sums[NORM_THREADS / WARP];
    float factor = 1.0f;
    if (p.again && settled(p.numbers, factor)) return;
    say(p.numbers, factor);
    const u32 fours = p.width / 4, lane = threadIdx.x % WARP;
    const float4 *weight = (const float4 *)p.weight;
    float most = 0;
    for (u32 row = blockIdx.x; row < p.rows; row += gridDim.x) {
        const u64 start = (u64)row * fours;
        float4 *x = (float4 *)p.x + start;
        float sum = 0;
        for (u32 i = threadIdx.x; i < fours; i += NORM_THREADS) {
            float4 v = x[i];
            if (p.pending) {
                const float4 more = ((const float4 *)p.pending)[start + i];
                v.x += more.x, v.y += more.y, v.z += more.z, v.w += more.w;
                x[i] = v;
            }
            kept[i] = v;
            sum += v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
        }
        sum = warp_sum(sum);
        __syncthreads();
        if (lane == 0) sums[threadIdx.x / WARP] = sum;
        __syncthreads();
        const float all = warp_sum(lane < NORM_THREADS / WARP ? sums[lane] : 0.0f);
        const float scale = factor / sqrtf(all / (float)p.width + p.eps);
        // Every thread reads back what it kept itself.
        for (u32 i = threadIdx.x; i < fours; i += NORM_THREADS) {
            float4 v = kept[i];
            const float4 w = weight[i];
            v.x *= scale * w.x, v.y *= scale * w.y, v.z *= scale * w.z, v.w *= scale * w.w;
            ((uint2 *)p.out)[start + i] = make_uint2(two(p.to, v.x, v.y), two(p.to, v.z, v.w));
            most = fmaxf(fmaxf(fmaxf(fabsf(v.x), fabsf(v.y)), fmaxf(fabsf(v.z), fabsf(v.w))), most);
        }
    }
    if (p.to == DTYPE_F16 && !p.again) note(p.numbers, most);
}

// out = gate / (1 + exp(-gate)) * up, four elements a thread at a time.
struct Gated {
    const float4 *gate;
    const float4 *up;
    uint2 *out;
    Numbers *numbers;
    u64 fours;
    u32 to;
    u32 again;
};

__device__ __forceinline__ float gated(float gate, float up) { return gate / (1.0f + expf(-gate)) * up; }

extern "C" __global__ void __launch_bounds__(256) swiglu_halves(const __grid_constant__ Gated p) {
    float factor = 1.0f;
    if (p.again && settled(p.numbers, factor)) return;
    say(p.numbers, factor);
    const u64 stride = (u64)gridDim.x * blockDim.x;
    float most = 0;
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < p.fours; i += stride) {
        const float4 g = p.gate[i], u = p.up[i];
        const float a = gated(g.x, u.x) * factor, b = gated(g.y, u.y) * factor;
        const float c = gated(g.z, u.z) * factor, d = gated(g.w, u.w) * factor;
        p.out[i] = make_uint2(two(p.to, a, b), two(p.to, c, d));
        most = fmaxf(fmaxf(fmaxf(fabsf(a), fabsf(b)), fmaxf(fabsf(c), fabsf(d))), most);
    }
    if (p.to == DTYPE_F16 && !p.again) note(p.numbers, most);
}

// Queries normed, turned and rounded to the cache's type; keys likewise, into the cache; values into
// the cache. A warp takes a head of a row. Widths are multiples of 4, at most 256.
struct Heads {
    const float *q;  // [rows, q_heads * dim]
    const float *k;
    const float *v;
    u16 *out;  // [rows, q_heads * dim]
    const float *cos;  // [rows, pairs]
    const float *sin;
    const float *q_norm;  // null for none
    const float *k_norm;
    const i32 *starts;
    Fault *fault;
    Numbers *numbers;
    View k_cache;
    View v_cache;
    u32 rows;
    u32 len;
    u32 q_heads;
    u32 kv_heads;
    u32 dim;
    u32 v_dim;
    u32 pairs;
    u32 interleaved;
    float eps;
    u32 unused;
};

#define HEAD_WARPS 4
#define MOST_WIDE 256

// Element e of a head after its pairs have turned.
__device__ __forceinline__ float turned(const Heads &p, const float *x, const float *cos, const float *sin,
                                        u32 e) {
    if (e >= 2 * p.pairs) return x[e];
    const u32 pair = p.interleaved ? e / 2 : e < p.pairs ? e : e - p.pairs;
    const bool first = p.interleaved ? e % 2 == 0 : e < p.pairs;
    const float a = x[p.interleaved ? 2 * pair : pair];
    const float b = x[p.interleaved ? 2 * pair + 1 : pair + p.pairs];
    return first ? a * cos[pair] - b * sin[pair] : a * sin[pair] + b * cos[pair];
}

extern "C" __global__ void __launch_bounds__(HEAD_WARPS *WARP) heads(const __grid_constant__ Heads p) {
    __shared__ float4 rows[HEAD_WARPS][MOST_WIDE / 4];
    // What the product after attention is scaled with.
    say(p.numbers, 1.0f);
    const u32 all = p.q_heads + 2 * p.kv_heads, lane = threadIdx.x % WARP;
    const u64 run = (u64)blockIdx.x * HEAD_WARPS + threadIdx.x / WARP;
    const u32 row = run / all, at = run % all;
    if (row >= p.rows) return;
    const bool of_q = at < p.q_heads, of_v = at >= p.q_heads + p.kv_heads;
    const u32 head = of_q ? at : of_v ? at - p.q_heads - p.kv_heads : at - p.q_heads;
    const u32 dim = of_v ? p.v_dim : p.dim;
    const u64 start = (u64)row * (of_q ? p.q_heads : p.kv_heads) * dim + head * dim;
    const float4 *from = (const float4 *)((of_q ? p.q : of_v ? p.v : p.k) + start);
    float4 *kept = rows[threadIdx.x / WARP];
    float sum = 0;
    for (u32 i = lane; i < dim / 4; i += WARP) {
        const float4 v = from[i];
        kept[i] = v;
        sum += v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
    }
    float *x = (float *)kept;
    __syncwarp();
    if (p.q_norm && !of_v) {
        const float scale = 1.0f / sqrtf(warp_sum(sum) / (float)dim + p.eps);
        const float *weight = of_q ? p.q_norm : p.k_norm;
        for (u32 e = lane; e < dim; e += WARP) x[e] *= scale * weight[e];
        __syncwarp();
    }
    u32 *to = (u32 *)(p.out + start);
    if (!of_q) {
        const u32 b = row / p.len, i = row % p.len;
        const View &cache = of_v ? p.v_cache : p.k_cache;
        const i32 first = p.starts[b];
        // Whole calls fit or are refused, as on every device.
        if (first < 0 || (i64)first + p.len > cache.shape[2]) {
            report(p.fault, FAULT_POSITION, first, cache.shape[2]);
            return;
        }
        to = (u32 *)row_of(cache, b, head, (i64)first + i);
    }
    const float *cos = p.cos + (u64)row * p.pairs, *sin = p.sin + (u64)row * p.pairs;
    for (u32 e = 2 * lane; e < dim; e += 2 * WARP) {
        const float a = of_v ? x[e] : turned(p, x, cos, sin, e);
        const float b = of_v ? x[e + 1] : turned(p, x, cos, sin, e + 1);
        to[e / 2] = two(p.k_cache.dtype, a, b);
    }
}

// f16 as bf16, which holds every magnitude of it; two elements a thread at a time, in place.
struct Other {
    u32 *x;
    u64 twos;
};

extern "C" __global__ void __launch_bounds__(256) f16_to_bf16(const __grid_constant__ Other p) {
    const u64 stride = (u64)gridDim.x * blockDim.x;
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < p.twos; i += stride) {
        const u32 both = p.x[i];
        p.x[i] = two(DTYPE_BF16, f16_to_f32((u16)both), f16_to_f32((u16)(both >> 16)));
    }
}
