// Attention of a few query positions over many keys (decode), split over the keys.
//
// The query heads that share a key head are packed into the 16 rows of one matrix product, so keys
// and values are read once for all of them. Every warp streams its own 16 keys at a time through
// its own ring of asynchronous copies and keeps its own running softmax: the loop has no barrier.
// Parts meet in three steps: the warps of a block in its shared memory; on Hopper the CLUSTER blocks
// of a cluster in each other's, each adding up a slice of the values; and the clusters in global
// memory, where the last one to finish a slice adds the others to it. Live lengths are read on the
// device and bound the loop.
//
// Compiled per call class: HEAD_DIM, V_DIM (multiples of 16), KT = VT (1 or 2), QT (KT or 0), WARPS, STAGES,
// CLUSTER (1 below sm_90). Grid: (splits, kv_heads · tiles of 16 packed rows, batch), splits a
// multiple of CLUSTER. `partials`: 6 · ROWS · V_DIM bytes for each cluster; `counters`: zeros, CLUSTER
// for each (head tile, sequence).
// variant: any
// variant: -DQT=0 -DKT=1 -DVT=1 -DHEAD_DIM=64 -DV_DIM=64 -DWARPS=8 -DSTAGES=2 -DCLUSTER=1
// variant: -DQT=2 -DHEAD_DIM=64 -DV_DIM=64 -DWARPS=8 -DSTAGES=2 -DCLUSTER=1
// variant: -DQT=1 -DHEAD_DIM=64 -DV_DIM=64 -DWARPS=8 -DSTAGES=2 -DCLUSTER=1
// variant: -DQT=0 -DKT=1 -DVT=1 -DHEAD_DIM=64 -DV_DIM=64 -DWARPS=4 -DSTAGES=2 -DCLUSTER=8
// variant: -DQT=0 -DKT=1 -DVT=1 -DHEAD_DIM=64 -DV_DIM=64 -DWARPS=4 -DSTAGES=2 -DCLUSTER=4
// variant: -DQT=0 -DKT=1 -DVT=1 -DHEAD_DIM=64 -DV_DIM=64 -DWARPS=8 -DSTAGES=2 -DCLUSTER=16
// variant: -DQT=0 -DKT=1 -DVT=1 -DHEAD_DIM=64 -DV_DIM=64 -DWARPS=8 -DSTAGES=2 -DCLUSTER=8
// variant: -DQT=0 -DKT=1 -DVT=1 -DHEAD_DIM=64 -DV_DIM=64 -DWARPS=8 -DSTAGES=3 -DCLUSTER=1
// variant: -DQT=0 -DKT=1 -DVT=1 -DHEAD_DIM=64 -DV_DIM=64 -DWARPS=8 -DSTAGES=3 -DCLUSTER=4
// variant: -DQT=0 -DKT=1 -DVT=1 -DHEAD_DIM=128 -DV_DIM=128 -DWARPS=4 -DSTAGES=2 -DCLUSTER=4
// variant: -DQT=0 -DKT=1 -DVT=1 -DHEAD_DIM=128 -DV_DIM=128 -DWARPS=4 -DSTAGES=2 -DCLUSTER=8
// variant: -DQT=0 -DKT=1 -DVT=1 -DHEAD_DIM=128 -DV_DIM=128 -DWARPS=8 -DSTAGES=2 -DCLUSTER=1
// variant: -DQT=0 -DKT=1 -DVT=1 -DHEAD_DIM=128 -DV_DIM=128 -DWARPS=8 -DSTAGES=2 -DCLUSTER=2
// variant: -DQT=0 -DKT=1 -DVT=1 -DHEAD_DIM=128 -DV_DIM=128 -DWARPS=8 -DSTAGES=2 -DCLUSTER=16
// variant: -DQT=0 -DKT=1 -DVT=1 -DHEAD_DIM=128 -DV_DIM=128 -DWARPS=4 -DSTAGES=2 -DCLUSTER=1
// variant: -DQT=1 -DHEAD_DIM=64 -DV_DIM=64 -DWARPS=4 -DSTAGES=2 -DCLUSTER=8
// variant: -DQT=1 -DHEAD_DIM=64 -DV_DIM=64 -DWARPS=8 -DSTAGES=2 -DCLUSTER=16
// variant: -DQT=1 -DHEAD_DIM=64 -DV_DIM=64 -DWARPS=8 -DSTAGES=2 -DCLUSTER=8
// variant: -DQT=1 -DHEAD_DIM=64 -DV_DIM=64 -DWARPS=8 -DSTAGES=3 -DCLUSTER=1
// variant: -DQT=1 -DHEAD_DIM=64 -DV_DIM=64 -DWARPS=8 -DSTAGES=3 -DCLUSTER=4
// variant: -DQT=1 -DHEAD_DIM=128 -DV_DIM=128 -DWARPS=4 -DSTAGES=2 -DCLUSTER=4
// variant: -DQT=1 -DHEAD_DIM=128 -DV_DIM=128 -DWARPS=4 -DSTAGES=2 -DCLUSTER=8
// variant: -DQT=1 -DHEAD_DIM=128 -DV_DIM=128 -DWARPS=8 -DSTAGES=2 -DCLUSTER=1
// variant: -DQT=1 -DHEAD_DIM=128 -DV_DIM=128 -DWARPS=8 -DSTAGES=2 -DCLUSTER=2
// variant: -DQT=1 -DHEAD_DIM=128 -DV_DIM=128 -DWARPS=8 -DSTAGES=2 -DCLUSTER=16
// variant: -DQT=1 -DHEAD_DIM=128 -DV_DIM=128 -DWARPS=4 -DSTAGES=2 -DCLUSTER=1
// variant: -DQT=2 -DHEAD_DIM=64 -DV_DIM=64 -DWARPS=4 -DSTAGES=2 -DCLUSTER=8
// variant: -DQT=2 -DHEAD_DIM=64 -DV_DIM=64 -DWARPS=8 -DSTAGES=2 -DCLUSTER=16
// variant: -DQT=2 -DHEAD_DIM=64 -DV_DIM=64 -DWARPS=8 -DSTAGES=2 -DCLUSTER=8
// variant: -DQT=2 -DHEAD_DIM=64 -DV_DIM=64 -DWARPS=8 -DSTAGES=3 -DCLUSTER=1
// variant: -DQT=2 -DHEAD_DIM=64 -DV_DIM=64 -DWARPS=8 -DSTAGES=3 -DCLUSTER=4
// variant: -DQT=2 -DHEAD_DIM=128 -DV_DIM=128 -DWARPS=4 -DSTAGES=2 -DCLUSTER=4
// variant: -DQT=2 -DHEAD_DIM=128 -DV_DIM=128 -DWARPS=4 -DSTAGES=2 -DCLUSTER=8
// variant: -DQT=2 -DHEAD_DIM=128 -DV_DIM=128 -DWARPS=8 -DSTAGES=2 -DCLUSTER=1
// variant: -DQT=2 -DHEAD_DIM=128 -DV_DIM=128 -DWARPS=8 -DSTAGES=2 -DCLUSTER=2
// variant: -DQT=2 -DHEAD_DIM=128 -DV_DIM=128 -DWARPS=8 -DSTAGES=2 -DCLUSTER=16
// variant: -DQT=2 -DHEAD_DIM=128 -DV_DIM=128 -DWARPS=4 -DSTAGES=2 -DCLUSTER=1
#include "early.cuh"
#include "sdpa_common.cuh"

