//! What the machine can do at most: products a second from registers, bytes a second from memory.
//!
//! Benchmarks print their results as a share of these. Measured, not looked up: a clock under
//! vector load and the memory of a shared machine are on no data sheet.

use std::hint::black_box;
use std::time::{Duration, Instant};

use super::pool::ThreadPool;
use super::simd::{Level, with_level};
use super::vector::{F32Lanes, Plain};

/// Accumulators in flight: the latency of a product times the products started per cycle, and
/// some. They fit the registers of every level.
const CHAINS: usize = 12;
/// Bytes of the stream: several times what a third-level cache holds.
const STREAM_BYTES: usize = 512 << 20;
/// Each limit is the best of this many measurements.
const TRIES: usize = 7;
/// One measurement of products lasts about this long.
const LONG_ENOUGH: Duration = Duration::from_millis(30);

/// The limits of some threads of this machine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Threads that ran together.
    pub threads: usize,
    /// Fused multiply-adds of f32, two operations each: 10⁹ operations a second.
    pub f32_gflops: f64,
    /// Multiply-adds of 8-bit integers, two operations each: 10⁹ operations a second; `None`
    /// without an instruction for them.
    pub int8_gops: Option<f64>,
    /// Bytes read from memory, each once: 10⁹ bytes a second.
    pub read_gbytes: f64,
}

impl Limits {
    /// Measures, in about two seconds, the threads of `pool` with the instructions of `level`.
    pub fn measure(pool: &ThreadPool, level: Level) -> Self {
        let level = level.usable();
        Self {
            threads: pool.threads(),
            f32_gflops: rate(pool, |steps| f32_products(level, steps)),
            int8_gops: (level == Level::Avx512Vnni).then(|| rate(pool, int8_products)),
            read_gbytes: read_rate(pool, level),
        }
    }

    /// The shortest time a computation of `flops` f32 operations over `bytes` of memory can take,
    /// in seconds, and which of the two it is bound by.
    pub fn floor(&self, flops: f64, bytes: f64) -> (f64, &'static str) {
        let (arithmetic, memory) = (flops / self.f32_gflops / 1e9, bytes / self.read_gbytes / 1e9);
        if arithmetic > memory { (arithmetic, "f32") } else { (memory, "memory") }
    }
}

/// Best 10⁹ operations a second of all threads together. `products` runs a number of steps and
/// says how many operations they were.
fn rate(pool: &ThreadPool, products: impl Fn(usize) -> f64 + Sync) -> f64 {
    let mut steps = 1 << 12;
    loop {
        let start = Instant::now();
        black_box(products(steps));
        if start.elapsed() >= LONG_ENOUGH / 2 || steps >= 1 << 30 {
            break;
        }
        steps *= 2;
    }
    let once = || {
        let start = Instant::now();
        pool.run(pool.threads(), &|_| {
            black_box(products(steps));
        });
        start.elapsed().as_secs_f64()
    };
    let seconds = (0..TRIES).map(|_| once()).fold(f64::INFINITY, f64::min);
    products(1) * steps as f64 * pool.threads() as f64 / seconds / 1e9
}

