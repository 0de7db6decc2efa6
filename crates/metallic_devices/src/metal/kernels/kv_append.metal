// New keys or values into a cache: cache[b, h, starts[b] + i] = new[b, h, i], in the cache's type.
// at.x counts elements of a row (blocks for q8_0), at.y new rows, at.z pairs of sequence and head. A
// sequence whose rows do not fit is reported and left alone.
#include "common.h"

struct KvAppendParams {
    ulong from_strides[3];  // elements from sequence to sequence, head to head, row to row
    ulong to_strides[3];
    uint sequences;
    uint heads;
    uint new_len;
    uint capacity;
    uint dim;
    uint padding;
};

// Where a row of `new` begins and where it goes, in elements; false when it does not fit.
static inline bool place(
    device const int *starts,
    device Fault *fault,
    constant KvAppendParams &p,
    uint3 at,
    thread ulong &from,
    thread ulong &to)
{
    const uint sequence = at.z / p.heads;
    const uint head = at.z % p.heads;
    const int start = starts[sequence];
    if (start < 0 || p.new_len > p.capacity || uint(start) > p.capacity - p.new_len) {
        if (at.x == 0 && at.y == 0 && head == 0) {
            report(*fault, start, int(p.capacity), int(p.new_len));
        }
        return false;
    }
    from = sequence * p.from_strides[0] + head * p.from_strides[1] + at.y * p.from_strides[2];
    to = sequence * p.to_strides[0] + head * p.to_strides[1] + (uint(start) + at.y) * p.to_strides[2];
    return true;
}

static inline void encode(float value, device float &to) { to = value; }
static inline void encode(float value, device half &to) { to = half(value); }

// bf16, by its bits: rounded to nearest even; a NaN keeps its upper bits and becomes quiet.
static inline void encode(float value, device ushort &to) {
    const uint bits = as_type<uint>(value);
    const uint rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
    to = ushort(nan ? (bits >> 16) | 0x40u : rounded);
}

template <typename T>
[[kernel]] void kv_append_plain(
    device const float *new_rows [[buffer(0)]],
    device const int *starts [[buffer(1)]],
    device T *cache [[buffer(2)]],
    device Fault *fault [[buffer(3)]],
    constant KvAppendParams &p [[buffer(4)]],
    uint3 at [[thread_position_in_grid]])
{
    if (at.x >= p.dim || at.y >= p.new_len || at.z >= p.sequences * p.heads) return;
    ulong from;
    ulong to;
    if (!place(starts, fault, p, at, from, to)) return;
    encode(new_rows[from + at.x], cache[to + at.x]);
}

#define PLAIN(name, T) \
    template [[host_name(name)]] [[kernel]] decltype(kv_append_plain<T>) kv_append_plain<T>;

PLAIN("kv_append_f32", float)
PLAIN("kv_append_f16", half)
PLAIN("kv_append_bf16", ushort)

// Blocks of 32: scale = max |x| / 127, codes rounded half away from zero, as ggml's reference does.
[[kernel]] void kv_append_q8_0(
    device const float *new_rows [[buffer(0)]],
    device const int *starts [[buffer(1)]],
    device uchar *cache [[buffer(2)]],
    device Fault *fault [[buffer(3)]],
    constant KvAppendParams &p [[buffer(4)]],
    uint3 at [[thread_position_in_grid]])
{
    if (at.x >= p.dim / 32 || at.y >= p.new_len || at.z >= p.sequences * p.heads) return;
    ulong from;
    ulong to;
    if (!place(starts, fault, p, at, from, to)) return;
    device const float *x = new_rows + from + 32 * at.x;
    device uchar *block = cache + (to / 32 + at.x) * 34;
    float largest = 0.0f;
    for (uint i = 0; i < 32; i++) {
        const float magnitude = fabs(x[i]);
        largest = magnitude > largest ? magnitude : largest;
    }
    const float scale = largest / 127.0f;
    const float inverse = scale == 0.0f ? 0.0f : 1.0f / scale;
    *(device half *)block = half(scale);
    device char *codes = (device char *)(block + 2);
    for (uint i = 0; i < 32; i++) codes[i] = char(int(round(x[i] * inverse)));
}
