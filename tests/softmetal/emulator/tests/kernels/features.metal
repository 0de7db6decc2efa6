// One small kernel for each part of the language that the shim provides.
#include <metal_stdlib>
using namespace metal;

// Swizzles, vector operators, packed and bit functions: out[i] are whole numbers that the test knows.
kernel void vectors(device float *out [[buffer(0)]], device const packed_float3 *packed [[buffer(1)]]) {
    float4 v = float4(1, 2, 3, 4);
    v.xy = v.yx;
    v.w += 1.0;
    out[0] = v.x * 1000 + v.y * 100 + v.z * 10 + v.w;
    float3 p = packed[1];
    out[1] = dot(p, float3(1, 10, 100));
    out[2] = dot(float3(v.zyx), p);
    int4 n = int4(v) << 1;
    out[3] = n[0] + n.y + n.z + n.w;
    out[4] = as_type<float>(as_type<uint>(2.5f));
    out[5] = popcount(0xF0u) + clz(1u) + ctz(8) + extract_bits(0xABCDu, 4, 8);
    out[6] = select(1.0f, 2.0f, v.x > 1.0f) + float(any(v > 4.0f)) + float(all(v > 4.0f));
    half2 h = half2(1.5h, 2.0h) * 2.0h;
    out[7] = float(h.x + h.y);
    out[8] = clamp(7, 0, 3) + max3(1, 5, 2) + min(2.0f, 9.0f) + abs(-3) + sign(-2.0f);
    out[9] = float(bfloat(257.0f));
    out[10] = fma(2.0f, 3.0f, 4.0f) + floor(2.7f) + fract(2.5f) + mix(0.0f, 4.0f, 0.25f);
    out[11] = float(is_same_v<decltype(1.0), float>) + sizeof(float3) + alignof(packed_float3) + sizeof(packed_half3);
    threadgroup float unused[8];
    out[12] = isnan(unused[3]);
}

// Each lane's results of the simdgroup and quadgroup functions, 16 rows of 32.
kernel void lanes(device uint *out [[buffer(0)]], uint lane [[thread_index_in_simdgroup]],
                  uint quad [[quadgroup_index_in_threadgroup]], uint in_quad [[thread_index_in_quadgroup]]) {
    const uint v = lane * 3 + 1;
    uint row = lane;
    out[row] = simd_sum(v); row += 32;
    out[row] = simd_max(v) * 1000 + simd_min(v); row += 32;
    out[row] = simd_shuffle_xor(v, 5); row += 32;
    out[row] = simd_shuffle_down(v, 4); row += 32;
    out[row] = simd_shuffle_up(v, 4); row += 32;
    out[row] = simd_broadcast(v, 9); row += 32;
    out[row] = simd_prefix_inclusive_sum(v); row += 32;
    out[row] = simd_prefix_exclusive_sum(v); row += 32;
    out[row] = uint(ulong(simd_ballot(lane % 3 == 0))); row += 32;
    out[row] = quad_sum(v); row += 32;
    out[row] = quad * 10 + in_quad; row += 32;
    out[row] = uint(simd_any(lane == 31)) * 2 + uint(simd_all(lane < 31)); row += 32;
    out[row] = simd_shuffle(v, ushort(31 - lane)); row += 32;
    out[row] = simd_shuffle_rotate_down(v, 1); row += 32;
    out[row] = simd_is_first(); row += 32;
    out[row] = quad_broadcast(v, 2);
}

// Positions in a grid that does not divide: out[(z * height + y) * width + x]
kernel void positions(device uint *out [[buffer(0)]], uint3 at [[thread_position_in_grid]], uint3 grid [[threads_per_grid]],
                      uint3 group [[threadgroup_position_in_grid]], uint3 inside [[thread_position_in_threadgroup]],
                      uint3 size [[threads_per_threadgroup]], uint3 full [[dispatch_threads_per_threadgroup]],
                      uint index [[thread_index_in_threadgroup]]) {
    const bool right = all(group * full + inside == at) && index == (inside.z * size.y + inside.y) * size.x + inside.x;
    out[(at.z * grid.y + at.y) * grid.x + at.x] += right ? size.x * 100 + size.y : 0;
}

// How often each value occurs, with atomics in both memories.
kernel void histogram(device const uint *values [[buffer(0)]], device atomic_uint *counts [[buffer(1)]],
                      constant uint &n [[buffer(2)]], uint i [[thread_position_in_grid]],
                      uint t [[thread_index_in_threadgroup]], uint threads [[threads_per_threadgroup]]) {
    threadgroup atomic_uint local_counts[16];
    for (uint bin = t; bin < 16; bin += threads) atomic_store_explicit(&local_counts[bin], 0, memory_order_relaxed);
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (i < n) atomic_fetch_add_explicit(&local_counts[values[i] % 16], 1, memory_order_relaxed);
    threadgroup_barrier(mem_flags::mem_threadgroup);
    for (uint bin = t; bin < 16; bin += threads)
        atomic_fetch_add_explicit(&counts[bin], atomic_load_explicit(&local_counts[bin], memory_order_relaxed), memory_order_relaxed);
}

// Function constants of every type, and a table.
constant short short_value [[function_constant(1)]];
constant uint uint_value [[function_constant(2)]];
constant float float_value [[function_constant(3)]];
constant half half_value [[function_constant(4)]];
constant uint maybe [[function_constant(5)]];
constant uint given = is_function_constant_defined(maybe) ? maybe : 77;
constant uint doubled = given * 2;
constant float table[4] = {0.5, 1.5, 2.5, 3.5};
constexpr constant uint LAST = 3;
kernel void constants(device float *out [[buffer(0)]]) {
    out[0] = short_value;
    out[1] = uint_value;
    out[2] = float_value;
    out[3] = half_value;
    out[4] = doubled;
    out[5] = table[LAST];
}

struct Inner { ushort a; float3 b; };
struct Mixed {
    uchar first;
    half second[3];
    Inner inner;
    ulong count, more;
    packed_float3 tail;
    float last() const { return tail[2]; }
};
kernel void struct_argument(device float *out [[buffer(0)]], constant Mixed &m [[buffer(1)]], threadgroup float4 *shared [[threadgroup(0)]]) {
    shared[0] = float4(m.inner.b, 1);
    out[0] = m.tail[2] + m.count + shared[0].w;
}

[[kernel, max_total_threads_per_threadgroup(64)]]
void limited(device uint *out [[buffer(0)]], uint i [[thread_position_in_grid]]) { out[i] = i; }

// A kernel in a namespace, a helper with a barrier, and threadgroup variables in two declarations.
namespace inner {
struct Pair { uint first, second; };
static void exchange(threadgroup uint *left, threadgroup uint *right, uint t) {
    left[t] = t;
    right[t] = t * 2;
    threadgroup_barrier(mem_flags::mem_threadgroup);
}
template <typename T, uint N>
kernel void mirrored(device T *out [[buffer(0)]], uint t [[thread_index_in_threadgroup]]) {
    threadgroup uint left[N], right[N];
    alignas(16) threadgroup Pair pair;
    exchange(left, right, t);
    if (t == 0) pair = Pair{left[1], right[2]};
    threadgroup_barrier(mem_flags::mem_threadgroup);
    out[t] = T(left[N - 1 - t] + right[N - 1 - t] + pair.first + pair.second);
}
}
template [[host_name("mirrored_float")]] kernel void inner::mirrored<float, 64>(device float *, uint);