fn f32_products(level: Level, steps: usize) -> f64 {
    match level {
        // SAFETY: a usable level is one that the machine has.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 | Level::Avx512Vnni => unsafe { avx512_chains(steps) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { avx2_chains(steps) },
        #[cfg(target_arch = "aarch64")]
        Level::Neon | Level::NeonDot => chains::<std::arch::aarch64::float32x4_t>(steps),
        _ => chains::<Plain>(steps),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn avx512_chains(steps: usize) -> f64 {
    chains::<std::arch::x86_64::__m512>(steps)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn avx2_chains(steps: usize) -> f64 {
    chains::<std::arch::x86_64::__m256>(steps)
}

/// `steps` rounds of one product in each chain; gives the operations done.
#[inline(always)]
fn chains<V: F32Lanes>(steps: usize) -> f64 {
    let (factor, addend) = (black_box(0.999_f32), black_box(1e-3_f32));
    // SAFETY: the caller chose lanes that the machine has; the store has room for one vector.
    unsafe {
        let (factor, addend) = (V::splat(factor), V::splat(addend));
        let mut sums = [V::splat(1.0); CHAINS];
        for _ in 0..steps {
            for sum in &mut sums {
                *sum = sum.fma(factor, addend);
            }
        }
        let mut lanes = [0.0_f32; 16];
        for sum in sums {
            sum.store(lanes.as_mut_ptr());
            black_box(&lanes);
        }
    }
    (steps * CHAINS * V::LANES * 2) as f64
}

#[cfg(target_arch = "x86_64")]
fn int8_products(steps: usize) -> f64 {
    // SAFETY: only asked for at the level that has VNNI.
    unsafe { vnni_chains(steps) }
}

#[cfg(not(target_arch = "x86_64"))]
fn int8_products(_: usize) -> f64 {
    0.0
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn vnni_chains(steps: usize) -> f64 {
    use std::arch::x86_64::{_mm512_dpbusd_epi32, _mm512_set1_epi8, _mm512_set1_epi32};
    let (a, b) = (_mm512_set1_epi8(black_box(3)), _mm512_set1_epi8(black_box(-2)));
    let mut sums = [_mm512_set1_epi32(0); CHAINS];
    for _ in 0..steps {
        for sum in &mut sums {
            // The barrier keeps the sum of equal products from becoming one multiplication.
            *sum = _mm512_dpbusd_epi32(*sum, black_box_register(a), b);
        }
    }
    black_box(sums);
    (steps * CHAINS * 64 * 2) as f64
}

/// Hides a value from the optimiser without a trip through memory.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f")]
fn black_box_register(mut value: std::arch::x86_64::__m512i) -> std::arch::x86_64::__m512i {
    // SAFETY: an empty instruction that claims to change the register.
    unsafe {
        std::arch::asm!("/* {0} */", inout(zmm_reg) value, options(pure, nomem, nostack));
    }
    value
}

/// Best 10⁹ bytes a second of all threads together, each reading its own part once.
fn read_rate(pool: &ThreadPool, level: Level) -> f64 {
    let words = STREAM_BYTES / size_of::<u64>();
    // Written before it is read: untouched pages are all the same page of zeros.
    let stream: Vec<u64> = (0..words as u64).collect();
    let part = words.div_ceil(pool.threads());
    let once = || {
        let start = Instant::now();
        pool.run(pool.threads(), &|task| {
            let first = (task * part).min(words);
            let mine = &stream[first..(first + part).min(words)];
            black_box(with_level(level, || sum(mine)));
        });
        start.elapsed().as_secs_f64()
    };
    let seconds = (0..TRIES).map(|_| once()).fold(f64::INFINITY, f64::min);
    STREAM_BYTES as f64 / seconds / 1e9
}

/// The sum of all words: enough work to read them, too little to be in the way.
#[inline(always)]
fn sum(words: &[u64]) -> u64 {
    let mut lanes = [0u64; 32];
    let (chunks, _) = words.as_chunks::<32>();
    for chunk in chunks {
        for (lane, word) in lanes.iter_mut().zip(chunk) {
            *lane = lane.wrapping_add(*word);
        }
    }
    lanes.into_iter().fold(0, u64::wrapping_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_floor_is_set_by_what_takes_longer() {
        let limits = Limits { threads: 1, f32_gflops: 100.0, int8_gops: None, read_gbytes: 10.0 };
        assert_eq!(limits.floor(100e9, 1e9), (1.0, "f32"));
        assert_eq!(limits.floor(1e9, 20e9), (2.0, "memory"));
    }

    #[test]
    fn every_level_counts_its_products() {
        for level in Level::available() {
            let lanes = f32_products(level, 1) / (CHAINS * 2) as f64;
            assert!([4.0, 8.0, 16.0].contains(&lanes), "{}", level.name());
            assert_eq!(f32_products(level, 10), 10.0 * f32_products(level, 1));
        }
    }
}
