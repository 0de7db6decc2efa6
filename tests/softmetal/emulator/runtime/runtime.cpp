// The runtime's two entry points: softmetal_open lays out a module's threadgroup memory,
// softmetal_dispatch runs a grid.
#include <atomic>
#include <memory>
#include <mutex>
#include <thread>
#include "fault.h"
#include "launch.h"
#include "worker.h"

namespace {
constexpr uint8_t GAP_BYTE = 0xA5;
constexpr size_t GAP_BYTES = 64;

size_t round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }

void collective(msl_collective_fn run, void* argument, msl_site site) {
    Fiber* self = Worker::current(__builtin_frame_address(0));
    self->run = run;
    self->argument = argument;
    self->site = site;
    Worker::of(self->context)->wait_in_simdgroup(self);
}

void simdgroup_barrier(unsigned flags, msl_site site) {
    Fiber* self = Worker::current(__builtin_frame_address(0));
    Worker* worker = Worker::of(self->context);
    // Two objects in turn: a fast lane's next release must not order what a slow lane still does in this phase.
    char* sync = &worker->simdgroups[self->context->simdgroup_index_in_threadgroup].sync[self->simdgroup_phase++ & 1];
    if (flags) MSL_RELEASE(sync);
    self->run = nullptr;
    self->argument = nullptr;
    self->site = site;
    worker->wait_in_simdgroup(self);
    if (flags) MSL_ACQUIRE(sync);
}

void threadgroup_barrier(unsigned flags, msl_site site) {
    Fiber* self = Worker::current(__builtin_frame_address(0));
    Worker* worker = Worker::of(self->context);
    char* sync = &worker->threadgroup_sync[self->threadgroup_phase++ & 1];
    if (flags) MSL_RELEASE(sync);
    self->site = site;
    worker->state[self->context->thread_index_in_threadgroup] = AT_THREADGROUP;
    worker->leave(self);
    if (flags) MSL_ACQUIRE(sync);
}

// Idle workers keep their stacks for the next dispatch. Never destroyed: a queue's thread may still run a
// kernel while the process exits.
std::mutex& pool_lock = *new std::mutex;
std::vector<std::unique_ptr<Worker>>& pool = *new std::vector<std::unique_ptr<Worker>>;

std::unique_ptr<Worker> take_worker() {
    std::lock_guard<std::mutex> hold(pool_lock);
    if (pool.empty()) return std::make_unique<Worker>();
    auto worker = std::move(pool.back());
    pool.pop_back();
    return worker;
}
void give_worker(std::unique_ptr<Worker> worker) {
    std::lock_guard<std::mutex> hold(pool_lock);
    if (pool.size() < 16) pool.push_back(std::move(worker));
}

// One dispatch, shared by its workers.
struct Run {
    const msl_launch* launch;
    std::vector<Segment> segments;
    size_t arena_bytes;
    uint64_t total, stride, start;
    std::atomic<uint64_t> next{0};
    std::atomic<bool> stop{false};
    std::mutex error_lock;
    std::string error;
};

void lay_out(Run& run) {
    const msl_launch& launch = *run.launch;
    size_t end = GAP_BYTES;
    for (const msl_variable* variable = launch.module->variables; variable; variable = variable->next)
        if (variable->function == launch.kernel->function) {
            run.segments.push_back({variable->offset, variable->size});
            end = std::max<size_t>(end, variable->offset + variable->size + GAP_BYTES);
        }
    for (unsigned i = 0; i < MSL_THREADGROUP_ARGUMENTS; i++)
        if (launch.threadgroup_lengths[i]) {
            end = round_up(end, 64);
            run.segments.push_back({end, launch.threadgroup_lengths[i]});
            launch.threadgroup_offsets[i] = unsigned(end);
            end += launch.threadgroup_lengths[i] + GAP_BYTES;
        }
    run.arena_bytes = round_up(end, 64);
    std::sort(run.segments.begin(), run.segments.end(), [](const Segment& a, const Segment& b) { return a.offset < b.offset; });
}

