// The kernels of many_rows.cu against plain f64 loops, thread by thread on the host. Run through
// scripts/test-softcuda, which makes `kernels.inc` of the repository's sources.
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <random>
#include <string>

#include "block.hpp"
#include "kernels.inc"

static std::mt19937 random_bits(1);
static int failed, ran;

static std::vector<float> normals(size_t count, float scale = 1) {
    std::normal_distribution<float> normal;
    std::vector<float> values(count);
    for (float &value : values) value = normal(random_bits) * scale;
    return values;
}

// Prints a failure: `error` in units of what is allowed.
static void judge(const std::string &what, double error) {
    ran++;
    if (error <= 1) return;
    failed++;
    std::printf("FAILED %s: %.3g times the allowed error\n", what.c_str(), error);
}

static double value_of(u16 bits, u32 dtype) { return dtype == DTYPE_F16 ? f16_to_f32(bits) : bf16_to_f32(bits); }
static double roundoff(u32 dtype) { return std::ldexp(1, dtype == DTYPE_F16 ? -11 : -8); }

// One rounding to the type under a factor of `alpha`, and f32 arithmetic on numbers of size `size`.
static double allowed(u32 dtype, double want, double size, double alpha) {
    const double tiny = dtype == DTYPE_F16 ? std::ldexp(alpha, -25) : 1e-37;
    return 1.01 * (roundoff(dtype) * std::fabs(want) + tiny) + 3e-6 * size;
}

// f16 alone has a second launch.
template <class Params, class Kernel>
static void twice(Params params, unsigned first, unsigned second, Kernel kernel) {
    launch(first, 256, [=] { kernel(params); });
    if (params.to != DTYPE_F16) return;
    params.again = 1;
    launch(second, 256, [=] { kernel(params); });
}

static void norm(u32 rows, u32 width, bool pending, u32 to, float scale) {
    auto x = normals((size_t)rows * width), more = normals((size_t)rows * width), weight = normals(width, scale);
    const auto before = x;
    std::vector<u16> out((size_t)rows * width, 0x7fff);
    Numbers numbers{};
    Norm params{x.data(), pending ? more.data() : nullptr, weight.data(), out.data(), &numbers, rows, width, 1e-6f, to, 0, 0};
    twice(params, rows, 3, [](Norm p) {
        if (p.again) p.pending = nullptr;
        norm_halves(p);
    });
    double worst = 0;
    for (u32 row = 0; row < rows; row++) {
        const size_t start = (size_t)row * width;
        auto sum = [&](u32 i) { return (double)before[start + i] + (pending ? more[start + i] : 0); };
        double squares = 0;
        for (u32 i = 0; i < width; i++) squares += sum(i) * sum(i);
        for (u32 i = 0; i < width; i++) {
            const double want = sum(i) / std::sqrt(squares / width + 1e-6) * weight[i];
            const double got = value_of(out[start + i], to) * numbers.alpha;
            worst = std::fmax(worst, std::fabs(got - want) / allowed(to, want, std::fabs(want), numbers.alpha));
            worst = std::fmax(worst, std::fabs(x[start + i] - sum(i)) / (1e-6 * std::fabs(sum(i)) + 1e-7));
        }
    }
    judge("norm of " + std::to_string(width) + " to " + std::to_string(to) + " at " + std::to_string(scale), worst);
    // Magnitudes around 1 are not scaled: the second launch had nothing to do.
    if (scale == 1) judge("factor of a norm", numbers.alpha == 1 && numbers.zero == 0 ? 0 : 2);
}

static void swiglu(u64 elements, u32 to, float scale) {
    auto gate = normals(elements), up = normals(elements, scale);
    std::vector<u16> out(elements, 0x7fff);
    Numbers numbers{};
    Gated params{(float4 *)gate.data(), (float4 *)up.data(), (uint2 *)out.data(), &numbers, elements / 4, to, 0};
    twice(params, 3, 2, [](Gated p) { swiglu_halves(p); });
    double worst = 0;
    for (u64 i = 0; i < elements; i++) {
        const double want = gate[i] / (1 + std::exp(-(double)gate[i])) * up[i];
        const double got = value_of(out[i], to) * numbers.alpha;
        worst = std::fmax(worst, std::fabs(got - want) / allowed(to, want, std::fabs(want), numbers.alpha));
    }
    judge("swiglu to " + std::to_string(to) + " at " + std::to_string(scale), worst);
}

struct Shape {
    u32 len, q_heads, kv_heads, dim, v_dim, pairs;
    bool interleaved, normed;
    u32 dtype;
    std::vector<i32> starts;
    u32 capacity;
};

// The norm and the rotation of one head.
static std::vector<double> turned_head(const Shape &s, std::vector<double> x, const float *weight, const float *cos,
                                       const float *sin) {
    if (weight) {
        double squares = 0;
        for (double value : x) squares += value * value;
        for (u32 i = 0; i < x.size(); i++) x[i] *= weight[i] / std::sqrt(squares / x.size() + 1e-6);
    }
    auto out = x;
    for (u32 pair = 0; pair < s.pairs; pair++) {
        const u32 a = s.interleaved ? 2 * pair : pair, b = s.interleaved ? 2 * pair + 1 : pair + s.pairs;
        out[a] = x[a] * cos[pair] - x[b] * sin[pair];
        out[b] = x[a] * sin[pair] + x[b] * cos[pair];
    }
    return out;
}

