// Attention of many query positions (prefill) for Hopper: bulk tensor copies, warpgroup products
// and warps with roles.
//
// A block holds 64 · GROUPS queries of one head. One thread copies: it takes the next piece of work
// from a counter (longest first), and keeps a ring of STAGES tiles of keys and of values full.
// GROUPS warpgroups compute, 64 rows each. Within a group the next scores are multiplied while the
// last weights meet their values; between groups the order of products is passed on by named
// barriers, so that one group's softmax runs under another's products.
//
// Bands, live lengths and grouped heads are taken; mask tensors and softcap are not.
// Compiled per call class: HEAD_DIM = V_DIM (64 or 128), QT = KT = VT (1 or 2), GROUPS, KEYS, STAGES.
// Grid: at most one block per multiprocessor.
#include "sdpa_common.cuh"
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
#ifndef PASS_ON
#define PASS_ON 1
#endif
// Of every 8 exponentials, how many are polynomials on the multipliers.
#ifndef POLYNOMIALS
#define POLYNOMIALS 0
#endif

constexpr int THREADS = 128 * (GROUPS + 1);
constexpr int QUERIES = 64 * GROUPS;
constexpr int PANELS = HEAD_DIM / 64;  // A swizzled row holds 64 elements: 128 bytes.
constexpr int Q_BYTES = QUERIES * HEAD_DIM * 2;
constexpr int TILE_BYTES = KEYS * HEAD_DIM * 2;
constexpr int Q_PANEL = QUERIES * 128;
constexpr int K_PANEL = KEYS * 128;
constexpr int WARPS_COMPUTING = GROUPS * 4;

struct alignas(64) TensorMap {
    u64 opaque[16];
};

struct Barriers {
    u64 q_full, q_empty, work_full[2], work_empty[2];
    u64 k_full[STAGES], k_empty[STAGES], v_full[STAGES], v_empty[STAGES];
    int work[2];
};

__device__ __forceinline__ void barrier_init(u64& barrier, int arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(&barrier)), "r"(arrivals) : "memory");
}

__device__ __forceinline__ void barrier_expect(u64& barrier, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(&barrier)), "r"(bytes) : "memory");
}

__device__ __forceinline__ void barrier_arrive(u64& barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(&barrier)) : "memory");
}

// Waits until the phase of this parity is over.
__device__ __forceinline__ void barrier_wait(u64& barrier, int parity) {
    asm volatile(
        "{\n.reg .pred p;\n"
        "again:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n"
        "@p bra done;\n"
        "bra again;\n"
        "done:\n}\n" ::"r"(shared_address(&barrier)), "r"(parity)
        : "memory");
}

// One box of a tensor into shared memory; the barrier counts its bytes.
__device__ __forceinline__ void copy_box(u32 to, const TensorMap& map, u64& barrier, int element, int row, int head, int batch) {
    asm volatile(
        "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6}], [%2];" ::"r"(to),
        "l"(&map), "r"(shared_address(&barrier)), "r"(element), "r"(row), "r"(head), "r"(batch)
        : "memory");
}

template <int ID_COUNT>
__device__ __forceinline__ void named_sync(int id) {
    asm volatile("bar.sync %0, %1;" ::"r"(id), "n"(ID_COUNT) : "memory");
}

template <int ID_COUNT>
__device__ __forceinline__ void named_arrive(int id) {
    asm volatile("bar.arrive %0, %1;" ::"r"(id), "n"(ID_COUNT) : "memory");
}

// A tile in shared memory: rows of 128 bytes in swizzled groups of eight; `panel` bytes to the next
// 64 columns where the columns run along the result.
__device__ __forceinline__ u64 descriptor(u32 address, int panel) {
    return static_cast<u64>((address & 0x3ffff) >> 4) | static_cast<u64>(panel >> 4) << 16 |
           static_cast<u64>(1024 >> 4) << 32 | 1ull << 62;
}

// One piece of work: a block of queries of one head, and the tiles of keys it sees.
struct Work {
    int batch, head, kv_head, first_query, live, first_tile, tiles;
    i64 diag;
};