// Fills threadgroup memory with NaNs and the gaps around the variables with a pattern.
void fill_arena(Worker& worker, const Run& run) {
#if defined(MSL_TSAN)
    // Fresh memory for each group: what two groups do in threadgroup memory is no race.
    worker.arena = (char*)mmap(nullptr, round_up(run.arena_bytes, 4096), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (worker.arena == MAP_FAILED) abort();
#endif
#if defined(MSL_ASAN)
    __asan_unpoison_memory_region(worker.arena, run.arena_bytes);
#endif
    size_t at = 0;
    for (const Segment& s : run.segments) {
        memset(worker.arena + at, GAP_BYTE, s.offset - at);
        memset(worker.arena + s.offset, run.launch->poison ? 0xFF : 0, s.size);
        at = s.offset + s.size;
    }
    memset(worker.arena + at, GAP_BYTE, run.arena_bytes - at);
#if defined(MSL_ASAN)
    at = 0;
    for (const Segment& s : run.segments) {
        __asan_poison_memory_region(worker.arena + at, s.offset - at);
        at = s.offset + s.size;
    }
    __asan_poison_memory_region(worker.arena + at, run.arena_bytes - at);
#endif
}

bool gaps_are_whole(const Worker& worker, const Run& run) {
#if !defined(MSL_ASAN)
    size_t at = 0;
    auto whole = [&](size_t from, size_t to) {
        for (; from < to; from++)
            if (uint8_t(worker.arena[from]) != GAP_BYTE) return false;
        return true;
    };
    for (const Segment& s : run.segments) {
        if (!whole(at, s.offset)) return false;
        at = s.offset + s.size;
    }
    return whole(at, run.arena_bytes);
#else
    (void)worker, (void)run;
    return true;
#endif
}

void set_contexts(Worker& worker, const Run& run, msl_triple group, char* const* threadgroup_arguments) {
    const msl_launch& l = *run.launch;
    const msl_triple full = l.threads_per_threadgroup;
    const msl_triple base{group.x * full.x, group.y * full.y, group.z * full.z};
    const msl_triple size{std::min(full.x, l.threads.x - base.x), std::min(full.y, l.threads.y - base.y), std::min(full.z, l.threads.z - base.z)};
    worker.threads = size.x * size.y * size.z;
    const unsigned full_threads = full.x * full.y * full.z;
    for (unsigned i = 0; i < worker.threads; i++) {
        msl_context& c = *worker.fibers[i].context;
        const msl_triple at{i % size.x, i / size.x % size.y, i / (size.x * size.y)};
        c.thread_position_in_threadgroup = at;
        c.thread_position_in_grid = {base.x + at.x, base.y + at.y, base.z + at.z};
        c.threadgroup_position_in_grid = group;
        c.threads_per_threadgroup = size;
        c.threads_per_grid = l.threads;
        c.threadgroups_per_grid = l.groups;
        c.dispatch_threads_per_threadgroup = full;
        c.thread_index_in_threadgroup = i;
        c.thread_index_in_simdgroup = i % LANES;
        c.simdgroup_index_in_threadgroup = i / LANES;
        c.simdgroups_per_threadgroup = (worker.threads + LANES - 1) / LANES;
        c.threads_per_simdgroup = LANES;
        c.dispatch_simdgroups_per_threadgroup = (full_threads + LANES - 1) / LANES;
        c.quadgroup_index_in_threadgroup = i / 4;
        c.thread_index_in_quadgroup = i % 4;
        c.quadgroups_per_threadgroup = (worker.threads + 3) / 4;
        c.runtime = &RUNTIME;
        c.buffers = l.buffers;
        c.threadgroup_arguments = threadgroup_arguments;
        c.threadgroup_memory = worker.arena;
        worker.fibers[i].entry = l.kernel->entry;
        worker.fibers[i].simdgroup_phase = worker.fibers[i].threadgroup_phase = 0;
        worker.state[i] = READY;
    }
    for (unsigned first = 0; first < worker.threads; first += LANES) {
        Simdgroup& g = worker.simdgroups[first / LANES];
        g.size = std::min(LANES, worker.threads - first);
        g.waiting = 0;
        g.mixed = false;
    }
}

// Sets the error, and the instruction's place in its shared object.
void describe_fault(Worker& worker, msl_fault* fault) {
    worker.faulted = false;
    worker.error = "an access to memory that is not there";
    const uintptr_t offset = worker.fault.address - uintptr_t(worker.region) - MSL_STACKS_OFFSET;
    if (offset < MSL_MAX_THREADS * MSL_STACK_STRIDE) worker.error = "a thread's variables need more than its stack";
    Dl_info object;
    if (!dladdr((void*)worker.fault.code, &object)) return;
    *fault = worker.fault;
    fault->code -= uintptr_t(object.dli_fbase);
}

bool run_one(Worker& worker, Run& run, uint64_t number, Random& random) {
    const msl_launch& l = *run.launch;
    const uint64_t g = (number * run.stride + run.start) % run.total;
    const msl_triple group{unsigned(g % l.groups.x), unsigned(g / l.groups.x % l.groups.y), unsigned(g / (uint64_t(l.groups.x) * l.groups.y))};
    fill_arena(worker, run);
    // The fill comes before all that the threads do.
    MSL_RELEASE(&worker.start_sync);
    char* arguments[MSL_THREADGROUP_ARGUMENTS] = {};
    for (unsigned i = 0; i < MSL_THREADGROUP_ARGUMENTS; i++)
        if (l.threadgroup_lengths[i]) arguments[i] = worker.arena + l.threadgroup_offsets[i];
    set_contexts(worker, run, group, arguments);
    worker.arrange(Order(l.order), random);
    bool ok = worker.run_group();
    if (ok && !gaps_are_whole(worker, run)) {
        worker.error = "threadgroup memory was written outside of its variables";
        ok = false;
    }
    if (ok) return true;
    if (worker.faulted) describe_fault(worker, l.fault);
    char where[96];
    snprintf(where, sizeof where, " (threadgroup %u, %u, %u)", group.x, group.y, group.z);
    std::lock_guard<std::mutex> hold(run.error_lock);
    if (run.error.empty()) run.error = worker.error + where;
    worker.error.clear();
    run.stop = true;
    return false;
}

void work(Run& run, uint64_t seed) {
    const msl_triple full = run.launch->threads_per_threadgroup;
    const unsigned threads = full.x * full.y * full.z;
#if defined(MSL_TSAN)
    constexpr unsigned SETS = 2;  // Groups on different fibers: their races are seen too.
#else
    constexpr unsigned SETS = 1;
#endif
    std::unique_ptr<Worker> workers[SETS];
    for (auto& worker : workers) {
        worker = take_worker();
        worker->strict = run.launch->strict;
        worker->reserve(threads, false);
#if defined(MSL_TSAN)
        worker->scheduler.tsan = __tsan_get_current_fiber();
#endif
        MSL_RELEASE(&worker->start_sync);
#if defined(MSL_ASAN)
        pthread_attr_t attributes;
        void* bottom;
        if (pthread_getattr_np(pthread_self(), &attributes) || pthread_attr_getstack(&attributes, &bottom, &worker->scheduler.stack_size)) abort();
        worker->scheduler.stack_bottom = (const char*)bottom;
#endif
    }
    if (run.launch->fault) {
        catch_faults();
        provide_signal_stack();
    }
    Random random{seed * 0x9E3779B97F4A7C15ull + 0x1234567ull};
    for (uint64_t number; !run.stop && (number = run.next++) < run.total;) {
        Worker& worker = *workers[number % SETS];
        running_worker = run.launch->fault ? &worker : nullptr;
        if (!run_one(worker, run, number, random)) worker.reserve(threads, true);
    }
    running_worker = nullptr;
    for (auto& worker : workers) {
        MSL_ACQUIRE(&worker->end_sync);
        give_worker(std::move(worker));
    }
}

uint64_t gcd(uint64_t a, uint64_t b) { return b ? gcd(b, a % b) : a; }
}  // namespace

