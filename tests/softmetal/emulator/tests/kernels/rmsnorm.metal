// y = x * rsqrt(mean(x^2) + eps) * w, one threadgroup per row. The residual is a function constant.
#include <metal_stdlib>
using namespace metal;

struct RmsNormParams {
    uint n;
    uint row_stride;
    float eps;
};

constant bool add_residual [[function_constant(0)]];

template <typename T, typename T4>
[[kernel]] void rms_norm(
    device const T *x [[buffer(0)]],
    device const T *w [[buffer(1)]],
    device T *y [[buffer(2)]],
    constant RmsNormParams &p [[buffer(3)]],
    device const T *residual [[buffer(4), function_constant(add_residual)]],
    uint row [[threadgroup_position_in_grid]],
    ushort tid [[thread_position_in_threadgroup]],
    ushort threads [[threads_per_threadgroup]],
    ushort lane [[thread_index_in_simdgroup]],
    ushort simdgroup [[simdgroup_index_in_threadgroup]],
    ushort simdgroups [[simdgroups_per_threadgroup]])
{
    threadgroup float partial[32];
    device const T4 *x4 = (device const T4 *)(x + ulong(row) * p.row_stride);
    device const T4 *w4 = (device const T4 *)w;
    device T4 *y4 = (device T4 *)(y + ulong(row) * p.row_stride);
    const uint n4 = p.n / 4;

    float sum = 0.0;
    for (uint i = tid; i < n4; i += threads) {
        float4 v = float4(x4[i]);
        if (add_residual) v += float4(((device const T4 *)(residual + ulong(row) * p.row_stride))[i]);
        sum += dot(v, v);
    }
    sum = simd_sum(sum);
    if (lane == 0) partial[simdgroup] = sum;
    threadgroup_barrier(mem_flags::mem_threadgroup);
    sum = simd_sum(lane < simdgroups ? partial[lane] : 0.0f);

    const float scale = rsqrt(sum / float(p.n) + p.eps);
    for (uint i = tid; i < n4; i += threads) {
        float4 v = float4(x4[i]);
        if (add_residual) v += float4(((device const T4 *)(residual + ulong(row) * p.row_stride))[i]);
        y4[i] = T4(v * scale * float4(w4[i]));
    }
}

#define INSTANCE(name, T, T4) template [[host_name("rms_norm_" name)]] [[kernel]] decltype(rms_norm<T, T4>) rms_norm<T, T4>;
INSTANCE("f32", float, float4)
INSTANCE("f16", half, half4)
INSTANCE("bf16", bfloat, bfloat4)
