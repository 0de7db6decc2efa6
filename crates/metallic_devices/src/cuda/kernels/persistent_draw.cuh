// A token drawn from the k likeliest after a step, by all blocks alike: what `FollowingSteps` says
// (`metallic/src/segment/following_steps.rs`), with the bits of the host's sampler.
//
// Every block publishes its best as for a pick. The k-th largest of those is a bar: k logits lie above it or at it,
// so none below it is drawn, and the k blocks whose best reaches it publish what they have at or above it, at most k
// each. All blocks read these lists and draw. Lists have the step's number beside each word. One set of them will
// do: who publishes for the next step has seen that all blocks drew in this one.
#pragma once
#include "persistent_pick.cuh"
#include "persistent_ring.cuh"

#define MOST_CANDIDATES 64
// `FollowingSteps::DRAW_WORDS`: k, temperature, top-p and ln(min-p) before the random numbers.
#define DRAW_WORDS 4
// Keys at once: the best so far, and one of each thread.
#define DRAW_KEYS (MOST_CANDIDATES + THREADS)
// Candidates of a block that are looked for at once: few have more, and words that many ask for come late.
#define LOOKS 4
// Of a block: how many candidates, and each of them in two words.
#define LIST_WORDS (2 + 2 * MOST_CANDIDATES)

// In the room of the products' input, which nobody needs between two steps. At most DRAW_BYTES of `layout.rs`.
struct Drawing {
    u64 keys[DRAW_KEYS];
    u64 best[MOST_CANDIDATES];
    double weights[MOST_CANDIDATES];
    double sums[MOST_CANDIDATES];
    u32 blocks[MOST_CANDIDATES];  // by their best
    u32 count;                    // of keys
    u32 bad;
    u32 more;
    u32 found;
};
static_assert(sizeof(Drawing) <= 5632, "DRAW_BYTES of layout.rs");

// e to the power of x, at most 0: `weight` of the host's sampler (`sampler/weight.rs`), operation by operation.
__device__ __forceinline__ float weight_of(float x) {
    const float middle = 12582912.0f;
    const float shifted = __fadd_rn(__fmul_rn(x, 1.44269504f), middle);
    const float whole = __fadd_rn(shifted, -middle);
    const float rest = __fadd_rn(__fadd_rn(x, -__fmul_rn(whole, 355.0f / 512)), __fmul_rn(whole, 2.12194440e-4f));
    float power = 1.0f / 5040;
    power = __fadd_rn(__fmul_rn(power, rest), 1.0f / 720);
    power = __fadd_rn(__fmul_rn(power, rest), 1.0f / 120);
    power = __fadd_rn(__fmul_rn(power, rest), 1.0f / 24);
    power = __fadd_rn(__fmul_rn(power, rest), 1.0f / 6);
    power = __fadd_rn(__fmul_rn(power, rest), 0.5f);
    power = __fadd_rn(__fmul_rn(power, rest), 1.0f);
    power = __fadd_rn(__fmul_rn(power, rest), 1.0f);
    const float scale = __uint_as_float((__float_as_uint(shifted) << 23) + 0x3f800000u);
    return x >= -87.0f ? __fmul_rn(power, scale) : 0.0f;
}

// How many of `count` keys are larger than `key`.
__device__ __forceinline__ u32 rank_of(const u64 *keys, u32 count, u64 key) {
    u32 rank = 0;
#pragma unroll 8
    for (u32 i = 0; i < count; i++) rank += keys[i] > key;
    return rank;
}

// Of the keys so far the k largest, in descending order. All threads call it.
__device__ __noinline__ void keep_best(Drawing &d, u32 k) {
    __syncthreads();
    const u32 count = d.count, kept = count < k ? count : k;
    for (u32 i = threadIdx.x; i < count; i += THREADS) {
        const u64 key = d.keys[i];
        const u32 rank = rank_of(d.keys, count, key);
        if (rank < k) d.best[rank] = key;
    }
    __syncthreads();
    if (threadIdx.x < kept) d.keys[threadIdx.x] = d.best[threadIdx.x];
    if (threadIdx.x == 0) d.count = kept;
    __syncthreads();
}

