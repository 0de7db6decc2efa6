// out = gate / (1 + exp(-gate)) * up; `out` may be either operand.
#include "numbers.cuh"

struct SwiGlu {
    const float *gate;
    const float *up;
    float *out;
    u64 elements;
};

extern "C" __global__ void __launch_bounds__(256) swiglu(const __grid_constant__ SwiGlu p) {
    const u64 stride = (u64)gridDim.x * blockDim.x;
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < p.elements; i += stride) {
        const float gate = p.gate[i];
        p.out[i] = gate / (1.0f + expf(-gate)) * p.up[i];
    }
}
