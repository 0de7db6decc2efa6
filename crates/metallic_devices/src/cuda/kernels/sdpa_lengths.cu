// Live lengths as cuDNN reads them: queries and keys of each sequence, keys bounded by what there is room
// for, since the library checks nothing.
struct Lengths {
    const int* live;  // keys of each sequence, or null for all
    int* q;
    int* kv;
    int batch;
    int q_len;
    int kv_len;
    int unused;
};

extern "C" __global__ void __launch_bounds__(128) sdpa_lengths(const __grid_constant__ Lengths p) {
    const int b = blockIdx.x * blockDim.x + threadIdx.x;
    if (b >= p.batch) return;
    p.q[b] = p.q_len;
    p.kv[b] = p.live == nullptr ? p.kv_len : max(0, min(p.live[b], p.kv_len));
}