const msl_runtime RUNTIME = {&collective, &simdgroup_barrier, &threadgroup_barrier};

extern "C" __attribute__((visibility("default"))) void softmetal_open(msl_module* module) {
    for (unsigned k = 0; k < module->kernel_count; k++) {
        msl_kernel& kernel = module->kernels[k];
        std::vector<msl_variable*> variables;
        for (msl_variable* variable = module->variables; variable; variable = variable->next)
            if (variable->function == kernel.function) variables.push_back(variable);
        std::sort(variables.begin(), variables.end(), [](const msl_variable* a, const msl_variable* b) { return a->id < b->id; });
        size_t bytes = 0, offset = GAP_BYTES;
        for (msl_variable* variable : variables) {
            const size_t alignment = std::max(variable->alignment, 16u);
            bytes = round_up(bytes, variable->alignment) + variable->size;
            offset = round_up(offset, alignment);
            variable->offset = unsigned(offset);
            offset += variable->size + GAP_BYTES;
        }
        kernel.threadgroup_bytes = unsigned(round_up(bytes, 16));
    }
}

// 0: done. 1: launch->error holds the reason.
extern "C" __attribute__((visibility("default"))) int softmetal_dispatch(const msl_launch* launch) {
    Run run;
    run.launch = launch;
    run.total = uint64_t(launch->groups.x) * launch->groups.y * launch->groups.z;
    run.stride = 1;
    run.start = 0;
    if (launch->order == REVERSE) run.stride = run.start = run.total - 1;
    if (launch->order == RANDOM) {
        Random random{launch->seed ^ 0x2545F4914F6CDD1Dull};
        run.start = random.below(unsigned(std::min<uint64_t>(run.total, 1u << 31)));
        run.stride = random.below(1u << 20) | 1;
        while (gcd(run.stride, run.total) != 1) run.stride += 2;
    }
    lay_out(run);
    if (run.arena_bytes > ARENA_BYTES) {
        snprintf(launch->error, launch->error_capacity, "threadgroup memory: %zu bytes do not fit", run.arena_bytes);
        return 1;
    }
#if defined(MSL_TSAN)
    const unsigned workers = 1;
#else
    const uint64_t threads = uint64_t(launch->threads.x) * launch->threads.y * launch->threads.z;
    // A thread costs about as much as a few thousand lanes of a small kernel.
    const unsigned workers = unsigned(std::min<uint64_t>({launch->workers, run.total, 1 + threads / 4096}));
#endif
    std::vector<std::thread> others;
    for (unsigned i = 1; i < workers; i++) others.emplace_back([&run, launch, i] { work(run, launch->seed + i); });
    work(run, launch->seed);
    for (auto& other : others) other.join();
    if (run.error.empty()) return 0;
    snprintf(launch->error, launch->error_capacity, "%s", run.error.c_str());
    return 1;
}
