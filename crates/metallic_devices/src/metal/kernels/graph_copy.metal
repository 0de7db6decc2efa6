// Copies an array of up to four axes into another layout; what lies outside `valid` becomes zero.
#include "common.h"

// Axis lengths and strides in elements, outermost first. `CopyParams` in graph/copy.rs.
struct CopyParams {
    uint extent[4];
    uint valid[4];
    uint from[4];
    uint to[4];
};

template <typename T>
static inline void copy_element(
    device const T *source, device T *target, constant CopyParams &p, uint3 at)
{
    if (at.x >= p.extent[3] || at.y >= p.extent[2] || at.z >= p.extent[0] * p.extent[1]) return;
    uint outer = at.z / p.extent[1];
    uint inner = at.z % p.extent[1];
    ulong to = (ulong)outer * p.to[0] + (ulong)inner * p.to[1] + (ulong)at.y * p.to[2]
        + (ulong)at.x * p.to[3];
    bool inside = outer < p.valid[0] && inner < p.valid[1] && at.y < p.valid[2]
        && at.x < p.valid[3];
    if (!inside) {
        target[to] = (T)0;
        return;
    }
    ulong from = (ulong)outer * p.from[0] + (ulong)inner * p.from[1] + (ulong)at.y * p.from[2]
        + (ulong)at.x * p.from[3];
    target[to] = source[from];
}

[[kernel]] void graph_copy_1(
    device const uchar *source [[buffer(0)]],
    device uchar *target [[buffer(1)]],
    constant CopyParams &p [[buffer(2)]],
    uint3 at [[thread_position_in_grid]])
{
    copy_element(source, target, p, at);
}

[[kernel]] void graph_copy_2(
    device const ushort *source [[buffer(0)]],
    device ushort *target [[buffer(1)]],
    constant CopyParams &p [[buffer(2)]],
    uint3 at [[thread_position_in_grid]])
{
    copy_element(source, target, p, at);
}

[[kernel]] void graph_copy_4(
    device const uint *source [[buffer(0)]],
    device uint *target [[buffer(1)]],
    constant CopyParams &p [[buffer(2)]],
    uint3 at [[thread_position_in_grid]])
{
    copy_element(source, target, p, at);
}
