// Kernels with one mistake each, and a right one. The tests look for the marks in capitals.
#include <metal_stdlib>
using namespace metal;

kernel void reverse_groups(device uint *out [[buffer(0)]], device const uint *in [[buffer(1)]],
                           uint i [[thread_position_in_grid]], uint t [[thread_index_in_threadgroup]]) {
    threadgroup uint shared[32];
    for (uint round = 0; round < 2; round++) {
        shared[t] = in[i];
        threadgroup_barrier(mem_flags::mem_threadgroup);
        out[i] = shared[31 - t];
        threadgroup_barrier(mem_flags::mem_threadgroup);
    }
}

kernel void no_barrier(device uint *out [[buffer(0)]], device const uint *in [[buffer(1)]],
                       uint i [[thread_position_in_grid]], uint t [[thread_index_in_threadgroup]]) {
    threadgroup uint shared[32];
    shared[t] = in[i];
    out[i] = shared[31 - t];  // RACE 1
}

kernel void barrier_without_fence(device uint *out [[buffer(0)]], device const uint *in [[buffer(1)]],
                                  uint i [[thread_position_in_grid]], uint t [[thread_index_in_threadgroup]]) {
    threadgroup uint shared[32];
    shared[t] = in[i];
    threadgroup_barrier(mem_flags::mem_none);
    out[i] = shared[31 - t];  // RACE 2
}

kernel void groups_collide(device uint *out [[buffer(0)]], uint i [[thread_position_in_grid]],
                           uint t [[thread_index_in_threadgroup]]) {
    out[(i + t / 16 * 5) % 32] = i;  // RACE 3
}

kernel void past_the_buffer(device uint *out [[buffer(0)]], device const uint *in [[buffer(1)]],
                            uint i [[thread_position_in_grid]]) {
    out[i] = in[i + 1];  // BOUNDS 1
}

kernel void past_the_variable(device uint *out [[buffer(0)]], uint i [[thread_position_in_grid]],
                              uint t [[thread_index_in_threadgroup]]) {
    threadgroup uint first[32];
    threadgroup uint second[32];
    first[t + 1] = t;  // BOUNDS 2
    second[t] = t;
    threadgroup_barrier(mem_flags::mem_threadgroup);
    out[i] = first[t] + second[31 - t];
}

kernel void misaligned(device uint *out [[buffer(0)]], device const uint *in [[buffer(1)]],
                       uint i [[thread_position_in_grid]]) {
    device const uint4 *four = (device const uint4 *)(in + 1);
    if (i == 0) out[0] = four[0].x;  // ALIGNMENT
}

kernel void divergent_sum(device uint *out [[buffer(0)]], uint i [[thread_position_in_grid]],
                          uint t [[thread_index_in_threadgroup]]) {
    if (t < 16) out[i] = simd_sum(i);  // DIVERGENT 1
}

kernel void divergent_barrier(device uint *out [[buffer(0)]], uint i [[thread_position_in_grid]],
                              uint t [[thread_index_in_threadgroup]]) {
    if (t == 5) return;
    threadgroup_barrier(mem_flags::mem_device);  // DIVERGENT 2
    out[i] = t;
}

kernel void too_much(device uint *out [[buffer(0)]], uint t [[thread_index_in_threadgroup]]) {
    threadgroup uint big[8193];
    big[t] = t;
    out[t] = big[t];
}

kernel void past_the_end_by_one(device uint *out [[buffer(0)]], uint i [[thread_position_in_grid]]) {
    out[i] = i;
}

kernel void writes_into_constant_data(device uint *out [[buffer(0)]], device const uint *in [[buffer(1)]],
                                      uint i [[thread_position_in_grid]]) {
    ((device uint *)in)[i] = out[i];
}
