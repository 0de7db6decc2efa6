// Rows of a table, one per token: out[row] = table[ids[row]], decoded to f32.
#include "common.h"
#include "dequantize.h"

struct EmbeddingParams {
    uint rows;   // ids
    uint vocab;  // rows of the table
    uint width;  // elements of a row
};

// The row of the table for a token, or -1 after reporting that there is none.
static inline long table_row(
    device const int *ids, device Fault *fault, constant EmbeddingParams &p, uint2 at)
{
    const int id = ids[at.y];
    if (id >= 0 && uint(id) < p.vocab) return long(id);
    if (at.x == 0) report(*fault, id, int(p.vocab), 0);
    return -1;
}

// One thread a run of 16 elements: at.x counts runs, at.y rows.
template <typename Format>
[[kernel]] void embedding_blocks(
    device const int *ids [[buffer(0)]],
    device const uchar *table [[buffer(1)]],
    device float *out [[buffer(2)]],
    device Fault *fault [[buffer(3)]],
    constant EmbeddingParams &p [[buffer(4)]],
    uint2 at [[thread_position_in_grid]])
{
    if (at.x >= p.width / 16 || at.y >= p.rows) return;
    const long row = table_row(ids, fault, p, at);
    if (row < 0) return;
    const uint blocks = p.width / Format::LEN;
    const uint first = at.x * 16;
    device const uchar *block =
        table + (ulong(row) * blocks + first / Format::LEN) * Format::BYTES;
    float values[16];
    dequantize16<Format>(block, (first % Format::LEN) / 16, values);
    device float *to = out + ulong(at.y) * p.width + first;
    for (uint j = 0; j < 16; j++) to[j] = values[j];
}

static inline float decode(float x) { return x; }
static inline float decode(half x) { return float(x); }
// bf16, by its bits.
static inline float decode(ushort x) { return bfloat_bits(x); }

// One thread an element: at.x counts elements, at.y rows.
template <typename T>
[[kernel]] void embedding_plain(
    device const int *ids [[buffer(0)]],
    device const T *table [[buffer(1)]],
    device float *out [[buffer(2)]],
    device Fault *fault [[buffer(3)]],
    constant EmbeddingParams &p [[buffer(4)]],
    uint2 at [[thread_position_in_grid]])
{
    if (at.x >= p.width || at.y >= p.rows) return;
    const long row = table_row(ids, fault, p, at);
    if (row < 0) return;
    out[ulong(at.y) * p.width + at.x] = decode(table[ulong(row) * p.width + at.x]);
}

#define PLAIN(name, T) \
    template [[host_name(name)]] [[kernel]] decltype(embedding_plain<T>) embedding_plain<T>;
#define BLOCKS(name, Format) \
    template [[host_name(name)]] [[kernel]] decltype(embedding_blocks<Format>) \
        embedding_blocks<Format>;

PLAIN("embedding_f32", float)
PLAIN("embedding_f16", half)
PLAIN("embedding_bf16", ushort)
BLOCKS("embedding_q8_0", Q8_0)
BLOCKS("embedding_q4_0", Q4_0)
BLOCKS("embedding_q4_1", Q4_1)
BLOCKS("embedding_q5_0", Q5_0)
BLOCKS("embedding_q5_1", Q5_1)
BLOCKS("embedding_q2_k", Q2K)
BLOCKS("embedding_q3_k", Q3K)
BLOCKS("embedding_q4_k", Q4K)
BLOCKS("embedding_q5_k", Q5K)
BLOCKS("embedding_q6_k", Q6K)
BLOCKS("embedding_iq4_nl", Iq4Nl)
BLOCKS("embedding_iq4_xs", Iq4Xs)
