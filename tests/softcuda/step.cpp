// persistent.cu on a CPU against f64: three steps of two layers, after `start` positions; then several steps in one
// launch against as many launches.
//
//     step NAME HIDDEN FFN Q_HEADS KV_HEADS VOCAB BLOCKS SPLITS START SLOTS INTERLEAVED TYPE*8
//
// TYPEs as kernels number them: q, k, v, o, gate, up, down, output. Fails above a relative error of 1e-5.
#include "device.hpp"

#include <algorithm>
#include <random>
#include <string>
#include <tuple>

#include "kernel.inc"

typedef std::vector<double> Row;

static std::mt19937 numbers(7);
static float normal() { return std::normal_distribution<float>()(numbers); }

static const u32 LAYERS = 2, ROOM = 512, STEPS = 3, MOST = 3;

struct Kind { u32 length, bytes; float scale; u32 scale_at; };

static Kind kind_of(u32 dtype) {
    switch (dtype) {
        case DTYPE_F32: return {1, 4, 1, 0};
        case DTYPE_F16:
        case DTYPE_BF16: return {1, 2, 1, 0};
        case DTYPE_Q8_0: return {32, 34, 0.01f, 0};
        case DTYPE_Q4_0: return {32, 18, 0.2f, 0};
        case DTYPE_Q5_0: return {32, 22, 0.1f, 0};
        case DTYPE_Q4_K: return {256, 144, 0.003f, 0};
        case DTYPE_Q6_K: return {256, 210, 0.0005f, 208};
    }
    soft::fail("an unknown type");
}

// A random weight with its values.
struct Weight {
    Matrix matrix;
    u32 width;
    Row values;

    Weight(u32 rows, u32 width, u32 dtype, float scale, const float *bias) : width(width) {
        const Kind kind = kind_of(dtype);
        const u32 row_bytes = width / kind.length * kind.bytes;
        u8 *start = soft::allocate((size_t)rows * row_bytes);
        matrix = {(u64)start, bias, row_bytes, PIECE / kind.length * kind.bytes, dtype, rows};
        values.resize((size_t)rows * width);
        for (u32 r = 0; r < rows; r++) fill(start + (size_t)r * row_bytes, kind, scale, &values[(size_t)r * width]);
    }

    void fill(u8 *row, const Kind &kind, float scale, double *out) {
        const u32 dtype = matrix.dtype;
        for (u32 i = 0; i < matrix.row_bytes; i++) row[i] = (u8)numbers();
        for (u32 i = 0; kind.length == 1 && i < width; i++) {
            const float value = normal() * scale;
            if (dtype == DTYPE_F32) ((float *)row)[i] = value;
            if (dtype == DTYPE_F16) ((u16 *)row)[i] = f32_to_f16(value);
            if (dtype == DTYPE_BF16) ((u16 *)row)[i] = f32_to_bf16(value);
        }
        for (u32 b = 0; kind.length > 1 && b < width / kind.length; b++) {
            u16 *block = (u16 *)(row + b * kind.bytes);
            block[kind.scale_at / 2] = f32_to_f16(scale * kind.scale);
            if (dtype == DTYPE_Q4_K) block[1] = f32_to_f16(scale * kind.scale);
        }
        for (u32 e = 0; e < width; e += 8) {
            float eight[8];
            stored8(dtype, row, e, width, eight);
            for (int i = 0; i < 8; i++) out[e + i] = eight[i];
        }
    }

    // The product with x, rounded as the kernel rounds it where the weight is quantised.
    Row operator*(Row x) const {
        for (size_t first = 0; matrix.dtype >= DTYPE_Q8_0 && first < x.size(); first += 32) {
            double most = 0;
            for (int i = 0; i < 32; i++) most = fmax(most, fabs(x[first + i]));
            for (int i = 0; i < 32 && most > 0; i++)
                x[first + i] = most / 127 * (double)lrint(x[first + i] * 127 / most);
        }
        Row out(matrix.rows);
        for (u32 r = 0; r < matrix.rows; r++) {
            out[r] = matrix.bias ? matrix.bias[r] : 0;
            for (u32 i = 0; i < width; i++) out[r] += values[(size_t)r * width + i] * x[i];
        }
        return out;
    }
};

static float *vector_of(u32 length, float base, float spread) {
    float *out = (float *)soft::allocate(length * sizeof(float));
    for (u32 i = 0; i < length; i++) out[i] = base + spread * normal();
    return out;
}

static float cached(const char *start, size_t i) {
    if (KV == 0) return ((const float *)start)[i];
    return KV == 1 ? f16_to_f32(((const u16 *)start)[i]) : bf16_to_f32(((const u16 *)start)[i]);
}

