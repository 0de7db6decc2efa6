// Attention of a few query positions over many keys (decode), split over the keys.
//
// The query heads that share a key head are packed into the 16 rows of one matrix product, so keys
// and values are read once for all of them. Every warp streams its own 16 keys at a time through
// its own ring of asynchronous copies and keeps its own running softmax: the loop has no barrier.
// Warps meet in shared memory; blocks (splits of the keys) meet in global memory, where the last
// one to finish adds the others up. Live lengths are read on the device and bound the loop.
//
// Compiled per call class: HEAD_DIM, V_DIM (multiples of 16), QT = KT = VT (1 or 2), WARPS, STAGES.
// Grid: (splits, kv_heads · tiles of 16 packed rows, batch).
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

constexpr int THREADS = WARPS * 32;
constexpr int KEYS = 16;
constexpr int ROWS = 16;
// One 16-byte pad a row: eight rows of one column then lie in eight different bank groups.
constexpr int K_PITCH = HEAD_DIM * 2 + 16;
constexpr int V_PITCH = V_DIM * 2 + 16;
constexpr int STAGE_BYTES = KEYS * (K_PITCH + V_PITCH);
constexpr int MAX_SPLITS = 256;

struct Tile {
    int batch, kv_head, group, first_row, rows, live, begin, end;
    i64 diag;
};

// Which packed row is which query: rows run over heads first, then over positions.
__device__ __forceinline__ int position_of(const Tile& tile, int row) {
    return (tile.first_row + row) / tile.group;
}

__device__ __forceinline__ int head_of(const Tile& tile, int row) {
    return tile.kv_head * tile.group + (tile.first_row + row) % tile.group;
}

// Writes four values of one row and says whether any is NaN or infinite.
__device__ __forceinline__ bool write_out(const SdpaCall& call, const Tile& tile, int row, int d,
                                          const float (&value)[4]) {
    u16* out = static_cast<u16*>(call.out) + tile.batch * call.o_stride[0] +
               head_of(tile, row) * call.o_stride[1] + position_of(tile, row) * call.o_stride[2] + d;
    *reinterpret_cast<uint2*>(out) =
        make_uint2(pack2<QT>(value[0], value[1]), pack2<QT>(value[2], value[3]));
    return !(is_finite(value[0]) && is_finite(value[1]) && is_finite(value[2]) &&
             is_finite(value[3]));
}

