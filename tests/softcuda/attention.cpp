// sdpa_prefill_sm90.cu on a CPU against f64, on fresh random numbers (attention.hpp).
//
//     attention NAME KIND BATCH Q_HEADS KV_HEADS Q_LEN KV_LEN BLOCKS SEED
#include "device.hpp"

#include "kernel.inc"

#include "attention.hpp"

static TensorMap maps[3];

static TensorMap map_of(const Tensor &tensor, int batch, int box) {
    TensorMap result = {(u8 *)tensor.start, {HEAD_DIM, (u64)tensor.rows, (u64)tensor.heads, (u64)batch}, {2}, (u64)box};
    for (int axis = 0; axis < 3; axis++) result.strides[3 - axis] = tensor.stride[axis] * 2;
    return result;
}

int main(int count, char **words) {
    if (count != 10) soft::fail("attention takes 9 words");
    int given[7];
    for (int i = 0; i < 7; i++) given[i] = std::stoi(words[3 + i]);
    const auto [batch, q_heads, kv_heads, q_len, kv_len, blocks, seed] = given;
    numbers.seed(seed);
    const Operands operands(words[2], batch, q_heads, kv_heads, q_len, kv_len, seed % 2);
    u32 counters[2] = {};
    call.counters = counters, call.heads_per_wave = seed % 3 + 1;
    maps[0] = map_of(operands.q, batch, QUERIES), maps[1] = map_of(operands.k, batch, KEYS);
    maps[2] = map_of(operands.v, batch, KEYS);
    soft::shared_bytes = 2 * Q_BYTES + 2 * STAGES * TILE_BYTES;
    soft::threads = THREADS;
    soft::unwritten = 0x55;
    soft::entry = [] { sdpa_prefill_sm90(call, maps[0], maps[1], maps[2]); };
    soft::launch(blocks, seed);
    if (counters[0] || counters[1]) soft::fail("counters that are not ready for the next launch");
    return operands.judge(words[1], words[2]);
}