#ifndef WARPS
#define WARPS 4
#endif
#ifndef STAGES
#define STAGES 3
#endif
#ifndef MIN_BLOCKS
#define MIN_BLOCKS 1
#endif
#if !defined(CLUSTER) || (defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900)
#undef CLUSTER
#define CLUSTER 1
#endif
#if CLUSTER > 1
#define CLUSTER_SHAPE __cluster_dims__(CLUSTER, 1, 1)
#else
#define CLUSTER_SHAPE
#endif

constexpr int THREADS = WARPS * 32;
constexpr int KEYS = 16;
constexpr int ROWS = 16;
constexpr int K_BYTES = KEYS * PITCH<HEAD_DIM>;
constexpr int STAGE_BYTES = K_BYTES + KEYS * PITCH<V_DIM>;
constexpr int SUM_PITCH = V_DIM + 4;
constexpr int QUADS = V_DIM / 4;
// Parts of the last step that are loaded at once.
constexpr int BATCH = 8;

struct Tile {
    int batch, kv_head, group, first_row, rows, live, begin, end;
    bool single;  // one position: the rows are the heads
    i64 diag;
};

// Starts copies of a warp's rows, `base` and those after it, into a stage; zeros from row `end` on.
template <int WIDTH>
__device__ __forceinline__ void copy_rows(u32 to, const u16* from, i64 stride, int base, int end, int lane) {
    constexpr int CHUNKS = WIDTH / 8;
#pragma unroll
    for (int i = 0; i < KEYS * CHUNKS / 32; ++i) {
        const int at = i * 32 + lane, row = at / CHUNKS, chunk = at % CHUNKS;
        const bool live = base + row < end;
        const i64 key = live ? base + row : 0;
        copy_async_16(to + place_of<WIDTH>(row, chunk), from + key * stride + chunk * 8, live);
    }
}

