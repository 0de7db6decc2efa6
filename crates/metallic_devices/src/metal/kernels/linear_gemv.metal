// `out = x W^T + bias` for few rows of x: bound by reading W, which is read once.
//
// A simdgroup computes OUTPUTS neighbouring columns of out for M rows of x. Its lanes take runs of 16
// weights in turn, so that neighbouring lanes read neighbouring bytes; a run is decoded once and
// multiplied by every row of x. Scales are factored out of the sums: one product each for 16 codes.
//
// grid: (groups of 4 * OUTPUTS columns, tiles of M rows), 4 simdgroups.
#include "linear.h"

#define SIMDGROUPS 4

template <typename W, ushort M, ushort OUTPUTS>
[[kernel]] void linear_gemv(
    device const float *x [[buffer(0)]],
    device const uchar *weight [[buffer(1)]],
    device const float *bias [[buffer(2)]],
    device float *out [[buffer(3)]],
    constant LinearParams &p [[buffer(4)]],
    uint3 group [[threadgroup_position_in_grid]],
    ushort simdgroup [[simdgroup_index_in_threadgroup]],
    ushort lane [[thread_index_in_simdgroup]])
{
    const uint first = (group.x * SIMDGROUPS + simdgroup) * OUTPUTS;
    const uint first_row = group.y * M;
    if (first >= p.out_features) return;

    device const uchar *w_rows[OUTPUTS];
    for (ushort n = 0; n < OUTPUTS; n++)
        w_rows[n] = weight + min(first + n, p.out_features - 1) * p.row_bytes;
    device const float *x_rows[M];
    for (ushort m = 0; m < M; m++)
        x_rows[m] = x + ulong(min(first_row + m, p.rows - 1)) * p.in_features;

    float sums[M][OUTPUTS];
    for (ushort m = 0; m < M; m++)
        for (ushort n = 0; n < OUTPUTS; n++) sums[m][n] = 0.0f;

    for (uint run = lane; run * 16 < p.in_features; run += 32) {
        float codes[OUTPUTS][16];
        float2 scales[OUTPUTS];
        for (ushort n = 0; n < OUTPUTS; n++)
            scales[n] = Weights<W>::read(w_rows[n], run, p.in_features, codes[n]);
        for (ushort m = 0; m < M; m++) {
            float4 values[4];
            float total = 0.0f;
            for (ushort i = 0; i < 4; i++) {
                values[i] = activations(x_rows[m], run * 16 + i * 4, p.in_features);
                if (Weights<W>::HAS_MINIMUM != 0)
                    total += (values[i].x + values[i].y) + (values[i].z + values[i].w);
            }
            for (ushort n = 0; n < OUTPUTS; n++) {
                float sum = 0.0f;
                for (ushort i = 0; i < 4; i++)
                    sum += dot(
                        values[i],
                        float4(codes[n][4 * i], codes[n][4 * i + 1], codes[n][4 * i + 2], codes[n][4 * i + 3]));
                sums[m][n] += scales[n].x * sum;
                if (Weights<W>::HAS_MINIMUM != 0) sums[m][n] += scales[n].y * total;
            }
        }
    }

    for (ushort m = 0; m < M; m++)
        for (ushort n = 0; n < OUTPUTS; n++) {
            const float sum = simd_sum(sums[m][n]);
            if (lane != 0 || first_row + m >= p.rows || first + n >= p.out_features) continue;
            const float added = p.has_bias != 0u ? bias[first + n] : 0.0f;
            out[ulong(first_row + m) * p.out_features + first + n] = sum + added;
        }
}

#define GEMV(name, W, M, OUTPUTS)                                                                  \
    template [[host_name("linear_gemv_" #name "_m" #M)]] [[kernel]]                                 \
        decltype(linear_gemv<W, M, OUTPUTS>) linear_gemv<W, M, OUTPUTS>;
#define GEMVS(name, W) GEMV(name, W, 1, 4) GEMV(name, W, 4, 2) GEMV(name, W, 8, 2)

EVERY_WEIGHT(GEMVS)
