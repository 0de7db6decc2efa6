// Attention of many query positions (prefill) for Hopper: bulk tensor copies, warpgroup products
// and warps with roles.
//
// A block holds 64 · GROUPS queries of one head. One thread copies: it takes the next piece of work
// from a counter (longest first), and keeps two blocks of queries and a ring of STAGES tiles of keys
// and of values full. GROUPS warpgroups compute, 64 rows each. Within a group the next scores are
// multiplied while the last weights meet their values, also from one piece of work to the next;
// between groups the order of products is passed on by named barriers, so that one group's softmax
// runs under another's products.
//
// Bands, live lengths and grouped heads are taken; mask tensors and softcap are not.
// Compiled per call class: HEAD_DIM = V_DIM (64 or 128), QT = KT = VT (1 or 2), GROUPS, KEYS (a width in
// sdpa_wgmma.cuh), STAGES. Grid: as many blocks as run at once: one a multiprocessor, two with
// GROUPS 1. `counters`: two zeros.
// variant: any
// variant: -DQT=1 -DHEAD_DIM=64 -DV_DIM=64 -DGROUPS=1 -DKEYS=128 -DSTAGES=2
// variant: -DQT=1 -DHEAD_DIM=64 -DV_DIM=64 -DGROUPS=2 -DKEYS=192 -DSTAGES=2
// variant: -DQT=1 -DHEAD_DIM=128 -DV_DIM=128 -DGROUPS=1 -DKEYS=64 -DSTAGES=2
// variant: -DQT=1 -DHEAD_DIM=128 -DV_DIM=128 -DGROUPS=2 -DKEYS=128 -DSTAGES=2
// variant: -DQT=2 -DHEAD_DIM=64 -DV_DIM=64 -DGROUPS=1 -DKEYS=128 -DSTAGES=2
// variant: -DQT=2 -DHEAD_DIM=64 -DV_DIM=64 -DGROUPS=2 -DKEYS=192 -DSTAGES=2
// variant: -DQT=2 -DHEAD_DIM=128 -DV_DIM=128 -DGROUPS=1 -DKEYS=64 -DSTAGES=2
// variant: -DQT=2 -DHEAD_DIM=128 -DV_DIM=128 -DGROUPS=2 -DKEYS=128 -DSTAGES=2
// arch: sm_90a
#include "sdpa_common.cuh"
#include "sdpa_hopper.cuh"
#include "sdpa_wgmma.cuh"

#ifndef GROUPS
#define GROUPS 2
#endif
#ifndef KEYS
#define KEYS 128
#endif
#ifndef STAGES
#define STAGES 2
#endif
// Whether the groups pass the order of their products on.
#ifndef PASS_ON
#define PASS_ON (GROUPS > 1)
#endif
constexpr int THREADS = 128 * (GROUPS + 1);
constexpr int QUERIES = 64 * GROUPS;
constexpr int PANELS = HEAD_DIM / 64;  // A swizzled row holds 64 elements: 128 bytes.
constexpr int Q_BYTES = QUERIES * HEAD_DIM * 2;
constexpr int TILE_BYTES = KEYS * HEAD_DIM * 2;
constexpr int Q_PANEL = QUERIES * 128;
constexpr int K_PANEL = KEYS * 128;
constexpr int WARPS_COMPUTING = GROUPS * 4;
// Whether a warp meets before it gives a tile back. Its wait for the products is one for all lanes, so that no
// word is wrong without; only where narrow heads share a block is it faster with (docs/cuda.md).
constexpr bool MEETS = GROUPS > 1 && HEAD_DIM == 64;
// What setmaxnreg hands out: all registers of the multiprocessor.
constexpr int COPYING_REGISTERS = 40;
constexpr int COMPUTING_REGISTERS = GROUPS == 3 ? 152 : GROUPS == 2 ? 232 : 216;

// One piece of work: a block of queries of one head, and the tiles of keys it sees. `tiles` is −1
// when all work is done.
struct Work {
    i64 diag;
    int batch, head, kv_head, first_query, live, first_tile, tiles;
};

struct Shared {
    u64 q_full[2], q_empty[2], work_full[2], work_empty[2];
    u64 k_full[STAGES], k_empty[STAGES], v_full[STAGES], v_empty[STAGES];
    Work work[2];
};

// A number that all lanes hold, read from one: then the compiler knows it to be the same, and keeps it where
// products take the places of their operands from.
template <typename T>
__device__ __forceinline__ T same(T value) {
    return __shfl_sync(0xffffffffu, value, 0);
}

