//! Speed of linear products: GFLOP/s and GB/s of stored weights, by type and phase.
//!
//! `cargo bench -p metallic_devices --bench linear -- [filter]`, where the filter is part of a
//! line's name such as `q4_1 decode`; then `--threads N`, `--level avx2` and `--cached`. Decoding walks
//! through copies of the weight that no cache holds, as the layers of a model do; with `--cached` a weight
//! of 256 rows stays in the second-level cache, which shows what a kernel alone takes. The best of several
//! runs is shown, since other programs share the machine.

#![allow(clippy::print_stdout)]

use std::time::Instant;

use metallic::tensor::DType;
use metallic_devices::cpu::linear::{Linear, LinearWeight, Precision, linear};
use metallic_devices::cpu::pool::ThreadPool;
use metallic_devices::cpu::simd::Level;

/// Outputs and inputs of a matrix like those of a model of half a billion parameters.
const SHAPE: (usize, usize) = (4864, 1024);
/// The same for a weight that a second-level cache holds.
const CACHED_SHAPE: (usize, usize) = (256, 1024);
/// Bytes of weights that decoding walks through.
const WALK: usize = 96 << 20;

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
    let cached = args.iter().any(|arg| arg == "--cached");
    let (shape, walk) = if cached { (CACHED_SHAPE, 0) } else { (SHAPE, WALK) };
    let pool = ThreadPool::new(threads);
    println!("{threads} threads, {}", level.usable().name());
    let types = DType::ALL.into_iter().filter(|d| d.is_float() || d.is_quantized());
    for dtype in types {
        for precision in [Precision::Quantized, Precision::Exact] {
            for m in [1, 4, 8, 16, 512] {
                let kind = if m <= 8 { "decode" } else { "prefill" };
                let name = format!("{dtype} {kind} {precision:?} m={m}").to_lowercase();
                if name.contains(&filter) {
                    let seconds = measure(&pool, level, (dtype, precision), m, (shape, walk));
                    let (n, k) = shape;
                    let flops = 2.0 * (m * n * k) as f64 / seconds / 1e9;
                    let bytes = (n * dtype.row_bytes(k).unwrap()) as f64 / seconds / 1e9;
                    println!("{name:32} {flops:8.1} GFLOP/s {bytes:8.1} GB/s");
                }
            }
        }
    }
}

/// Seconds of one product; `walk`: bytes of weights to walk through where there are few rows.
fn measure(
    pool: &ThreadPool,
    level: Level,
    (dtype, precision): (DType, Precision),
    m: usize,
    ((n, k), walk): ((usize, usize), usize),
) -> f64 {
    let bytes = n * dtype.row_bytes(k).unwrap();
    let copies = if m <= 8 { walk.div_ceil(bytes).max(1) } else { 1 };
    let weights: Vec<Vec<u8>> = (0..copies).map(|seed| stored(seed as u64, bytes)).collect();
    let x: Vec<f32> = (0..m * k).map(|i| (i as f32 * 0.7).sin()).collect();
    let mut y = vec![0.0; m * n];
    let mut best = f64::INFINITY;
    let runs = match (walk, m) {
        (0, ..=8) => 20_000 / m,
        (0, _) => 200,
        (_, ..=8) => 15,
        _ => 7,
    };
    for _ in 0..runs {
        let start = Instant::now();
        for bytes in &weights {
            let weight = LinearWeight { dtype, rows: n, cols: k, bytes };
            let args = Linear { x: &x, m, weight, bias: None, precision, level };
            linear(pool, &args, &mut y);
        }
        best = best.min(start.elapsed().as_secs_f64() / copies as f64);
    }
    std::hint::black_box(&y);
    best
}

/// Bytes that are ordinary numbers as any type: no float among them is subnormal, infinite or NaN.
fn stored(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2) + 1;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8 & 0x3f | 0x10
        })
        .collect()
}