// Which packed row is which query: rows run over heads first, then over positions.
__device__ __forceinline__ int position_of(const Tile& tile, int row) {
    return tile.single ? 0 : (tile.first_row + row) / tile.group;
}

__device__ __forceinline__ int head_of(const Tile& tile, int row) {
    const int packed = tile.first_row + row;
    return tile.kv_head * tile.group + (tile.single ? packed : packed % tile.group);
}

// The weight of a score that lies `below` (<= 0) the highest, times 2^shift.
__device__ __forceinline__ float weight_of(float below, float shift = 0.0f) {
    return exp2_fast(MASK_TENSOR ? fmaf(below, LOG2E, shift) : below + shift);
}

// Four values of one row, not yet divided by the sum of their weights.
struct Part {
    float4 value;
    float highest, total;
};

// Adds parts up to one.
template <int COUNT>
__device__ __forceinline__ Part add_up(const Part (&parts)[COUNT]) {
    Part all = {make_float4(0.0f, 0.0f, 0.0f, 0.0f), NEG_INF, 0.0f};
#pragma unroll
    for (int i = 0; i < COUNT; ++i) all.highest = fmaxf(all.highest, parts[i].highest);
    const float base_line = all.highest == NEG_INF ? 0.0f : all.highest;
#pragma unroll
    for (int i = 0; i < COUNT; ++i) {
        const float factor = weight_of(parts[i].highest - base_line);
        all.total = fmaf(parts[i].total, factor, all.total);
        all.value.x = fmaf(parts[i].value.x, factor, all.value.x);
        all.value.y = fmaf(parts[i].value.y, factor, all.value.y);
        all.value.z = fmaf(parts[i].value.z, factor, all.value.z);
        all.value.w = fmaf(parts[i].value.w, factor, all.value.w);
    }
    return all;
}

#if CLUSTER > 1
__device__ __forceinline__ void cluster_arrive() {
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
}
__device__ __forceinline__ void cluster_wait() {
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// The address in block `rank` of the cluster that `address` is in this one.
__device__ __forceinline__ u32 shared_of(u32 address, int rank) {
    u32 result;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(result) : "r"(address), "r"(rank));
    return result;
}

