// cache[b, h, starts[b] + i] = new[b, h, i], converted to the cache's element type. A warp takes 32
// neighbours of a row, which are a block of q8_0.
#include "numbers.cuh"

struct KvAppend {
    View fresh;  // f32 [batch, kv_heads, new_len, dim]
    View cache;
    const i32 *starts;
    Fault *fault;
    u64 runs;  // batch * kv_heads * new_len * ceil(dim / 32)
};

extern "C" __global__ void __launch_bounds__(128) kv_append(const __grid_constant__ KvAppend p) {
    const u64 run = (u64)blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
    if (run >= p.runs) return;
    const i32 lane = threadIdx.x % WARP;
    const i32 heads = p.fresh.shape[1], rows = p.fresh.shape[2], dim = p.fresh.shape[3];
    const i32 runs_of_row = (dim + WARP - 1) / WARP;
    const i32 e = (i32)(run % runs_of_row) * WARP + lane;
    const i32 i = run / runs_of_row % rows;
    const i32 h = run / runs_of_row / rows % heads;
    const i32 b = run / runs_of_row / rows / heads;
    const i32 start = p.starts[b];
    // Whole calls fit or are refused, as on every device.
    if (start < 0 || (i64)start + rows > p.cache.shape[2]) {
        report(p.fault, FAULT_POSITION, start, p.cache.shape[2]);
        return;
    }
    const float x = e < dim ? ((const float *)row_of(p.fresh, b, h, i))[e] : 0.0f;
    char *to = row_of(p.cache, b, h, start + i);
    if (p.cache.dtype == DTYPE_Q8_0) {
        u8 *block = (u8 *)to + e / WARP * 34;
        const float scale = warp_max(fabsf(x)) / 127.0f;
        const float inverse = scale == 0.0f ? 0.0f : 1.0f / scale;
        block[2 + lane] = (u8)(i8)(i32)roundf(x * inverse);
        if (lane == 0) *(u16 *)block = f32_to_f16(scale);
    } else if (e < dim) {
        if (p.cache.dtype == DTYPE_F32) ((float *)to)[e] = x;
        if (p.cache.dtype == DTYPE_F16) ((u16 *)to)[e] = f32_to_f16(x);
        if (p.cache.dtype == DTYPE_BF16) ((u16 *)to)[e] = f32_to_bf16(x);
    }
}
