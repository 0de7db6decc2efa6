// One dispatch as the runtime takes it; mirrored in src/module.rs.
#pragma once
#include <cstddef>
#include <cstdint>
#include "abi.h"

#define MSL_THREADGROUP_ARGUMENTS 31u

struct msl_launch {
    const msl_module* module;
    const msl_kernel* kernel;
    void* const* buffers;
    const unsigned* threadgroup_lengths;
    // Filled by the runtime.
    unsigned* threadgroup_offsets;
    msl_triple groups;
    msl_triple threads_per_threadgroup;
    // The whole grid in threads.
    msl_triple threads;
    unsigned order;
    unsigned workers;
    uint64_t seed;
    char* error;
    size_t error_capacity;
    bool strict;
    bool poison;
};