__device__ __forceinline__ Part load_part(u32 values, u32 stats) {
    Part part;
    asm volatile("ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(part.value.x), "=f"(part.value.y), "=f"(part.value.z), "=f"(part.value.w)
                 : "r"(values)
                 : "memory");
    asm volatile("ld.shared::cluster.v2.f32 {%0, %1}, [%2];"
                 : "=f"(part.highest), "=f"(part.total)
                 : "r"(stats)
                 : "memory");
    return part;
}
#endif

// Writes four values of one row and says whether any is NaN or infinite.
__device__ __forceinline__ bool write_out(const SdpaCall& call, const Tile& tile, int place,
                                          const Part& part) {
    const int row = place / QUADS, d = place % QUADS * 4;
    const float norm = part.total == 0.0f ? 0.0f : 1.0f / part.total;
    const float value[4] = {part.value.x * norm, part.value.y * norm, part.value.z * norm,
                            part.value.w * norm};
    const i64 at = tile.batch * call.o_stride[0] + head_of(tile, row) * call.o_stride[1] +
                   position_of(tile, row) * call.o_stride[2] + d;
    if (QT == 0) {
        *reinterpret_cast<float4*>(static_cast<float*>(call.out) + at) =
            make_float4(value[0], value[1], value[2], value[3]);
    } else {
        *reinterpret_cast<uint2*>(static_cast<u16*>(call.out) + at) =
            make_uint2(pack2<QT>(value[0], value[1]), pack2<QT>(value[2], value[3]));
    }
    return !(is_finite(value[0]) && is_finite(value[1]) && is_finite(value[2]) && is_finite(value[3]));
}

// After all of `write_out`: does the rows again, exactly, if any was not finite.
__device__ __forceinline__ void repair(const SdpaCall& call, const Tile& tile, bool bad) {
    if (!__syncthreads_or(bad)) return;
    for (int row = threadIdx.x / 32; row < tile.rows; row += WARPS) {
        exact_row(call, tile.batch, head_of(tile, row), position_of(tile, row), threadIdx.x % 32);
    }
}

