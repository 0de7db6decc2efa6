// Plain types and the conversions every kernel shares. NVRTC has no system headers, and the
// toolkit's own are not always installed, so halves are bits and conversions are instructions.
#pragma once

typedef unsigned char u8;
typedef signed char i8;
typedef unsigned short u16;
typedef short i16;
typedef unsigned int u32;
typedef int i32;
typedef unsigned long long u64;
typedef long long i64;

#define WARP 32
#define FULL_MASK 0xffffffffu

// Element types of tensors as the host numbers them (`view.rs`).
#define DTYPE_F32 0
#define DTYPE_F16 1
#define DTYPE_BF16 2
#define DTYPE_I32 3
#define DTYPE_BOOL 4
#define DTYPE_Q8_0 5
#define DTYPE_Q4_0 6
#define DTYPE_Q4_1 7
#define DTYPE_Q5_0 8
#define DTYPE_Q5_1 9
#define DTYPE_Q2_K 10
#define DTYPE_Q3_K 11
#define DTYPE_Q4_K 12
#define DTYPE_Q5_K 13
#define DTYPE_Q6_K 14
#define DTYPE_IQ4_NL 15
#define DTYPE_IQ4_XS 16

// A tensor: `View` in `view.rs`. Strides in bytes.
struct View {
    u64 start;
    i64 strides[4];
    i32 shape[4];
    u32 dtype;
    u32 unused;
};

// The address of element [a, b, c, 0].
__device__ __forceinline__ char *row_of(const View &view, i64 a, i64 b, i64 c) {
    return (char *)view.start + a * view.strides[0] + b * view.strides[1] + c * view.strides[2];
}

__device__ __forceinline__ float infinity() { return __int_as_float(0x7f800000); }

__device__ __forceinline__ float f16_to_f32(u16 bits) {
    float value;
    asm("{ .reg .f16 h; mov.b16 h, %1; cvt.f32.f16 %0, h; }" : "=f"(value) : "h"(bits));
    return value;
}

// Rounds to nearest even; what is too large becomes infinity.
__device__ __forceinline__ u16 f32_to_f16(float value) {
    u16 bits;
    asm("{ .reg .f16 h; cvt.rn.f16.f32 h, %1; mov.b16 %0, h; }" : "=h"(bits) : "f"(value));
    return bits;
}

__device__ __forceinline__ float bf16_to_f32(u16 bits) {
    return __uint_as_float((u32)bits << 16);
}

// Rounds to nearest even.
__device__ __forceinline__ u16 f32_to_bf16(float value) {
    u16 bits;
    asm("{ .reg .b16 h; cvt.rn.bf16.f32 h, %1; mov.b16 %0, h; }" : "=h"(bits) : "f"(value));
    return bits;
}

__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
    for (int lane = WARP / 2; lane > 0; lane /= 2) value += __shfl_xor_sync(FULL_MASK, value, lane);
    return value;
}

// The larger one; a NaN counts as nothing.
__device__ __forceinline__ float warp_max(float value) {
#pragma unroll
    for (int lane = WARP / 2; lane > 0; lane /= 2)
        value = fmaxf(value, __shfl_xor_sync(FULL_MASK, value, lane));
    return value;
}

// A word that the host reads after the stream is done: the first fault of any kernel.
struct Fault {
    u32 code;  // 0: none
    i32 value;
    i32 limit;
};
#define FAULT_TOKEN 1
#define FAULT_POSITION 2

__device__ __forceinline__ void report(Fault *fault, u32 code, i32 value, i32 limit) {
    volatile Fault *to = fault;
    to->value = value;
    to->limit = limit;
    __threadfence_system();
    to->code = code;
}
