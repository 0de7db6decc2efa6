// Turns pairs of every head in place: (a, b) becomes (a cos - b sin, a sin + b cos).
#include "numbers.cuh"

struct Rope {
    float *x;
    const float *cos;
    const float *sin;
    i64 row_stride;  // elements
    i64 head_stride;
    u64 work;  // rows * heads * pairs
    u32 heads;
    u32 pairs;
    u32 interleaved;
    u32 unused;
};

extern "C" __global__ void __launch_bounds__(256) rope(const __grid_constant__ Rope p) {
    const u64 at = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= p.work) return;
    const u32 pair = at % p.pairs;
    const u32 head = at / p.pairs % p.heads;
    const u64 row = at / p.pairs / p.heads;
    float *x = p.x + (i64)row * p.row_stride + head * p.head_stride;
    const u32 first = p.interleaved ? 2 * pair : pair;
    const u32 second = p.interleaved ? 2 * pair + 1 : pair + p.pairs;
    const float cos = p.cos[row * p.pairs + pair], sin = p.sin[row * p.pairs + pair];
    const float a = x[first], b = x[second];
    x[first] = a * cos - b * sin;
    x[second] = a * sin + b * cos;
}