// Work number `index`. Heads come in waves whose keys and values fit the cache together; within a
// wave the last queries come first, since under a causal mask they take longest.
__device__ __forceinline__ Work work_at(const SdpaCall& call, int index, int total) {
    Work work;
    work.tiles = -1;
    if (index >= total) return work;
    const int heads = call.batch * call.q_heads;
    const int blocks = (call.q_len + QUERIES - 1) / QUERIES;
    const int wave = index / (call.heads_per_wave * blocks);
    const int in_wave = index - wave * call.heads_per_wave * blocks;
    const int wide = min(call.heads_per_wave, heads - wave * call.heads_per_wave);
    const int head = wave * call.heads_per_wave + in_wave % wide;
    work.batch = head / call.q_heads;
    work.head = head % call.q_heads;
    work.kv_head = work.head / (call.q_heads / call.kv_heads);
    work.first_query = (blocks - 1 - in_wave / wide) * QUERIES;
    work.live = live_keys(call, work.batch);
    work.diag = diagonal(call, work.live);
    const int last_query = min(work.first_query + QUERIES, call.q_len) - 1;
    work.first_tile = first_key(call, work.diag, work.first_query, work.live) / KEYS;
    const int end = end_key(call, work.diag, last_query, work.live);
    work.tiles = max(0, (end + KEYS - 1) / KEYS - work.first_tile);
    return work;
}

// The copying thread.
__device__ __forceinline__ void produce(const SdpaCall& call, const TensorMap& q_map, const TensorMap& k_map,
                                        const TensorMap& v_map, Shared& sync, u32 q_shared, u32 k_shared,
                                        u32 v_shared, int total) {
    int tile = 0, pieces = 0, index = blockIdx.x;
    for (int turn = 0;; ++turn) {
        const int side = turn % 2;
        const Work work = work_at(call, index, total);
        barrier_wait(sync.work_empty[side], (turn / 2 % 2) ^ 1);
        sync.work[side] = work;
        barrier_arrive(sync.work_full[side]);
        if (work.tiles < 0) break;
        index = gridDim.x + atomicAdd(call.counters, 1);
        if (work.tiles == 0) continue;
        const int buffer = pieces % 2;
        barrier_wait(sync.q_empty[buffer], (pieces / 2 & 1) ^ 1);
        ++pieces;
        barrier_expect(sync.q_full[buffer], Q_BYTES);
#pragma unroll
        for (int panel = 0; panel < PANELS; ++panel) {
            copy_box(q_shared + buffer * Q_BYTES + panel * Q_PANEL, q_map, sync.q_full[buffer], panel * 64,
                     work.first_query, work.head, work.batch);
        }
        // Keys run one tile ahead of values, as they are used.
        for (int i = 0; i <= work.tiles; ++i) {
            const int row = (work.first_tile + work.tiles - 1 - i) * KEYS;
            if (i < work.tiles) {
                const int at = tile + i, stage = at % STAGES;
                barrier_wait(sync.k_empty[stage], (at / STAGES & 1) ^ 1);
                barrier_expect(sync.k_full[stage], TILE_BYTES);
#pragma unroll
                for (int panel = 0; panel < PANELS; ++panel) {
                    copy_box(k_shared + stage * TILE_BYTES + panel * K_PANEL, k_map, sync.k_full[stage],
                             panel * 64, row, work.kv_head, work.batch);
                }
            }
            if (i > 0) {
                const int at = tile + i - 1, stage = at % STAGES;
                barrier_wait(sync.v_empty[stage], (at / STAGES & 1) ^ 1);
                barrier_expect(sync.v_full[stage], TILE_BYTES);
#pragma unroll
                for (int panel = 0; panel < PANELS; ++panel) {
                    copy_box(v_shared + stage * TILE_BYTES + panel * K_PANEL, v_map, sync.v_full[stage],
                             panel * 64, row + KEYS, work.kv_head, work.batch);
                }
            }
        }
        tile += work.tiles;
    }
    // The last block to end makes the counters ready for the next launch.
    __threadfence();
    if (atomicAdd(call.counters + 1, 1) == gridDim.x - 1) {
        call.counters[0] = 0;
        call.counters[1] = 0;
    }
}

// The running softmax of a thread's two rows.
struct Rows {
    float highest[2], total[2];
};

