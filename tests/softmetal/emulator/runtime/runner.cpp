// softmetal-run IN OUT: runs one dispatch from a file in a process of its own, for the sanitizers: they
// need a main program that is linked with them. src/runner.rs writes IN and reads OUT.
// This file and the runtime in it are not instrumented; the kernels are.
#include "runtime.cpp"

#include <dlfcn.h>
#include <fstream>

namespace {
struct Reader {
    std::ifstream file;
    uint64_t number() {
        uint64_t n = 0;
        file.read((char*)&n, sizeof n);
        return n;
    }
    std::string text() {
        std::string s(number(), '\0');
        file.read(s.data(), std::streamsize(s.size()));
        return s;
    }
    msl_triple triple() {
        const unsigned x = unsigned(number()), y = unsigned(number()), z = unsigned(number());
        return {x, y, z};
    }
};

struct Region {
    char* base;
    char* start;
    size_t length;
};

// Memory of exactly `length` bytes behind redzones, at the same offset from a multiple of 64 as the original.
Region allocate(size_t misalignment, size_t length) {
    char* base = (char*)malloc(64 + misalignment + length);
    char* start = (char*)round_up(uintptr_t(base), 64) + misalignment;
#if defined(MSL_ASAN)
    free(base);
    base = nullptr;
    // Alignments beyond the allocator's are reached with a gap in front, which is poisoned.
    if (posix_memalign((void**)&base, 64, misalignment + length)) abort();
    start = base + misalignment;
    if (misalignment) __asan_poison_memory_region(base, misalignment);
#endif
    return {base, start, length};
}

int fail(const std::string& message) {
    fprintf(stderr, "softmetal-run: %s\n", message.c_str());
    return 2;
}
}  // namespace

int main(int count, char** arguments) {
    if (count != 3) return fail("usage: softmetal-run IN OUT");
    Reader in{std::ifstream(arguments[1], std::ios::binary)};
    if (in.text() != "softmetal dispatch 1") return fail("the input is no dispatch");
    const std::string path = in.text(), name = in.text();
    void* library = dlopen(path.c_str(), RTLD_NOW);
    if (!library) return fail(dlerror());
    auto open = (msl_module * (*)()) dlsym(library, "softmetal_module");
    if (!open) return fail("the library is no module");
    msl_module* module = open();
    if (module->abi != MSL_ABI) return fail("the module has another ABI");

    for (uint64_t n = in.number(); n; n--) {
        const uint64_t index = in.number(), value = in.number();
        for (unsigned i = 0; i < module->constant_count; i++) {
            const msl_function_constant& constant = module->constants[i];
            if (constant.index != index) continue;
            memcpy(constant.value, &value, constant.size);
            *constant.defined = true;
        }
    }
    module->derive();
    softmetal_open(module);

    msl_launch launch{};
    launch.module = module;
    for (unsigned i = 0; i < module->kernel_count; i++)
        if (name == module->kernels[i].name) launch.kernel = &module->kernels[i];
    if (!launch.kernel) return fail("no kernel " + name);
    launch.order = unsigned(in.number());
    launch.seed = in.number();
    launch.strict = in.number();
    launch.poison = in.number();
    launch.workers = 1;
    launch.groups = in.triple();
    launch.threads_per_threadgroup = in.triple();
    launch.threads = in.triple();
    unsigned lengths[MSL_THREADGROUP_ARGUMENTS], offsets[MSL_THREADGROUP_ARGUMENTS] = {};
    for (unsigned& length : lengths) length = unsigned(in.number());
    launch.threadgroup_lengths = lengths;
    launch.threadgroup_offsets = offsets;

    std::vector<Region> regions(in.number());
    for (Region& region : regions) {
        const uint64_t misalignment = in.number();
        region = allocate(misalignment, in.number());
        in.file.read(region.start, std::streamsize(region.length));
    }
    void* buffers[MSL_THREADGROUP_ARGUMENTS] = {};
    for (uint64_t n = in.number(); n; n--) {
        const uint64_t index = in.number(), region = in.number();
        buffers[index] = regions[region].start + in.number();
    }
    launch.buffers = buffers;
    if (!in.file) return fail("the input ends early");
    char error[1024] = {};
    launch.error = error;
    launch.error_capacity = sizeof error;
    softmetal_dispatch(&launch);

    std::ofstream out(arguments[2], std::ios::binary);
    const uint64_t length = strlen(error);
    out.write((const char*)&length, sizeof length);
    out.write(error, std::streamsize(length));
    for (const Region& region : regions) out.write(region.start, std::streamsize(region.length));
    out.close();
    return out ? 0 : fail("the output cannot be written");
}
