// Attention row by row, a warp each: for views whose rows lie at odd addresses, which the copy engines
// of the fused kernels cannot read. Correct for every type, width and mask; slow.
//
// Grid: (blocks of WARPS query rows, q_heads, batch).
// variant: any
// variant: -DQT=1 -DHEAD_DIM=64 -DV_DIM=64
#include "sdpa_common.cuh"

constexpr int WARPS = 4;

extern "C" __global__ void __launch_bounds__(WARPS * 32) sdpa_exact(const __grid_constant__ SdpaCall call) {
    const int row = blockIdx.x * WARPS + threadIdx.x / 32;
    if (row < call.q_len) exact_row(call, blockIdx.z, blockIdx.y, row, threadIdx.x % 32);
}