// After all of `write_out`: does the rows again, exactly, if any was not finite.
__device__ __forceinline__ void repair(const SdpaCall& call, const Tile& tile, bool bad) {
    if (!__syncthreads_or(bad)) return;
    for (int row = threadIdx.x / 32; row < tile.rows; row += WARPS) {
        exact_row(call, tile.batch, head_of(tile, row), position_of(tile, row), threadIdx.x % 32);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, MIN_BLOCKS)
    sdpa_decode(const __grid_constant__ SdpaCall call) {
    extern __shared__ __align__(128) u8 shared[];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    Tile tile;
    tile.batch = blockIdx.z;
    tile.group = call.q_heads / call.kv_heads;
    const int packed = tile.group * call.q_len;
    const int tiles = (packed + ROWS - 1) / ROWS;
    tile.kv_head = blockIdx.y / tiles;
    tile.first_row = blockIdx.y % tiles * ROWS;
    tile.rows = min(ROWS, packed - tile.first_row);
    tile.live = live_keys(call, tile.batch);
    tile.diag = diagonal(call, tile.live);
    tile.begin = first_key(call, tile.diag, position_of(tile, 0), tile.live);
    tile.end = end_key(call, tile.diag, position_of(tile, tile.rows - 1), tile.live);

    // This block's share of the keys: whole steps of all warps, the same for every block.
    constexpr int STEP = KEYS * WARPS;
    const int keys = max(0, tile.end - tile.begin);
    const int share = ((keys + call.splits - 1) / call.splits + STEP - 1) / STEP * STEP;
    const int active = keys == 0 ? 1 : (keys + share - 1) / share;
    const int split = blockIdx.x;
    if (split >= active) return;
    const int begin = tile.begin + split * share;
    const int end = min(tile.end, begin + share);
    const int steps = max(0, (end - begin + STEP - 1) / STEP);

    const u16* keys_base = static_cast<const u16*>(call.k) + tile.batch * call.k_stride[0] +
                           tile.kv_head * call.k_stride[1];
    const u16* values_base = static_cast<const u16*>(call.v) + tile.batch * call.v_stride[0] +
                             tile.kv_head * call.v_stride[1];
    const u32 ring = shared_address(shared) + warp * STAGES * STAGE_BYTES;

    auto load = [&](int step) {
        if (step < steps) {
            const u32 stage = ring + step % STAGES * STAGE_BYTES;
            const int base = begin + (step * WARPS + warp) * KEYS;
            constexpr int K_CHUNKS = HEAD_DIM / 8, V_CHUNKS = V_DIM / 8;
#pragma unroll
            for (int i = 0; i < KEYS * K_CHUNKS / 32; ++i) {
                const int at = i * 32 + lane, row = at / K_CHUNKS, chunk = at % K_CHUNKS;
                const bool live = base + row < end;
                const i64 key = live ? base + row : 0;
                copy_async_16(stage + row * K_PITCH + chunk * 16,
                              keys_base + key * call.k_stride[2] + chunk * 8, live);
            }
#pragma unroll
            for (int i = 0; i < KEYS * V_CHUNKS / 32; ++i) {
                const int at = i * 32 + lane, row = at / V_CHUNKS, chunk = at % V_CHUNKS;
                const bool live = base + row < end;
                const i64 key = live ? base + row : 0;
                copy_async_16(stage + KEYS * K_PITCH + row * V_PITCH + chunk * 16,
                              values_base + key * call.v_stride[2] + chunk * 8, live);
            }
        }
        copy_commit();
    };
#pragma unroll
    for (int step = 0; step < STAGES - 1; ++step) load(step);

    // Queries as the left operand of the products; rows past the last are zeros.
    const int rows[2] = {lane / 4, lane / 4 + 8};
    u32 query[HEAD_DIM / 16][4];
    int first[2], last[2];
    i64 mask_row[2] = {0, 0};
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const int row = rows[half];
        const bool there = row < tile.rows;
        const u16* q = static_cast<const u16*>(call.q) + tile.batch * call.q_stride[0];
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
                query[k][part * 2 + half] = there ? *reinterpret_cast<const u32*>(q + d) : 0;
            }
        }
    }

    float sum[V_DIM / 8][4];
#pragma unroll
    for (int n = 0; n < V_DIM / 8; ++n) sum[n][0] = sum[n][1] = sum[n][2] = sum[n][3] = 0.0f;
    float highest[2] = {NEG_INF, NEG_INF}, total[2] = {0.0f, 0.0f};
#if !SOFTCAP
    const float scale = call.scale * LOG2E;
