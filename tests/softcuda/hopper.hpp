// Stand-ins for sdpa_hopper.cuh: barriers of shared memory, tensor copies, named barriers. A copy ends when
// somebody waits, in any order, in half of the blocks only when it is waited for itself; until then its rows are
// unwritten, so that what is read too early or kept too long shows.
#pragma once

// What the driver would encode: a tensor of two-byte elements and the rows of a box of 64.
struct alignas(64) TensorMap {
    const u8 *start;
    u64 sizes[4], strides[4];  // width, rows, heads, batch; strides in bytes
    u64 rows;
};

// A barrier in its 64 bits.
struct Phase {
    int missing : 12, arrivals : 12, parity : 8;
    int bytes;
};

static void count_down(u64 &barrier, int arrivals, int bytes) {
    Phase phase;
    memcpy(&phase, &barrier, 8);
    if (phase.missing < arrivals) soft::fail("too many arrive at a barrier");
    phase.missing -= arrivals, phase.bytes += bytes;
    if (phase.missing == 0 && phase.bytes == 0) phase.missing = phase.arrivals, phase.parity ^= 1;
    memcpy(&barrier, &phase, 8);
}

inline void barrier_init(u64 &barrier, int arrivals) {
    const Phase phase = {arrivals, arrivals, 0, 0};
    memcpy(&barrier, &phase, 8);
}

inline void barriers_are_made() {}
inline void barrier_expect(u64 &barrier, int bytes) { count_down(barrier, 1, bytes); }
inline void barrier_arrive(u64 &barrier) { count_down(barrier, 1, 0); }

struct Box {
    u32 to;
    TensorMap map;
    u64 *barrier;
    int element, row, head, batch;
};

static thread_local std::vector<Box> boxes;

// Rows of 128 bytes, of which groups of 16 are swapped by the row; zeros outside the tensor.
static void land(const Box &box) {
    const TensorMap &map = box.map;
    for (u64 r = 0; r < map.rows; r++)
        for (u64 chunk = 0; chunk < 8; chunk++) {
            u8 *to = soft::shared + box.to + r * 128 + (chunk ^ r % 8) * 16;
            const u64 row = box.row + r, element = box.element + chunk * 8;
            memset(to, 0, 16);
            if (row >= map.sizes[1] || element >= map.sizes[0]) continue;
            const u8 *from = map.start + element * 2 + row * map.strides[1] + box.head * map.strides[2] +
                             box.batch * map.strides[3];
            soft::check_device((u64)from, 16);
            memcpy(to, from, 16);
        }
    count_down(*box.barrier, 0, -(int)map.rows * 128);
}

inline void copy_box(u32 to, const TensorMap &map, u64 &barrier, int element, int row, int head, int batch) {
    const size_t bytes = map.rows * 128;
    if (to % 1024 || to + bytes > soft::shared_bytes) soft::fail("a box at a wrong place of shared memory");
    memset(soft::shared + to, soft::unwritten, bytes);
    boxes.push_back({to, map, &barrier, element, row, head, batch});
}

inline void barrier_wait(u64 &barrier, int parity) {
    static thread_local const bool late = rand() % 2;
    for (u32 looks = 0;; soft::yield()) {
        Phase phase;
        {
                    memcpy(&phase, &barrier, 8);
        }
        if ((phase.parity & 1) != parity) return;
        if (++looks > 1u << 17) soft::fail("a wait for a barrier that nobody ends");
        if (boxes.empty() || rand() % 4) continue;
        std::swap(boxes[rand() % boxes.size()], boxes.back());
        if (late && boxes.back().barrier != &barrier) continue;
        const Box box = boxes.back();
        boxes.pop_back();
        land(box);
    }
}

static thread_local soft::Barrier named[16];

template <int COUNT>
void named_sync(int id) {
    soft::wait(named[id], COUNT);
}

template <int COUNT>
void named_arrive(int id) {
    if (++named[id].arrived == COUNT) named[id].arrived = 0, named[id].generation++;
}

inline void writes_before_products() {}
template <int COUNT> void give_registers() {}
template <int COUNT> void take_registers() {}