static void all_heads(const Shape &s) {
    const u32 batch = s.starts.size(), rows = batch * s.len;
    auto q = normals(rows * s.q_heads * s.dim), k = normals(rows * s.kv_heads * s.dim), v = normals(rows * s.kv_heads * s.v_dim);
    auto cos = normals(rows * s.pairs), sin = normals(rows * s.pairs), q_norm = normals(s.dim), k_norm = normals(s.dim);
    const u16 unwritten = 0x7ffe;
    std::vector<u16> out(q.size(), unwritten);
    std::vector<u16> keys(batch * s.kv_heads * s.capacity * s.dim, unwritten);
    std::vector<u16> values(batch * s.kv_heads * s.capacity * s.v_dim, unwritten);
    auto view = [&](std::vector<u16> &of, u32 width) {
        View view{};
        view.start = (u64)of.data(), view.dtype = s.dtype;
        const i64 row = 2 * width, head = row * s.capacity;
        const i64 strides[4] = {head * s.kv_heads, head, row, 2};
        const i32 shape[4] = {(i32)batch, (i32)s.kv_heads, (i32)s.capacity, (i32)width};
        std::memcpy(view.strides, strides, sizeof strides), std::memcpy(view.shape, shape, sizeof shape);
        return view;
    };
    Numbers numbers{};
    Fault fault{};
    const float *of_q = s.normed ? q_norm.data() : nullptr, *of_k = s.normed ? k_norm.data() : nullptr;
    Heads params{q.data(), k.data(), v.data(), out.data(), cos.data(), sin.data(), of_q, of_k, s.starts.data(), &fault, &numbers,
                 view(keys, s.dim), view(values, s.v_dim), rows, s.len, s.q_heads, s.kv_heads, s.dim, s.v_dim, s.pairs,
                 s.interleaved, 1e-6f, 0};
    launch((rows * (s.q_heads + 2 * s.kv_heads) + 3) / 4, 128, [=] { heads(params); });
    double worst = 0;
    size_t written = 0;
    bool refused = false;
    auto compare = [&](const float *x, u32 width, const float *weight, u32 row, bool turns, const u16 *got) {
        std::vector<double> want(x, x + width);
        if (turns) want = turned_head(s, want, weight, &cos[row * s.pairs], &sin[row * s.pairs]);
        double size = 0;
        for (double value : want) size = std::fmax(size, std::fabs(value));
        for (u32 i = 0; i < width; i++)
            worst = std::fmax(worst, std::fabs(value_of(got[i], s.dtype) - want[i]) / allowed(s.dtype, want[i], size, 1));
    };
    for (u32 row = 0; row < rows; row++) {
        const u32 b = row / s.len;
        for (u32 h = 0; h < s.q_heads; h++) {
            const size_t at = ((size_t)row * s.q_heads + h) * s.dim;
            compare(&q[at], s.dim, of_q, row, true, &out[at]);
        }
        const i32 start = s.starts[b];
        if (start < 0 || start + s.len > s.capacity) {
            refused = true;
            continue;
        }
        for (u32 h = 0; h < s.kv_heads; h++) {
            const size_t from = (size_t)row * s.kv_heads + h, to = (size_t)(b * s.kv_heads + h) * s.capacity + start + row % s.len;
            compare(&k[from * s.dim], s.dim, of_k, row, true, &keys[to * s.dim]);
            compare(&v[from * s.v_dim], s.v_dim, nullptr, row, false, &values[to * s.v_dim]);
            written += s.dim + s.v_dim;
        }
    }
    for (u16 bits : keys) written -= bits != unwritten;
    for (u16 bits : values) written -= bits != unwritten;
    const std::string name = "heads of " + std::to_string(s.dim);
    judge(name, worst);
    judge(name + ": nothing but the new positions is written", written == 0 ? 0 : 2);
    judge(name + ": positions outside are refused", fault.code == (refused ? FAULT_POSITION : 0u) ? 0 : 2);
    judge(name + ": factor", numbers.alpha == 1 && numbers.zero == 0 ? 0 : 2);
}

int main() {
    for (u32 to : {DTYPE_F16, DTYPE_BF16}) {
        for (float scale : {1.0f, 1e-6f, 3e4f, 1e30f}) {
            norm(3, 128, true, to, scale);
            norm(5, 1028, false, to, scale);
            norm(2, 3584, true, to, scale);
        }
        for (float scale : {1.0f, 1e-9f, 1e6f}) swiglu(4160, to, scale);
    }
    all_heads({5, 4, 2, 32, 32, 16, false, false, DTYPE_F16, {3}, 10});
    all_heads({3, 4, 2, 64, 64, 24, true, true, DTYPE_BF16, {0, 7}, 11});
    all_heads({3, 2, 1, 128, 64, 64, false, true, DTYPE_F16, {1, 9}, 11});
    all_heads({2, 3, 1, 256, 256, 128, true, false, DTYPE_F16, {4}, 6});
    all_heads({4, 6, 3, 80, 48, 40, false, false, DTYPE_BF16, {0}, 4});
    std::vector<u32> both;
    std::vector<float> want;
    for (int i = 0; i < 1000; i++) {
        const u16 low = f32_to_f16(normals(1, 100)[0]), high = f32_to_f16(normals(1, 1e-5)[0]);
        both.push_back(low | (u32)high << 16);
        want.push_back(f16_to_f32(low)), want.push_back(f16_to_f32(high));
    }
    const Other other{both.data(), both.size()};
    launch(2, 256, [=] { f16_to_bf16(other); });
    double worst = 0;
    for (size_t i = 0; i < want.size(); i++) {
        const double got = bf16_to_f32((u16)(both[i / 2] >> (i % 2 * 16)));
        worst = std::fmax(worst, std::fabs(got - want[i]) / (roundoff(DTYPE_BF16) * std::fabs(want[i]) + 1e-37));
    }
    judge("f16 as bf16", worst);
    std::printf("test-softcuda: %d passed, %d failed\n", ran - failed, failed);
    return failed != 0;
}
