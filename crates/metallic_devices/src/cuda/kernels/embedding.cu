// out[r] = table[ids[r]], decoded to f32. Eight elements a thread, a row in y.
#include "blocks.cuh"

struct Embedding {
    const i32 *ids;
    const u8 *table;
    float *out;
    Fault *fault;
    u64 width;
    u64 row_bytes;
    i32 vocab;
    u32 dtype;
};

extern "C" __global__ void __launch_bounds__(128) embedding(const __grid_constant__ Embedding p) {
    const u64 e = 8 * ((u64)blockIdx.y * blockDim.x + threadIdx.x);
    if (e >= p.width) return;
    const i32 id = p.ids[blockIdx.x];
    if (id < 0 || id >= p.vocab) {
        report(p.fault, FAULT_TOKEN, id, p.vocab);
        return;
    }
    float values[8];
    stored8(p.dtype, p.table + (u64)id * p.row_bytes, e, p.width, values);
    float *out = p.out + (u64)blockIdx.x * p.width;
#pragma unroll
    for (int i = 0; i < 8; i++)
        if (e + i < p.width) out[e + i] = values[i];
}
