// Stand-ins for NVIDIA's libraries: the driver, NVRTC and cuBLASLt, as far as Metallic asks them, on the host. Device
// memory is the host's, work is done when it is asked for, and "compiling" is done by the program that SOFTCUDA_COMPILE
// names, which makes a library of the host of a folder of sources. The chip has next to no shared memory, so that
// attention falls back to its plain kernel; with SOFTCUDA_HOPPER in the environment it is one of four multiprocessors
// that the kernel of a whole step takes. No kernel built on PTX runs, but that one over its own stand-ins.
#include <dlfcn.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

struct Index {
    unsigned x, y, z;
};
using Address = unsigned long long;
using Clock = std::chrono::steady_clock;

static void *memory(size_t bytes) {
    void *start = std::aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
    // Whatever nobody writes is NaN.
    if (start) std::memset(start, 0xff, bytes);
    return start;
}

// A kernel: what runs it over a grid with its one parameter, of so many bytes.
using Run = void (*)(Index, Index, void **, size_t);
struct Function {
    Run run;
    size_t parameter_bytes;
};
struct Launch {
    Run run;
    Index grid, block;
    size_t shared;
    std::vector<char> parameter;

    void make() {
        void *params[] = {parameter.data()};
        run(grid, block, params, shared);
    }
};
using Graph = std::vector<Launch>;
// The stream that captures, and what it has captured.
static void *capturing;
static Graph *captured;

extern "C" {
// --- driver: devices, contexts, streams, events -----------------------------------------------------------------
int cuInit(unsigned) { return 0; }
int cuDriverGetVersion(int *version) { return *version = 13000, 0; }
int cuDeviceGet(int *device, int ordinal) { return *device = ordinal, 0; }
int cuDeviceGetCount(int *count) { return *count = 1, 0; }
int cuDeviceGetName(char *name, int length, int) { return std::snprintf(name, length, "softcuda"), 0; }
int cuDeviceTotalMem_v2(size_t *bytes, int) { return *bytes = size_t(8) << 30, 0; }
int cuDeviceGetAttribute(int *value, int attribute, int) {
    const bool hopper = std::getenv("SOFTCUDA_HOPPER");
    switch (attribute) {
        case 16: *value = hopper ? 4 : 2; break;           // multiprocessors
        case 38: *value = 1 << 20; break;                  // second-level cache
        case 75: *value = hopper ? 9 : 8; break;           // compute capability, its second part 0
        case 97: *value = hopper ? 232448 : 2048; break;   // shared memory of a block
        default: *value = 0;
    }
    return 0;
}
int cuDevicePrimaryCtxRetain(void **context, int) { return *context = (void *)1, 0; }
int cuDevicePrimaryCtxRelease_v2(int) { return 0; }
int cuCtxSetCurrent(void *) { return 0; }
int cuCtxGetCurrent(void **context) { return *context = (void *)1, 0; }
int cuCtxSynchronize() { return 0; }
int cuStreamCreate(void **stream, unsigned) {
    static uintptr_t next = 1;
    return *stream = (void *)++next, 0;
}
int cuStreamDestroy_v2(void *) { return 0; }
int cuStreamSynchronize(void *) { return 0; }
int cuStreamWaitEvent(void *, void *, unsigned) { return 0; }
int cuEventCreate(void **event, unsigned) { return *event = new Clock::time_point, 0; }
int cuEventDestroy_v2(void *event) { return delete (Clock::time_point *)event, 0; }
int cuEventRecord(void *event, void *) { return *(Clock::time_point *)event = Clock::now(), 0; }
int cuEventElapsedTime_v2(float *ms, void *start, void *end) {
    const auto passed = *(Clock::time_point *)end - *(Clock::time_point *)start;
    return *ms = std::chrono::duration<float, std::milli>(passed).count(), 0;
}
int cuLaunchHostFunc(void *, void (*function)(void *), void *with) {
    return std::thread(function, with).detach(), 0;
}
int cuEventSynchronize(void *) { return 0; }
int cuEventQuery(void *) { return 0; }
int cuGetErrorName(int, const char **name) { return *name = "softcuda", 0; }
int cuGetErrorString(int, const char **text) { return *text = "softcuda", 0; }

// --- driver: memory ---------------------------------------------------------------------------------------------
int cuMemAlloc_v2(Address *start, size_t bytes) { return *start = (Address)memory(bytes), *start ? 0 : 2; }
int cuMemFree_v2(Address start) { return std::free((void *)start), 0; }
int cuMemGetInfo_v2(size_t *free, size_t *total) { return *free = *total = size_t(8) << 30, 0; }
int cuMemsetD8Async(Address to, unsigned char value, size_t bytes, void *) { return std::memset((void *)to, value, bytes), 0; }
int cuMemcpyHtoDAsync_v2(Address to, const void *from, size_t bytes, void *) { return std::memcpy((void *)to, from, bytes), 0; }
int cuMemcpyDtoHAsync_v2(void *to, Address from, size_t bytes, void *) { return std::memcpy(to, (void *)from, bytes), 0; }
int cuMemcpyDtoDAsync_v2(Address to, Address from, size_t bytes, void *) { return std::memmove((void *)to, (void *)from, bytes), 0; }
int cuMemHostAlloc(void **start, size_t bytes, unsigned) {
    if (!(*start = memory(bytes))) return 2;
    return std::memset(*start, 0, bytes), 0;
}
int cuMemFreeHost(void *start) { return std::free(start), 0; }
int cuMemHostGetDevicePointer_v2(Address *device, void *host, unsigned) { return *device = (Address)host, 0; }

// --- driver: modules and launches: a module's image is the path of a library -------------------------------------
int cuModuleLoadData(void **module, const void *image) {
    *module = dlopen((const char *)image, RTLD_NOW | RTLD_LOCAL);
    return *module ? 0 : 200;
}
int cuModuleUnload(void *) { return 0; }
int cuModuleGetFunction(void **function, void *module, const char *name) {
    void *run = dlsym(module, (std::string("run_") + name).c_str());
    void *bytes = dlsym(module, (std::string("bytes_of_") + name).c_str());
    if (!run || !bytes) return 500;
    return *function = new Function{(Run)run, *(size_t *)bytes}, 0;
}
int cuFuncSetAttribute(void *, int, int) { return 0; }
int cuLaunchKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned shared, void *stream, void **params, void **) {
    const auto *of = (const Function *)function;
    const auto *bytes = (const char *)params[0];
    Launch launch{of->run, {gx, gy, gz}, {bx, by, bz}, shared, std::vector<char>(bytes, bytes + of->parameter_bytes)};
    if (stream != capturing) return launch.make(), 0;
    captured->push_back(launch);
    return 0;
}
struct Config {
    unsigned grid[3], block[3], shared;
    void *stream, *attributes;
    unsigned count;
};
int cuLaunchKernelEx(const Config *config, void *function, void **params, void **extra) {
    const auto &[grid, block, shared, stream, attributes, count] = *config;
    return cuLaunchKernel(function, grid[0], grid[1], grid[2], block[0], block[1], block[2], shared, stream, params, extra);
}

