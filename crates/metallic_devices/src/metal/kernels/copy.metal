// Copies bytes, one thread a byte: for what is not whole words, which Metal's own copies refuse.
#include "common.h"

struct CopyParams {
    ulong from;   // first byte
    ulong to;     // first byte
    ulong bytes;
};

[[kernel]] void copy_bytes(
    device const uchar *source [[buffer(0)]],
    device uchar *target [[buffer(1)]],
    constant CopyParams &p [[buffer(2)]],
    uint i [[thread_position_in_grid]])
{
    if (i < p.bytes) target[p.to + i] = source[p.from + i];
}