extern "C" __global__ void CLUSTER_SHAPE __launch_bounds__(THREADS, MIN_BLOCKS)
    sdpa_decode(const __grid_constant__ SdpaCall call) {
    extern __shared__ __align__(128) u8 shared[];
    wait_for_inputs();
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    Tile tile;
    tile.batch = blockIdx.z;
    tile.group = call.q_heads / call.kv_heads;
    tile.single = call.q_len == 1;
    const int packed = tile.group * call.q_len;
    const int tiles = (packed + ROWS - 1) / ROWS;
    tile.kv_head = tiles == 1 ? blockIdx.y : blockIdx.y / tiles;
    tile.first_row = (blockIdx.y - tile.kv_head * tiles) * ROWS;
    tile.rows = min(ROWS, packed - tile.first_row);
    tile.live = live_keys(call, tile.batch);
    tile.diag = diagonal(call, tile.live);
    tile.begin = first_key(call, tile.diag, position_of(tile, 0), tile.live);
    tile.end = end_key(call, tile.diag, position_of(tile, tile.rows - 1), tile.live);

    // Steps of all warps go round among the blocks of a head, so that together they read a window
    // that moves on; `active` blocks have any.
    constexpr int STEP = KEYS * WARPS;
    const int all_steps = (max(0, tile.end - tile.begin) + STEP - 1) / STEP;
    const int active = max(1, min(call.splits, all_steps));
    const int split = blockIdx.x, rank = split % CLUSTER;
    const int clusters = (active + CLUSTER - 1) / CLUSTER;
    if (split / CLUSTER >= clusters) return;
    const int end = tile.end;
    auto base_of = [&](int step) { return tile.begin + ((step * active + split) * WARPS + warp) * KEYS; };
    auto is_step = [&](int step) { return split < active && step * active + split < all_steps; };

    const u16* keys_base =
        static_cast<const u16*>(call.k) + tile.batch * call.k_stride[0] + tile.kv_head * call.k_stride[1];
    const u16* values_base =
        static_cast<const u16*>(call.v) + tile.batch * call.v_stride[0] + tile.kv_head * call.v_stride[1];
    const u32 ring = shared_address(shared) + warp * STAGES * STAGE_BYTES;

    auto load = [&](int step) {
        if (is_step(step)) {
            const u32 stage = ring + step % STAGES * STAGE_BYTES;
            const int base = base_of(step);
            copy_rows<HEAD_DIM>(stage, keys_base, call.k_stride[2], base, end, lane);
            copy_rows<V_DIM>(stage + K_BYTES, values_base, call.v_stride[2], base, end, lane);
        }
        copy_commit();
    };
#pragma unroll
    for (int step = 0; step < STAGES - 1; ++step) load(step);

    // Queries as the left operand of the products; rows past the last are zeros.
    const int rows[2] = {lane / 4, lane / 4 + 8};
    u32 query[PARTS][HEAD_DIM / 16][4];
    int first[2], last[2];
    i64 mask_row[2] = {0, 0};
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const int row = rows[half];
        const bool there = row < tile.rows;
        i64 q = tile.batch * call.q_stride[0];
        first[half] = last[half] = 0;
        if (there) {
            const int head = head_of(tile, row), position = position_of(tile, row);
            q += head * call.q_stride[1] + position * call.q_stride[2];
            first[half] = first_key(call, tile.diag, position, tile.live);
            last[half] = end_key(call, tile.diag, position, tile.live);
            mask_row[half] = tile.batch * call.mask_stride[0] + head * call.mask_stride[1] +
                             position * call.mask_stride[2];
        }
#pragma unroll
        for (int k = 0; k < HEAD_DIM / 16; ++k) {
#pragma unroll
            for (int part = 0; part < 2; ++part) {
                const int d = k * 16 + part * 8 + lane % 4 * 2;
                u32 parts[PARTS] = {};
                if (there && QT == 0) {
                    const float2 x =
                        *reinterpret_cast<const float2*>(static_cast<const float*>(call.q) + q + d);
                    split2(x.x, x.y, parts);
                } else if (there) {
                    parts[0] = *reinterpret_cast<const u32*>(static_cast<const u16*>(call.q) + q + d);
                }
#pragma unroll
                for (int p = 0; p < PARTS; ++p) query[p][k][part * 2 + half] = parts[p];
            }
        }
    }

    float sum[V_DIM / 8][4];
#pragma unroll
    for (int n = 0; n < V_DIM / 8; ++n) sum[n][0] = sum[n][1] = sum[n][2] = sum[n][3] = 0.0f;
    float highest[2] = {NEG_INF, NEG_INF}, total[2] = {0.0f, 0.0f};
    // Scores count in powers of two; with a mask tensor in powers of e, since its lowest numbers
    // would not survive the factor.
    constexpr float UNIT = MASK_TENSOR ? 1.0f : LOG2E;
    const float scale = call.scale * UNIT;
    // Where every row of the tile sees every key.
    const int all_first = first_key(call, tile.diag, position_of(tile, tile.rows - 1), tile.live);
    const int all_last = end_key(call, tile.diag, position_of(tile, 0), tile.live);
    const u32 k_lane = place_of<HEAD_DIM>(lane / 16 * 8 + lane % 8, lane / 8 % 2);
    const u32 v_lane = K_BYTES + place_of<V_DIM>(lane / 8 % 2 * 8 + lane % 8, lane / 16);

    for (int step = 0; is_step(step); ++step) {
        copy_wait<STAGES - 2>();
        __syncwarp();
        load(step + STAGES - 1);
        const u32 stage = ring + step % STAGES * STAGE_BYTES;
        const int base = base_of(step);

        float score[2][4] = {};
#pragma unroll
        for (int k = 0; k < HEAD_DIM / 16; ++k) {
            u32 b[4];
            load_matrix_4(b, pairs_after<HEAD_DIM>(stage + k_lane, k));
#pragma unroll
            for (int p = 0; p < PARTS; ++p) {
                multiply_add<KT>(score[0], query[p][k], b[0], b[1]);
                multiply_add<KT>(score[1], query[p][k], b[2], b[3]);
            }
        }
        const bool masked = MASK_TENSOR != 0 || base < all_first || base + KEYS > min(end, all_last);
#pragma unroll
        for (int n = 0; n < 2; ++n) {
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                const int half = e / 2;
                const int key = base + n * 8 + lane % 4 * 2 + e % 2;
#if SOFTCAP
                float x = call.softcap * tanhf(score[n][e] * call.scale / call.softcap) * UNIT;
#else
                float x = score[n][e] * scale;
#endif
                if (masked) {
                    const bool seen = key >= first[half] && key < min(end, last[half]);
                    x = seen ? x + mask_value(call, mask_row[half], key) : NEG_INF;
                }
                score[n][e] = x;
            }
        }
        float shrink[2];
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const float here = fmaxf(fmaxf(score[0][half * 2], score[0][half * 2 + 1]),
                                     fmaxf(score[1][half * 2], score[1][half * 2 + 1]));
            const float higher = fmaxf(highest[half], quad_max(here));
            const float base_line = higher == NEG_INF ? 0.0f : higher;
            shrink[half] = weight_of(highest[half] - base_line);
            highest[half] = higher;
            float here_total = 0.0f;
