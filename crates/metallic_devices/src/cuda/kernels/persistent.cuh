// A decode step as one kernel: what its parts share.
//
// One block a multiprocessor stays for the whole step. Every block has its share of the rows of every
// weight, fixed ahead, and streams it into shared memory without waiting for anybody (`persistent_ring.cuh`).
// What a product gives is published in device memory, where all blocks wait for the words they need: a
// word that is not NOTHING has been written. So there is no barrier among blocks, and a wait costs one
// way to the second-level cache and back.
//
// There are two sets of published words. A step uses one and makes the other NOTHING again for the next
// step, so that no word is ever read too late or too early; `epoch` counts steps. One launch makes several
// steps where each takes the likeliest token after the one before it (`persistent_pick.cuh`), or one that is drawn
// (`persistent_draw.cuh`).
#pragma once
#include "persistent_asm.cuh"

#define WARPS 12
#define THREADS (WARPS * WARP)
// Elements of a row that a warp multiplies at once: 32 for each lane.
#define PIECE 1024
// Rows of the output matrix that a block finishes at once.
#define HEAD_ROWS 256
#define MAX_HEAD_PARTS 16
// Looks at a word before a wait counts as lost: seconds, where a step takes less than one thousandth.
#define MOST_LOOKS (1u << 23)
// A word that was not published: a NaN that no arithmetic gives.
#define NOTHING 0xffffffffu
#define FAULT_WAIT 3

// A weight: rows of pieces. `Matrix` in `persistent/table.rs`.
struct Matrix {
    u64 start;
    const float *bias;  // [rows] or null
    u32 row_bytes;
    u32 piece_bytes;  // of PIECE elements
    u32 dtype;
    u32 rows;
};

// Keys or values of one layer: [kv_heads, positions, HEAD_DIM]. Strides in bytes.
struct Cache {
    char *start;
    u64 head_stride;
    u64 row_stride;
};

// HEAD is the output matrix, in the last entry of the table.
enum { Q, K, V, O, GATE, UP, DOWN, MATRICES, HEAD = MATRICES };

struct Layer {
    Matrix matrices[MATRICES];
    Cache caches[2];
    const float *norms[2];  // [hidden], before attention and before the feed-forward half
};

struct Step {
    const Layer *layers;  // [layer_count], and one whose first matrix and norm are the output's
    Matrix table;         // [vocab, hidden]
    i32 *ids;             // [1], as the next two; afterwards the last token chosen
    const i32 *starts;
    const i32 *kv_lens;
    const float *cos;  // [most, HEAD_DIM / 2], by step of a launch
    const float *sin;
    float *logits;    // [vocab], of the last step
    u32 *published;   // [2][layer_count * layer_words]
    u32 *epoch;
    const i32 *count; // [1], steps of this launch; 0 for one whose next token nobody asks for
    const i32 *draw;  // how tokens are chosen (`FollowingSteps`)
    i32 *chosen;      // steps made; [most] ids, [most] values as f32, [most] counts of what is not finite
    u64 *picks;       // [2][blocks][PICK_WORDS]
    u64 *lists;       // [blocks][LIST_WORDS]
    Fault *fault;
    u32 layer_count;
    u32 layer_words;
    u32 hidden;
    u32 ffn;
    u32 q_heads;
    u32 kv_heads;
    u32 kv_len;  // positions of the caches' views
    u32 splits;
    u32 interleaved;
    float eps;
    float scale;  // of scores, times log2(e)
    u32 vocab;
    // Where things lie in shared memory, in bytes.
    u32 stream_at;
    u32 input_at;
    u32 sums_at;
    u32 ring_at;
    u32 slots;  // of a warp
    u32 slot_bytes;
    u32 most;  // steps of a launch; 0 where nothing is ever chosen, without the arrays for it
    u32 unused;
};

// Where the published words of one layer begin: those of q, k and v; of attention, HEAD_DIM + 4 for each
// head and split; of the output projection; of the gated products; of the last product.
struct Places {
    u32 qkv, attended, projected, gated, down;

    __device__ __forceinline__ explicit Places(const Step &p) {
        qkv = 0;
        attended = (p.q_heads + 2 * p.kv_heads) * HEAD_DIM;
        projected = attended + p.q_heads * p.splits * (HEAD_DIM + 4);
        gated = projected + p.hidden;
        down = gated + p.ffn;
    }
};

// A wait that lasted too long: a fault that ends the kernel, for a hung GPU is worse.
__device__ __noinline__ void lose(const Step &p, u32 tries) {
    report(p.fault, FAULT_WAIT, (i32)blockIdx.x, (i32)tries);
    stop();
}

__device__ __forceinline__ void publish(u32 *at, float value) {
    const u32 bits = __float_as_uint(value);
    publish_word(at, bits == NOTHING ? 0x7fffffffu : bits);
}

__device__ __forceinline__ bool is_there(uint4 w) {
    return w.x != NOTHING && w.y != NOTHING && w.z != NOTHING && w.w != NOTHING;
}

// Looks again until the words at `at`, seen as `w` before, are there.
__device__ __forceinline__ float4 await4(const Step &p, const u32 *at, uint4 w) {
    for (u32 tries = 0; !is_there(w); w = look4(at))
        if (++tries > MOST_LOOKS) lose(p, tries);
    return make_float4(__uint_as_float(w.x), __uint_as_float(w.y), __uint_as_float(w.z),
                       __uint_as_float(w.w));
}

__device__ __forceinline__ bool is_there(uint2 w) { return w.x != NOTHING && w.y != NOTHING; }

__device__ __forceinline__ float4 as_floats(uint4 w) {
    return make_float4(__uint_as_float(w.x), __uint_as_float(w.y), __uint_as_float(w.z), __uint_as_float(w.w));
}

// Calls `look`, which looks at several places at once and says whether all words are there, until they
// are. One place after the other would take as many ways to the cache and back as there are places.
template <typename Look> __device__ __forceinline__ void await_all(const Step &p, Look look) {
    for (u32 tries = 0; !look();)
        if (++tries > MOST_LOOKS) lose(p, tries);
}
