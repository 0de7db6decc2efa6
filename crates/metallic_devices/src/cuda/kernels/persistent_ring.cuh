// Weights on their way into shared memory: every warp has a ring of slots of its own and fills them with
// the pieces it is going to multiply, in that order, through all phases of all steps. It waits for nobody:
// a slot is filled again as soon as the warp is done with it.
#pragma once
#include "persistent.cuh"

// What a block does in a phase: rows `0 .. rows` of its own, cut in `chunks` pieces. Item i of
// `rows * chunks` is piece i / rows of row i % rows.
struct Work {
    u32 kind;   // first of its matrices
    u32 first;  // unit of the matrix: a row, or a pair of rows for QKV and gate with up
    u32 units;
    u32 rows;
    u32 chunks;
    u32 k;
};

// Phases of a layer: QKV, O, gate and up, DOWN. After all layers comes the output matrix in parts.
#define LAYER_PHASES 4

// Units of one block.
__device__ __forceinline__ void share(u32 units, u32 &first, u32 &mine) {
    first = (u32)((u64)units * blockIdx.x / gridDim.x);
    mine = (u32)((u64)units * (blockIdx.x + 1) / gridDim.x) - first;
}

// Parts of the output matrix.
__device__ __forceinline__ u32 head_parts(const Step &p) {
    const u32 most = (p.vocab + gridDim.x - 1) / gridDim.x;
    return (most + HEAD_ROWS - 1) / HEAD_ROWS;
}

// Works of this block: one for each phase of a layer, then the parts of the output matrix.
struct Works {
    Work all[LAYER_PHASES + MAX_HEAD_PARTS];

    // Called by one thread.
    __device__ void fill(const Step &p) {
        const u32 q_width = p.q_heads * HEAD_DIM, kv_width = p.kv_heads * HEAD_DIM;
        put(0, Q, (q_width + 2 * kv_width) / 2, 2, p.hidden);
        put(1, O, p.hidden, 1, q_width);
        put(2, GATE, p.ffn, 2, p.hidden);
        put(3, DOWN, p.hidden, 1, p.ffn);
        for (u32 part = 0; part < head_parts(p); part++) {
            Work &work = put(LAYER_PHASES + part, HEAD, p.vocab, 1, p.hidden);
            const u32 done = part * HEAD_ROWS, left = work.units > done ? work.units - done : 0;
            work.first += done;
            work.units = work.rows = left < HEAD_ROWS ? left : HEAD_ROWS;
        }
    }

    __device__ Work &put(u32 at, u32 kind, u32 units, u32 rows, u32 k) {
        Work &work = all[at];
        work.kind = kind, work.k = k, work.chunks = (k + PIECE - 1) / PIECE;
        share(units, work.first, work.units);
        work.rows = rows * work.units;
        return work;
    }

    __device__ __forceinline__ const Work &of(const Step &p, u32 phase) const {
        const u32 last = LAYER_PHASES * p.layer_count;
        return all[phase < last ? phase % LAYER_PHASES : LAYER_PHASES + phase - last];
    }
};

// The entry of the table that a phase belongs to.
__device__ __forceinline__ u32 layer_of(const Step &p, u32 phase) {
    const u32 layer = phase / LAYER_PHASES;
    return layer < p.layer_count ? layer : p.layer_count;
}

// The matrix and the row of it that unit `unit` of QKV has as its member `second` (0 or 1): rows that
// turn together, or neighbours of v.
__device__ __forceinline__ u32 row_of_pair(const Step &p, u32 unit, u32 second, u32 &row) {
    const u32 half = HEAD_DIM / 2, q_pairs = p.q_heads * half, k_pairs = p.kv_heads * half;
    const u32 which = unit < q_pairs ? Q : unit < q_pairs + k_pairs ? K : V;
    const u32 at = which == Q ? unit : which == K ? unit - q_pairs : unit - q_pairs - k_pairs;
    const bool neighbours = which == V || p.interleaved;
    row = neighbours ? 2 * at + second : at / half * HEAD_DIM + at % half + second * half;
    return which;
}

// The start of row `row` of a block's own.
__device__ __forceinline__ u64 row_start(
    const Step &p, const Layer &layer, const Work &work, u32 row, const Matrix *&matrix) {
    u32 at = work.first + row, which = work.kind == HEAD ? 0 : work.kind;
    if (work.kind == GATE) at = work.first + row / 2, which += row % 2;
    if (work.kind == Q) which = row_of_pair(p, work.first + row / 2, row % 2, at);
    matrix = layer.matrices + which;
    return matrix->start + (u64)at * matrix->row_bytes;
}