// No keys; those there were have been read.
__device__ __forceinline__ void start_over(Drawing &d) {
    __syncthreads();
    if (threadIdx.x == 0) d.count = d.more = 0;
    __syncthreads();
}

// Of the keys of logits `first .. first + count` those from `bar` on, at most the best k: a few at once, of which
// there is room for all.
__device__ __noinline__ void find_many(Drawing &d, const float *logits, u32 first, u32 count, u32 k, u64 bar) {
    start_over(d);
    for (u32 base = 0; base < count; base += THREADS) {
        const u32 i = base + threadIdx.x;
        const u64 key = i < count ? key_of(logits[first + i], first + i) : 0;
        if (i < count && key >= bar) d.keys[atomicAdd(&d.count, 1)] = key;
        keep_best(d, k);
    }
}

// As above, where there are few of them: without a barrier for each round.
__device__ __forceinline__ void find(Drawing &d, const float *logits, u32 first, u32 count, u32 k, u64 bar) {
    const int ahead = 4;
    start_over(d);
#pragma unroll 1
    for (u32 base = threadIdx.x; base < count; base += ahead * THREADS) {
        float some[ahead];
#pragma unroll
        for (int a = 0; a < ahead; a++)
            if (base + a * THREADS < count) some[a] = logits[first + base + a * THREADS];
#pragma unroll
        for (int a = 0; a < ahead; a++) {
            const u32 i = base + a * THREADS;
            const u64 key = i < count ? key_of(some[a], first + i) : 0;
            if (i >= count || key < bar) continue;
            const u32 at = atomicAdd(&d.count, 1);
            if (at < DRAW_KEYS) d.keys[at] = key;
        }
    }
    __syncthreads();
    const u32 found = d.count;
    if (found > DRAW_KEYS) find_many(d, logits, first, count, k, bar);
    else if (found > k) keep_best(d, k);
}

// Publishes the keys of this block's logits from `bar` on, at most the best k.
__device__ __forceinline__ void publish_list(const Step &p, Drawing &d, u32 k, u64 bar, u32 tag) {
    u32 first, mine;
    share(p.vocab, first, mine);
    find(d, p.logits, first, mine, k, bar);
    u64 *list = p.lists + blockIdx.x * LIST_WORDS;
    if (threadIdx.x < d.count) {
        const u64 key = d.keys[threadIdx.x];
        publish_pair(list + 2 + 2 * threadIdx.x, (u32)(key >> 32), tag);
        publish_pair(list + 3 + 2 * threadIdx.x, (u32)key, tag);
    }
    if (threadIdx.x == 0) publish_pair(list, d.count, tag);
}

// The k best of what `lists` blocks publish, into the keys.
__device__ __forceinline__ void take_lists(const Step &p, Drawing &d, u32 lists, u32 k, u32 tag) {
    const u32 each = THREADS / lists < LOOKS ? THREADS / lists : LOOKS;
    start_over(d);
    for (u32 base = 0;; base += each) {
        const u32 at = base + threadIdx.x / lists;
        if (threadIdx.x < each * lists && at < MOST_CANDIDATES) {
            const u64 *list = p.lists + d.blocks[threadIdx.x % lists] * LIST_WORDS;
            Pairs head, key;
            await_all(p, [&] {
                head = look_pairs(list), key = look_pairs(list + 2 + 2 * at);
                return head.tags[0] == tag && (at >= head.words[0] || (key.tags[0] == tag && key.tags[1] == tag));
            });
            if (at < head.words[0]) d.keys[atomicAdd(&d.count, 1)] = (u64)key.words[0] << 32 | key.words[1];
            if (base + each < head.words[0]) d.more = 1;
        }
        __syncthreads();
        const bool more = d.more;
        __syncthreads();
        if (threadIdx.x == 0) d.more = 0;
        keep_best(d, k);
        if (!more) return;
    }
}

