// The likeliest token of a step, picked by all blocks, for the step after it in the same launch.
//
// A block publishes the best of its rows with the number of the step, so that nothing has to be made blank.
// There are two sets of slots, used in turn: a block that publishes for step n + 2 has seen what all published
// for step n + 1, which they did after they had read step n's. So the pick is also a barrier between two steps.
#pragma once
#include "order.cuh"
#include "persistent.cuh"

// The best of some logits, and how many of them are NaN or infinite.
struct Best {
    u64 key;
    u32 bad;

    // That of no logits: it comes after all others.
    __device__ __forceinline__ static Best none() { return {(u64)~0x7fffffffu, 0}; }

    __device__ __forceinline__ void add(Best other) {
        if (other.key > key) key = other.key;
        bad += other.bad;
    }

    __device__ __forceinline__ void add(float logit, u32 column) {
        add({key_of(logit, column), (__float_as_uint(logit) & 0x7f800000u) == 0x7f800000u});
    }

    // Over the lanes of a warp.
    __device__ __forceinline__ void join() {
#pragma unroll
        for (u32 lane = 1; lane < WARP; lane *= 2) {
            const u32 high = __shfl_xor_sync(FULL_MASK, (u32)(key >> 32), lane);
            const u32 low = __shfl_xor_sync(FULL_MASK, (u32)key, lane);
            add({(u64)high << 32 | low, __shfl_xor_sync(FULL_MASK, bad, lane)});
        }
    }
};

// What one block publishes: each word has the step's number in its upper half.
#define PICK_WORDS 4

__device__ __forceinline__ u64 *pick_of(const Step &p, u32 number, u32 block) {
    return p.picks + ((number % 2) * gridDim.x + block) * PICK_WORDS;
}

// Publishes the best of what the warps of this block found, after step number `number`. Called by the first warp.
__device__ __forceinline__ void publish_best(const Step &p, const Best *bests, u32 number) {
    const u32 lane = threadIdx.x, tag = number + 1;
    Best best = lane < WARPS ? bests[lane] : Best::none();
    best.join();
    if (lane != 0) return;
    // What this block wrote is seen by whoever sees its pick: keys, values and blank words.
    __threadfence();
    u64 *to = pick_of(p, number, blockIdx.x);
    publish_pair(to, (u32)(best.key >> 32), tag);
    publish_pair(to + 1, (u32)best.key, tag);
    publish_pair(to + 2, best.bad, tag);
}

// Waits for what a block published after that step. A fence follows before its other words are read.
__device__ __forceinline__ Best await_best(const Step &p, u32 number, u32 block) {
    const u64 *at = pick_of(p, number, block);
    const u32 tag = number + 1;
    Pairs key, bad;
    await_all(p, [&] {
        key = look_pairs(at), bad = look_pairs(at + 2);
        return key.tags[0] == tag && key.tags[1] == tag && bad.tags[0] == tag;
    });
    return {(u64)key.words[0] << 32 | key.words[1], bad.words[0]};
}

// Leaves the token after step `made` of this launch to the host and, with the last one, to the launch after it.
// Called by one thread, once all blocks have begun that step.
__device__ __forceinline__ void put_chosen(const Step &p, Best best, u32 made) {
    const i32 id = (i32)column_of(best.key);
    *p.ids = id;
    p.chosen[0] = (i32)made;
    p.chosen[made] = id;
    ((float *)p.chosen)[p.most + made] = value_of(best.key);
    p.chosen[2 * p.most + made] = (i32)best.bad;
}

// The best of what the blocks found, into `bests[0]`, after step number `number`, `made` of this launch. `bests`:
// of each warp of this block. All threads call it; in the last step of a launch only block 0 waits for the others.
__device__ __noinline__ void pick(const Step &p, Best *bests, u32 number, u32 made, bool last) {
    __syncthreads();
    if (threadIdx.x < WARP) {
        publish_best(p, bests, number);
        Best best = Best::none();
        if (!last || blockIdx.x == 0) {
            for (u32 block = threadIdx.x; block < gridDim.x; block += WARP) best.add(await_best(p, number, block));
            best.join();
            __threadfence();
        }
        if (threadIdx.x == 0) {
            bests[0] = best;
            if (blockIdx.x == 0) put_chosen(p, best, made);
        }
    }
    __syncthreads();
}