// --- driver: launches that are captured, and made again -----------------------------------------------------------
int cuStreamBeginCapture_v2(void *stream, int) { return capturing = stream, captured = new Graph, 0; }
int cuStreamEndCapture(void *, Graph **graph) { return *graph = captured, capturing = captured = nullptr, 0; }
int cuGraphGetNodes(Graph *graph, void *, size_t *count) { return *count = graph->size(), 0; }
int cuGraphInstantiateWithFlags(Graph **made, Graph *graph, unsigned long long) { return *made = new Graph(*graph), 0; }
int cuGraphDestroy(Graph *graph) { return delete graph, 0; }
int cuGraphExecDestroy(Graph *graph) { return delete graph, 0; }
int cuGraphLaunch(Graph *graph, void *) {
    for (Launch &launch : *graph) launch.make();
    return 0;
}

// --- NVRTC ------------------------------------------------------------------------------------------------------
struct Program {
    std::vector<std::pair<std::string, std::string>> files;
    std::string log, library;
};
int nvrtcVersion(int *major, int *minor) { return *major = 13, *minor = 0, 0; }
int nvrtcCreateProgram(void **program, const char *source, const char *, int count, const char *const *texts,
                       const char *const *names) {
    auto *made = new Program{{{"main.cu", source}}, "", ""};
    for (int i = 0; i < count; i++) made->files.emplace_back(names[i], texts[i]);
    return *program = made, 0;
}
int nvrtcDestroyProgram(void **program) { return delete (Program *)*program, 0; }
int nvrtcCompileProgram(void *of, int count, const char *const *options) {
    auto *program = (Program *)of;
    const char *compile = std::getenv("SOFTCUDA_COMPILE"), *folder = std::getenv("SOFTCUDA_FOLDER");
    std::string place = std::string(folder ? folder : "/tmp") + "/kernelXXXXXX";
    if (!compile || !mkdtemp(place.data())) return program->log = "SOFTCUDA_COMPILE names no program", 6;
    std::string defined;
    for (int i = 0; i < count; i++) defined += std::string(options[i]) + "\n";
    program->files.emplace_back("options", defined);
    for (const auto &[name, text] : program->files) std::ofstream(place + "/" + name) << text;
    // The compiler is no program for stand-ins.
    const std::string command = std::string("env -u LD_LIBRARY_PATH ") + compile + " " + place + " 2>" + place + "/log";
    const int code = std::system(command.c_str());
    std::stringstream log;
    log << std::ifstream(place + "/log").rdbuf();
    program->log = log.str(), program->library = place + "/kernel.so";
    return code == 0 ? 0 : 6;
}
int nvrtcGetCUBINSize(void *program, size_t *bytes) { return *bytes = ((Program *)program)->library.size() + 1, 0; }
int nvrtcGetCUBIN(void *program, char *image) { return std::strcpy(image, ((Program *)program)->library.c_str()), 0; }
int nvrtcGetProgramLogSize(void *program, size_t *bytes) { return *bytes = ((Program *)program)->log.size() + 1, 0; }
int nvrtcGetProgramLog(void *program, char *log) { return std::strcpy(log, ((Program *)program)->log.c_str()), 0; }
const char *nvrtcGetErrorString(int) { return "softcuda"; }

