// persistent_draw.cuh on a CPU against what the host's sampler drew:
//
//     draw NAME FILE
//
// FILE is crates/metallic_models/tests/draws.txt. Its logits are made again here, shared out to the blocks of a
// launch, which draw one token after the other as steps do. Then logits that are no numbers are counted.
#include "device.hpp"

#include <fstream>
#include <sstream>
#include <string>

#include "kernel.inc"

static const u32 BLOCKS = 12;
static const Step *step;
static const float *all;  // logits of all draws

// The sampler's generator, xoshiro256++ filled by SplitMix64.
struct Random {
    u64 s[4];

    explicit Random(u64 seed) {
        for (u64 &word : s) {
            seed += 0x9e3779b97f4a7c15;
            u64 mixed = (seed ^ seed >> 30) * 0xbf58476d1ce4e5b9;
            mixed = (mixed ^ mixed >> 27) * 0x94d049bb133111eb;
            word = mixed ^ mixed >> 31;
        }
    }

    static u64 turn(u64 x, int by) { return x << by | x >> (64 - by); }

    double next() {
        const u64 result = turn(s[0] + s[3], 23) + s[0], shifted = s[1] << 17;
        s[2] ^= s[0], s[3] ^= s[1], s[1] ^= s[2], s[0] ^= s[3], s[2] ^= shifted, s[3] = turn(s[3], 45);
        return (double)(result >> 11) * (1.0 / (1ull << 53));
    }
};

// The end of each of the steps of a launch: the best of this block's logits, and the draw.
static void steps() {
    u8 *shared = soft::shared;
    static thread_local Best bests[WARPS];
    Step p = *step;
    const u32 made = (u32)*p.count, number = *p.epoch;
    u32 first, mine;
    share(p.vocab, first, mine);
    for (u32 n = 0; n < made; n++) {
        p.logits = (float *)all + (size_t)n * p.vocab;
        Best best = Best::none();
        for (u32 i = threadIdx.x; i < mine; i += THREADS) best.add(p.logits[first + i], first + i);
        best.join();
        if (threadIdx.x % WARP == 0) bests[threadIdx.x / WARP] = best;
        draw(p, bests, *(Drawing *)shared, number + n, n + 1, n + 1 == made);
    }
}

int main(int count, char **words) {
    if (count != 3) soft::fail("draw takes two words");
    i32 id = -1, wanted = 0;
    u32 epoch = 0, launches = 0, draws_made = 0;
    Fault fault = {};
    Step p = {};
    p.ids = &id, p.count = &wanted, p.epoch = &epoch, p.fault = &fault;
    p.picks = (u64 *)soft::allocate(2 * BLOCKS * PICK_WORDS * sizeof(u64));
    p.lists = (u64 *)soft::allocate(BLOCKS * LIST_WORDS * sizeof(u64));
    step = &p;
    soft::shared_bytes = sizeof(Drawing), soft::threads = THREADS, soft::entry = steps;

    std::vector<float> logits;
    std::vector<i32> chosen, how;
    auto launch = [&](u32 draws) {
        chosen.assign(1 + 3 * draws, -1);
        p.chosen = chosen.data(), p.draw = how.data(), p.most = draws, wanted = (i32)draws, all = logits.data();
        soft::launch(BLOCKS, launches++);
        epoch += draws, draws_made += draws;
        if (chosen[0] != (i32)draws || id != chosen[draws]) soft::fail("another number of draws");
        if (fault.code) soft::fail("a fault");
    };

    std::ifstream file(words[2]);
    u32 lines = 0, wrong = 0;
    for (std::string line; std::getline(file, line); lines++) {
        u32 seed, levels, ahead, draws, ln_min_p, hash;
        i32 k;
        float rule[3];
        std::istringstream from(line);
        from >> seed >> p.vocab >> levels >> ahead >> draws >> k >> rule[0] >> rule[1] >> std::hex >> ln_min_p >> hash;
        if (!from) soft::fail("a line that is none");
        memcpy(rule + 2, &ln_min_p, 4);
        Random random(seed);
        how.assign(DRAW_WORDS + 2 * draws, 0);
        how[0] = k, memcpy(&how[1], rule, sizeof rule);
        u32 value = seed;
        logits.clear();
        for (u32 n = 0; n < draws; n++) {
            const double next = random.next();
            memcpy(&how[DRAW_WORDS + 2 * n], &next, sizeof next);
            for (u32 i = 0; i < p.vocab; i++) {
                value = value * 1664525 + 1013904223;
                logits.push_back((float)((value >> 16) % levels + (i >= 2 && i < 2 + ahead ? 256 : 0)) / 64.0f);
            }
        }
        launch(draws);
        u32 got = 0x811c9dc5;
        for (u32 n = 0; n < draws; n++) {
            const u32 drawn = (u32)chosen[1 + n];
            got = (got ^ drawn) * 0x01000193;
            if (drawn >= p.vocab || ((float *)chosen.data())[1 + draws + n] != logits[n * p.vocab + drawn])
                soft::fail("another value");
            if (chosen[1 + 2 * draws + n]) soft::fail("numbers that are said to be none");
        }
        if (got != hash) fprintf(stderr, "other tokens: %s\n", line.c_str()), wrong++;
    }
    // Logits that are no numbers, and none but them.
    const float none[] = {NAN, INFINITY, -INFINITY};
    for (u32 n = 0; n < 2; n++)
        for (u32 i = 0; i < p.vocab; i++)
            if (n == 1 || i % 9 == 4) logits[n * p.vocab + i] = none[i % 3];
    how.resize(DRAW_WORDS + 2 * 2);
    launch(2);
    for (u32 n = 0; n < 2; n++) {
        i32 bad = 0;
        for (u32 i = 0; i < p.vocab; i++) bad += !std::isfinite(logits[n * p.vocab + i]);
        if (chosen[1 + 2 * 2 + n] != bad || (u32)chosen[1 + n] >= p.vocab) soft::fail("flaws that were not counted");
    }
    printf("%s: %u draws, %u of %u lines wrong\n", words[1], draws_made, wrong, lines);
    return wrong || !lines;
}
