// x += residual (when there is one), out = x / sqrt(mean(x^2) + eps) * weight, row by row.
// `rms_norm_warps`: a warp a row, for heads. `rms_norm_blocks`: a block a row, for hidden states.
// `out` may be `x` without a residual: every thread reads its own elements before it writes them.
#include "numbers.cuh"

struct RmsNorm {
    float *x;
    const float *residual;  // null for none
    const float *weight;
    float *out;
    u64 rows;
    u32 width;
    float eps;
};

// The sum of squares of one row over `threads` threads, of which this is number `at`.
__device__ __forceinline__ float squares(const RmsNorm &p, u64 row, u32 at, u32 threads) {
    float *x = p.x + row * p.width;
    float sum = 0;
    for (u32 i = at; i < p.width; i += threads) {
        float value = x[i];
        if (p.residual) {
            value += p.residual[row * p.width + i];
            x[i] = value;
        }
        sum += value * value;
    }
    return sum;
}

__device__ __forceinline__ void scale_row(const RmsNorm &p, u64 row, float sum, u32 at, u32 threads) {
    const float scale = 1.0f / sqrtf(sum / (float)p.width + p.eps);
    const float *x = p.x + row * p.width;
    for (u32 i = at; i < p.width; i += threads)
        p.out[row * p.width + i] = x[i] * scale * p.weight[i];
}

extern "C" __global__ void __launch_bounds__(128) rms_norm_warps(const __grid_constant__ RmsNorm p) {
    const u64 row = (u64)blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
    if (row >= p.rows) return;
    const u32 lane = threadIdx.x % WARP;
    scale_row(p, row, warp_sum(squares(p, row, lane, WARP)), lane, WARP);
}

extern "C" __global__ void __launch_bounds__(512) rms_norm_blocks(const __grid_constant__ RmsNorm p) {
    __shared__ float sums[512 / WARP];
    const u64 row = blockIdx.x;
    const float sum = warp_sum(squares(p, row, threadIdx.x, blockDim.x));
    if (threadIdx.x % WARP == 0) sums[threadIdx.x / WARP] = sum;
    __syncthreads();
    const u32 lane = threadIdx.x % WARP;
    const float all = warp_sum(lane < blockDim.x / WARP ? sums[lane] : 0.0f);
    scale_row(p, row, all, threadIdx.x, blockDim.x);
}
