// The gated activation of the MLP, one thread an element: out = gate / (1 + exp(-gate)) * up. `out`
// may be either input.
#include "common.h"

struct SwiGluParams {
    uint elements;
};

[[kernel]] void swiglu_f32(
    device const float *gate [[buffer(0)]],
    device const float *up [[buffer(1)]],
    device float *out [[buffer(2)]],
    constant SwiGluParams &p [[buffer(3)]],
    uint i [[thread_position_in_grid]])
{
    if (i >= p.elements) return;
    const float x = gate[i];
    out[i] = x / (1.0f + exp(-x)) * up[i];
}