static Row normed(const Row &x, const float *weight) {
    double sum = 0;
    for (double value : x) sum += value * value;
    Row out(x.size());
    for (size_t i = 0; i < x.size(); i++) out[i] = x[i] / sqrt(sum / (double)x.size() + 1e-6) * weight[i];
    return out;
}

static void add(Row &x, const Row &more) {
    for (size_t i = 0; i < x.size(); i++) x[i] += more[i];
}

static const Step *step;

// What the kernel computes, in f64, with the caches that it wrote.
static Row expected(const Layer *layers, const std::vector<std::vector<Weight>> &weights, const Weight &table,
                    const Weight &head) {
    const Step &p = *step;
    const u32 live = (u32)*p.kv_lens, half = HEAD_DIM / 2;
    auto turn = [&](Row &heads) {
        for (size_t h = 0; h < heads.size(); h += HEAD_DIM)
            for (u32 i = 0; i < half; i++) {
                double &a = heads[h + (p.interleaved ? 2 * i : i)];
                double &b = heads[h + (p.interleaved ? 2 * i + 1 : i + half)];
                const double turned = a * p.cos[i] - b * p.sin[i];
                b = a * p.sin[i] + b * p.cos[i], a = turned;
            }
    };
    const auto row = table.values.begin() + (size_t)*p.ids * p.hidden;
    Row x(row, row + p.hidden);
    for (u32 n = 0; n < LAYERS; n++) {
        const Layer &layer = layers[n];
        const auto &w = weights[n];
        Row input = normed(x, layer.norms[0]);
        Row q = w[Q] * input, k = w[K] * input, v = w[V] * input, attended(q.size());
        turn(q), turn(k);
        for (u32 h = 0; h < p.q_heads; h++) {
            const u32 kv_head = h / (p.q_heads / p.kv_heads);
            auto at = [&](u32 key, u32 e) { return ((size_t)kv_head * ROOM + key) * HEAD_DIM + e; };
            Row scores(live);
            double total = 0, most = -1e300;
            for (u32 key = 0; key < live; key++) {
                for (u32 e = 0; e < HEAD_DIM; e++)
                    scores[key] += q[h * HEAD_DIM + e] * cached(layer.caches[0].start, at(key, e));
                scores[key] /= sqrt(HEAD_DIM), most = fmax(most, scores[key]);
            }
            for (double &score : scores) total += score = exp(score - most);
            for (u32 key = 0; key < live; key++)
                for (u32 e = 0; e < HEAD_DIM; e++)
                    attended[h * HEAD_DIM + e] += scores[key] / total * cached(layer.caches[1].start, at(key, e));
        }
        for (u32 i = 0; i < k.size(); i++) {
            const size_t at = ((size_t)(i / HEAD_DIM) * ROOM + live - 1) * HEAD_DIM + i % HEAD_DIM;
            const double bound = KV == 0 ? 1e-4 : 1e-2;
            if (!(fabs(cached(layer.caches[0].start, at) - k[i]) <= bound * (1 + fabs(k[i])))) soft::fail("a wrong key");
            if (!(fabs(cached(layer.caches[1].start, at) - v[i]) <= bound * (1 + fabs(v[i])))) soft::fail("a wrong value");
        }
        add(x, w[O] * attended);
        input = normed(x, layer.norms[1]);
        Row gate = w[GATE] * input;
        const Row up = w[UP] * input;
        for (size_t i = 0; i < gate.size(); i++) gate[i] = gate[i] / (1 + exp(-gate[i])) * up[i];
        add(x, w[DOWN] * gate);
    }
    return head * normed(x, layers[LAYERS].norms[0]);
}

// Of equals the first; NaN last.
static u32 likeliest(const std::vector<float> &logits) {
    u32 best = 0;
    for (u32 i = 1; i < logits.size(); i++)
        if (logits[i] > logits[best] || (std::isnan(logits[best]) && !std::isnan(logits[i]))) best = i;
    return best;
}

// What the last launch chose must be `ids`, with the value and flaws of the logits after the last of them.
static void check_chosen(const std::vector<u32> &ids, const std::vector<float> &logits) {
    const u32 made = (u32)ids.size();
    const i32 *chosen = step->chosen;
    if (chosen[0] != (i32)made) soft::fail("another number of steps");
    for (u32 i = 0; i < made; i++)
        if (chosen[1 + i] != (i32)ids[i]) soft::fail("another token");
    i32 bad = 0;
    for (float logit : logits) bad += !std::isfinite(logit);
    const float value = ((const float *)chosen)[MOST + made];
    if (value != logits[ids.back()]) soft::fail("another value");
    if (chosen[2 * MOST + made] != bad) soft::fail("another number of logits that are no numbers");
}

