// Attention of many query positions (prefill) on the matrix units of sm_80 and later.
//
// One block holds 16 · WARPS queries of one head and walks over the keys once, KEYS at a time, with
// a running softmax: each warp owns 16 rows, so rows never meet across warps. Keys and values have
// two buffers each; the next keys load under this step's softmax, the next values under its second
// product. Every kind of mask is taken here: bands, live lengths, additive and bool tensors.
// Keys that no row of the block sees are never read. Blocks of the last queries come first: under a
// causal mask they take longest.
//
// Compiled per call class: HEAD_DIM, V_DIM (multiples of 16), KT = VT (1 or 2), QT (KT or 0), MASK_TENSOR,
// MASK_T, SOFTCAP, WARPS, KEYS (a multiple of 16). `scale` must be above 0 unless SOFTCAP or
// MASK_TENSOR. Grid: (q_heads, query blocks, batch).
// variant: any
// variant: -DQT=0 -DKT=1 -DVT=1 -DHEAD_DIM=64 -DV_DIM=64 -DWARPS=4 -DKEYS=64
// variant: -DQT=0 -DKT=1 -DVT=1 -DHEAD_DIM=128 -DV_DIM=128 -DWARPS=4 -DKEYS=64
// variant: -DQT=1 -DHEAD_DIM=64 -DV_DIM=64 -DWARPS=4 -DKEYS=64
// variant: -DQT=2 -DHEAD_DIM=64 -DV_DIM=64 -DWARPS=4 -DKEYS=64
// variant: -DQT=1 -DHEAD_DIM=128 -DV_DIM=128 -DWARPS=4 -DKEYS=64
// variant: -DQT=2 -DHEAD_DIM=128 -DV_DIM=128 -DWARPS=4 -DKEYS=64
#include "sdpa_common.cuh"

#ifndef WARPS
#define WARPS 4
#endif
#ifndef KEYS
#define KEYS 64
#endif
#ifndef MIN_BLOCKS
#define MIN_BLOCKS 1
#endif

constexpr int THREADS = WARPS * 32;
constexpr int QUERIES = WARPS * 16;
constexpr int Q_PITCH = PITCH<HEAD_DIM>;
constexpr int V_PITCH = PITCH<V_DIM>;
constexpr int Q_PART = QUERIES * Q_PITCH;
constexpr int Q_BYTES = PARTS * Q_PART;
constexpr int K_BYTES = KEYS * Q_PITCH;
constexpr int V_BYTES = KEYS * V_PITCH;
// Above this width the queries stay in shared memory, since registers are full of sums.
constexpr bool QUERIES_IN_REGISTERS = PARTS == 1 && HEAD_DIM <= 128;

// `rows` rows of WIDTH elements from `from` into shared memory, zeros from row `live` on.
template <int WIDTH, int COUNT>
__device__ __forceinline__ void load_rows(u32 to, const u16* from, i64 stride, int live) {
    constexpr int CHUNKS = WIDTH / 8, TOTAL = COUNT * CHUNKS;
#pragma unroll
    for (int i = 0; i < (TOTAL + THREADS - 1) / THREADS; ++i) {
        const int at = i * THREADS + threadIdx.x, row = at / CHUNKS, chunk = at % CHUNKS;
        if (TOTAL % THREADS == 0 || at < TOTAL) {
            const bool there = row < live;
            copy_async_16(to + place_of<WIDTH>(row, chunk), from + (there ? row : 0) * stride + chunk * 8,
                          there);
        }
    }
}

// 2^(score · factor − base_line + shift); with a mask tensor the same of powers of e, in an order in
// which lowest numbers cancel.
__device__ __forceinline__ float weight_of(float score, float factor, float base_line, float shift = 0.0f) {
    if (MASK_TENSOR) return exp2_fast(fmaf(score - base_line, LOG2E, shift));
    return exp2_fast(fmaf(score, factor, shift - base_line));
}