// Takes the scores into the rows' maxima; `base_line` is what their exponents start from, `shrink` the
// factor of everything summed before.
__device__ __forceinline__ void raise(const float (&score)[KEYS / 2], Rows& rows, float (&base_line)[2],
                                      float (&shrink)[2], float scale) {
    float here[2][2];
#pragma unroll
    for (int e = 0; e < 4; ++e) here[e / 2][e % 2] = score[e];
#pragma unroll
    for (int j = 1; j < KEYS / 8; ++j) {
#pragma unroll
        for (int e = 0; e < 4; ++e) here[e / 2][e % 2] = fmaxf(here[e / 2][e % 2], score[j * 4 + e]);
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const float higher = fmaxf(rows.highest[half], quad_max(fmaxf(here[half][0], here[half][1])));
        base_line[half] = higher == NEG_INF ? 0.0f : higher * scale;
        shrink[half] = exp2_fast(fmaf(rows.highest[half], scale, -base_line[half]));
        rows.highest[half] = higher;
    }
}

// Turns scores into packed weights and shrinks the sums, a bit of each at a time: the exponentials
// leave the issue port idle most of the time, and the rest goes there.
__device__ __forceinline__ void weigh(const float (&score)[KEYS / 2], u32 (&weight)[KEYS / 4],
                                      float (&sum)[HEAD_DIM / 2], Rows& rows, const float (&base_line)[2],
                                      const float (&shrink)[2], float scale) {
    float all[2][2] = {};
    constexpr int STEPS = KEYS / 8, SUMS = HEAD_DIM / 2;
#pragma unroll
    for (int j = 0; j < STEPS; ++j) {
        float x[4];
#pragma unroll
        for (int e = 0; e < 4; ++e) {
            x[e] = exp2_fast(fmaf(score[j * 4 + e], scale, -base_line[e / 2]));
            all[e / 2][e % 2] += x[e];
        }
        weight[j * 2] = pack2<QT>(x[0], x[1]);
        weight[j * 2 + 1] = pack2<QT>(x[2], x[3]);
#pragma unroll
        for (int n = 0; n < SUMS; ++n) {
            if (n * STEPS / SUMS == j) sum[n] *= shrink[n / 2 % 2];
        }
    }
#pragma unroll
    for (int half = 0; half < 2; ++half)
        rows.total[half] = fmaf(rows.total[half], shrink[half], all[half][0] + all[half][1]);
}

