// What the kernels of attention have in common on a CPU: random operands, the call, the result in f64. A kernel's source
// comes first.
//
// KIND is what a call asks for: none, causal, window, band, lens, lens_causal, hidden_nan or seen_nan. The bound is the
// repository's (`metallic_testkit::tolerance`), per element; outputs start as 6e4. Odd seeds lay rows of all heads
// side by side, as models do.
#pragma once
#include <random>
#include <string>

static std::mt19937 numbers;
static u16 stored(double value) { return QT == 2 ? float_to_bf16((float)value) : float_to_half((float)value); }
static double read(u16 bits) { return QT == 2 ? bf16_to_float(bits) : half_to_float(bits); }

// Elements [batch, heads, rows, width] in one of two layouts.
struct Tensor {
    u16 *start;
    int heads, rows;
    i64 stride[3];

    Tensor(int batch, int heads, int rows, bool side_by_side) : heads(heads), rows(rows) {
        const i64 row = side_by_side ? heads * HEAD_DIM : HEAD_DIM;
        const i64 head = side_by_side ? HEAD_DIM : (i64)rows * HEAD_DIM;
        stride[0] = (i64)heads * rows * HEAD_DIM, stride[1] = head, stride[2] = row;
        start = (u16 *)soft::allocate(batch * stride[0] * 2);
        for (i64 i = 0; i < batch * stride[0]; i++) start[i] = stored(std::normal_distribution<double>()(numbers));
    }
    u16 *row(int batch, int head, int at) const {
        return start + batch * stride[0] + head * stride[1] + at * stride[2];
    }
};

static SdpaCall call;

// Largest error of a row over its bound; infinite where NaN stands on one side only.
static double worst_of_row(const Tensor &q, const Tensor &k, const Tensor &v, const Tensor &out, int batch, int head,
                           int row) {
    const int group = head / (call.q_heads / call.kv_heads), live = live_keys(call, batch);
    const i64 diag = diagonal(call, live);
    const int first = first_key(call, diag, row, live), end = end_key(call, diag, row, live);
    std::vector<double> weights(max(0, end - first));
    double most = -INFINITY, total = 0, dot = 0;
    for (int key = first; key < end; key++) {
        double score = 0, qq = 0, kk = 0;
        for (int d = 0; d < HEAD_DIM; d++) {
            const double a = read(q.row(batch, head, row)[d]), b = read(k.row(batch, group, key)[d]);
            score += a * b, qq += a * a, kk += b * b;
        }
        weights[key - first] = score * call.scale, most = fmax(most, score * call.scale);
        dot = fmax(dot, call.scale * sqrt(qq * kk));
    }
    for (double &weight : weights) total += weight = exp(weight - most);
    const double u32_ = ldexp(1, -24), half = QT == 2 ? ldexp(1, -8) : ldexp(1, -11);
    const double tiny = QT == 2 ? ldexp(1, -133) : ldexp(1, -25);
    double worst = 0;
    for (int d = 0; d < HEAD_DIM; d++) {
        double want = 0, spread = 0;
        for (int key = first; key < end; key++) {
            const double weight = weights[key - first] / total, value = read(v.row(batch, group, key)[d]);
            want += weight * value, spread += weight * fabs(value);
        }
        const double got = read(out.row(batch, head, row)[d]);
        if (std::isnan(got) || std::isnan(want)) {
            if (std::isnan(got) != std::isnan(want)) return INFINITY;
            continue;
        }
        const double rounding = half + 8 * u32_ * dot + u32_ * (8 + 2 * sqrt(call.kv_len));
        worst = fmax(worst, fabs(got - want) / (half * fabs(want) + tiny + spread * rounding));
    }
    return worst;
}

// The operands of a call of `kind`, which is ready but for what only one kernel takes.
struct Operands {
    Tensor q, out, k, v;
    int lengths[4];

    Operands(const std::string &kind, int batch, int q_heads, int kv_heads, int q_len, int kv_len, bool side_by_side)
        : q(batch, q_heads, q_len, side_by_side), out(batch, q_heads, q_len, side_by_side),
          k(batch, kv_heads, kv_len, side_by_side), v(batch, kv_heads, kv_len, side_by_side),
          lengths{kv_len / 2 + 3, kv_len - 1, 0, 1} {
        call = {};
        call.q = q.start, call.k = k.start, call.v = v.start, call.out = out.start;
        for (int i = 0; i < 3; i++) {
            call.q_stride[i] = q.stride[i], call.k_stride[i] = k.stride[i];
            call.v_stride[i] = v.stride[i], call.o_stride[i] = out.stride[i];
        }
        call.left = call.right = 1ll << 40;
        call.batch = batch, call.q_heads = q_heads, call.kv_heads = kv_heads, call.q_len = q_len, call.kv_len = kv_len;
        call.splits = 1, call.heads_per_wave = 1, call.scale = 1 / sqrtf(HEAD_DIM);
        if (kind == "causal" || kind == "lens_causal" || kind == "hidden_nan" || kind == "window") call.right = 0;
        if (kind == "window") call.left = 37;
        if (kind == "band") call.left = 5, call.right = 9, call.fixed_offset = 1, call.offset = 3;
        if (kind == "lens" || kind == "lens_causal") call.kv_lens = lengths;
        const u16 nan = QT == 2 ? 0x7fc0 : 0x7e00;
        for (int b = 0; b < batch; b++)
            for (int h = 0; h < kv_heads; h++) {
                for (int key = live_keys(call, b); key < kv_len; key++)
                    for (int d = 0; d < HEAD_DIM; d++) k.row(b, h, key)[d] = v.row(b, h, key)[d] = nan;
                if (kind == "hidden_nan") k.row(b, h, kv_len - 1)[0] = v.row(b, h, kv_len - 1)[3] = nan;
                if (kind == "seen_nan" && h == 0) v.row(b, h, kv_len / 2)[1] = nan;
            }
        for (i64 i = 0; i < batch * out.stride[0]; i++) out.start[i] = stored(6e4);
    }

    // Compares the result; `name` and `kind` are for the report. 0 when it is right.
    int judge(const char *name, const char *kind) const {
        double worst = 0;
        for (int b = 0; b < call.batch; b++)
            for (int h = 0; h < call.q_heads; h++)
                for (int row = 0; row < call.q_len; row++)
                    worst = fmax(worst, worst_of_row(q, k, v, out, b, h, row));
        printf("%s %s: %.2f of the bound\n", name, kind, worst);
        return worst <= 1 ? 0 : 1;
    }
};