#pragma unroll
            for (int n = 0; n < 2; ++n) {
#pragma unroll
                for (int e = half * 2; e < half * 2 + 2; ++e) {
                    score[n][e] = weight_of(score[n][e] - base_line, WEIGHT_SHIFT);
                    here_total += score[n][e];
                }
            }
            total[half] = total[half] * shrink[half] + here_total;
        }
        if (__any_sync(0xffffffffu, shrink[0] != 1.0f || shrink[1] != 1.0f)) {
#pragma unroll
            for (int n = 0; n < V_DIM / 8; ++n) {
                sum[n][0] *= shrink[0];
                sum[n][1] *= shrink[0];
                sum[n][2] *= shrink[1];
                sum[n][3] *= shrink[1];
            }
        }
        u32 weight[PARTS][4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            u32 parts[PARTS];
            split2(score[i / 2][i % 2 * 2], score[i / 2][i % 2 * 2 + 1], parts);
#pragma unroll
            for (int p = 0; p < PARTS; ++p) weight[p][i] = parts[p];
        }
#pragma unroll
        for (int n = 0; n < V_DIM / 16; ++n) {
            u32 b[4];
            load_matrix_4_transposed(b, pairs_after<V_DIM>(stage + v_lane, n));
#pragma unroll
            for (int p = 0; p < PARTS; ++p) {
                multiply_add<KT>(sum[n * 2], weight[p], b[0], b[1]);
                multiply_add<KT>(sum[n * 2 + 1], weight[p], b[2], b[3]);
            }
        }
    }
    total[0] = quad_sum(total[0]);
    total[1] = quad_sum(total[1]);

    // The warps of the block meet. The rings are free once every copy has landed.
    copy_wait<0>();
    __syncthreads();
    float* sums = reinterpret_cast<float*>(shared);
    __shared__ float2 warp_stats[WARPS][ROWS];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
        for (int n = 0; n < V_DIM / 8; ++n) {
            *reinterpret_cast<float2*>(sums + (warp * ROWS + rows[half]) * SUM_PITCH + n * 8 + lane % 4 * 2) =
                make_float2(sum[n][half * 2], sum[n][half * 2 + 1]);
        }
        if (lane % 4 == 0) warp_stats[warp][rows[half]] = make_float2(highest[half], total[half]);
    }
    __syncthreads();
    auto of_block = [&](int place) {
        const int row = place / QUADS, d = place % QUADS * 4;
        Part parts[WARPS];
#pragma unroll
        for (int w = 0; w < WARPS; ++w) {
            parts[w].value = *reinterpret_cast<const float4*>(sums + (w * ROWS + row) * SUM_PITCH + d);
            parts[w].highest = warp_stats[w][row].x;
            parts[w].total = warp_stats[w][row].y;
        }
        return add_up(parts);
    };
    const int places = tile.rows * QUADS;
