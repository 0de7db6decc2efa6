// What every kernel file begins with.
#pragma once
#include <metal_stdlib>
using namespace metal;

// The first report of bad data, read by the host when the work is done. `Fault` in fault.rs.
struct Fault {
    atomic_uint count;
    int value;
    int limit;
    int extent;
};

// Reports bad data. Only the first report of a submission is kept.
static inline void report(device Fault &fault, int value, int limit, int extent) {
    if (atomic_fetch_add_explicit(&fault.count, 1u, memory_order_relaxed) == 0u) {
        fault.value = value;
        fault.limit = limit;
        fault.extent = extent;
    }
}
