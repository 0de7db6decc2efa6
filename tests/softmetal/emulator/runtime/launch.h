// One dispatch as the runtime takes it; mirrored in src/module.rs.
#pragma once
#include <cstddef>
#include <cstdint>
#include "abi.h"

#define MSL_THREADGROUP_ARGUMENTS 31u

// A memory access of a kernel that the processor refused. `code` = 0: none.
struct msl_fault {
    uint64_t address;
    // The instruction, from the start of its shared object.
    uint64_t code;
    bool write;
};

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
    // Where a fault is described; null: faults are not caught.
    msl_fault* fault;
    bool strict;
    bool poison;
};