#if CLUSTER > 1
    // The blocks of the cluster meet.
    float* block_sums = sums + WARPS * ROWS * SUM_PITCH;
    __shared__ float2 block_stats[ROWS];
    for (int place = threadIdx.x; place < places; place += THREADS) {
        const Part part = of_block(place);
        const int row = place / QUADS, quad = place % QUADS;
        *reinterpret_cast<float4*>(block_sums + row * V_DIM + quad * 4) = part.value;
        if (quad == 0) block_stats[row] = make_float2(part.highest, part.total);
    }
    cluster_arrive();
    cluster_wait();
    auto of_cluster = [&](int place) {
        const u32 values = shared_address(block_sums + place * 4),
                  stats = shared_address(block_stats + place / QUADS);
        Part parts[CLUSTER];
#pragma unroll
        for (int r = 0; r < CLUSTER; ++r) parts[r] = load_part(shared_of(values, r), shared_of(stats, r));
        return add_up(parts);
    };
#else
    auto of_cluster = of_block;
#endif
    const i64 head = static_cast<i64>(blockIdx.z) * gridDim.y + blockIdx.y;
    const int room = call.splits / CLUSTER;
    float4* part_values = reinterpret_cast<float4*>(call.partials) + head * room * ROWS * QUADS;
    float2* part_stats =
        reinterpret_cast<float2*>(reinterpret_cast<float4*>(call.partials) +
                                  static_cast<i64>(gridDim.z) * gridDim.y * room * ROWS * QUADS) +
        head * room * ROWS * QUADS;
    bool bad = false;
    for (int place = rank * THREADS + threadIdx.x; place < places; place += CLUSTER * THREADS) {
        const Part part = of_cluster(place);
        if (clusters == 1) {
            bad |= write_out(call, tile, place, part);
        } else {
            const int at = split / CLUSTER * ROWS * QUADS + place;
            part_values[at] = part.value;
            part_stats[at] = make_float2(part.highest, part.total);
        }
    }
#if CLUSTER > 1
    // No block may end while another reads its shared memory.
    cluster_arrive();
    cluster_wait();
#endif
    if (clusters > 1) {
        // The clusters meet: the last one to come here with this slice adds the others to it.
        __shared__ bool is_last;
        __syncthreads();
        if (threadIdx.x == 0) {
            __threadfence();
            // Wraps to 0 with the last, so that the counter is ready for the next launch.
            is_last = atomicInc(call.counters + head * CLUSTER + rank, clusters - 1) == clusters - 1;
            __threadfence();
        }
        __syncthreads();
        if (!is_last) return;
        for (int place = rank * THREADS + threadIdx.x; place < places; place += CLUSTER * THREADS) {
            Part all = {make_float4(0.0f, 0.0f, 0.0f, 0.0f), NEG_INF, 0.0f};
            for (int first_part = 0; first_part < clusters; first_part += BATCH) {
                Part parts[BATCH + 1];
#pragma unroll
                for (int i = 0; i < BATCH; ++i) {
                    const int at = min(first_part + i, clusters - 1) * ROWS * QUADS + place;
                    parts[i].value = __ldcg(part_values + at);
                    const float2 stats = __ldcg(part_stats + at);
                    const bool there = first_part + i < clusters;
                    parts[i].highest = there ? stats.x : NEG_INF;
                    parts[i].total = there ? stats.y : 0.0f;
                }
                parts[BATCH] = all;
                all = add_up(parts);
            }
            bad |= write_out(call, tile, place, all);
        }
    }
    repair(call, tile, bad);
}