extern "C" __global__ void __launch_bounds__(THREADS, MIN_BLOCKS)
    sdpa_prefill(const __grid_constant__ SdpaCall call) {
    extern __shared__ __align__(128) u8 shared[];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int head = blockIdx.x, batch = blockIdx.z;
    const int kv_head = head / (call.q_heads / call.kv_heads);
    const int first_query = (gridDim.y - 1 - blockIdx.y) * QUERIES;
    const int queries = min(QUERIES, call.q_len - first_query);
    const int live = live_keys(call, batch);
    const i64 diag = diagonal(call, live);
    const int begin = first_key(call, diag, first_query, live) / KEYS * KEYS;
    const int end = end_key(call, diag, first_query + queries - 1, live);
    // Where every query of the block sees every key.
    const int all_first = first_key(call, diag, first_query + queries - 1, live);
    const int all_last = end_key(call, diag, first_query, live);

    const i64 q = batch * call.q_stride[0] + head * call.q_stride[1] + first_query * call.q_stride[2];
    const u16* k = static_cast<const u16*>(call.k) + batch * call.k_stride[0] + kv_head * call.k_stride[1];
    const u16* v = static_cast<const u16*>(call.v) + batch * call.v_stride[0] + kv_head * call.v_stride[1];
    const u32 q_shared = shared_address(shared);
    const u32 k_shared = q_shared + Q_BYTES, v_shared = k_shared + 2 * K_BYTES;
    const int steps = max(0, (end - begin + KEYS - 1) / KEYS);

    auto load_keys = [&](int step) {
        if (step < steps) {
            const int key = begin + step * KEYS;
            load_rows<HEAD_DIM, KEYS>(k_shared + step % 2 * K_BYTES, k + key * call.k_stride[2],
                                      call.k_stride[2], end - key);
        }
        copy_commit();
    };
    auto load_values = [&](int step) {
        if (step < steps) {
            const int key = begin + step * KEYS;
            load_rows<V_DIM, KEYS>(v_shared + step % 2 * V_BYTES, v + key * call.v_stride[2],
                                   call.v_stride[2], end - key);
        }
        copy_commit();
    };
#if QT == 0
    for (int at = threadIdx.x; at < QUERIES * HEAD_DIM / 2; at += THREADS) {
        const int row = at / (HEAD_DIM / 2), d = at % (HEAD_DIM / 2) * 2;
        float2 x = make_float2(0.0f, 0.0f);
        if (row < queries)
            x = *reinterpret_cast<const float2*>(static_cast<const float*>(call.q) + q +
                                                 row * call.q_stride[2] + d);
        u32 parts[PARTS];
        split2(x.x, x.y, parts);
#pragma unroll
        for (int p = 0; p < PARTS; ++p)
            *reinterpret_cast<u32*>(shared + p * Q_PART + place_of<HEAD_DIM>(row, d / 8) + d % 8 * 2) = parts[p];
    }
#else
    load_rows<HEAD_DIM, QUERIES>(q_shared, static_cast<const u16*>(call.q) + q, call.q_stride[2], queries);
#endif
    load_keys(0);
    load_values(0);

    const int rows[2] = {first_query + warp * 16 + lane / 4, first_query + warp * 16 + lane / 4 + 8};
    const int first[2] = {first_key(call, diag, rows[0], live), first_key(call, diag, rows[1], live)};
    const int last[2] = {end_key(call, diag, rows[0], live), end_key(call, diag, rows[1], live)};
#if MASK_TENSOR
    const i64 mask_head = batch * call.mask_stride[0] + head * call.mask_stride[1];
    const i64 mask_row[2] = {mask_head + min(rows[0], call.q_len - 1) * call.mask_stride[2],
                             mask_head + min(rows[1], call.q_len - 1) * call.mask_stride[2]};
#endif
    const u32 q_lane = q_shared + place_of<HEAD_DIM>(warp * 16 + lane % 16, lane / 16);
    const u32 k_lane = k_shared + place_of<HEAD_DIM>(lane / 16 * 8 + lane % 8, lane / 8 % 2);
    const u32 v_lane = v_shared + place_of<V_DIM>(lane / 8 % 2 * 8 + lane % 8, lane / 16);

    u32 query[QUERIES_IN_REGISTERS ? HEAD_DIM / 16 : 1][4];
    float sum[V_DIM / 8][4];
#pragma unroll
    for (int n = 0; n < V_DIM / 8; ++n) sum[n][0] = sum[n][1] = sum[n][2] = sum[n][3] = 0.0f;
    float highest[2] = {NEG_INF, NEG_INF}, total[2] = {0.0f, 0.0f};
    // Scores count in powers of two; with a mask tensor in powers of e, since its lowest numbers
    // would not survive the factor.
    constexpr float UNIT = MASK_TENSOR ? 1.0f : LOG2E;
    const float scale = call.scale * UNIT;

    for (int step = 0; step < steps; ++step) {
        const int base = begin + step * KEYS;
        copy_wait<1>();
        __syncthreads();
        load_keys(step + 1);
        if (QUERIES_IN_REGISTERS && step == 0) {
#pragma unroll
            for (int n = 0; n < HEAD_DIM / 16; ++n)
                load_matrix_4(query[QUERIES_IN_REGISTERS ? n : 0], pairs_after<HEAD_DIM>(q_lane, n));
        }

        float score[KEYS / 8][4] = {};
#pragma unroll
        for (int d = 0; d < HEAD_DIM / 16; ++d) {
            u32 a[PARTS][4];
#pragma unroll
            for (int p = 0; p < PARTS; ++p) {
                if (QUERIES_IN_REGISTERS) {
#pragma unroll
                    for (int i = 0; i < 4; ++i) a[p][i] = query[QUERIES_IN_REGISTERS ? d : 0][i];
                } else {
                    load_matrix_4(a[p], pairs_after<HEAD_DIM>(q_lane + p * Q_PART, d));
                }
            }
#pragma unroll
            for (int n = 0; n < KEYS / 16; ++n) {
                u32 b[4];
                load_matrix_4(b, pairs_after<HEAD_DIM>(k_lane + step % 2 * K_BYTES + n * 16 * Q_PITCH, d));
#pragma unroll
                for (int p = 0; p < PARTS; ++p) {
                    multiply_add<KT>(score[n * 2], a[p], b[0], b[1]);
                    multiply_add<KT>(score[n * 2 + 1], a[p], b[2], b[3]);
                }
            }
        }

        // Without these the scale waits for the exponent's argument.
        constexpr bool SCALED = SOFTCAP != 0 || MASK_TENSOR != 0;
#if SOFTCAP
#pragma unroll
        for (int n = 0; n < KEYS / 8; ++n) {
#pragma unroll
            for (int e = 0; e < 4; ++e)
                score[n][e] = call.softcap * UNIT * tanhf(score[n][e] * call.scale / call.softcap);
        }
#endif
        if (MASK_TENSOR != 0 || base < all_first || base + KEYS > all_last) {
#pragma unroll
            for (int n = 0; n < KEYS / 8; ++n) {
#pragma unroll
                for (int e = 0; e < 4; ++e) {
                    const int key = base + n * 8 + lane % 4 * 2 + e % 2;
                    const bool seen = key >= first[e / 2] && key < last[e / 2];
#if MASK_TENSOR
                    const float x = SOFTCAP ? score[n][e] : score[n][e] * scale;
                    score[n][e] = seen ? x + mask_value(call, mask_row[e / 2], key) : NEG_INF;
#else
                    score[n][e] = seen ? score[n][e] : NEG_INF;
#endif
                }
            }
        }
        const float factor = SCALED ? 1.0f : scale;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float here = NEG_INF;
#pragma unroll
            for (int n = 0; n < KEYS / 8; ++n)
                here = fmaxf(here, fmaxf(score[n][half * 2], score[n][half * 2 + 1]));
            const float higher = fmaxf(highest[half], quad_max(here));
            const float base_line = higher == NEG_INF ? 0.0f : higher * factor;
            const float shrink = weight_of(highest[half], factor, base_line);
            highest[half] = higher;
            float here_total = 0.0f;
#pragma unroll
            for (int n = 0; n < KEYS / 8; ++n) {
#pragma unroll
                for (int e = half * 2; e < half * 2 + 2; ++e) {
                    score[n][e] = weight_of(score[n][e], factor, base_line, WEIGHT_SHIFT);
                    here_total += score[n][e];
                }
            }
            total[half] = total[half] * shrink + here_total;
#pragma unroll
            for (int n = 0; n < V_DIM / 8; ++n) {
                sum[n][half * 2] *= shrink;
                sum[n][half * 2 + 1] *= shrink;
            }
        }

        copy_wait<1>();
        __syncthreads();
        load_values(step + 1);
#pragma unroll
        for (int n = 0; n < KEYS / 16; ++n) {
            u32 weight[PARTS][4];
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                u32 parts[PARTS];
                split2(score[n * 2 + i / 2][i % 2 * 2], score[n * 2 + i / 2][i % 2 * 2 + 1], parts);
#pragma unroll
                for (int p = 0; p < PARTS; ++p) weight[p][i] = parts[p];
            }
#pragma unroll
            for (int d = 0; d < V_DIM / 16; ++d) {
                u32 b[4];
                load_matrix_4_transposed(b, pairs_after<V_DIM>(v_lane + step % 2 * V_BYTES + n * 16 * V_PITCH, d));
#pragma unroll
                for (int p = 0; p < PARTS; ++p) {
                    multiply_add<KT>(sum[d * 2], weight[p], b[0], b[1]);
                    multiply_add<KT>(sum[d * 2 + 1], weight[p], b[2], b[3]);
                }
            }
        }
    }

