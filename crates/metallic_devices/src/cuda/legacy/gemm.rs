//! `Linear` for many rows: cuBLASLt on the matrix units.
//!
//! Float weights are used as stored, with activations rounded to their type; quantised ones are
//! decoded to f16 first. f16 activations are scaled by a power of two that fits the largest one, and
//! the product is scaled back, so nothing overflows. With `Precision::Exact`, all is f32.

use std::sync::Arc;

use bytemuck::{Pod, Zeroable};
use metallic::Result;
use metallic::dispatch::{ExecCx, KernelInvocable, Reason, Support};
use metallic::op::{Linear, LinearArgs, LinearSpec, Precision};
use metallic::tensor::DType;

use crate::cuda::blas::Product;
use crate::cuda::buffer::{CudaBuffer, device_ptr};
use crate::cuda::error::{Doing, device_error};
use crate::cuda::gpu::{Gpu, Kernel};
use crate::cuda::module::LaunchShape;
use crate::cuda::view::dtype_code;

pub(crate) struct LegacyGemm(pub(crate) Arc<Gpu>);

/// `struct Decode` of `convert.cu`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Decode {
    weight: u64,
    out: u64,
    row_bytes: u64,
    rows: u32,
    width: u32,
    dtype: u32,
    to: u32,
}

/// `struct Halves` of `convert.cu`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Halves {
    x: u64,
    out: u64,
    largest: u64,
    alpha: u64,
    elements: u64,
    to: u32,
    unused: u32,
}

/// The type both operands are multiplied in.
pub(crate) fn product_type(spec: &LinearSpec) -> DType {
    match (spec.precision, spec.weight) {
        (Precision::Exact, _) | (_, DType::F32) => DType::F32,
        (_, DType::Bf16) => DType::Bf16,
        _ => DType::F16,
    }
}

impl KernelInvocable<Linear> for LegacyGemm {
    fn supports(&self, _: &LinearSpec) -> Support {
        Support::when(self.0.blas.is_ok(), || Reason::Missing {
            feature: "cuBLASLt, not installed",
        })
    }

    fn run(&self, _: &ExecCx<'_>, spec: &LinearSpec, args: &LinearArgs) -> Result<()> {
        let gpu = &self.0;
        if args.x.shape()[0] == 0 || spec.out_features == 0 {
            return Ok(());
        }
        let dtype = product_type(spec);
        // α, 0 and the largest magnitude.
        let numbers = gpu.workspace(12)?;
        let x = self.activations(args, dtype, &numbers)?;
        let x = x.as_ref().map_or_else(|| device_ptr(&args.x), CudaBuffer::start);
        // SAFETY: dense tensors of these shapes, and scratch of the same.
        unsafe { multiply(gpu, spec, args, x, numbers.start()) }
    }
}

/// `args.out = α · x Wᵀ + bias` with `x` already as numbers of [`product_type`].
///
/// # Safety
/// `x` leads to `[rows, in_features]` such numbers, `alpha` to α and 0.
///
/// # Errors
/// Without cuBLASLt, or when it refuses; no memory for decoded weights.
pub(crate) unsafe fn multiply(
    gpu: &Gpu,
    spec: &LinearSpec,
    args: &LinearArgs,
    x: u64,
    alpha: u64,
) -> Result<()> {
    let blas = gpu
        .blas
        .as_ref()
        .map_err(|reason| device_error(gpu.id(), "multiply matrices", reason.clone()))?;
    let dtype = product_type(spec);
    let weight = (spec.weight != dtype).then(|| decode(gpu, spec, args, dtype)).transpose()?;
    let product = Product {
        x,
        weight: weight.as_ref().map_or_else(|| device_ptr(&args.weight), CudaBuffer::start),
        bias: args.bias.as_ref().map_or(0, device_ptr),
        out: device_ptr(&args.out),
        alpha,
        m: args.x.shape()[0],
        n: spec.out_features,
        k: spec.in_features,
        dtype,
    };
    // SAFETY: dense tensors of these shapes; the rest is the caller's promise.
    unsafe { blas.multiply(&product) }
}

/// W as numbers of `dtype`.
fn decode(gpu: &Gpu, spec: &LinearSpec, args: &LinearArgs, dtype: DType) -> Result<CudaBuffer> {
    let (rows, width) = (spec.out_features, spec.in_features);
    let out = gpu.workspace(rows * width * dtype.block_bytes())?;
    let params = Decode {
        weight: device_ptr(&args.weight),
        out: out.start(),
        row_bytes: spec.weight.row_bytes(width).expect("whole blocks") as u64,
        rows: rows as u32,
        width: width as u32,
        dtype: dtype_code(spec.weight),
        to: dtype_code(dtype),
    };
    let blocks = width.div_ceil(8 * 128);
    let shape = LaunchShape {
        grid: [blocks as u32, rows.min(65_535) as u32, 1],
        ..LaunchShape::linear(blocks, 128)
    };
    // SAFETY: a dense weight of this shape, and room for as many numbers.
    unsafe { gpu.launch(Kernel::plain("convert", "decode_rows"), shape, &params) }?;
    Ok(out)
}

impl LegacyGemm {
    /// x as numbers of `dtype`, `None` when it is as it should be; writes α and 0 to `numbers`.
    fn activations(
        &self,
        args: &LinearArgs,
        dtype: DType,
        numbers: &CudaBuffer,
    ) -> Result<Option<CudaBuffer>> {
        let gpu = &self.0;
        let elements = args.x.shape().elements();
        let plain = dtype == DType::F32;
        let out = (!plain).then(|| gpu.workspace(elements * dtype.block_bytes())).transpose()?;
        let params = Halves {
            x: device_ptr(&args.x),
            out: out.as_ref().map_or(0, CudaBuffer::start),
            largest: numbers.start() + 8,
            alpha: numbers.start(),
            // With f32 there is nothing to convert; α is written all the same.
            elements: if plain { 0 } else { elements as u64 },
            to: dtype_code(dtype),
            unused: 0,
        };
        let shape = gpu.strided(params.elements as usize, 256);
        if dtype == DType::F16 {
            gpu.stream.bind()?;
            // SAFETY: 12 bytes of scratch.
            unsafe {
                cudarc::driver::result::memset_d8_async(numbers.start(), 0, 12, gpu.stream.raw())
            }
            .doing(gpu.id(), "zero", || "12 bytes".to_owned())?;
            // SAFETY: x has this many elements.
            unsafe { gpu.launch(Kernel::plain("convert", "largest"), shape, &params) }?;
        }
        // SAFETY: x and out have this many elements.
        unsafe { gpu.launch(Kernel::plain("convert", "to_halves"), shape, &params) }?;
        Ok(out)
    }
}
