// Does rows of an attention's result again, exactly, that another kernel left with NaN or infinity, and
// those that see no key: for kernels that multiply hidden values by a weight of 0. Reads the result once.
//
// Grid: (blocks of WARPS * ROWS query rows, q_heads, batch).
// variant: any
// variant: -DQT=1 -DHEAD_DIM=64 -DV_DIM=64
// variant: -DQT=1 -DHEAD_DIM=128 -DV_DIM=128
#include "sdpa_common.cuh"

constexpr int WARPS = 4;
// Rows of a warp; one bit each.
constexpr int ROWS = 16;
// Pieces of 16 bytes in a row.
constexpr int PIECES = V_DIM * 2 / 16;
static_assert(QT != 0 && V_DIM % 8 == 0, "rows of two-byte elements, whole pieces each");

__device__ __forceinline__ bool finite_pair(u32 pair) {
    constexpr u32 LOW = QT == 2 ? 0x7f80u : 0x7c00u;
    constexpr u32 HIGH = LOW << 16;
    return (pair & LOW) != LOW && (pair & HIGH) != HIGH;
}

extern "C" __global__ void __launch_bounds__(WARPS * 32) sdpa_repair(const __grid_constant__ SdpaCall call) {
    const int lane = threadIdx.x % 32;
    const int first = (blockIdx.x * WARPS + threadIdx.x / 32) * ROWS;
    const int rows = min(ROWS, call.q_len - first);
    if (rows <= 0) return;
    const int batch = blockIdx.z, head = blockIdx.y;
    const u16* out = static_cast<const u16*>(call.out) + batch * call.o_stride[0] + head * call.o_stride[1] +
                     first * call.o_stride[2];
    u32 again = 0;
    if (lane < rows) {
        const int live = live_keys(call, batch);
        const i64 diag = diagonal(call, live);
        const bool sees = first_key(call, diag, first + lane, live) < end_key(call, diag, first + lane, live);
        again = sees ? 0 : 1u << lane;
    }
#pragma unroll 4
    for (int piece = lane; piece < rows * PIECES; piece += 32) {
        const int row = piece / PIECES;
        const uint4 bits =
            *reinterpret_cast<const uint4*>(out + row * call.o_stride[2] + (piece - row * PIECES) * 8);
        const bool finite =
            finite_pair(bits.x) && finite_pair(bits.y) && finite_pair(bits.z) && finite_pair(bits.w);
        again |= finite ? 0 : 1u << row;
    }
    again = __reduce_or_sync(0xffffffffu, again);
    while (again != 0) {
        const int row = __ffs(again) - 1;
        again &= again - 1;
        exact_row(call, batch, head, first + row, lane);
    }
}
