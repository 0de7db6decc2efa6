// Root-mean-square normalisation, one threadgroup a row: x += residual (when there is one), then
// out = x / sqrt(mean(x * x) + eps) * weight. The sum of squares is taken in f32: one partial sum a
// thread, then one a simdgroup. `out` may be `x` where there is no residual.
#include "common.h"

struct RmsNormParams {
    uint width;
    float eps;
};

constant bool has_residual [[function_constant(0)]];

[[kernel]] void rms_norm_f32(
    device float *x [[buffer(0)]],
    device const float *residual [[buffer(1)]],
    device const float *weight [[buffer(2)]],
    device float *out [[buffer(3)]],
    constant RmsNormParams &p [[buffer(4)]],
    uint row [[threadgroup_position_in_grid]],
    uint thread_index [[thread_position_in_threadgroup]],
    uint threads [[threads_per_threadgroup]],
    uint lane [[thread_index_in_simdgroup]],
    uint simdgroup [[simdgroup_index_in_threadgroup]],
    uint simdgroups [[simdgroups_per_threadgroup]])
{
    threadgroup float partial[32];
    const ulong first = ulong(row) * p.width;
    float sum = 0.0f;
    for (uint i = thread_index; i < p.width; i += threads) {
        float value = x[first + i];
        if (has_residual) {
            value += residual[first + i];
            x[first + i] = value;
        }
        sum += value * value;
    }
    sum = simd_sum(sum);
    if (lane == 0) partial[simdgroup] = sum;
    threadgroup_barrier(mem_flags::mem_threadgroup);
    sum = simd_sum(lane < simdgroups ? partial[lane] : 0.0f);
    const float scale = 1.0f / sqrt(sum / float(p.width) + p.eps);
    // Each thread reads what it wrote itself.
    for (uint i = thread_index; i < p.width; i += threads) {
        out[first + i] = x[first + i] * scale * weight[i];
    }
}