// Work number `index`. Heads come in waves whose keys and values fit the cache together; within a
// wave the last queries come first, since under a causal mask they take longest.
__device__ __forceinline__ Work work_at(const SdpaCall& call, int index) {
    const int heads = call.batch * call.q_heads;
    const int blocks = (call.q_len + QUERIES - 1) / QUERIES;
    const int wave = index / (call.heads_per_wave * blocks);
    const int in_wave = index - wave * call.heads_per_wave * blocks;
    const int wide = min(call.heads_per_wave, heads - wave * call.heads_per_wave);
    const int head = wave * call.heads_per_wave + in_wave % wide;
    Work work;
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

__device__ __forceinline__ void produce(const SdpaCall& call, const TensorMap& q_map, const TensorMap& k_map,
                                        const TensorMap& v_map, Barriers& barriers, u32 q_shared, u32 k_shared,
                                        u32 v_shared, int total) {
    int tile = 0, pieces = 0, next = blockIdx.x;
    for (int turn = 0;; ++turn) {
        const int slot = turn % 2;
        barrier_wait(barriers.work_empty[slot], (turn / 2 % 2) ^ 1);
        const int index = next;
        barriers.work[slot] = index;
        barrier_arrive(barriers.work_full[slot]);
        if (index >= total) break;
        next = gridDim.x + atomicAdd(call.counters, 1);
        const Work work = work_at(call, index);
        if (work.tiles == 0) continue;
        barrier_wait(barriers.q_empty, (pieces & 1) ^ 1);
        ++pieces;
        barrier_expect(barriers.q_full, Q_BYTES);
#pragma unroll
        for (int panel = 0; panel < PANELS; ++panel) {
            copy_box(q_shared + panel * Q_PANEL, q_map, barriers.q_full, panel * 64, work.first_query, work.head, work.batch);
        }
        // Keys run one tile ahead of values, as they are used.
        for (int i = 0; i <= work.tiles; ++i) {
            const int row = (work.first_tile + work.tiles - 1 - i) * KEYS;
            if (i < work.tiles) {
                const int at = tile + i, stage = at % STAGES;
                barrier_wait(barriers.k_empty[stage], (at / STAGES & 1) ^ 1);
                barrier_expect(barriers.k_full[stage], TILE_BYTES);
#pragma unroll
                for (int panel = 0; panel < PANELS; ++panel) {
                    copy_box(k_shared + stage * TILE_BYTES + panel * K_PANEL, k_map, barriers.k_full[stage], panel * 64, row, work.kv_head, work.batch);
                }
            }
            if (i > 0) {
                const int at = tile + i - 1, stage = at % STAGES;
                barrier_wait(barriers.v_empty[stage], (at / STAGES & 1) ^ 1);
                barrier_expect(barriers.v_full[stage], TILE_BYTES);
#pragma unroll
                for (int panel = 0; panel < PANELS; ++panel) {
                    copy_box(v_shared + stage * TILE_BYTES + panel * K_PANEL, v_map, barriers.v_full[stage], panel * 64, row + KEYS, work.kv_head, work.batch);
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

// 2^x for −126 <= x <= 0 without the special-function unit: 2^round(x) by adding to the exponent,
// times a polynomial of the rest (fitted to 4e-6).
__device__ __forceinline__ float exp2_polynomial(float x) {
    x = fmaxf(x, -126.0f);
    const float shifted = x + 12582912.0f;
    const float rest = x - (shifted - 12582912.0f);
    float y = fmaf(rest, 0.0096181291f, 0.0555041087f);
    y = fmaf(y, rest, 0.2402265070f);
    y = fmaf(y, rest, 0.6931471806f);
    y = fmaf(y, rest, 1.0f);
    return __uint_as_float(__float_as_uint(y) + (__float_as_uint(shifted) << 23));
}

// The running softmax of a thread's two rows.
struct Rows {
    float highest[2], total[2];
};

// Turns scores into weights and gives the factor by which earlier sums shrink.
template <bool FIRST>
__device__ __forceinline__ void weigh(float (&score)[KEYS / 2], Rows& rows, float (&shrink)[2], float scale, bool masked) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        float here[2] = {score[half * 2], score[half * 2 + 1]};
#pragma unroll
        for (int j = 1; j < KEYS / 8; ++j) {
            here[0] = fmaxf(here[0], score[j * 4 + half * 2]);
            here[1] = fmaxf(here[1], score[j * 4 + half * 2 + 1]);
        }
        float higher = quad_max(fmaxf(here[0], here[1]));
        if (!FIRST) higher = fmaxf(higher, rows.highest[half]);
        const float base_line = higher == NEG_INF ? 0.0f : higher * scale;
        if (!FIRST) shrink[half] = exp2_fast(fmaf(rows.highest[half], scale, -base_line));
        rows.highest[half] = higher;
        float all[2] = {0.0f, 0.0f};
#pragma unroll
        for (int j = 0; j < KEYS / 8; ++j) {
#pragma unroll
            for (int e = 0; e < 2; ++e) {
                const float x = fmaf(score[j * 4 + half * 2 + e], scale, -base_line);
                float weight;
                if (POLYNOMIALS > 0 && (j * 2 + e) % 8 < POLYNOMIALS && !FIRST) {
                    weight = exp2_polynomial(x);
                } else {
                    weight = exp2_fast(x);
                }
                score[j * 4 + half * 2 + e] = weight;
                all[e] += weight;
            }
        }
        rows.total[half] = FIRST ? all[0] + all[1] : fmaf(rows.total[half], shrink[half], all[0] + all[1]);
    }
}

__device__ __forceinline__ void pack_weights(u32 (&weight)[KEYS / 4], const float (&score)[KEYS / 2]) {
#pragma unroll
    for (int i = 0; i < KEYS / 4; ++i) weight[i] = pack2<QT>(score[i * 2], score[i * 2 + 1]);
}

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    sdpa_prefill_sm90(const __grid_constant__ SdpaCall call, const __grid_constant__ TensorMap q_map,
                      const __grid_constant__ TensorMap k_map, const __grid_constant__ TensorMap v_map) {
    extern __shared__ __align__(1024) u8 shared[];
    __shared__ Barriers barriers;
    const u32 q_shared = shared_address(shared);
    const u32 k_shared = q_shared + Q_BYTES, v_shared = k_shared + STAGES * TILE_BYTES;
    const int role = threadIdx.x / 128;
    const int total = call.batch * call.q_heads * ((call.q_len + QUERIES - 1) / QUERIES);
    if (threadIdx.x == 0) {
        barrier_init(barriers.q_full, 1);
        barrier_init(barriers.q_empty, WARPS_COMPUTING);
        for (int i = 0; i < 2; ++i) {
            barrier_init(barriers.work_full[i], 1);
            barrier_init(barriers.work_empty[i], WARPS_COMPUTING);
        }
        for (int i = 0; i < STAGES; ++i) {
            barrier_init(barriers.k_full[i], 1);
            barrier_init(barriers.k_empty[i], WARPS_COMPUTING);
            barrier_init(barriers.v_full[i], 1);
            barrier_init(barriers.v_empty[i], WARPS_COMPUTING);
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncthreads();

    if (role == 0) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(GROUPS == 2 ? 24 : 32));
        if (threadIdx.x == 0) {
            produce(call, q_map, k_map, v_map, barriers, q_shared, k_shared, v_shared, total);
        }
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(GROUPS == 2 ? 240 : 160));
        const int group = role - 1, lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
        const float scale = call.scale * LOG2E;
        const u64 q_tile = descriptor(q_shared + group * 64 * 128, 16);
        const u64 k_tile = descriptor(k_shared, 16);
        const u64 v_tile = descriptor(v_shared, K_PANEL);
        float score[KEYS / 2], sum[HEAD_DIM / 2];
        u32 weight[KEYS / 4];

        auto multiply_scores = [&](int stage) {
            wgmma_fence();
#pragma unroll
            for (int k = 0; k < HEAD_DIM / 16; ++k) {
                wgmma_shared(score, q_tile + (k / 4 * Q_PANEL + k % 4 * 32) / 16,
                             k_tile + (stage * TILE_BYTES + k / 4 * K_PANEL + k % 4 * 32) / 16, k > 0);
            }
            wgmma_commit();
        };
        auto multiply_values = [&](int stage, bool add) {
            wgmma_fence();
#pragma unroll
            for (int k = 0; k < KEYS / 16; ++k) {
                wgmma_registers(sum, weight + k * 4, v_tile + (stage * TILE_BYTES + k * 2048) / 16, k > 0 || add);
            }
            wgmma_commit();
        };
        auto release = [&](u64& barrier) {
            __syncwarp();
            if (lane == 0) barrier_arrive(barrier);
        };

        if (PASS_ON && group == GROUPS - 1) named_arrive<256>(1);
        int tile = 0, pieces = 0;
        for (int turn = 0;; ++turn) {
            const int slot = turn % 2;
            barrier_wait(barriers.work_full[slot], turn / 2 % 2);
            const int index = barriers.work[slot];
            release(barriers.work_empty[slot]);
            if (index >= total) break;
            const Work work = work_at(call, index);
            const int row = work.first_query + group * 64 + warp * 16 + lane / 4;
            Rows rows = {{NEG_INF, NEG_INF}, {0.0f, 0.0f}};
            if (work.tiles > 0) {
                const int first[2] = {first_key(call, work.diag, row, work.live), first_key(call, work.diag, row + 8, work.live)};
                const int last[2] = {end_key(call, work.diag, row, work.live), end_key(call, work.diag, row + 8, work.live)};
                // Where every row of this group sees every key.
                const int all_first = first_key(call, work.diag, work.first_query + group * 64 + 63, work.live);
                const int all_last = end_key(call, work.diag, work.first_query + group * 64, work.live);
                auto hide = [&](int base) {
                    const bool masked = base < all_first || base + KEYS > all_last;
                    if (masked) {
#pragma unroll
                        for (int i = 0; i < KEYS / 2; ++i) {
                            const int key = base + i / 4 * 8 + lane % 4 * 2 + i % 2, half = i / 2 % 2;
                            if (key < first[half] || key >= last[half]) score[i] = NEG_INF;
                        }
                    }
                    return masked;
                };
                float shrink[2];
                int base = (work.first_tile + work.tiles - 1) * KEYS;
                barrier_wait(barriers.q_full, pieces & 1);
                ++pieces;
                barrier_wait(barriers.k_full[tile % STAGES], tile / STAGES & 1);
                multiply_scores(tile % STAGES);
                wgmma_wait<0>();
                wgmma_settle(score);
                release(barriers.k_empty[tile % STAGES]);
                if (work.tiles == 1) release(barriers.q_empty);
                weigh<true>(score, rows, shrink, scale, hide(base));
                pack_weights(weight, score);
                if (base + KEYS > work.live && work.live < call.kv_len) {
                    // What lies past the live length may be anything: no product may see it.
                    barrier_wait(barriers.v_full[tile % STAGES], tile / STAGES & 1);
                    u8* values = shared + Q_BYTES + (STAGES + tile % STAGES) * TILE_BYTES;
                    const int dead = (base + KEYS - work.live) * 8;
                    for (int at = threadIdx.x - 128; at < dead * PANELS; at += GROUPS * 128) {
                        const int chunk = at % dead;
                        *reinterpret_cast<uint4*>(values + at / dead * K_PANEL + (work.live - base) * 128 + chunk * 16) = make_uint4(0, 0, 0, 0);
                    }
                    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
                    named_sync<GROUPS * 128>(8);
                }
                for (int i = 1; i < work.tiles; ++i) {
                    const int now = tile + i, before = now - 1;
                    base -= KEYS;
                    if (PASS_ON) named_sync<256>(1 + group);
                    barrier_wait(barriers.k_full[now % STAGES], now / STAGES & 1);
                    multiply_scores(now % STAGES);
                    barrier_wait(barriers.v_full[before % STAGES], before / STAGES & 1);
                    multiply_values(before % STAGES, i > 1);
                    if (PASS_ON) named_arrive<256>(1 + (group + 1) % GROUPS);
                    wgmma_wait<1>();
                    wgmma_settle(score);
                    release(barriers.k_empty[now % STAGES]);
                    if (i == work.tiles - 1) release(barriers.q_empty);
                    weigh<false>(score, rows, shrink, scale, hide(base));
                    wgmma_wait<0>();
                    wgmma_settle(sum);
                    release(barriers.v_empty[before % STAGES]);
#pragma unroll
                    for (int n = 0; n < HEAD_DIM / 2; ++n) sum[n] *= shrink[n / 2 % 2];
                    pack_weights(weight, score);
                }
                tile += work.tiles;
                barrier_wait(barriers.v_full[(tile - 1) % STAGES], (tile - 1) / STAGES & 1);
                multiply_values((tile - 1) % STAGES, work.tiles > 1);
                wgmma_wait<0>();
                wgmma_settle(sum);
                release(barriers.v_empty[(tile - 1) % STAGES]);
            } else {
#pragma unroll
                for (int n = 0; n < HEAD_DIM / 2; ++n) sum[n] = 0.0f;
            }

            bool bad = false;
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const float all = quad_sum(rows.total[half]);
                const float norm = all == 0.0f ? 0.0f : 1.0f / all;
                bad |= !is_finite(all);
                u16* out = static_cast<u16*>(call.out) + work.batch * call.o_stride[0] + work.head * call.o_stride[1] +
                           static_cast<i64>(row + half * 8) * call.o_stride[2];
#pragma unroll
                for (int j = 0; j < HEAD_DIM / 8; j += 4) {
                    u32 x[4];
#pragma unroll
                    for (int n = 0; n < 4; ++n) {
                        const float low = sum[(j + n) * 4 + half * 2] * norm, high = sum[(j + n) * 4 + half * 2 + 1] * norm;
                        bad |= !is_finite(low) || !is_finite(high);
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
                    const uint4 values = upper ? make_uint4(c, d, high0, high1) : make_uint4(low0, low1, c, d);
                    if (row + half * 8 < call.q_len) *reinterpret_cast<uint4*>(out + (j + lane % 4) * 8) = values;
                }
            }
            // A NaN or infinity may come from a value behind a mask: then these rows are done again.
            if (__any_sync(0xffffffffu, bad)) {
                __syncwarp();
                const int first_row = row - lane / 4;
                for (int i = 0; i < 16 && first_row + i < call.q_len; ++i) exact_row(call, work.batch, work.head, first_row + i, lane);
            }
        }
    }
}
