// Additive band masks: 0 where a row sees a column, minus infinity elsewhere.
#include "common.h"

// Row i sees column j when i + low <= j <= i + high. `MaskParams` in mask.rs.
struct MaskParams {
    uint rows;
    uint width;
    int low;
    int high;
    // The bits of minus infinity.
    uint hidden;
};

static inline bool sees(constant MaskParams &p, uint2 at) {
    int place = (int)at.x - (int)at.y;
    return place >= p.low && place <= p.high;
}

[[kernel]] void sdpa_mask_2(
    device ushort *mask [[buffer(0)]],
    constant MaskParams &p [[buffer(1)]],
    uint2 at [[thread_position_in_grid]])
{
    if (at.x >= p.width || at.y >= p.rows) return;
    mask[(ulong)at.y * p.width + at.x] = sees(p, at) ? (ushort)0 : (ushort)p.hidden;
}

[[kernel]] void sdpa_mask_4(
    device uint *mask [[buffer(0)]],
    constant MaskParams &p [[buffer(1)]],
    uint2 at [[thread_position_in_grid]])
{
    if (at.x >= p.width || at.y >= p.rows) return;
    mask[(ulong)at.y * p.width + at.x] = sees(p, at) ? 0u : p.hidden;
}
