// A worker runs threadgroups, one at a time: every thread of the group is a fiber, and a fiber hands
// over to the next lane of its simdgroup at each synchronising call. The last lane to arrive at a
// collective runs it for all.
#pragma once
#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>
#include "fiber.h"
#include "launch.h"

enum State : uint8_t { READY, AT_SIMDGROUP, AT_THREADGROUP, FINISHED };
enum Order : unsigned { FORWARD, REVERSE, RANDOM };
constexpr unsigned LANES = 32;
constexpr size_t ARENA_BYTES = 256 << 10;

struct Random {
    uint64_t state;
    unsigned below(unsigned bound) {  // xorshift64*
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        return unsigned((state * 2685821657736338717ull) >> 33) % bound;
    }
};

struct Fiber : Strand {
    void (*entry)(const msl_context*);
    msl_context* context;
    msl_collective_fn run;  // null: a simdgroup_barrier
    void* argument;
    msl_site site;
    unsigned flags;
    unsigned place;  // in Worker::order
    uint8_t simdgroup_phase, threadgroup_phase;
};

struct Simdgroup {
    unsigned size, waiting;
    bool mixed;
    msl_collective_fn run;
    unsigned line;
    void* arguments[LANES];
    char sync[2];
};

struct Segment {
    size_t offset, size;
};

extern const msl_runtime RUNTIME;

struct Worker {
    Strand scheduler;
    State state[MSL_MAX_THREADS];
    uint16_t order[MSL_MAX_THREADS];
    Fiber fibers[MSL_MAX_THREADS];
    Simdgroup simdgroups[MSL_MAX_THREADS / LANES];
    unsigned threads = 0, mapped = 0;
    bool strict = true;
    char* arena = nullptr;
    char* arena_base = nullptr;
    char threadgroup_sync[2], start_sync, end_sync;
    std::string error;
    bool faulted = false;
    msl_fault fault = {};

    static Worker* of(const void* address) { return *(Worker**)(uintptr_t(address) & ~(MSL_REGION_BYTES - 1)); }
    char* region = nullptr;

