//! Speed of attention: µs, GFLOP/s of visible scores, GB/s of keys and values, legacy and graph.
//!
//! `cargo bench -p metallic_devices --bench sdpa_kernels -- [filter]`, where the filter is part of
//! a line's name such as `prefill 512`; then `--threads N`, `--level avx2`, `--copies N`. Decoding
//! walks through copies of the cache as the layers of a model do; with one copy it may stay in the
//! processor's caches. The best of several runs is shown, since other
//! programs share the machine.

#![allow(clippy::print_stdout)]

use std::time::Instant;

use metallic::Context;
use metallic::dispatch::{Backend, Policies, Policy, PolicyChoice, PolicySource};
use metallic::op::{Mask, Sdpa, SdpaArgs};
use metallic::tensor::{DType, Tensor};
use metallic_devices::cpu::kernels::convert::encode_row;
use metallic_devices::cpu::simd::Level;
use metallic_devices::cpu::{CpuDevice, CpuOptions};
use metallic_instrumentation::Recorder;

/// One measured call.
struct Case {
    q_len: usize,
    kv_len: usize,
    q_heads: usize,
    kv_heads: usize,
    dim: usize,
    causal: bool,
    q_dtype: DType,
    kv_dtype: DType,
    /// Calls on tensors of their own, at most.
    copies: usize,
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let value = |flag: &str| args.iter().position(|a| a == flag).and_then(|i| args.get(i + 1));
    let threads = value("--threads").and_then(|n| n.parse().ok());
    let threads =
        threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let level = value("--level")
        .and_then(|name| Level::ALL.into_iter().find(|level| level.name() == name))
        .unwrap_or(Level::detect());
    let filter = args.first().filter(|arg| !arg.starts_with("--")).cloned().unwrap_or_default();
    let copies = value("--copies").and_then(|n| n.parse().ok()).unwrap_or(24);
    let contexts = Backend::ALL.map(|backend| context(threads, level, backend));
    println!("{threads} threads, {}", level.usable().name());
    println!("{:44} {:>24} {:>24} {:>7}", "", "legacy", "graph", "ratio");
    for (q_heads, kv_heads, dim) in [(14, 2, 64), (28, 4, 128)] {
        for len in [128, 256, 512, 1024, 2048] {
            for causal in [true, false] {
                for dtype in [DType::F32, DType::F16, DType::Bf16] {
                    let (q_dtype, kv_dtype) = (dtype, dtype);
                    let (q_len, kv_len) = (len, len);
                    let case = Case {
                        q_len,
                        kv_len,
                        q_heads,
                        kv_heads,
                        dim,
                        causal,
                        q_dtype,
                        kv_dtype,
                        copies,
                    };
                    report(&contexts, &case, &filter);
                }
            }
        }
        for kv_len in [512, 4096, 32768] {
            for kv_dtype in [DType::F32, DType::F16, DType::Bf16, DType::Q8_0] {
                let (q_len, causal, q_dtype) = (1, true, DType::F32);
                let case = Case {
                    q_len,
                    kv_len,
                    q_heads,
                    kv_heads,
                    dim,
                    causal,
                    q_dtype,
                    kv_dtype,
                    copies,
                };
                report(&contexts, &case, &filter);
            }
        }
    }
}

fn context(threads: usize, level: Level, backend: Backend) -> Context {
    let mut policies = Policies::default();
    let source = PolicySource::Flag("--bench");
    policies.ops.insert("sdpa", PolicyChoice { policy: Policy::Force(backend), source });
    CpuDevice::context(CpuOptions { threads, level }, policies, Recorder::disabled())
}

fn report(contexts: &[Context; 2], case: &Case, filter: &str) {
    let Case { q_len, kv_len, q_heads, kv_heads, dim, causal, q_dtype, kv_dtype, .. } = *case;
    let phase = if q_len == 1 { "decode" } else { "prefill" };
    let mask = if causal && q_len > 1 { " causal" } else { "" };
    let name = format!("{phase} {kv_len}{mask} {q_heads}/{kv_heads} d{dim} {q_dtype}/{kv_dtype}");
    if !name.contains(filter) {
        return;
    }
    let visible: usize =
        (0..q_len).map(|i| if causal { i + 1 + kv_len - q_len } else { kv_len }).sum();
    let flops = (4 * visible * dim * q_heads) as f64;
    let bytes = (2 * kv_heads * kv_len * kv_dtype.row_bytes(dim).unwrap()) as f64;
    let seconds = measure(contexts, case);
    let column = |seconds: f64| {
        let rate = if q_len == 1 {
            format!("{:6.1} GB/s", bytes / seconds / 1e9)
        } else {
            format!("{:6.1} GFLOP/s", flops / seconds / 1e9)
        };
        format!("{:9.0} µs {rate:>12}", seconds * 1e6)
    };
    let [legacy, graph] = seconds;
    println!("{name:44} {} {} {:6.2}x", column(legacy), column(graph), legacy / graph);
}

/// Best seconds of a call on each backend; rounds alternate, so that noise hits both.
fn measure(contexts: &[Context; 2], case: &Case) -> [f64; 2] {
    let Case { q_len, kv_len, q_heads, kv_heads, dim, causal, q_dtype, kv_dtype, .. } = *case;
    let bytes = kv_heads * kv_len * kv_dtype.row_bytes(dim).unwrap();
    let copies = if q_len == 1 { ((64 << 20) / (2 * bytes)).clamp(1, case.copies) } else { 1 };
    let calls: Vec<Vec<SdpaArgs>> = contexts
        .iter()
        .map(|context| {
            let kv = || tensor(context, kv_dtype, [1, kv_heads, kv_len, dim]);
            (0..copies)
                .map(|_| SdpaArgs {
                    q: tensor(context, q_dtype, [1, q_heads, q_len, dim]),
                    k: kv(),
                    v: kv(),
                    mask: if causal { Mask::causal() } else { Mask::none() },
                    kv_lens: None,
                    scale: None,
                    softcap: None,
                    out: context.zeros(q_dtype, [1, q_heads, q_len, dim]).unwrap(),
                })
                .collect()
        })
        .collect();
    let mut best = [f64::INFINITY; 2];
    let mut rounds = 0;
    let start = Instant::now();
    while rounds < 3 || (rounds < 30 && start.elapsed().as_secs_f64() < 0.7) {
        for (backend, context) in contexts.iter().enumerate() {
            let start = Instant::now();
            for args in &calls[backend] {
                context.run::<Sdpa>(args).unwrap();
            }
            best[backend] = best[backend].min(start.elapsed().as_secs_f64() / copies as f64);
        }
        rounds += 1;
    }
    best
}

fn tensor(context: &Context, dtype: DType, shape: [usize; 4]) -> Tensor {
    let mut state = 1u64;
    let values: Vec<f32> = (0..shape.iter().product())
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect();
    let mut bytes = vec![0; dtype.row_bytes(values.len()).unwrap()];
    encode_row(Level::detect(), dtype, &values, &mut bytes);
    context.upload(dtype, shape, &bytes).unwrap()
}
