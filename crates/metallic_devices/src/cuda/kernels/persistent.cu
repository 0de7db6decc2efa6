// variant: any
// variant: -DWEIGHTS=0x2 -DTABLE=1 -DKV=1 -DHEAD_DIM=64
// variant: -DWEIGHTS=0x2 -DTABLE=1 -DKV=1 -DHEAD_DIM=128
// variant: -DWEIGHTS=0x4 -DTABLE=2 -DKV=1 -DHEAD_DIM=64
// variant: -DWEIGHTS=0x1 -DTABLE=0 -DKV=0 -DHEAD_DIM=64
// variant: -DWEIGHTS=0x20 -DTABLE=5 -DKV=1 -DHEAD_DIM=64
// variant: -DWEIGHTS=0x40 -DTABLE=6 -DKV=1 -DHEAD_DIM=64
// variant: -DWEIGHTS=0x5120 -DTABLE=5 -DKV=1 -DHEAD_DIM=64
// variant: -DWEIGHTS=0x5000 -DTABLE=14 -DKV=1 -DHEAD_DIM=128
// arch: sm_90a
// Decode steps of one sequence as one kernel: the embedding's row, all layers, the logits, and where more steps
// follow the token after them.
//
// WEIGHTS has a bit for every type of the weights, TABLE is the embedding's type, KV the caches'.
// Grid: at most one block a multiprocessor, all of them resident at once.
#include "persistent_attention.cuh"
#include "persistent_draw.cuh"
#include "persistent_products.cuh"

// What a block keeps in shared memory beside its rings.
struct Room {
    float *stream;  // [hidden], the residual stream
    u8 *input;      // of the products, plain or rounded
    float *sums;    // [chunks][rows]
};

// What the thread that finishes a unit needs beside the sums, asked for ahead.
struct Ahead {
    float bias[2], cos, sin;
};

// What differs between two steps, in shared memory: registers are few.
struct Now {
    u32 number;  // of the step, from one launch to the next
    u32 made;    // steps of this launch before it
    u32 *published;
    u32 position;  // or past the caches
    Part part;
    Best bests[WARPS];  // of the logits so far, by warp
};

struct Decoder {
    const Step &p;
    const Layer *layers;
    Room room;
    // Sums of squares by warp, of this phase and the last.
    float (*squares)[WARPS];
    Now &now;

    __device__ __forceinline__ float bias_of(const Matrix &matrix, u32 row) const {
        return matrix.bias ? __ldg(matrix.bias + row) : 0.0f;
    }

    // The input of a phase: the stream, with what is published at `pending` added, times `norm`. Sums are
    // scaled later, as products are linear.
    __device__ __forceinline__ void take_stream(u32 phase, const u32 *pending, const float *norm, bool quantised) {
        const u32 quads = p.hidden / 4;
        float sum = 0;
#pragma unroll 1
        for (u32 first = 0; first < quads; first += THREADS) add_to_stream(first, pending, norm, quantised, sum);
        sum = warp_sum(sum);
        if (threadIdx.x % WARP == 0) squares[phase % 2][threadIdx.x / WARP] = sum;
        __syncthreads();
    }

    __device__ __forceinline__ void add_to_stream(
        u32 first, const u32 *pending, const float *norm, bool quantised, float &sum) {
        const u32 i = first + threadIdx.x, quads = p.hidden / 4;
        if (first + threadIdx.x / WARP * WARP >= quads) return;
        const bool there = i < quads;
        float4 x = make_float4(0, 0, 0, 0);
        if (there) {
            // Asked for before the wait.
            const float4 weight = __ldg((const float4 *)norm + i);
            x = ((float4 *)room.stream)[i];
            if (pending) {
                const float4 more = await4(p, pending + 4 * i, look4(pending + 4 * i));
                x.x += more.x, x.y += more.y, x.z += more.z, x.w += more.w;
                ((float4 *)room.stream)[i] = x;
            }
            sum += x.x * x.x + x.y * x.y + x.z * x.z + x.w * x.w;
            x.x *= weight.x, x.y *= weight.y, x.z *= weight.z, x.w *= weight.w;
        }
        put_input(room.input, p.hidden, quantised, i, x, there);
    }