#if QT == 0
    // Rows leave as they are.
    copy_wait<0>();
    bool bad = false;
    const int mine = min(16, queries - warp * 16);
    float* out = static_cast<float*>(call.out) + batch * call.o_stride[0] + head * call.o_stride[1] +
                 (first_query + warp * 16) * call.o_stride[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const float all = quad_sum(total[half]);
        const float norm = all == 0.0f ? 0.0f : 1.0f / all;
        const int row = lane / 4 + half * 8;
        bad |= !is_finite(all);
#pragma unroll
        for (int n = 0; n < V_DIM / 8; ++n) {
            const float2 x = make_float2(sum[n][half * 2] * norm, sum[n][half * 2 + 1] * norm);
            bad |= !is_finite(x.x) || !is_finite(x.y);
            if (row < mine)
                *reinterpret_cast<float2*>(out + row * call.o_stride[2] + n * 8 + lane % 4 * 2) = x;
        }
    }
#else
    // Rows leave through this warp's own part of the queries' memory, 16 bytes a thread.
    copy_wait<0>();
    // Without a step no barrier has yet passed since the queries were asked for.
    if (V_DIM > HEAD_DIM || steps == 0) __syncthreads();
    bool bad = false;
    u8* stage = shared + warp * 16 * (V_DIM > HEAD_DIM ? V_PITCH : Q_PITCH);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const float all = quad_sum(total[half]);
        const float norm = all == 0.0f ? 0.0f : 1.0f / all;
        bad |= !is_finite(all);