#endif
    // Where every row of the tile sees every key.
    const int all_first = first_key(call, tile.diag, position_of(tile, tile.rows - 1), tile.live);
    const int all_last = end_key(call, tile.diag, position_of(tile, 0), tile.live);
    const u32 k_lane = (lane / 16 * 8 + lane % 8) * K_PITCH + lane / 8 % 2 * 16;
    const u32 v_lane = KEYS * K_PITCH + (lane / 8 % 2 * 8 + lane % 8) * V_PITCH + lane / 16 * 16;

    for (int step = 0; step < steps; ++step) {
        copy_wait<STAGES - 2>();
        __syncwarp();
        load(step + STAGES - 1);
        const u32 stage = ring + step % STAGES * STAGE_BYTES;
        const int base = begin + (step * WARPS + warp) * KEYS;

        float score[2][4] = {};
#pragma unroll
        for (int k = 0; k < HEAD_DIM / 16; ++k) {
            u32 b[4];
            load_matrix_4(b, stage + k_lane + k * 32);
            multiply_add<QT>(score[0], query[k], b[0], b[1]);
            multiply_add<QT>(score[1], query[k], b[2], b[3]);
        }
        const bool masked = MASK_TENSOR != 0 || base < all_first || base + KEYS > min(end, all_last);
#pragma unroll
        for (int n = 0; n < 2; ++n) {
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                const int half = e / 2;
                const int key = base + n * 8 + lane % 4 * 2 + e % 2;
#if SOFTCAP
                float x = call.softcap * tanhf(score[n][e] * call.scale / call.softcap) * LOG2E;
#else
                float x = score[n][e] * scale;
#endif
                if (masked) {
                    const bool seen = key >= first[half] && key < min(end, last[half]);
                    x = seen ? x + LOG2E * (MASK_TENSOR ? mask_value(call, mask_row[half], key) : 0)
                             : NEG_INF;
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
            shrink[half] = exp2_fast(highest[half] - base_line);
            highest[half] = higher;
            float here_total = 0.0f;
#pragma unroll
            for (int n = 0; n < 2; ++n) {
#pragma unroll
                for (int e = half * 2; e < half * 2 + 2; ++e) {
                    score[n][e] = exp2_fast(score[n][e] - base_line);
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
        const u32 weight[4] = {
            pack2<QT>(score[0][0], score[0][1]), pack2<QT>(score[0][2], score[0][3]),
            pack2<QT>(score[1][0], score[1][1]), pack2<QT>(score[1][2], score[1][3])};
#pragma unroll
        for (int n = 0; n < V_DIM / 16; ++n) {
            u32 b[4];
            load_matrix_4_transposed(b, stage + v_lane + n * 32);
            multiply_add<QT>(sum[n * 2], weight, b[0], b[1]);
            multiply_add<QT>(sum[n * 2 + 1], weight, b[2], b[3]);
        }
    }
    total[0] = quad_sum(total[0]);
    total[1] = quad_sum(total[1]);

    // The warps of the block meet. The rings are free once every copy has landed.
    copy_wait<0>();
    __syncthreads();
    constexpr int SUM_PITCH = V_DIM + 4;
    float* sums = reinterpret_cast<float*>(shared);
    __shared__ float warp_highest[WARPS][ROWS], warp_total[WARPS][ROWS];
    __shared__ float factor[MAX_SPLITS > WARPS ? MAX_SPLITS : WARPS][ROWS];
    __shared__ bool is_last;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
        for (int n = 0; n < V_DIM / 8; ++n) {
            *reinterpret_cast<float2*>(sums + (warp * ROWS + rows[half]) * SUM_PITCH + n * 8 +
                                       lane % 4 * 2) =
                make_float2(sum[n][half * 2], sum[n][half * 2 + 1]);
        }
        if (lane % 4 == 0) {
            warp_highest[warp][rows[half]] = highest[half];
            warp_total[warp][rows[half]] = total[half];
        }
    }
    __syncthreads();
    const i64 head_index = static_cast<i64>(blockIdx.z) * gridDim.y + blockIdx.y;
    const i64 part = head_index * call.splits + split;
    const i64 parts = static_cast<i64>(gridDim.z) * gridDim.y * call.splits;
    float* part_stats = call.partials + parts * ROWS * V_DIM;
    if (threadIdx.x < ROWS) {
        const int row = threadIdx.x;
        float most = NEG_INF, all = 0.0f;
#pragma unroll
        for (int w = 0; w < WARPS; ++w) most = fmaxf(most, warp_highest[w][row]);
        const float base_line = most == NEG_INF ? 0.0f : most;
#pragma unroll
        for (int w = 0; w < WARPS; ++w) all += warp_total[w][row] * exp2_fast(warp_highest[w][row] - base_line);
        const float norm = active > 1 ? 1.0f : all == 0.0f ? 0.0f : 1.0f / all;
#pragma unroll
        for (int w = 0; w < WARPS; ++w) factor[w][row] = norm * exp2_fast(warp_highest[w][row] - base_line);
        if (active > 1) {
            *reinterpret_cast<float2*>(part_stats + (part * ROWS + row) * 2) = make_float2(most, all);
        }
    }
    __syncthreads();
    constexpr int QUADS = V_DIM / 4;
    bool bad = false;
    for (int at = threadIdx.x; at < tile.rows * QUADS; at += THREADS) {
        const int row = at / QUADS, d = at % QUADS * 4;
        float value[4] = {};
#pragma unroll
        for (int w = 0; w < WARPS; ++w) {
            const float4 x = *reinterpret_cast<const float4*>(sums + (w * ROWS + row) * SUM_PITCH + d);
            const float f = factor[w][row];
            value[0] = fmaf(f, x.x, value[0]);
            value[1] = fmaf(f, x.y, value[1]);
            value[2] = fmaf(f, x.z, value[2]);
            value[3] = fmaf(f, x.w, value[3]);
        }
        if (active > 1) {
            *reinterpret_cast<float4*>(call.partials + (part * ROWS + row) * V_DIM + d) =
                make_float4(value[0], value[1], value[2], value[3]);
        } else {
            bad |= write_out(call, tile, row, d, value);
        }
    }
    if (active == 1) {
        repair(call, tile, bad);
        return;
    }

    // The blocks of the head meet: the last one to come here adds all parts up.
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        // Wraps to 0 with the last block, so that the counter is ready for the next launch.
        is_last = atomicInc(call.counters + head_index, active - 1) == active - 1;
    }
    __syncthreads();
    if (!is_last) return;
    __threadfence();
    const i64 first_part = head_index * call.splits;
    for (int row = warp; row < tile.rows; row += WARPS) {
        float most = NEG_INF, all = 0.0f;
        for (int s = lane; s < active; s += 32) {
            most = fmaxf(most, __ldcg(part_stats + ((first_part + s) * ROWS + row) * 2));
        }
#pragma unroll
        for (int l = 16; l > 0; l /= 2) most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, l));
        const float base_line = most == NEG_INF ? 0.0f : most;
        for (int s = lane; s < active; s += 32) {
            const float2 stats = __ldcg(reinterpret_cast<const float2*>(
                part_stats + ((first_part + s) * ROWS + row) * 2));
            const float f = exp2_fast(stats.x - base_line);
            factor[s][row] = f;
            all += stats.y * f;
        }
        all = warp_sum(all);
        const float norm = all == 0.0f ? 0.0f : 1.0f / all;
        for (int s = lane; s < active; s += 32) factor[s][row] *= norm;
    }
    __syncthreads();
    // Several slices of the parts at once, where there are more threads than values.
    const int places = tile.rows * QUADS;
    const int slices = min(max(1, THREADS / places), 8);
    float4* slice_sums = reinterpret_cast<float4*>(shared);
    for (int at = threadIdx.x; at < places * slices; at += THREADS) {
        const int slice = at / places, place = at % places;
        const int row = place / QUADS, d = place % QUADS * 4;
        const float* from = call.partials + (first_part * ROWS + row) * V_DIM + d;
        float4 value = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll 8
        for (int s = slice; s < active; s += slices) {
            const float4 x = __ldcg(reinterpret_cast<const float4*>(from + static_cast<i64>(s) * ROWS * V_DIM));
            const float f = factor[s][row];
            value.x = fmaf(f, x.x, value.x);
            value.y = fmaf(f, x.y, value.y);
            value.z = fmaf(f, x.z, value.z);
            value.w = fmaf(f, x.w, value.w);
        }
        if (slices == 1) {
            const float values[4] = {value.x, value.y, value.z, value.w};
            bad |= write_out(call, tile, row, d, values);
        } else {
            slice_sums[at] = value;
        }
    }
    if (slices > 1) {
        __syncthreads();
        for (int place = threadIdx.x; place < places; place += THREADS) {
            float values[4] = {};
            for (int slice = 0; slice < slices; ++slice) {
                const float4 x = slice_sums[slice * places + place];
                values[0] += x.x;
                values[1] += x.y;
                values[2] += x.z;
                values[3] += x.w;
            }
            bad |= write_out(call, tile, place / QUADS, place % QUADS * 4, values);
        }
    }
    repair(call, tile, bad);
}
