// Writes new rows of keys or values into their cache, at positions that lie on the GPU.
#include "common.h"

// `AppendParams` in graph/copy.rs: sequences, heads, rows and width of what is written, strides
// in elements of both, and the rows the cache has room for.
struct AppendParams {
    uint extent[4];
    uint from[4];
    uint to[4];
    uint capacity;
};

template <typename T>
static inline void append_element(
    device const T *source, device const int *starts, device T *cache, device Fault &fault,
    constant AppendParams &p, uint3 at)
{
    if (at.x >= p.extent[3] || at.y >= p.extent[2] || at.z >= p.extent[0] * p.extent[1]) return;
    uint sequence = at.z / p.extent[1];
    uint head = at.z % p.extent[1];
    int start = starts[sequence];
    if (start < 0 || (ulong)start + p.extent[2] > p.capacity) {
        if (at.x == 0 && at.y == 0 && head == 0) {
            report(fault, start, (int)p.capacity, (int)p.extent[2]);
        }
        return;
    }
    ulong row = (ulong)start + at.y;
    cache[(ulong)sequence * p.to[0] + (ulong)head * p.to[1] + row * p.to[2]
        + (ulong)at.x * p.to[3]] =
        source[(ulong)sequence * p.from[0] + (ulong)head * p.from[1] + (ulong)at.y * p.from[2]
            + (ulong)at.x * p.from[3]];
}

[[kernel]] void graph_append_2(
    device const ushort *source [[buffer(0)]],
    device const int *starts [[buffer(1)]],
    device ushort *cache [[buffer(2)]],
    device Fault &fault [[buffer(3)]],
    constant AppendParams &p [[buffer(4)]],
    uint3 at [[thread_position_in_grid]])
{
    append_element(source, starts, cache, fault, p, at);
}

[[kernel]] void graph_append_4(
    device const uint *source [[buffer(0)]],
    device const int *starts [[buffer(1)]],
    device uint *cache [[buffer(2)]],
    device Fault &fault [[buffer(3)]],
    constant AppendParams &p [[buffer(4)]],
    uint3 at [[thread_position_in_grid]])
{
    append_element(source, starts, cache, fault, p, at);
}