#pragma unroll
        for (int n = 0; n < V_DIM / 8; ++n) {
            const float x = sum[n][half * 2] * norm, y = sum[n][half * 2 + 1] * norm;
            bad |= !is_finite(x) || !is_finite(y);
            *reinterpret_cast<u32*>(stage + place_of<V_DIM>(lane / 4 + half * 8, n) + lane % 4 * 4) =
                pack2<QT>(x, y);
        }
    }
    __syncwarp();
    const int mine = min(16, queries - warp * 16);
    u16* out = static_cast<u16*>(call.out) + batch * call.o_stride[0] + head * call.o_stride[1] +
               (first_query + warp * 16) * call.o_stride[2];
    constexpr int CHUNKS = V_DIM / 8;
#pragma unroll
    for (int i = 0; i < 16 * CHUNKS / 32; ++i) {
        const int at = i * 32 + lane, row = at / CHUNKS, chunk = at % CHUNKS;
        if (row < mine) {
            *reinterpret_cast<uint4*>(out + row * call.o_stride[2] + chunk * 8) =
                *reinterpret_cast<const uint4*>(stage + place_of<V_DIM>(row, chunk));
        }
    }
#endif
    // A NaN or infinity may come from a value behind a mask: then these rows are done again.
    if (__any_sync(0xffffffffu, bad)) {
        __syncwarp();
        for (int row = 0; row < mine; ++row)
            exact_row(call, batch, head, first_query + warp * 16 + row, lane);
    }
}
