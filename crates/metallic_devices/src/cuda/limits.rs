//! What a GPU can do at most: bytes copied a second, matrix products a second, and the time that the
//! bare products of a model take. Measured, not looked up, through the same library with the same
//! plans as everything else.

use std::sync::Arc;

use cudarc::driver::result::memcpy_dtod_async;
use metallic::Result;
use metallic::device::Device;
use metallic::tensor::DType;

use super::CudaDevice;
use super::blas::Product;
use super::buffer::CudaBuffer;
use super::error::{Doing, device_error};
use super::gpu::Gpu;

/// Bytes of each side of the copy: many times what the second-level cache holds.
const COPIED: usize = 1 << 30;
/// Rows and columns of the product.
const SIDE: usize = 8192;
/// Each limit is the median of this many measurements.
const TRIES: usize = 9;
/// Random numbers that fill an operand, repeated, in bytes.
const PIECE: usize = 8 << 20;

/// The limits of one GPU.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Bytes read and bytes written by a copy: 10⁹ a second.
    pub copy_gbytes: f64,
    /// Multiply-adds of f16 with f32 sums, two operations each: 10⁹ operations a second.
    pub f16_gflops: f64,
}

impl Limits {
    /// The shortest time a computation of `flops` operations over `bytes` of memory can take, in
    /// seconds, and which of the two it is bound by.
    pub fn floor(&self, flops: f64, bytes: f64) -> (f64, &'static str) {
        let (arithmetic, memory) = (flops / self.f16_gflops / 1e9, bytes / self.copy_gbytes / 1e9);
        if arithmetic > memory { (arithmetic, "f16") } else { (memory, "memory") }
    }
}

/// The products of one layer over `rows` rows.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerProducts {
    /// Rows of activations.
    pub rows: usize,
    /// Columns and rows of each weight, and whether it has a bias.
    pub weights: Vec<(usize, usize, bool)>,
    /// f16 or bf16, of weights and activations.
    pub dtype: DType,
    /// Layers.
    pub layers: usize,
}

impl CudaDevice {
    /// Measures both limits, in less than a second.
    ///
    /// # Errors
    /// No memory; without cuBLASLt.
    pub fn limits(&self) -> Result<Limits> {
        let gpu = self.gpu();
        let (from, to) = (self.random(COPIED)?, gpu.workspace(COPIED)?);
        let copy = median_seconds(gpu, &mut || copy(gpu, to.start(), from.start(), COPIED))?;
        drop((from, to));
        let products = LayerProducts {
            rows: SIDE,
            weights: vec![(SIDE, SIDE, false)],
            dtype: DType::F16,
            layers: 1,
        };
        let flops = 2.0 * (SIDE as f64).powi(3);
        Ok(Limits {
            copy_gbytes: 2.0 * COPIED as f64 / copy / 1e9,
            f16_gflops: flops / self.seconds_of(&products)? / 1e9,
        })
    }

    /// The time of all layers' products and of nothing else, in seconds: weights of different layers
    /// lie apart, as a model's do, so that no cache holds them.
    ///
    /// # Errors
    /// No memory; without cuBLASLt.
    pub fn seconds_of(&self, products: &LayerProducts) -> Result<f64> {
        let gpu = self.gpu();
        let blas = gpu
            .blas
            .as_ref()
            .map_err(|reason| device_error(gpu.id(), "multiply matrices", reason.clone()))?;
        let LayerProducts { rows, ref weights, dtype, layers } = *products;
        let bytes = |elements: usize| elements * dtype.block_bytes();
        let layer: usize = weights.iter().map(|(k, n, _)| bytes(k * n)).sum();
        let apart = (4 * gpu.stream.properties().l2_bytes).div_ceil(layer.max(1)) + 1;
        let copies = apart.min(layers).max(1);
        let w = self.random(copies * layer)?;
        let widest = weights.iter().map(|(k, _, _)| *k).max().unwrap_or(0);
        let x = self.random(bytes(rows * widest))?;
        let tallest = weights.iter().map(|(_, n, _)| *n).max().unwrap_or(0);
        let out = gpu.workspace((rows * tallest * size_of::<f32>()).max(1))?;
        let bias = gpu.workspace((tallest * size_of::<f32>()).max(1))?;
        self.zero(&bias)?;
        let alpha = gpu.workspace(8)?;
        self.write(&alpha, 0, bytemuck::bytes_of(&[1.0f32, 0.0]))?;
        median_seconds(gpu, &mut || {
            for index in 0..layers {
                let mut at = w.start() + (index % copies * layer) as u64;
                for &(k, n, biased) in weights {
                    let product = Product {
                        x: x.start(),
                        weight: at,
                        bias: if biased { bias.start() } else { 0 },
                        out: out.start(),
                        alpha: alpha.start(),
                        m: rows,
                        n,
                        k,
                        dtype,
                    };
                    at += bytes(k * n) as u64;
                    // SAFETY: every buffer has the size that this product asks for.
                    unsafe { blas.multiply(&product) }?;
                }
            }
            Ok(())
        })
    }

    /// `bytes` bytes of f16 numbers between 1/2 and 2 of either sign: products of zeros are faster
    /// than those of numbers.
    fn random(&self, bytes: usize) -> Result<CudaBuffer> {
        let gpu = self.gpu();
        let buffer = gpu.workspace(bytes.max(PIECE))?;
        let mut state = 1u64;
        let mut next = || {
            // Numerical Recipes' generator; its upper bits are the good ones.
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 40) as u16
        };
        let halves = (0..PIECE / 2).flat_map(|_| {
            let bits = next();
            ((bits & 0x87ff) | 0x3800).to_le_bytes()
        });
        self.write(&buffer, 0, &halves.collect::<Vec<u8>>())?;
        let mut done = PIECE;
        while done < bytes {
            let more = done.min(bytes - done);
            copy(gpu, buffer.start() + done as u64, buffer.start(), more)?;
            done += more;
        }
        Ok(buffer)
    }
}

/// Copies within the device's memory, in the order of the stream.
fn copy(gpu: &Arc<Gpu>, to: u64, from: u64, bytes: usize) -> Result<()> {
    gpu.stream.bind()?;
    // SAFETY: both ranges lie in buffers of the caller and do not meet.
    unsafe { memcpy_dtod_async(to, from, bytes, gpu.stream.raw()) }
        .doing(gpu.id(), "copy", || format!("{bytes} bytes"))
}

/// The median time of `work` on the device, after one run that is not counted.
fn median_seconds(gpu: &Arc<Gpu>, work: &mut dyn FnMut() -> Result<()>) -> Result<f64> {
    work()?;
    let mut seconds = Vec::new();
    for _ in 0..TRIES {
        let [start, end] = [gpu.stream.event(true)?, gpu.stream.event(true)?];
        gpu.stream.record(&start)?;
        work()?;
        gpu.stream.record(&end)?;
        gpu.synchronize()?;
        let ms = start.elapsed_ms(&end).doing(gpu.id(), "time", || "an event".to_owned())?;
        seconds.push(f64::from(ms) / 1e3);
    }
    seconds.sort_by(f64::total_cmp);
    Ok(seconds[TRIES / 2])
}
