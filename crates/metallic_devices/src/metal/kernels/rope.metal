// Rotary position embedding in place, one thread a pair: at.x counts pairs, at.y heads, at.z rows.
#include "common.h"

struct RopeParams {
    ulong row_stride;   // elements
    ulong head_stride;  // elements
    uint pairs;
    uint heads;
    uint rows;
    uint padding;
};

// Whether a pair is (2p, 2p + 1), or (p, p + pairs).
constant bool interleaved [[function_constant(0)]];

[[kernel]] void rope_f32(
    device float *x [[buffer(0)]],
    device const float *cosines [[buffer(1)]],
    device const float *sines [[buffer(2)]],
    constant RopeParams &p [[buffer(3)]],
    uint3 at [[thread_position_in_grid]])
{
    if (at.x >= p.pairs || at.y >= p.heads || at.z >= p.rows) return;
    device float *head = x + ulong(at.z) * p.row_stride + ulong(at.y) * p.head_stride;
    const uint first = interleaved ? 2 * at.x : at.x;
    const uint second = interleaved ? first + 1 : first + p.pairs;
    const ulong angle = ulong(at.z) * p.pairs + at.x;
    const float c = cosines[angle];
    const float s = sines[angle];
    const float a = head[first];
    const float b = head[second];
    head[first] = a * c - b * s;
    head[second] = a * s + b * c;
}
