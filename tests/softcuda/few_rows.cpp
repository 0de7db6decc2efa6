// sdpa_decode.cu on a CPU against f64, on fresh random numbers (attention.hpp), with clusters of one block.
//
//     few_rows NAME KIND BATCH Q_HEADS KV_HEADS Q_LEN KV_LEN SPLITS SEED
#include "device.hpp"

#include "kernel.inc"

#include "attention.hpp"

int main(int count, char **words) {
    if (count != 10) soft::fail("few_rows takes 9 words");
    int given[7];
    for (int i = 0; i < 7; i++) given[i] = std::stoi(words[3 + i]);
    const auto [batch, q_heads, kv_heads, q_len, kv_len, splits, seed] = given;
    numbers.seed(seed);
    const Operands operands(words[2], batch, q_heads, kv_heads, q_len, kv_len, seed % 2);
    const unsigned tiles = (q_heads / kv_heads * q_len + ROWS - 1) / ROWS, heads = kv_heads * tiles;
    std::vector<u32> counters(batch * heads);
    call.counters = counters.data(), call.splits = splits;
    call.partials = (float *)soft::allocate((size_t)batch * heads * splits * 6 * ROWS * V_DIM);
    soft::shared_bytes = max(WARPS * STAGES * STAGE_BYTES, (WARPS + 1) * ROWS * SUM_PITCH * 4);
    soft::threads = THREADS;
    soft::unwritten = 0x55;
    soft::entry = [] { sdpa_decode(call); };
    soft::launch({(unsigned)splits, heads, (unsigned)batch}, seed);
    for (u32 counter : counters)
        if (counter) soft::fail("a counter that is not ready for the next launch");
    return operands.judge(words[1], words[2]);
}
