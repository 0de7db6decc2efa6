// Stand-ins for sdpa_wgmma.cuh. A product reads and writes when it is waited for, as late as a GPU may; until
// then its sums hold NaN, and who changes them is found out.
#pragma once

#include <deque>

struct Product {
    float *sums;
    int columns;
    const u32 *registers;  // a, or null where it is in shared memory
    u64 a, b;
    bool across, add;  // b with its rows along the depth; whether sums are kept
};

// A thread's products: those since the last commit, and the groups before.
struct Queue {
    std::vector<Product> open;
    std::deque<std::vector<Product>> groups;
    std::map<float *, std::vector<float>> running;
};

static thread_local std::map<unsigned, Queue> queues;

inline u32 descriptor_low(u32 address, int panel) { return (address & 0x3ffff) >> 4 | panel >> 4 << 16; }
inline u64 descriptor(u32 low, int bytes) {
    return (u64)(1 << 30 | 1024 >> 4) << 32 | (low + (bytes >> 4));
}

static float element(u64 matrix, u32 row, u32 column) {
    const u32 start = (matrix & 0x3fff) << 4, panel = (matrix >> 16 & 0x3fff) << 4;
    const u32 group = (matrix >> 32 & 0x3fff) << 4;
    if (matrix >> 62 != 1) soft::fail("a matrix that is not swizzled");
    u32 at = start + column / 64 * panel + row / 8 * group + row % 8 * 128 + column % 64 * 2;
    at ^= (at >> 7 & 7) << 4;
    if (at + 2 > soft::shared_bytes) soft::fail("a matrix outside shared memory");
    u16 bits;
    memcpy(&bits, soft::shared + at, 2);
    return QT == 2 ? bf16_to_float(bits) : half_to_float(bits);
}

static void issue(const Product &product) {
    Queue &queue = queues[threadIdx.x];
    auto &values = queue.running[product.sums];
    if (values.empty()) {
        values.assign(product.sums, product.sums + product.columns / 2);
        memset(product.sums, 0xff, product.columns * 2);
    }
    queue.open.push_back(product);
}

// Product `index` of the oldest group; the four lanes of a quad hold a row of a together.
static void multiply(Queue &queue, size_t index) {
    const Product &product = queue.groups.front()[index];
    const u32 lane = threadIdx.x % 32, row = threadIdx.x / 32 % 4 * 16 + lane / 4;
    float a[2][16];
    for (u32 k = 0; k < 16; k++)
        for (u32 half = 0; half < 2; half++) {
            if (product.registers) {
                const Queue &other = queues[threadIdx.x / 4 * 4 + k % 8 / 2];
                const u32 two = other.groups.front()[index].registers[k / 8 * 2 + half];
                a[half][k] = k % 2 ? high_of<QT>(two) : low_of<QT>(two);
            } else {
                a[half][k] = element(product.a, row + half * 8, k);
            }
        }
    auto &sums = queue.running[product.sums];
    for (int n = 0; n < product.columns / 2; n++) {
        const u32 column = n / 4 * 8 + lane % 4 * 2 + n % 2;
        float sum = product.add ? sums[n] : 0.0f;
        for (u32 k = 0; k < 16; k++) {
            const float b = product.across ? element(product.b, k, column) : element(product.b, column, k);
            sum += a[n / 2 % 2][k] * b;
        }
        sums[n] = sum;
    }
}

inline void wgmma_fence() {}

inline void wgmma_commit() {
    Queue &queue = queues[threadIdx.x];
    queue.groups.push_back(std::move(queue.open));
    queue.open.clear();
}

template <int PENDING>
void wgmma_wait() {
    __syncwarp();
    Queue &queue = queues[threadIdx.x];
    while (queue.groups.size() > PENDING) {
        for (size_t i = 0; i < queue.groups.front().size(); i++) multiply(queue, i);
        __syncwarp();
        const std::vector<Product> done = std::move(queue.groups.front());
        queue.groups.pop_front();
        __syncwarp();
        for (const Product &product : done) {
            bool later = false;
            for (const auto &group : queue.groups)
                for (const Product &other : group) later |= other.sums == product.sums;
            const auto values = queue.running.find(product.sums);
            if (later || values == queue.running.end()) continue;
            for (int n = 0; n < product.columns / 2; n++)
                if (__float_as_uint(product.sums[n]) != ~0u) soft::fail("sums changed under a product");
            memcpy(product.sums, values->second.data(), product.columns * 2);
            queue.running.erase(values);
        }
    }
}

template <int N>
void wgmma_settle(float (&)[N]) {}

template <int N>
void wgmma_shared(float (&sums)[N], u64 a, u64 b, int add) {
    issue({sums, N * 2, nullptr, a, b, false, add != 0});
}

template <int N>
void wgmma_registers(float (&sums)[N], const u32 *a, u64 b, int add) {
    issue({sums, N * 2, a, 0, b, true, add != 0});
}
