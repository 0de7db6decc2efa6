//! The halves of a block for many rows: cuBLASLt's products, with attention between them, over
//! activations that every kernel leaves rounded as the next product takes them (`many_rows.cu`).
//!
//! Queries are rounded to the type of the KV cache, so that the matrix units take them with its
//! keys. Not: few rows (`segment`), f32 activations, caches of other types; `supports` refuses these.

mod attention;
mod by_rows;
mod mlp;

pub(crate) use attention::ManyRowsAttention;
pub(crate) use by_rows::ByRows;
pub(crate) use mlp::ManyRowsMlp;

use bytemuck::{Pod, Zeroable};
use cudarc::driver::result::memset_d8_async;
use metallic::dispatch::{Reason, Support};
use metallic::op::{LinearSpec, RmsNormArgs, RmsNormSpec};
use metallic::tensor::{DType, Tensor};
use metallic::{Error, Result};

use crate::cuda::buffer::{CudaBuffer, device_ptr};
use crate::cuda::error::Doing;
use crate::cuda::gpu::{Gpu, Kernel};
use crate::cuda::legacy::product_type;
use crate::cuda::module::LaunchShape;
use crate::cuda::view::dtype_code;

/// Rows that the kernels for few rows serve.
const FEW: usize = 8;
/// Width of a row that a block keeps in shared memory.
const MAX_WIDTH: usize = 8192;
/// What 16-byte accesses ask of an address.
const ALIGNMENT: u64 = 16;

/// One `struct Numbers` of `many_rows.cu`, in bytes.
const NUMBERS: usize = 16;

/// What two products of a half are scaled with.
struct Numbers(CudaBuffer);

impl Numbers {
    /// Both unknown yet.
    fn new(gpu: &Gpu) -> Result<Self> {
        let numbers = gpu.workspace(2 * NUMBERS)?;
        gpu.stream.bind()?;
        // SAFETY: the buffer has this size.
        unsafe { memset_d8_async(numbers.start(), 0, 2 * NUMBERS, gpu.stream.raw()) }.doing(
            gpu.id(),
            "zero",
            || "what products are scaled with".to_owned(),
        )?;
        Ok(Self(numbers))
    }

    /// Those of the first product, or of the second.
    fn of(&self, product: usize) -> u64 {
        self.0.start() + (product * NUMBERS) as u64
    }
}

/// `struct Norm` of `many_rows.cu`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Norm {
    x: u64,
    pending: u64,
    weight: u64,
    out: u64,
    numbers: u64,
    rows: u32,
    width: u32,
    eps: f32,
    to: u32,
    again: u32,
    unused: u32,
}

/// The residual sum and its norm in two bytes each, `[rows, width]` of `to`.
fn norm(
    gpu: &Gpu,
    spec: &RmsNormSpec,
    args: &RmsNormArgs,
    to: DType,
    numbers: u64,
) -> Result<CudaBuffer> {
    let rows = args.x.shape()[0];
    let out = gpu.workspace(rows * spec.width * 2)?;
    let params = Norm {
        x: device_ptr(&args.x),
        pending: args.residual.as_ref().map_or(0, device_ptr),
        weight: device_ptr(&args.weight),
        out: out.start(),
        numbers,
        rows: rows as u32,
        width: spec.width as u32,
        eps: spec.eps(),
        to: dtype_code(to),
        again: 0,
        unused: 0,
    };
    let kernel = Kernel::plain("many_rows", "norm_halves");
    let shared_bytes = (spec.width * size_of::<f32>()) as u32;
    let shape = |blocks: usize| LaunchShape { shared_bytes, ..LaunchShape::linear(blocks, 256) };
    // SAFETY: dense f32 tensors of these shapes, and room for as many numbers of two bytes.
    unsafe { gpu.launch(kernel, shape(rows), &params) }?;
    if to == DType::F16 {
        // The sum was added by the first launch.
        let again = Norm { pending: 0, again: 1, ..params };
        let blocks = rows.min(2 * gpu.stream.properties().multiprocessors as usize);
        // SAFETY: as above.
        unsafe { gpu.launch(kernel, shape(blocks), &again) }?;
    }
    Ok(out)
}

/// Whether products over these weights take activations of one two-byte type.
fn supports_products(products: &[&LinearSpec]) -> Support {
    let first = product_type(products[0]);
    for product in products {
        let got = product_type(product);
        if !matches!(got, DType::F16 | DType::Bf16) {
            let feature = "activations in f32, as exact products and f32 weights take them";
            return Support::No(Reason::Missing { feature });
        }
        if got != first {
            let feature = "products of one input in different types";
            return Support::No(Reason::Missing { feature });
        }
        if !product.in_features.is_multiple_of(8) {
            let feature = "rows that are no multiple of 8 elements";
            return Support::No(Reason::Missing { feature });
        }
    }
    Support::Yes
}

/// Whether the kernels take `rows` rows of this norm.
fn supports_rows(gpu: &Gpu, rows: usize, norm: &RmsNormSpec) -> Support {
    if rows <= FEW {
        return Support::No(Reason::Missing { feature: "8 rows and fewer" });
    }
    if norm.width > MAX_WIDTH {
        return Support::No(Reason::Range { what: "hidden", got: norm.width, max: MAX_WIDTH });
    }
    Support::when(gpu.blas.is_ok(), || Reason::Missing { feature: "cuBLASLt, not installed" })
}

/// The first refusal, if any.
fn all(answers: impl IntoIterator<Item = Support>) -> Support {
    answers.into_iter().find(|answer| *answer != Support::Yes).unwrap_or(Support::Yes)
}

/// Fails where a tensor does not start at a multiple of 16 bytes, before anything is written.
fn aligned(op: &'static str, tensors: &[&Tensor]) -> Result<()> {
    if tensors.iter().all(|tensor| device_ptr(tensor).is_multiple_of(ALIGNMENT)) {
        return Ok(());
    }
    let reason = Reason::Missing { feature: "tensors that start between multiples of 16 bytes" };
    Err(Error::Declined { op, kernel: "fused", reason })
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    /// The numbers are those of the structs of `many_rows.cu`, as a C++ compiler lays them out.
    #[test]
    fn parameters_lie_where_the_kernels_look() {
        assert_eq!(
            (size_of::<Norm>(), offset_of!(Norm, rows), offset_of!(Norm, again)),
            (64, 40, 56)
        );
        let gated =
            (size_of::<mlp::Gated>(), offset_of!(mlp::Gated, fours), offset_of!(mlp::Gated, again));
        assert_eq!(gated, (48, 32, 44));
        let heads = [
            size_of::<attention::Heads>(),
            offset_of!(attention::Heads, numbers),
            offset_of!(attention::Heads, k_cache),
            offset_of!(attention::Heads, v_cache),
            offset_of!(attention::Heads, rows),
            offset_of!(attention::Heads, pairs),
            offset_of!(attention::Heads, eps),
        ];
        assert_eq!(heads, [256, 80, 88, 152, 216, 240, 248]);
    }
}