// --- cuBLASLt: out^T = alpha W x^T + bias, as blas.rs asks ---------------------------------------------------------
struct Layout {
    int type;
    uint64_t rows, columns;
    int64_t stride;
};
struct Description {
    int pointer_mode = 0, transposed = 0, epilogue = 1;
    const float *bias = nullptr;
};
size_t cublasLtGetVersion() { return 130100; }
int cublasLtCreate(void **handle) { return *handle = (void *)1, 0; }
int cublasLtDestroy(void *) { return 0; }
int cublasLtMatrixLayoutCreate(void **layout, int type, uint64_t rows, uint64_t columns, int64_t stride) {
    return *layout = new Layout{type, rows, columns, stride}, 0;
}
int cublasLtMatrixLayoutDestroy(void *layout) { return delete (Layout *)layout, 0; }
int cublasLtMatmulDescCreate(void **description, int, int) { return *description = new Description, 0; }
int cublasLtMatmulDescDestroy(void *description) { return delete (Description *)description, 0; }
int cublasLtMatmulDescSetAttribute(void *of, int attribute, const void *value, size_t) {
    auto *description = (Description *)of;
    switch (attribute) {
        case 2: description->pointer_mode = *(const int *)value; break;
        case 3: description->transposed = *(const int *)value; break;
        case 7: description->epilogue = *(const int *)value; break;
        case 8: description->bias = *(const float *const *)value; break;
    }
    return 0;
}
int cublasLtMatmulPreferenceCreate(void **preference) { return *preference = (void *)1, 0; }
int cublasLtMatmulPreferenceDestroy(void *) { return 0; }
int cublasLtMatmulPreferenceSetAttribute(void *, int, const void *, size_t) { return 0; }
int cublasLtMatmulAlgoGetHeuristic(void *, void *, void *, void *, void *, void *, void *, int, void *result, int *count) {
    // An algorithm of 64 bytes, the scratch it needs, a state, waves and what is reserved.
    return std::memset(result, 0, 96), *count = 1, 0;
}

static float element(const void *of, int type, size_t at) {
    if (type == 0) return ((const float *)of)[at];
    const uint16_t bits = ((const uint16_t *)of)[at];
    float value;
    _Float16 half;
    const uint32_t wide = uint32_t(bits) << 16;
    std::memcpy(&half, &bits, 2), std::memcpy(&value, &wide, 4);
    return type == 14 ? value : float(half);
}

int cublasLtMatmul(void *, void *of, const void *alpha, const void *weight, void *of_weight, const void *x, void *of_x,
                   const void *beta, const void *, void *, void *out, void *of_out, const void *, void *, size_t, void *) {
    const auto &[pointer_mode, transposed, epilogue, bias] = *(Description *)of;
    const Layout &w = *(Layout *)of_weight, &y = *(Layout *)of_x;
    // α and β on the device, W transposed, sums in f32: nothing else is asked for.
    if (pointer_mode != 1 || transposed != 1 || *(const float *)beta != 0 || w.rows != y.rows) return 15;
    std::vector<float> columns(w.rows * w.columns), rows(y.rows * y.columns);
    for (size_t i = 0; i < columns.size(); i++) columns[i] = element(weight, w.type, i);
    for (size_t i = 0; i < rows.size(); i++) rows[i] = element(x, y.type, i);
    for (size_t m = 0; m < y.columns; m++) {
        for (size_t n = 0; n < w.columns; n++) {
            float sum = 0;
            for (size_t k = 0; k < w.rows; k++) sum += columns[n * w.rows + k] * rows[m * w.rows + k];
            const float added = epilogue == 4 && bias ? bias[n] : 0;
            ((float *)out)[m * ((Layout *)of_out)->stride + n] = *(const float *)alpha * sum + added;
        }
    }
    return 0;
}
}
