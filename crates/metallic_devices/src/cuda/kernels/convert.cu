// What a matrix product needs around it: weights decoded to a plain type, activations rounded to a
// half after scaling by a power of two that keeps them in range, a bias under the result.
#include "blocks.cuh"

struct Decode {
    const u8 *weight;  // [rows, width], stored
    void *out;         // [rows, width], plain
    u64 row_bytes;
    u32 rows;
    u32 width;
    u32 dtype;
    u32 to;  // DTYPE_F32, DTYPE_F16 or DTYPE_BF16
};

__device__ __forceinline__ void store(void *out, u32 dtype, u64 at, float value) {
    if (dtype == DTYPE_F32) ((float *)out)[at] = value;
    if (dtype == DTYPE_F16) ((u16 *)out)[at] = f32_to_f16(value);
    if (dtype == DTYPE_BF16) ((u16 *)out)[at] = f32_to_bf16(value);
}

// Eight elements a thread, a row in y.
extern "C" __global__ void __launch_bounds__(128) decode_rows(const __grid_constant__ Decode p) {
    const u64 e = 8 * ((u64)blockIdx.x * blockDim.x + threadIdx.x);
    if (e >= p.width) return;
    for (u64 row = blockIdx.y; row < p.rows; row += gridDim.y) {
        float values[8];
        stored8(p.dtype, p.weight + row * p.row_bytes, e, p.width, values);
        const u64 at = row * p.width + e;
        if (p.to != DTYPE_F32 && p.width % 8 == 0) {
            u32 words[4];
#pragma unroll
            for (int w = 0; w < 4; w++) {
                const float a = values[2 * w], b = values[2 * w + 1];
                words[w] = p.to == DTYPE_F16 ? (u32)f32_to_f16(a) | (u32)f32_to_f16(b) << 16
                                             : (u32)f32_to_bf16(a) | (u32)f32_to_bf16(b) << 16;
            }
            *(uint4 *)((u16 *)p.out + at) = make_uint4(words[0], words[1], words[2], words[3]);
        } else {
#pragma unroll
            for (int i = 0; i < 8; i++)
                if (e + i < p.width) store(p.out, p.to, at + i, values[i]);
        }
    }
}

struct Halves {
    const float *x;
    void *out;
    u32 *largest;  // bits of the largest magnitude, 0 before
    float *alpha;  // [2]: what the product is multiplied with, then 0
    u64 elements;
    u32 to;
    u32 unused;
};

extern "C" __global__ void __launch_bounds__(256) largest(const __grid_constant__ Halves p) {
    float most = 0;
    const u64 stride = (u64)gridDim.x * blockDim.x;
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < p.elements; i += stride)
        most = fmaxf(most, fabsf(p.x[i]));
    most = warp_max(most);
    if (threadIdx.x % WARP == 0) atomicMax(p.largest, __float_as_uint(most));
}

// Brings the largest magnitude to 2^10 .. 2^11: far from what f16 cannot hold on either side.
extern "C" __global__ void __launch_bounds__(256) to_halves(const __grid_constant__ Halves p) {
    float factor = 1.0f;
    if (p.to == DTYPE_F16) {
        const u32 exponent = *p.largest >> 23;
        // Zeros, subnormals and infinities stay as they are.
        if (exponent > 0 && exponent < 255) {
            int shift = 10 + 127 - (int)exponent;
            shift = shift > 100 ? 100 : shift;
            factor = __uint_as_float((u32)(127 + shift) << 23);
        }
    }
    const u64 stride = (u64)gridDim.x * blockDim.x;
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < p.elements; i += stride)
        store(p.out, p.to, i, p.x[i] * factor);
    if (blockIdx.x == 0 && threadIdx.x == 0) p.alpha[0] = 1.0f / factor, p.alpha[1] = 0.0f;
}

struct Bias {
    float *out;
    const float *bias;
    u64 rows;
    u32 width;
    u32 unused;
};

extern "C" __global__ void __launch_bounds__(256) add_bias(const __grid_constant__ Bias p) {
    const u64 stride = (u64)gridDim.x * blockDim.x, elements = p.rows * p.width;
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < elements; i += stride)
        p.out[i] += p.bias[i % p.width];
}