    Worker() {
        // A region aligned to its own size, out of one twice as large.
        char* twice = (char*)mmap(nullptr, 2 * MSL_REGION_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (twice == MAP_FAILED) abort();
        region = (char*)((uintptr_t(twice) + MSL_REGION_BYTES - 1) & ~(MSL_REGION_BYTES - 1));
        if (region > twice) munmap(twice, region - twice);
        char* end = region + MSL_REGION_BYTES;
        if (twice + 2 * MSL_REGION_BYTES > end) munmap(end, twice + 2 * MSL_REGION_BYTES - end);
        if (mprotect(region, MSL_CONTEXTS_OFFSET + MSL_MAX_THREADS * sizeof(msl_context), PROT_READ | PROT_WRITE)) abort();
        *(Worker**)region = this;
        arena_base = arena = (char*)aligned_alloc(4096, ARENA_BYTES);
    }
    ~Worker() {
        free(arena_base);
        munmap(region, MSL_REGION_BYTES);
    }
    Worker(const Worker&) = delete;

    msl_context* contexts() { return (msl_context*)(region + MSL_CONTEXTS_OFFSET); }
    static Fiber* current(const void* here) {
        const uintptr_t region = uintptr_t(here) & ~(MSL_REGION_BYTES - 1);
        return &of(here)->fibers[(uintptr_t(here) - region - MSL_STACKS_OFFSET) / MSL_STACK_STRIDE];
    }

    // Maps stacks for `count` threads, and gives all fibers a fresh start after an error.
    void reserve(unsigned count, bool restart) {
        for (unsigned i = restart ? 0 : mapped; i < std::max(mapped, count); i++) {
            if (i >= mapped && mprotect(stack_of(region, i), STACK_BYTES, PROT_READ | PROT_WRITE)) abort();
            fibers[i].context = contexts() + i;
            prepare_strand(&fibers[i], region, i, &fiber_main);
#if defined(MSL_TSAN)
            fibers[i].tsan = __tsan_create_fiber(0);
#endif
        }
        mapped = std::max(mapped, count);
    }

    static void fiber_main() {
        Fiber* self = current(__builtin_frame_address(0));
        Worker* worker = of(self->context);
        arrive(self);
        for (;;) {
            MSL_ACQUIRE(&worker->start_sync);
            self->entry(self->context);
            MSL_RELEASE(&worker->end_sync);
            worker->state[self->context->thread_index_in_threadgroup] = FINISHED;
            worker->leave(self);
        }
    }

    // To the next ready lane of the simdgroup, or to the scheduler.
    void leave(Fiber* self) {
        const unsigned end = std::min(threads, (self->place / LANES + 1) * LANES);
        for (unsigned place = self->place + 1; place < end; place++)
            if (state[order[place]] == READY) return switch_strand(self, &fibers[order[place]]);
        switch_strand(self, &scheduler);
    }

    void wait_in_simdgroup(Fiber* self) {
        const unsigned index = self->context->thread_index_in_threadgroup, lane = index % LANES;
        Simdgroup& group = simdgroups[index / LANES];
        group.arguments[lane] = self->argument;
        if (group.waiting++ == 0) {
            group.run = self->run;
            group.line = self->site.line;
        } else if (group.run != self->run || group.line != self->site.line) {
            group.mixed = true;
        }
        state[index] = AT_SIMDGROUP;
        if (group.waiting < group.size || group.mixed) return leave(self);
        if (group.run) group.run(group.arguments, ~0u >> (LANES - group.size));
        group.waiting = 0;
        memset(&state[index - lane], READY, group.size);
        Fiber* first = &fibers[order[self->place / LANES * LANES]];
        if (first != self) switch_strand(self, first);
    }

    // Which order the lanes run in; simdgroups are kept together.
    void arrange(Order kind, Random& random) {
        const unsigned groups = (threads + LANES - 1) / LANES;
        // Only the last simdgroup can be partial, and it stays where its places are.
        for (unsigned g = 0; g < groups; g++) {
            const unsigned first = g * LANES, size = std::min(LANES, threads - first);
            for (unsigned i = 0; i < size; i++) order[first + i] = uint16_t(first + (kind == REVERSE ? size - 1 - i : i));
            if (kind == RANDOM)
                for (unsigned i = size; i > 1; i--) std::swap(order[first + i - 1], order[first + random.below(i)]);
        }
        for (unsigned place = 0; place < threads; place++) fibers[order[place]].place = place;
        sequence.resize(groups);
        for (unsigned g = 0; g < groups; g++) sequence[g] = kind == REVERSE ? groups - 1 - g : g;
        if (kind == RANDOM)
            for (unsigned g = groups; g > 1; g--) std::swap(sequence[g - 1], sequence[random.below(g)]);
    }
    std::vector<unsigned> sequence;

    // Runs all threads of the group to their end. False: `error` says why not.
    bool run_group() {
        for (;;) {
            unsigned at_barrier = 0;
            for (unsigned g : sequence)
                if (!run_simdgroup(g, at_barrier)) return false;
            if (at_barrier == 0) return true;
            if (!release_barrier(at_barrier)) return false;
        }
    }

    bool run_simdgroup(unsigned g, unsigned& at_barrier) {
        const unsigned first = g * LANES, end = std::min(threads, first + LANES);
        for (;;) {
            Fiber* next = nullptr;
            unsigned waiting = 0, barrier = 0;
            for (unsigned place = first; place < end && !next; place++) {
                const State s = state[order[place]];
                if (s == READY) next = &fibers[order[place]];
                waiting += s == AT_SIMDGROUP;
                barrier += s == AT_THREADGROUP;
            }
            if (next) {
                switch_strand(&scheduler, next);
                if (faulted) return false;
                continue;
            }
            if (waiting == 0) {
                at_barrier += barrier;
                return true;
            }
            if (strict) return fail_divergent(g);
            run_active(g);
        }
    }

    // Outside strict mode: runs the collective of the first waiting lane for all lanes that wait at the same one.
    void run_active(unsigned g) {
        const unsigned first = g * LANES, end = std::min(threads, first + LANES);
        Simdgroup& group = simdgroups[g];
        const Fiber* leader = nullptr;
        unsigned mask = 0;
        for (unsigned i = first; i < end; i++) {
            if (state[i] != AT_SIMDGROUP) continue;
            if (!leader) leader = &fibers[i];
            if (fibers[i].run != leader->run || fibers[i].site.line != leader->site.line) continue;
            group.arguments[i - first] = fibers[i].argument;
            mask |= 1u << (i - first);
            state[i] = READY;
            group.waiting--;
        }
        if (leader->run) leader->run(group.arguments, mask);
        if (group.waiting == 0) group.mixed = false;
    }

    static std::string place_of(const msl_site& site) { return std::string(site.file) + ":" + std::to_string(site.line); }

    bool fail_divergent(unsigned g) {
        const unsigned first = g * LANES, end = std::min(threads, first + LANES);
        std::string where, other;
        unsigned mask = 0, finished = 0, barrier = 0;
        for (unsigned i = first; i < end; i++) {
            finished += state[i] == FINISHED;
            barrier += state[i] == AT_THREADGROUP;
            if (state[i] != AT_SIMDGROUP) continue;
            const std::string here = place_of(fibers[i].site);
            if (where.empty()) where = here;
            if (here == where) mask |= 1u << (i - first);
            else if (other.empty()) other = here;
        }
        char text[160];
        snprintf(text, sizeof text, ": simdgroup operation in divergent flow: lanes %08x of %08x reached it in simdgroup %u", mask, ~0u >> (LANES - (end - first)), g);
        error = where + text;
        if (!other.empty()) error += "; others wait at " + other;
        if (barrier) error += "; " + std::to_string(barrier) + " wait at a threadgroup_barrier";
        if (finished) error += "; " + std::to_string(finished) + " have returned";
        return false;
    }

    bool release_barrier(unsigned at_barrier) {
        const Fiber* leader = nullptr;
        const Fiber* other = nullptr;
        for (unsigned i = 0; i < threads; i++) {
            if (state[i] != AT_THREADGROUP) continue;
            if (!leader) leader = &fibers[i];
            if (fibers[i].site.line != leader->site.line) other = &fibers[i];
            state[i] = READY;
        }
        if (strict && other) {
            error = place_of(leader->site) + ": threadgroup_barrier in divergent flow: other threads wait at " + place_of(other->site);
            return false;
        }
        if (strict && at_barrier != threads) {
            error = place_of(leader->site) + ": threadgroup_barrier in divergent flow: " + std::to_string(at_barrier) + " of " + std::to_string(threads) + " threads reached it";
            return false;
        }
        return true;
    }
};