// The sums of the first `count` weights, each in the order of the candidates; `weight`: that of this thread's.
__device__ __noinline__ void add_up(Drawing &d, float weight, u32 count) {
    if (threadIdx.x < count) d.weights[threadIdx.x] = (double)weight;
    __syncthreads();
    if (threadIdx.x < count) {
        double sum = 0;
#pragma unroll 8
        for (u32 i = 0; i < count; i++) sum = __dadd_rn(sum, i <= threadIdx.x ? d.weights[i] : 0.0);
        d.sums[threadIdx.x] = sum;
    }
    __syncthreads();
}

// The first of `count` candidates for which `is` holds, as for all after it; else the last.
template <typename Is> __device__ __forceinline__ u32 first_of(Drawing &d, u32 count, Is is) {
    const u32 i = threadIdx.x;
    if (i == 0) d.found = count - 1;
    __syncthreads();
    if (i < count && is(i) && (i == 0 || !is(i - 1))) d.found = i;
    __syncthreads();
    const u32 found = d.found;
    __syncthreads();
    return found;
}

// Which of the keys, in descending order, is drawn with `random`.
__device__ __forceinline__ u32 draw_from(Drawing &d, const float *how, double random) {
    const float temperature = how[1], top_p = how[2], bar = __fadd_rn(value_of(d.keys[0]), how[3]);
    const float off = threadIdx.x < d.count ? __fadd_rn(value_of(d.keys[threadIdx.x]), -value_of(d.keys[0])) : 0.0f;
    u32 kept = d.count;
    if (top_p < 1) {
        add_up(d, weight_of(off), kept);
        const double wanted = __dmul_rn((double)top_p, d.sums[kept - 1]);
        kept = 1 + first_of(d, kept, [&](u32 i) { return d.sums[i] >= wanted; });
    }
    // The last that reaches the bar comes before the first that does not.
    const u32 count = kept;
    kept = 1 + first_of(d, count, [&](u32 i) { return i + 1 == count || !(value_of(d.keys[i + 1]) >= bar); });
    add_up(d, weight_of(__fdiv_rn(off, temperature)), kept);
    const double wanted = __dmul_rn(random, d.sums[kept - 1]);
    return first_of(d, kept, [&](u32 i) { return d.sums[i] > wanted; });
}

// As `pick`, with a token that is drawn.
__device__ __noinline__ void draw(const Step &p, Best *bests, Drawing &d, u32 number, u32 made, bool last) {
    const u32 tag = number + 1, blocks = gridDim.x;
    const u32 k = *p.draw < MOST_CANDIDATES ? (u32)*p.draw : MOST_CANDIDATES;
    start_over(d);
    if (threadIdx.x == 0) d.bad = 0;
    if (threadIdx.x < WARP) publish_best(p, bests, number);
    __syncthreads();
    for (u32 block = threadIdx.x; block < blocks; block += THREADS) {
        const Best best = await_best(p, number, block);
        d.keys[block] = best.key;
        if (best.bad) atomicAdd(&d.bad, best.bad);
    }
    __threadfence();
    __syncthreads();
    for (u32 block = threadIdx.x; block < blocks; block += THREADS) {
        const u32 rank = rank_of(d.keys, blocks, d.keys[block]);
        if (rank < k) d.blocks[rank] = block;
    }
    __syncthreads();
    const u64 bar = blocks < k ? 0 : d.keys[d.blocks[k - 1]];
    if (d.keys[blockIdx.x] >= bar) publish_list(p, d, k, bar, tag);
    if (last && blockIdx.x != 0) return;
    take_lists(p, d, blocks < k ? blocks : k, k, tag);
    const double *random = (const double *)(p.draw + DRAW_WORDS);
    const u32 drawn = draw_from(d, (const float *)p.draw, random[made - 1]);
    if (threadIdx.x == 0) {
        bests[0] = {d.keys[drawn], d.bad};
        if (blockIdx.x == 0) put_chosen(p, bests[0], made);
    }
    __syncthreads();
}
