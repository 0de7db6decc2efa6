// Stand-ins for the instructions of sdpa_common.cuh's part of the matrix units. A copy ends when its thread waits for
// it; until then its slot is unwritten, so that what is read or overwritten too early shows.
#pragma once

struct CopyOf16 {
    u32 to;
    const void *from;
    bool live;
    int group;
};

static thread_local std::vector<CopyOf16> copies_of_16[1024];
static thread_local int committed[1024];

inline void copy_async_16(u32 to, const void *from, bool live) {
    if (to % 16 || (u64)from % 16) soft::fail("a copy at no multiple of 16");
    if (to + 16 > soft::shared_bytes) soft::fail("a copy outside shared memory");
    if (live) soft::check_device((u64)from, 16);
    memset(soft::shared + to, soft::unwritten, 16);
    copies_of_16[threadIdx.x].push_back({to, from, live, committed[threadIdx.x]});
}

inline void copy_commit() { committed[threadIdx.x]++; }

template <int PENDING>
void copy_wait() {
    auto &mine = copies_of_16[threadIdx.x];
    const auto ended = [](const CopyOf16 &copy) {
        if (copy.group >= committed[threadIdx.x] - PENDING) return false;
        u8 *to = soft::shared + copy.to;
        if (copy.live) memcpy(to, copy.from, 16);
        else memset(to, 0, 16);
        return true;
    };
    mine.erase(std::remove_if(mine.begin(), mine.end(), ended), mine.end());
}

// Lanes 8 i .. 8 i + 7 name the rows of matrix i; a lane gets two neighbours of one row of each matrix.
inline void load_matrix_4(u32 (&r)[4], u32 address) {
    if (address % 16 || address + 16 > soft::shared_bytes) soft::fail("a row of a matrix at a wrong place");
    const int lane = threadIdx.x % 32;
    for (int i = 0; i < 4; i++) memcpy(&r[i], soft::shared + __shfl_sync(~0u, address, i * 8 + lane / 4) + lane % 4 * 4, 4);
}

// The same of the matrices turned over: two neighbours of one column.
inline void load_matrix_4_transposed(u32 (&r)[4], u32 address) {
    if (address % 16 || address + 16 > soft::shared_bytes) soft::fail("a row of a matrix at a wrong place");
    const int lane = threadIdx.x % 32;
    for (int i = 0; i < 4; i++) {
        u16 two[2];
        for (int n = 0; n < 2; n++)
            memcpy(&two[n], soft::shared + __shfl_sync(~0u, address, i * 8 + lane % 4 * 2 + n) + lane / 4 * 2, 2);
        r[i] = two[0] | (u32)two[1] << 16;
    }
}

static thread_local u32 factors[32][32][6];

template <int TYPE>
void multiply_add(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    auto &warp = factors[threadIdx.x / 32];
    const int lane = threadIdx.x % 32;
    const u32 own[6] = {a[0], a[1], a[2], a[3], b0, b1};
    memcpy(warp[lane], own, sizeof own);
    __syncwarp();
    const auto element = [&](int from, int at, int k) {
        const u32 both = warp[from * 4 + k % 8 / 2][at];
        return k % 2 ? high_of<TYPE>(both) : low_of<TYPE>(both);
    };
    for (int e = 0; e < 4; e++)
        for (int k = 0; k < 16; k++) {
            const int column = lane % 4 * 2 + e % 2;
            c[e] += element(lane / 4, e / 2 + k / 8 * 2, k) * element(column, 4 + k / 8, k);
        }
    __syncwarp();
}
