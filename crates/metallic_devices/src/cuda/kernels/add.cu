// x += y. Four elements a thread where the count allows.
#include "numbers.cuh"

struct Add {
    float *x;
    const float *y;
    u64 elements;
};

extern "C" __global__ void __launch_bounds__(256) add(const __grid_constant__ Add p) {
    const u64 at = 4 * ((u64)blockIdx.x * blockDim.x + threadIdx.x);
    if (at + 4 <= p.elements) {
        // Tensors may start anywhere in a buffer, so 16 bytes at once need aligned bases.
        if ((((u64)p.x | (u64)p.y) & 15) == 0) {
            float4 x = *(float4 *)(p.x + at);
            const float4 y = *(const float4 *)(p.y + at);
            x.x += y.x, x.y += y.y, x.z += y.z, x.w += y.w;
            *(float4 *)(p.x + at) = x;
            return;
        }
    }
    for (u64 i = at; i < at + 4 && i < p.elements; i++) p.x[i] += p.y[i];
}