    __device__ __forceinline__ float scale_of(u32 phase) const {
        float sum = 0;
#pragma unroll
        for (int warp = 0; warp < WARPS; warp += 4) {
            const float4 some = *(const float4 *)(squares[phase % 2] + warp);
            sum += some.x + some.y + (some.z + some.w);
        }
        return inverse_root(quotient(sum, (float)p.hidden) + p.eps);
    }

    // What attention gives, as the input of the output projection.
    __device__ __forceinline__ void take_attended(const u32 *words, bool quantised) {
        const u32 quads = p.q_heads * HEAD_DIM / 4;
#pragma unroll 1
        for (u32 first = 0; first + threadIdx.x / WARP * WARP < quads; first += THREADS) {
            const u32 i = first + threadIdx.x;
            const bool there = i < quads;
            const float4 x = there ? attended4(p, words, i) : make_float4(0, 0, 0, 0);
            put_input(room.input, p.q_heads * HEAD_DIM, quantised, i, x, there);
        }
        __syncthreads();
    }

    // Published words as an input: `count` from `words` on.
    __device__ __forceinline__ void take_words(const u32 *words, u32 count, bool quantised) {
        const int ahead = 4;
        const u32 quads = count / 4;
#pragma unroll 1
        for (u32 first = 0; first + threadIdx.x / WARP * WARP < quads; first += ahead * THREADS) {
            uint4 seen[ahead];
            await_all(p, [&] {
                bool there = true;
#pragma unroll
                for (int a = 0; a < ahead; a++) {
                    const u32 i = first + a * THREADS + threadIdx.x;
                    if (i < quads) seen[a] = look4(words + 4 * i);
                }
#pragma unroll
                for (int a = 0; a < ahead; a++)
                    if (first + a * THREADS + threadIdx.x < quads) there = there && is_there(seen[a]);
                return there;
            });
            __syncwarp();
#pragma unroll
            for (int a = 0; a < ahead; a++) {
                const u32 i = first + a * THREADS + threadIdx.x;
                if (first + a * THREADS + threadIdx.x / WARP * WARP >= quads) continue;
                const bool there = i < quads;
                const float4 x = there ? as_floats(seen[a]) : make_float4(0, 0, 0, 0);
                put_input(room.input, count, quantised, i, x, there);
            }
        }
        __syncthreads();
    }

    __device__ __forceinline__ Ahead ask(const Layer &layer, const Work &work, u32 i) const {
        Ahead ahead = {};
        if (i >= work.units) return ahead;
        const u32 unit = work.first + i;
        u32 rows[2];
        const u32 which = rows_of_pair(p, unit, rows);
        ahead.bias[0] = bias_of(layer.matrices[which], rows[0]);
        ahead.bias[1] = bias_of(layer.matrices[which], rows[1]);
        if (which == V) return ahead;
        const u32 turn = now.made * (HEAD_DIM / 2) + unit % (HEAD_DIM / 2);
        ahead.cos = __ldg(p.cos + turn), ahead.sin = __ldg(p.sin + turn);
        return ahead;
    }

    // A pair of queries, keys or values: turned, published, and stored.
    __device__ __forceinline__ void publish_pair_of(
        const Layer &layer, u32 unit, float a, float b, const Ahead &ahead, u32 *words) {
        u32 rows[2];
        const u32 which = rows_of_pair(p, unit, rows);
        a += ahead.bias[0], b += ahead.bias[1];
        if (which != V) {
            const float turned = a * ahead.cos - b * ahead.sin;
            b = a * ahead.sin + b * ahead.cos, a = turned;
        }
        if (which != Q) {
            a = as_stored(a), b = as_stored(b);
            words += (p.q_heads + (which == K ? 0 : p.kv_heads)) * HEAD_DIM;
        }
        publish(words + rows[0], a), publish(words + rows[1], b);
        if (which == Q || now.position >= p.kv_len) return;
        const Cache &cache = layer.caches[which - K];
        char *row = cache.start + rows[0] / HEAD_DIM * cache.head_stride + now.position * cache.row_stride;
        store(row, rows[0] % HEAD_DIM, a);
        store(row, rows[1] % HEAD_DIM, b);
    }