static double relative_error(const float *got, const Row &want) {
    double error = 0, size = 0;
    for (size_t i = 0; i < want.size(); i++) {
        if (!std::isfinite(got[i])) soft::fail("a logit that is no number");
        error += (got[i] - want[i]) * (got[i] - want[i]), size += want[i] * want[i];
    }
    return sqrt(error / size);
}

int main(int count, char **words) {
    if (count != 20) soft::fail("step takes 19 words");
    u32 given[18];
    for (int i = 0; i < 18; i++) given[i] = (u32)std::stoul(words[2 + i]);
    const auto [hidden, ffn, q_heads, kv_heads, vocab] = std::tuple(given[0], given[1], given[2], given[3], given[4]);
    const auto [blocks, splits, start, slots, interleaved] = std::tuple(given[5], given[6], given[7], given[8], given[9]);
    const u32 *types = given + 10, q_width = q_heads * HEAD_DIM, kv_width = kv_heads * HEAD_DIM;
    const u32 rows[MATRICES] = {q_width, kv_width, kv_width, hidden, ffn, ffn, hidden};
    const u32 widths[MATRICES] = {hidden, hidden, hidden, q_width, hidden, hidden, ffn};
    const u64 size = KV == 0 ? 4 : 2;

    Layer layers[LAYERS + 1] = {};
    std::vector<std::vector<Weight>> weights(LAYERS);
    for (u32 n = 0; n < LAYERS; n++) {
        for (u32 i = 0; i < MATRICES; i++) {
            // Some matrices have biases, some not.
            const float *bias = i <= V || n == 1 ? vector_of(rows[i], 0, 0.5f) : nullptr;
            weights[n].emplace_back(rows[i], widths[i], types[i], 1 / sqrtf((float)widths[i]), bias);
            layers[n].matrices[i] = weights[n][i].matrix;
        }
        for (Cache &cache : layers[n].caches) {
            cache = {(char *)soft::allocate(kv_width * ROOM * size), ROOM * HEAD_DIM * size, HEAD_DIM * size};
            for (u32 g = 0; g < kv_heads; g++)
                for (u32 key = 0; key < start; key++)
                    for (u32 e = 0; e < HEAD_DIM; e++)
                        store(cache.start + g * cache.head_stride + key * cache.row_stride, e, normal());
        }
        for (const float *&norm : layers[n].norms) norm = vector_of(hidden, 1, 0.1f);
    }
    const Weight head(vocab, hidden, types[MATRICES], 1, nullptr), table(vocab, hidden, TABLE, 1, nullptr);
    layers[LAYERS].matrices[0] = head.matrix, layers[LAYERS].norms[0] = vector_of(hidden, 1, 0.1f);

    i32 id, position, live, wanted = 0, chosen[1 + 3 * MOST];
    u32 epoch = 0;
    Fault fault = {};
    float cos[MOST * HEAD_DIM / 2], sin[MOST * HEAD_DIM / 2];
    std::vector<float> logits(vocab);
    Step p = {};
    p.layers = layers, p.table = table.matrix, p.ids = &id, p.starts = &position, p.kv_lens = &live;
    p.cos = cos, p.sin = sin, p.logits = logits.data(), p.epoch = &epoch, p.fault = &fault;
    alignas(8) i32 how[DRAW_WORDS + 2 * MOST] = {};
    p.count = &wanted, p.draw = how, p.chosen = chosen, p.most = MOST;
    p.picks = (u64 *)soft::allocate(2 * blocks * PICK_WORDS * sizeof(u64));
    p.lists = (u64 *)soft::allocate(blocks * LIST_WORDS * sizeof(u64));
    p.layer_count = LAYERS, p.hidden = hidden, p.ffn = ffn, p.q_heads = q_heads, p.kv_heads = kv_heads;
    p.layer_words = q_width + 2 * kv_width + q_heads * splits * (HEAD_DIM + 4) + 2 * hidden + ffn;
    p.published = (u32 *)soft::allocate(2 * LAYERS * p.layer_words * sizeof(u32));
    p.kv_len = ROOM, p.splits = splits, p.interleaved = interleaved, p.vocab = vocab, p.eps = 1e-6f;
    p.scale = (float)M_LOG2E / sqrtf(HEAD_DIM);
    p.stream_at = sizeof layers, p.input_at = p.stream_at + hidden * 4;
    p.sums_at = p.input_at + std::max({hidden * 4, ffn * 4, q_width * 4, (u32)sizeof(Drawing)});
    // More sums than any phase has.
    p.ring_at = (p.sums_at + (2 * ffn + vocab + 2 * q_width) * 16 / blocks + 4096 + 127) / 128 * 128;
    p.slots = slots;
    for (u32 i = 0; i <= MATRICES; i++) {
        const Kind kind = kind_of(types[i]);
        const u32 piece = (PIECE / kind.length * kind.bytes + 15) / 16 * 16;
        p.slot_bytes = std::max(p.slot_bytes, piece + (kind.length > 1 ? 16 : 0));
    }
    soft::shared_bytes = p.ring_at + (WARPS * slots * 12 + 127) / 128 * 128 + WARPS * slots * p.slot_bytes;
    soft::threads = THREADS;
    soft::entry = [] { decode_step(*step); };
    step = &p;

    u32 launches = 0, steps = 0;
    // `count` steps from token `first` on, at `at`; 0 for one after which nothing is chosen.
    auto run = [&](u32 first, u32 at, u32 count) {
        id = (i32)first, position = (i32)at, live = position + 1, wanted = (i32)count;
        for (u32 i = 0; i < MOST * HEAD_DIM / 2; i++) {
            const u32 turn = i % (HEAD_DIM / 2);
            const float angle = (float)(at + i / (HEAD_DIM / 2)) * powf(1e4f, -2.0f * (float)turn / HEAD_DIM);
            cos[i] = cosf(angle), sin[i] = sinf(angle);
        }
        std::fill(logits.begin(), logits.end(), NAN), std::fill(chosen, std::end(chosen), -1);
        soft::launch(blocks, launches++);
        steps += std::clamp(count, 1u, MOST);
        const u32 *next = p.published + epoch % 2 * LAYERS * p.layer_words;
        for (u32 i = 0; i < LAYERS * p.layer_words; i++)
            if (next[i] != NOTHING) soft::fail("the next step's words are not blank");
        if (count == 0 && chosen[0] != -1) soft::fail("a token that nobody asked for");
    };

    double worst = 0;
    for (u32 n = 0; n < STEPS; n++) {
        const u32 first = (n * 37 + 11) % vocab;
        run(first, start + n, n % 2);
        // Where a token was chosen, it is in its place.
        if (id != (i32)(n % 2 ? likeliest(logits) : first)) soft::fail("another token for the next launch");
        id = (i32)first;
        worst = fmax(worst, relative_error(logits.data(), expected(layers, weights, table, head)));
        if (n % 2) check_chosen({likeliest(logits)}, logits);
    }
    std::vector<u32> ids = {5};
    for (u32 n = 0; n < MOST; n++) run(ids[n], start + n, 1), ids.push_back(likeliest(logits)), check_chosen({ids.back()}, logits);
    const std::vector<float> last = logits;
    ids.erase(ids.begin());
    // More than there is room for are not made.
    for (u32 count = MOST; count <= MOST + 1; count++) {
        run(5, start, count), check_chosen(ids, logits);
        if (memcmp(last.data(), logits.data(), vocab * sizeof(float))) soft::fail("other logits after several steps");
        if (id != (i32)ids.back()) soft::fail("the last token was not left to the next launch");
    }
    // Tokens that are drawn: the same in one launch as in as many, each from what is likely.
    const float likely[] = {1.5f, 0.9f, -3.0f};
    how[0] = 7, memcpy(how + 1, likely, sizeof likely);
    ids = {5};
    for (u32 n = 0; n < MOST; n++) {
        ((double *)(how + DRAW_WORDS))[0] = 0.3 * n + 0.2;
        run(ids[n], start + n, 1), ids.push_back((u32)chosen[1]), check_chosen({ids.back()}, logits);
        if (!(logits[ids.back()] >= logits[likeliest(logits)] - 3)) soft::fail("an unlikely token");
    }
    ids.erase(ids.begin());
    for (u32 n = 0; n < MOST; n++) ((double *)(how + DRAW_WORDS))[n] = 0.3 * n + 0.2;
    run(5, start, MOST), check_chosen(ids, logits);
    how[0] = 0;
    if (types[MATRICES] <= DTYPE_BF16) {
        // A row of NaN and one of infinity, as a broken model gives.
        const u32 bytes = head.matrix.row_bytes, odd[] = {0x7e00, 0x7c00};
        for (u32 i = 0; i < 2 && types[MATRICES] == DTYPE_F16; i++)
            *(u16 *)(head.matrix.start + (u64)(3 + i) * bytes) = (u16)odd[i];
        run(7, start, 1), check_chosen({likeliest(logits)}, logits);
        if (types[MATRICES] == DTYPE_F16 && chosen[2 * MOST + 1] != 2) soft::fail("logits that are no numbers were not counted");
    }
    if (epoch != steps || fault.code) soft::fail("a fault, or steps that were not counted");
    printf("%s: relative error %.1e\n", words[1], worst);
    return worst <= 1e-5 ? 0 : 1;
}