// A place in a warp's items of a phase.
struct Place {
    u32 item, end, chunk, row;

    __device__ __forceinline__ Place() : item(0), end(0), chunk(0), row(0) {}

    __device__ __forceinline__ explicit Place(const Work &work) {
        const u32 warp = threadIdx.x / WARP, items = work.rows * work.chunks;
        item = items * warp / WARPS, end = items * (warp + 1) / WARPS;
        chunk = work.rows ? item / work.rows : 0;
        row = item - chunk * work.rows;
    }

    __device__ __forceinline__ void advance(const Work &work, u32 items) {
        item += items, row += items;
        if (row == work.rows) row = 0, chunk++;
    }
};

struct Ring {
    const Step &p;
    const Layer *layers;
    const Works &works;
    u8 *slots;   // [p.slots][p.slot_bytes] of this warp
    u32 *notes;  // [p.slots]: where in its slot a piece starts, and its type
    u64 *full;   // [p.slots], barriers
    // The next piece to be asked for; `steps` are left with that of the piece.
    Place place;
    u32 phase, phases, steps;
    u32 filling;
    // The next piece to be multiplied.
    u32 reading, parity;
    u64 policy;

    __device__ __forceinline__ Ring(
        const Step &p, const Layer *layers, const Works &works, u8 *shared, u32 steps)
        : p(p), layers(layers), works(works), steps(steps) {
        const u32 warp = threadIdx.x / WARP;
        full = (u64 *)shared + warp * p.slots;
        notes = (u32 *)(shared + WARPS * p.slots * 8) + warp * p.slots;
        // Slots start at multiples of 128 bytes.
        const u32 head = (WARPS * p.slots * 12 + 127) / 128 * 128;
        slots = shared + head + warp * p.slots * p.slot_bytes;
        phase = 0, phases = LAYER_PHASES * p.layer_count + head_parts(p);
        filling = reading = parity = 0;
        place = Place(works.of(p, 0));
        policy = read_once();
        if (threadIdx.x % WARP == 0)
            for (u32 slot = 0; slot < p.slots; slot++) make_barrier(full + slot);
        barriers_are_made();
        __syncwarp();
#pragma unroll 1
        for (u32 slot = 0; slot < p.slots; slot++) fetch();
    }

    // Asks for the next piece; the slot it goes to is free.
    __device__ __forceinline__ void fetch() {
        while (place.item == place.end) {
            if (++phase == phases) {
                if (steps <= 1) {
                    phase--;
                    return;
                }
                steps--, phase = 0;
            }
            place = Place(works.of(p, phase));
        }
        const Work &work = works.of(p, phase);
        const Matrix *matrix;
        const u64 row = row_start(p, layers[layer_of(p, phase)], work, place.row, matrix);
        const u32 offset = place.chunk * matrix->piece_bytes, left = matrix->row_bytes - offset;
        const u32 bytes = left < matrix->piece_bytes ? left : matrix->piece_bytes;
        const u64 start = row + offset;
        const u32 skew = (u32)start & 15, size = (skew + bytes + 15) & ~15u;
        if (threadIdx.x % WARP == 0) {
            notes[filling] = skew | matrix->dtype << 8;
            copy_ahead(slots + filling * p.slot_bytes, start - skew, size, full + filling, policy);
        }
        place.advance(work, 1);
        filling = filling + 1 == p.slots ? 0 : filling + 1;
    }

    // The piece `ahead` of the next one, once it is there, and its type.
    __device__ __forceinline__ const u8 *piece(u32 ahead, u32 &dtype) const {
        const bool wraps = reading + ahead >= p.slots;
        const u32 at = reading + ahead - (wraps ? p.slots : 0);
        wait_for(full + at, parity ^ wraps);
        const u32 note = notes[at];
        dtype = note >> 8;
        return slots + at * p.slot_bytes + (note & 255);
    }

    // Gives the slots of the next `pieces` pieces back, which are filled again at once.
    __device__ __forceinline__ void done(u32 pieces) {
        __syncwarp();
#pragma unroll 1
        for (u32 i = 0; i < pieces; i++) fetch();
        reading += pieces;
        if (reading >= p.slots) reading -= p.slots, parity ^= 1;
    }
};