extern "C" __global__ void __launch_bounds__(THREADS, GROUPS == 1 ? 2 : 1)
    sdpa_prefill_sm90(const __grid_constant__ SdpaCall call, const __grid_constant__ TensorMap q_map,
                      const __grid_constant__ TensorMap k_map, const __grid_constant__ TensorMap v_map) {
    extern __shared__ __align__(1024) u8 shared[];
    __shared__ Shared sync;
    const u32 q_shared = shared_address(shared);
    const u32 k_shared = q_shared + 2 * Q_BYTES, v_shared = k_shared + STAGES * TILE_BYTES;
    const int role = __shfl_sync(0xffffffffu, threadIdx.x / 128, 0);
    if (threadIdx.x == 0) {
        for (int i = 0; i < 2; ++i) {
            barrier_init(sync.q_full[i], 1);
            barrier_init(sync.q_empty[i], WARPS_COMPUTING);
            barrier_init(sync.work_full[i], 1);
            barrier_init(sync.work_empty[i], WARPS_COMPUTING);
        }
        for (int i = 0; i < STAGES; ++i) {
            barrier_init(sync.k_full[i], 1);
            barrier_init(sync.k_empty[i], WARPS_COMPUTING);
            barrier_init(sync.v_full[i], 1);
            barrier_init(sync.v_empty[i], WARPS_COMPUTING);
        }
        barriers_are_made();
    }
    __syncthreads();

    if (role == 0) {
        give_registers<COPYING_REGISTERS>();
        if (threadIdx.x == 0) {
            const int total = call.batch * call.q_heads * ((call.q_len + QUERIES - 1) / QUERIES);
            produce(call, q_map, k_map, v_map, sync, q_shared, k_shared, v_shared, total);
        }
    } else {
        take_registers<COMPUTING_REGISTERS>();
        const int group = role - 1, lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
        const int group_row = group * 64 + warp * 16;
        const float scale = call.scale * LOG2E;
        const u32 q_low = descriptor_low(q_shared + group * 64 * 128, 16);
        const u32 k_low = descriptor_low(k_shared, 16);
        const u32 v_low = descriptor_low(v_shared, K_PANEL);
        float score[KEYS / 2], sum[HEAD_DIM / 2];
        u32 weight[KEYS / 4];

        auto multiply_scores = [&](u32 a, u32 b) {
            wgmma_fence();
#pragma unroll
            for (int k = 0; k < HEAD_DIM / 16; ++k) {
                wgmma_shared(score, descriptor(a, k / 4 * Q_PANEL + k % 4 * 32),
                             descriptor(b, k / 4 * K_PANEL + k % 4 * 32), k > 0);
            }
            wgmma_commit();
        };
        auto multiply_values = [&](u32 b, int add) {
            wgmma_fence();
#pragma unroll
            for (int k = 0; k < KEYS / 16; ++k)
                wgmma_registers(sum, weight + k * 4, descriptor(b, k * 2048), k > 0 ? 1 : add);
            wgmma_commit();
        };
        auto release = [&](u64& barrier) {
            __syncwarp();
            if (lane == 0) barrier_arrive(barrier);
        };
        auto release_tile = [&](u64& barrier) {
            if (MEETS) __syncwarp();
            if (lane == 0) barrier_arrive(barrier);
        };
        // Normalises and writes this thread's part of 16 rows from `first_row` on, 16 bytes at a time.
        auto finish = [&](int batch, int head, int first_row, const float (&totals)[2]) {
            bool bad = false;
            float probe = 0.0f;  // 0 as long as all is finite
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int row = first_row + lane / 4 + half * 8;
                const float all = quad_sum(totals[half]);
                const float norm = all == 0.0f ? 0.0f : 1.0f / all;
                bad |= !is_finite(all);
                u16* out = static_cast<u16*>(call.out) + batch * call.o_stride[0] + head * call.o_stride[1] +
                           row * call.o_stride[2] + lane % 4 * 8;
#pragma unroll
                for (int j = 0; j < HEAD_DIM / 8; j += 4) {
                    u32 x[4];
#pragma unroll
                    for (int n = 0; n < 4; ++n) {
                        const float low = sum[(j + n) * 4 + half * 2] * norm,
                                    high = sum[(j + n) * 4 + half * 2 + 1] * norm;
                        probe = fmaf(high, 0.0f, fmaf(low, 0.0f, probe));
                        x[n] = pack2<QT>(low, high);
                    }
                    // Four lanes exchange so that each holds 8 neighbouring values: lane n those of x[n].
                    const bool odd = lane & 1, upper = lane & 2;
                    const u32 a = __shfl_xor_sync(0xffffffffu, odd ? x[0] : x[1], 1);
                    const u32 b = __shfl_xor_sync(0xffffffffu, odd ? x[2] : x[3], 1);
                    const u32 low0 = odd ? a : x[0], low1 = odd ? x[1] : a;
                    const u32 high0 = odd ? b : x[2], high1 = odd ? x[3] : b;
                    const u32 c = __shfl_xor_sync(0xffffffffu, upper ? low0 : high0, 2);
                    const u32 d = __shfl_xor_sync(0xffffffffu, upper ? low1 : high1, 2);
                    const uint4 values =
                        upper ? make_uint4(c, d, high0, high1) : make_uint4(low0, low1, c, d);
                    if (row < call.q_len) *reinterpret_cast<uint4*>(out + j * 8) = values;
                }
            }
            // A NaN or infinity may come from a value behind a mask: then these rows are done again.
            if (__any_sync(0xffffffffu, bad || !(probe == 0.0f))) {
                __syncwarp();
                for (int row = first_row; row < min(first_row + 16, call.q_len); ++row)
                    exact_row(call, batch, head, row, lane);
            }
        };

        // The piece whose last weights have yet to meet their values; none before the first.
        int last_batch = 0, last_head = 0, last_row = -1;
        Rows rows = {};
        // Tiles and pieces so far; whether the next product with values adds to the sums.
        int now = 0, pieces = 0, add = 0;
#pragma unroll
        for (int i = 0; i < KEYS / 4; ++i) weight[i] = 0;
#pragma unroll
        for (int n = 0; n < HEAD_DIM / 2; ++n) sum[n] = 0.0f;
        if (PASS_ON && group == GROUPS - 1) named_arrive<256>(1);
        for (int turn = 0;; ++turn) {
            const int side = turn % 2;
            barrier_wait(sync.work_full[side], turn / 2 % 2);
            Work work = sync.work[side];
            release(sync.work_empty[side]);
            work.tiles = same(work.tiles);
            work.first_tile = same(work.first_tile);
            if (work.tiles < 0) break;
            const int first_row = work.first_query + group_row;
            if (work.tiles == 0) {
                for (int at = lane; at < 16 * (HEAD_DIM / 8); at += 32) {
                    const int row = first_row + at / (HEAD_DIM / 8);
                    u16* out = static_cast<u16*>(call.out) + work.batch * call.o_stride[0] +
                               work.head * call.o_stride[1] + row * call.o_stride[2];
                    if (row < call.q_len)
                        *reinterpret_cast<uint4*>(out + at % (HEAD_DIM / 8) * 8) = make_uint4(0, 0, 0, 0);
                }
                continue;
            }
            const int row = first_row + lane / 4;
            const int first[2] = {first_key(call, work.diag, row, work.live),
                                  first_key(call, work.diag, row + 8, work.live)};
            const int last[2] = {end_key(call, work.diag, row, work.live),
                                 end_key(call, work.diag, row + 8, work.live)};
            // Where every row of this group sees every key.
            const int all_first = first_key(call, work.diag, work.first_query + group * 64 + 63, work.live);
            const int all_last = end_key(call, work.diag, work.first_query + group * 64, work.live);
            const float last_total[2] = {rows.total[0], rows.total[1]};
            rows.highest[0] = rows.highest[1] = NEG_INF;
            rows.total[0] = rows.total[1] = 0.0f;
            const int buffer = pieces % 2;
            barrier_wait(sync.q_full[buffer], pieces / 2 & 1);
            ++pieces;
            int base = (work.first_tile + work.tiles) * KEYS;
            for (int i = 0; i < work.tiles; ++i, ++now) {
                const int stage = now % STAGES, before = (now + STAGES - 1) % STAGES;
                base -= KEYS;
                barrier_wait(sync.k_full[stage], now / STAGES & 1);
                if (now > 0) barrier_wait(sync.v_full[before], (now - 1) / STAGES & 1);
                const u32 at_q = same(q_low + buffer * (Q_BYTES / 16));
                const u32 at_k = same(k_low + stage * (TILE_BYTES / 16));
                const u32 at_v = same(v_low + before * (TILE_BYTES / 16));
                if (PASS_ON) named_sync<256>(1 + group);
                multiply_scores(at_q, at_k);
                // The very first product meets weights of 0 and whatever is there; nobody uses it.
                multiply_values(at_v, add);
                if (PASS_ON) named_arrive<256>(1 + (group + 1) % GROUPS);
                wgmma_wait<1>();
                wgmma_settle(score);
                release_tile(sync.k_empty[stage]);
                if (i == work.tiles - 1) release(sync.q_empty[buffer]);
                if (base < all_first || base + KEYS > all_last) {
#pragma unroll
                    for (int n = 0; n < KEYS / 2; ++n) {
                        const int key = base + n / 4 * 8 + lane % 4 * 2 + n % 2, half = n / 2 % 2;
                        if (key < first[half] || key >= last[half]) score[n] = NEG_INF;
                    }
                }
                float base_line[2], shrink[2];
                raise(score, rows, base_line, shrink, scale);
                wgmma_wait<0>();
                wgmma_settle(sum);
                if (now > 0) release_tile(sync.v_empty[before]);
                if (i == 0 && last_row >= 0) finish(last_batch, last_head, last_row, last_total);
                weigh(score, weight, sum, rows, base_line, shrink, scale);
                add = i > 0;
                if (i == 0 && base + KEYS > work.live && work.live < call.kv_len) {
                    // What lies past the live length may be anything: no product may see it.
                    barrier_wait(sync.v_full[stage], now / STAGES & 1);
                    u8* values =
                        shared + 2 * Q_BYTES + (STAGES + stage) * TILE_BYTES + (work.live - base) * 128;
                    const int dead = (base + KEYS - work.live) * 8;
                    for (int at = threadIdx.x - 128; at < dead * PANELS; at += GROUPS * 128) {
                        *reinterpret_cast<uint4*>(values + at / dead * K_PANEL + at % dead * 16) =
                            make_uint4(0, 0, 0, 0);
                    }
                    writes_before_products();
                    named_sync<GROUPS * 128>(8);
                }
            }
            last_batch = work.batch;
            last_head = work.head;
            last_row = first_row;
        }
        if (last_row >= 0) {
            const int before = (now - 1) % STAGES;
            barrier_wait(sync.v_full[before], (now - 1) / STAGES & 1);
            multiply_values(same(v_low + before * (TILE_BYTES / 16)), add);
            wgmma_wait<0>();
            wgmma_settle(sum);
            finish(last_batch, last_head, last_row, rows.total);
        }
    }
}