    // Published words of the layer of a phase.
    __device__ __forceinline__ u32 *words_of(u32 phase) const {
        return now.published + phase / LAYER_PHASES * p.layer_words;
    }

    // Waits for the input of a phase, and gives the type of its weights.
    __device__ __forceinline__ u32 take_input(u32 phase, const Work &work, Ahead &ahead) {
        const Layer &layer = layers[layer_of(p, phase)];
        const u32 *words = words_of(phase);
        const Places places(p);
        const u32 dtype = layer.matrices[work.kind == HEAD ? 0 : work.kind].dtype;
        const bool quantised = is_quantised(dtype);
        if (work.kind == O) {
            take_attended(words, quantised);
        } else if (work.kind == DOWN) {
            take_words(words + places.gated, p.ffn, quantised);
        } else if (phase <= LAYER_PHASES * p.layer_count) {
            // The first part of the output matrix takes it for all.
            if (work.kind == Q) ahead = ask(layer, work, threadIdx.x);
            const u32 *pending = work.kind == GATE ? words + places.projected
                                 : phase > 0       ? words - p.layer_words + places.down
                                                   : nullptr;
            take_stream(phase, pending, layer.norms[work.kind == GATE], quantised);
        }
        return dtype;
    }

    // Publishes what a phase gives; logits go where they belong.
    __device__ __forceinline__ void finish(u32 phase, const Work &work, const Ahead &ahead) {
        const u32 kind = work.kind;
        const Layer &layer = layers[layer_of(p, phase)];
        u32 *words = words_of(phase) + work.to;
        const u32 pairs = kind == Q || kind == GATE;
        // The same instructions for all kinds: those of a phase run once a layer, and have to come from afar
        // unless they are few.
        float scale = 1;
        if (kind != O && kind != DOWN) scale = scale_of(kind == HEAD ? LAYER_PHASES * p.layer_count : phase);
        Best best = Best::none();
#pragma unroll 1
        for (u32 i = threadIdx.x; i < work.units; i += THREADS) {
            const u32 unit = work.first + i;
            const float2 sums = totals(work, room.sums, i << pairs, pairs);
            float a = sums.x * scale, b = sums.y * scale;
            if (kind == Q) {
                publish_pair_of(layer, unit, a, b, i < THREADS ? ahead : ask(layer, work, i), words);
                continue;
            }
            a += bias_of(layer.matrices[kind == HEAD ? 0 : kind], unit);
            if (kind == GATE) {
                b += bias_of(layer.matrices[UP], unit);
                a = quotient(a, 1.0f + power_of_two(a * -1.44269504f)) * b;
            }
            if (kind == HEAD) {
                p.logits[unit] = a;
                best.add(a, unit);
            } else {
                publish(words + unit, a);
            }
        }
        if (kind != HEAD) return;
        best.join();
        if (threadIdx.x % WARP == 0) now.bests[threadIdx.x / WARP].add(best);
        // The next part's sums go to the same place.
        __syncthreads();
    }
};

// The row of a token in the table, as the stream.
__device__ __forceinline__ void embed(const Step &p, u32 id, float *stream) {
    const u8 *row = (const u8 *)p.table.start + (u64)id * p.table.row_bytes;
    for (u32 e = 8 * threadIdx.x; e < p.hidden; e += 8 * THREADS) {
        float values[8];
        stored8(TABLE, row, e, p.hidden, values);
        for (int i = 0; i < 8; i++)
            if (e + i < p.hidden) stream[e + i] = values[i];
    }
}

// Makes this block's part of `words` blank, of `count`.
__device__ __forceinline__ void make_blank(u32 *words, u32 count) {
    u32 first, mine;
    share(count / 4, first, mine);
    for (u32 i = threadIdx.x; i < mine; i += THREADS)
        ((uint4 *)words)[first + i] = make_uint4(NOTHING, NOTHING, NOTHING, NOTHING);
}

