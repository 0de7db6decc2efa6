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
    u32 to;  // where in the published words of a layer its units go
    uint2 shares[WARPS];  // of each warp: its first item and the one after its last; piece and row of the first

    // Called by a thread for each warp.
    __device__ __forceinline__ void share_out(u32 warp) {
        const u32 items = rows * chunks, item = items * warp / WARPS, chunk = rows ? item / rows : 0;
        shares[warp] = make_uint2(item | items * (warp + 1) / WARPS << 16, chunk << 16 | (item - chunk * rows));
    }
};

// Phases of a layer: QKV, O, gate and up, DOWN. After all layers comes the output matrix in parts.
#define LAYER_PHASES 4

// Units of one block.
__device__ __forceinline__ void share(u32 units, u32 &first, u32 &mine) {
    const u32 each = units / gridDim.x, more = units % gridDim.x;
    first = each * blockIdx.x + more * blockIdx.x / gridDim.x;
    mine = each * (blockIdx.x + 1) + more * (blockIdx.x + 1) / gridDim.x - first;
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
        const Places places(p);
        put(0, Q, (q_width + 2 * kv_width) / 2, 2, p.hidden, places.qkv);
        put(1, O, p.hidden, 1, q_width, places.projected);
        put(2, GATE, p.ffn, 2, p.hidden, places.gated);
        put(3, DOWN, p.hidden, 1, p.ffn, places.down);
#pragma unroll 1
        for (u32 part = 0; part < head_parts(p); part++) {
            Work &work = put(LAYER_PHASES + part, HEAD, p.vocab, 1, p.hidden, 0);
            const u32 done = part * HEAD_ROWS, left = work.units > done ? work.units - done : 0;
            work.first += done;
            work.units = work.rows = left < HEAD_ROWS ? left : HEAD_ROWS;
        }
    }

    __device__ __noinline__ Work &put(u32 at, u32 kind, u32 units, u32 rows, u32 k, u32 to) {
        Work &work = all[at];
        work.kind = kind, work.k = k, work.to = to, work.chunks = (k + PIECE - 1) / PIECE;
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

// Both rows of such a unit.
__device__ __forceinline__ u32 rows_of_pair(const Step &p, u32 unit, u32 (&rows)[2]) {
    const u32 which = row_of_pair(p, unit, 0, rows[0]);
    rows[1] = rows[0] + (which == V || p.interleaved ? 1 : HEAD_DIM / 2);
    return which;
}

// A piece of a weight, the same in all layers.
struct Piece {
    u32 which, row, chunk;

    Piece() = default;

    // Item `item` of a block's own.
    __device__ __forceinline__ Piece(const Step &p, const Work &work, u32 item) {
        chunk = item / work.rows;
        const u32 own = item - chunk * work.rows;
        row = work.first + own, which = work.kind == HEAD ? 0 : work.kind;
        if (work.kind == GATE) row = work.first + own / 2, which += own % 2;
        if (work.kind == Q) which = row_of_pair(p, work.first + own / 2, own % 2, row);
    }
};

// A place in a warp's items of a phase.
struct Place {
    u32 item, end, chunk, row;

    __device__ __forceinline__ explicit Place(const Work &work) {
        const uint2 share = work.shares[threadIdx.x / WARP];
        item = share.x & 0xffff, end = share.x >> 16;
        chunk = share.y >> 16, row = share.y & 0xffff;
    }

    __device__ __forceinline__ void advance(const Work &work, u32 items) {
        item += items, row += items;
        if (row == work.rows) row = 0, chunk++;
    }
};

// Whether pieces are found once for all layers. That takes registers, which products of plain weights need.
#define KEEPS (WEIGHTS >> 5 != 0)
// Weights of one plain type: their pieces start where their slots do.
#define ALIGNED (WEIGHTS == 1 || WEIGHTS == 2 || WEIGHTS == 4)

struct Ring {
    const Step &p;
    const Layer *layers;
    const Works &works;
    u8 *slots;   // [p.slots][p.slot_bytes] of this warp
    u32 *notes;  // [p.slots]: where in its slot a piece starts, and its type
    u64 *full;   // [p.slots], barriers
    // Each lane has a piece of the next 32 of a layer, or of the output matrix: where its copy starts, and its
    // bytes, type and the place in the slot where it begins.
    u64 start;
    u32 what;
    // Its piece of every layer, where a warp has at most 32 of one; how many those are, NOTHING before they
    // were found, or 0.
    Piece kept;
    u32 kept_count;
    // Of these pieces, `next` is asked for next; `base` of the layer came before them.
    u32 next, count, base;
    u32 layer, steps;  // steps are left with that of the pieces; 0: nothing is left
    u32 filling, phases;
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
        phases = LAYER_PHASES * p.layer_count + head_parts(p);
        filling = reading = parity = 0;
        next = count = base = layer = 0;
        policy = read_once();
        kept_count = NOTHING;
        if (threadIdx.x % WARP == 0)
            for (u32 slot = 0; slot < p.slots; slot++) make_barrier(full + slot);
        barriers_are_made();
        __syncwarp();
        fetch(p.slots);
    }

    // The next pieces, one for each lane: addresses take many instructions, and all lanes find theirs at once.
    // False if there are none.
    __device__ __forceinline__ bool look_ahead() {
        const u32 warp = threadIdx.x / WARP;
        for (;;) {
            if (steps == 0) return false;
            const bool head = layer == p.layer_count;
            if (KEEPS && !head && base == 0 && kept_count - 1 < WARP) {
                if (threadIdx.x % WARP < kept_count) find(kept);
                next = 0, base = count = kept_count;
                return true;
            }
            const Work *work = works.all + (head ? LAYER_PHASES : 0);
            const Work *const end = head ? work + phases - LAYER_PHASES * p.layer_count : work + LAYER_PHASES;
            const Work *own = nullptr;
            u32 total = 0, item = base + threadIdx.x % WARP, at = 0;
#pragma unroll 1
            for (; work < end; work++) {
                const u32 share = work->shares[warp].x, first = share & 0xffff, mine = (share >> 16) - first;
                if (item >= total && item - total < mine) own = work, at = first + item - total;
                total += mine;
            }
            if (base < total) {
                Piece piece = {};
                if (own) piece = Piece(p, *own, at), find(piece);
                if (KEEPS && !head && kept_count == NOTHING) kept = piece, kept_count = total <= WARP ? total : 0;
                next = 0, count = total - base < WARP ? total - base : WARP, base += count;
                return true;
            }
            base = 0;
            if (head) steps--;
            layer = head ? 0 : layer + 1;
        }
    }

    // Makes a piece of the layer this lane's.
    __device__ __forceinline__ void find(const Piece &piece) {
        const Matrix &matrix = layers[layer].matrices[piece.which];
        const u32 offset = piece.chunk * matrix.piece_bytes, left = matrix.row_bytes - offset;
        const u32 bytes = left < matrix.piece_bytes ? left : matrix.piece_bytes;
        const u64 from = matrix.start + (u64)piece.row * matrix.row_bytes + offset;
        const u32 skew = ALIGNED ? 0 : (u32)from & 15;
        start = from - skew;
        what = ((skew + bytes + 15) & ~15u) << 16 | matrix.dtype << 8 | skew;
    }

    // Asks for the next pieces; the slots they go to are free.
    __device__ __forceinline__ void fetch(u32 pieces) {
#pragma unroll 1
        while (pieces > 0) {
            if (next == count && !look_ahead()) return;
            const u32 some = pieces < count - next ? pieces : count - next;
            const u32 own = threadIdx.x % WARP - next;
            if (own < some) {
                const u32 slot = filling + own - (filling + own >= p.slots ? p.slots : 0);
                if (!ALIGNED) notes[slot] = what & 0xffff;
                copy_ahead(slots + slot * p.slot_bytes, start, what >> 16, full + slot, policy);
            }
            next += some, pieces -= some, filling += some;
            if (filling >= p.slots) filling -= p.slots;
        }
    }

    // The piece `ahead` of the next one, once it is there, and its type.
    __device__ __forceinline__ const u8 *piece(u32 ahead, u32 &dtype) const {
        const bool wraps = reading + ahead >= p.slots;
        const u32 at = reading + ahead - (wraps ? p.slots : 0);
        wait_for(full + at, parity ^ wraps);
        if (ALIGNED) {
            dtype = WEIGHTS >> 1;
            return slots + at * p.slot_bytes;
        }
        const u32 note = notes[at];
        dtype = note >> 8;
        return slots + at * p.slot_bytes + (note & 255);
    }

    // Gives the slots of the next `pieces` pieces back, which are filled again at once.
    __device__ __forceinline__ void done(u32 pieces) {
        __syncwarp();
        fetch(pieces);
        reading += pieces;
        if (reading >= p.slots) reading -= p.slots, parity ^= 1;
    }
};
