//! What the tests share: options, random numbers, dispatch with typed buffers.

use std::path::PathBuf;
use std::sync::Arc;

use half::{bf16, f16};
use softmetal_emulator::{CompileOptions, Constant, FiberOrder, Function, Grid, Library};

/// Options with the cache that all tests of the workspace share.
pub(crate) fn options() -> CompileOptions {
    let target = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let target = target.parent().expect("the folder lies in target").to_owned();
    CompileOptions::new(target.join("softmetal/msl-cache"))
}

/// The three orders that every kernel must give the same result in.
pub(crate) const ORDERS: [FiberOrder; 3] =
    [FiberOrder::Forward, FiberOrder::Reverse, FiberOrder::Random(7)];

/// A library of `source`.
pub(crate) fn library(source: &str, options: &CompileOptions) -> Arc<Library> {
    Library::compile(source, options).unwrap_or_else(|error| panic!("{error}"))
}

/// A function of `source`.
pub(crate) fn function(
    source: &str,
    name: &str,
    constants: &[Constant],
    options: &CompileOptions,
) -> Function {
    library(source, options).function(name, constants).unwrap_or_else(|error| panic!("{error}"))
}

/// A buffer's bytes; starts on a multiple of 16.
#[derive(Clone)]
pub(crate) struct Bytes {
    words: Vec<u128>,
    length: usize,
}

impl Bytes {
    pub(crate) fn new(bytes: &[u8]) -> Self {
        let mut words = vec![0u128; bytes.len().div_ceil(16)];
        for (word, chunk) in words.iter_mut().zip(bytes.chunks(16)) {
            let mut whole = [0; 16];
            whole[..chunk.len()].copy_from_slice(chunk);
            *word = u128::from_le_bytes(whole);
        }
        Self { words, length: bytes.len() }
    }

    pub(crate) fn f32(values: &[f32]) -> Self {
        Self::new(&values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>())
    }

    pub(crate) fn u32(values: &[u32]) -> Self {
        Self::new(&values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>())
    }

    pub(crate) fn f16(values: &[f32]) -> Self {
        Self::new(&values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect::<Vec<u8>>())
    }

    pub(crate) fn bf16(values: &[f32]) -> Self {
        Self::new(
            &values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect::<Vec<u8>>(),
        )
    }

    pub(crate) fn zeros(length: usize) -> Self {
        Self::new(&vec![0; length])
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let all = self.words.iter().flat_map(|word| word.to_le_bytes());
        all.take(self.length).collect()
    }

    pub(crate) fn to_f32(&self) -> Vec<f32> {
        self.bytes().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
    }

    pub(crate) fn to_u32(&self) -> Vec<u32> {
        self.bytes().chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
    }

    pub(crate) fn to_bf16(&self) -> Vec<f32> {
        self.bytes().chunks_exact(2).map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect()
    }

    pub(crate) fn to_f16(&self) -> Vec<f32> {
        self.bytes().chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect()
    }
}

/// Dispatches with `buffers` bound to the indices from 0.
pub(crate) fn dispatch(
    function: &Function,
    buffers: &mut [Bytes],
    threadgroup: &[(u32, usize)],
    grid: Grid,
    threads: [u32; 3],
) -> Result<(), String> {
    let bound: Vec<(u32, *mut u8, usize)> = buffers
        .iter_mut()
        .enumerate()
        .map(|(index, bytes)| (index as u32, bytes.words.as_mut_ptr().cast(), bytes.length))
        .collect();
    // SAFETY: each buffer is borrowed mutably and holds its length.
    unsafe { function.dispatch(&bound, threadgroup, grid, threads) }
}

/// Numbers of about normal size, the same on every run.
pub(crate) struct Numbers(pub(crate) u64);

impl Numbers {
    /// The sum of four uniform numbers: mean 0, deviation about 1.
    pub(crate) fn next(&mut self) -> f32 {
        let mut uniform = || {
            self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (self.0 >> 40) as f32 / (1 << 24) as f32 - 0.5
        };
        (uniform() + uniform() + uniform() + uniform()) * 1.7
    }

    pub(crate) fn list(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.next()).collect()
    }

    /// Numbers that a half holds exactly.
    pub(crate) fn halves(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| f16::from_f32(self.next()).to_f32()).collect()
    }
}

/// The largest difference, relative to the largest expected value. NaN where any is NaN.
pub(crate) fn error(got: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(got.len(), expected.len());
    let largest = expected.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    let differences = got.iter().zip(expected).map(|(g, e)| (f64::from(*g) - e).abs());
    differences.fold(0.0, |m, d| if d > m || d.is_nan() { d } else { m }) / largest
}
