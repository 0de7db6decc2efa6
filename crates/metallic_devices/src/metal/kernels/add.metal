// Sum in place: x[i] += y[i], one thread an element.
#include "common.h"

struct AddParams {
    uint elements;
};

[[kernel]] void add_f32(
    device float *x [[buffer(0)]],
    device const float *y [[buffer(1)]],
    constant AddParams &p [[buffer(2)]],
    uint i [[thread_position_in_grid]])
{
    if (i < p.elements) x[i] += y[i];
}