// Steps of this launch.
__device__ __forceinline__ u32 steps_of(const Step &p) {
    const i32 wanted = p.most ? *p.count : 0;
    return wanted < 1 ? 1 : wanted < (i32)p.most ? (u32)wanted : p.most;
}

// Begins step number `made` of this launch: its row of the table, and `now`.
__device__ __noinline__ void begin(const Step &p, u32 made, Now &now, float *stream) {
    const u32 number = *p.epoch + made, set = p.layer_count * p.layer_words;
    const i32 id = made == 0 ? *p.ids : (i32)column_of(now.bests[0].key);
    const i32 start = *p.starts + (i32)made, live = *p.kv_lens + (i32)made;
    const bool known = id >= 0 && id < (i32)p.table.rows, fits = start >= 0 && start < (i32)p.kv_len;
    if (blockIdx.x == 0 && threadIdx.x == 0) {
        if (!known) report(p.fault, FAULT_TOKEN, id, (i32)p.table.rows);
        else if (!fits) report(p.fault, FAULT_POSITION, start, (i32)p.kv_len);
    }
    make_blank(p.published + (1 - number % 2) * set, set);
    embed(p, known ? (u32)id : 0, stream);
    // All have read the token by now.
    __syncthreads();
    if (threadIdx.x == 0) {
        now.number = number, now.made = made, now.published = p.published + number % 2 * set;
        now.position = fits ? (u32)start : p.kv_len;
        now.part = Part(p, live < 0 ? 0 : live < (i32)p.kv_len ? (u32)live : p.kv_len);
    }
    if (threadIdx.x < WARPS) now.bests[threadIdx.x] = Best::none();
    __syncthreads();
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) decode_step(const __grid_constant__ Step p) {
    extern __shared__ __align__(128) u8 shared[];
    __shared__ __align__(16) float squares[2][WARPS];
    __shared__ Now now;
    __shared__ __align__(16) float parts[WARPS * (HEAD_DIM + 4)];

    // The table of layers, from here on in shared memory.
    __shared__ Works works;
    const u32 words = (p.layer_count + 1) * (u32)(sizeof(Layer) / 16);
    for (u32 i = threadIdx.x; i < words; i += THREADS) ((uint4 *)shared)[i] = ((const uint4 *)p.layers)[i];
    if (threadIdx.x == 0) works.fill(p);
    __syncthreads();
    for (u32 i = threadIdx.x; i < (LAYER_PHASES + head_parts(p)) * WARPS; i += THREADS)
        works.all[i / WARPS].share_out(i % WARPS);
    __syncthreads();
    const Layer *layers = (const Layer *)shared;
    Ring ring(p, layers, works, shared + p.ring_at, steps_of(p));

    const Room room = {(float *)(shared + p.stream_at), shared + p.input_at, (float *)(shared + p.sums_at)};
    Decoder decoder = {p, layers, room, squares, now};
    begin(p, 0, now, room.stream);
    bring_layer(p, layers[0], now.part, 0);
#pragma unroll 1
    for (u32 phase = 0;;) {
        const Work &work = works.of(p, phase);
        Ahead ahead = {};
        const u32 dtype = decoder.take_input(phase, work, ahead);
        multiply(ring, work, dtype, room.input, room.sums);
        __syncthreads();
        decoder.finish(phase, work, ahead);
        if (work.kind == Q) {
            const u32 layer = layer_of(p, phase);
            attend(p, layers[layer], decoder.words_of(phase), now.position, now.part, parts);
            if (layer + 1 < p.layer_count) bring_layer(p, layers[layer + 1], now.part, layer + 1);
        }
        if (++phase < ring.phases) continue;
        const u32 made = now.made + 1;
        const bool last = made == steps_of(p);
        if (p.most && *p.count > 0) {
            if (*p.draw > 0) draw(p, now.bests, *(Drawing *)room.input, now.number, made, last);
            else pick(p, now.bests, now.number, made, last);
        }
        if (last) break;
        begin(p, made, now, room.stream);
        bring_layer(p, layers[0], now.part, 0);
        phase = 0;
    }
    if (blockIdx.x == 0 && threadIdx.x == 0) *p.epoch = now.number + 1;
}
