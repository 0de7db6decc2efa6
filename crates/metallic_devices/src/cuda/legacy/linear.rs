//! `Linear` for a few rows: W is read once at the memory's rate, x stays f32. Not: many rows, which
//! go to the matrix units (`gemm`).

use std::sync::Arc;

use bytemuck::{Pod, Zeroable};
use metallic::Result;
use metallic::dispatch::{ExecCx, KernelInvocable, Reason, Support};
use metallic::op::{Linear, LinearArgs, LinearSpec};
use metallic::tensor::DType;

use crate::cuda::buffer::device_ptr;
use crate::cuda::gpu::{Gpu, Kernel};
use crate::cuda::module::LaunchShape;

/// Rows of x that one pass over W serves.
pub(super) const MAX_ROWS: usize = 8;
/// Warps of a block.
const WARPS: usize = 4;

pub(crate) struct LegacyGemv(pub(crate) Arc<Gpu>);

/// `struct Gemv` of `gemv.cu`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    x: u64,
    weight: u64,
    bias: u64,
    out: u64,
    row_bytes: u64,
    n: u32,
    k: u32,
    m: u32,
    split: u32,
}

/// The variant line of `gemv.cu` for a weight type.
fn variant(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 | DType::I32 | DType::I64 | DType::Bool => "-DWEIGHT=0",
        DType::F16 => "-DWEIGHT=1",
        DType::Bf16 => "-DWEIGHT=2",
        DType::Q8_0 => "-DWEIGHT=5",
        DType::Q4_0 => "-DWEIGHT=6",
        DType::Q4_1 => "-DWEIGHT=7",
        DType::Q5_0 => "-DWEIGHT=8",
        DType::Q5_1 => "-DWEIGHT=9",
        DType::Q2K => "-DWEIGHT=10",
        DType::Q3K => "-DWEIGHT=11",
        DType::Q4K => "-DWEIGHT=12",
        DType::Q5K => "-DWEIGHT=13",
        DType::Q6K => "-DWEIGHT=14",
        DType::Iq4Nl => "-DWEIGHT=15",
        DType::Iq4Xs => "-DWEIGHT=16",
    }
}

impl KernelInvocable<Linear> for LegacyGemv {
    fn supports(&self, spec: &LinearSpec) -> Support {
        // Without cuBLASLt, many rows go through here too, eight at a time.
        let few = spec.rows_bucket <= MAX_ROWS || self.0.blas.is_err();
        Support::when(few, || Reason::Range { what: "rows", got: spec.rows_bucket, max: MAX_ROWS })
    }

    fn run(&self, _: &ExecCx<'_>, spec: &LinearSpec, args: &LinearArgs) -> Result<()> {
        let rows = args.x.shape()[0];
        for first in (0..rows).step_by(MAX_ROWS) {
            self.few(spec, args, first, MAX_ROWS.min(rows - first))?;
        }
        Ok(())
    }
}

impl LegacyGemv {
    /// Rows `first .. first + m` of x.
    fn few(&self, spec: &LinearSpec, args: &LinearArgs, first: usize, m: usize) -> Result<()> {
        let (n, k) = (spec.out_features, spec.in_features);
        let row_bytes = spec.weight.row_bytes(k).expect("whole blocks");
        // Warps that would run at once; fewer rows than that are shared among warps of a block.
        let wanted = self.0.stream.properties().multiprocessors as usize * 16;
        let wide = m == 1 && n >= 2 * wanted;
        let split = match n {
            _ if n >= wanted || row_bytes < 2048 => 1,
            _ if 2 * n >= wanted || row_bytes < 4096 => 2,
            _ => 4,
        };
        let (name, each) = match m {
            1 if wide => ("gemv_1x2", 2),
            1 => ("gemv_1x1", 1),
            2 => ("gemv_2x1", 1),
            3 | 4 => ("gemv_4x1", 1),
            _ => ("gemv_8x1", 1),
        };
        let params = Params {
            x: device_ptr(&args.x) + (first * k * size_of::<f32>()) as u64,
            weight: device_ptr(&args.weight),
            bias: args.bias.as_ref().map_or(0, device_ptr),
            out: device_ptr(&args.out) + (first * n * size_of::<f32>()) as u64,
            row_bytes: row_bytes as u64,
            n: n as u32,
            k: k as u32,
            m: m as u32,
            split: split as u32,
        };
        let shape = LaunchShape::linear(n.div_ceil(WARPS / split * each), 32 * WARPS as u32);
        let kernel = Kernel { source: "gemv", variant: variant(spec.weight), name };
        // SAFETY: dense tensors of these shapes. The kernel reads the aligned words around rows of
        // W, which stay inside W's buffer: those start and end at multiples of 256 bytes.
        unsafe { self.0.launch(kernel, shape, &params) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::sources::Source;
    use crate::cuda::view::dtype_code;

    #[test]
    fn every_weight_type_has_its_variant() {
        let variants: Vec<_> = Source::named("gemv").variants().collect();
        let weights =
            DType::ALL.into_iter().filter(|dtype| dtype.is_float() || dtype.is_quantized());
        assert_eq!(variants.len(), weights.clone().count());
        for dtype in weights {
            assert_eq!(variant(dtype), format!("-DWEIGHT={}", dtype_code(dtype)));
            assert!(variants.contains(&variant(dtype)), "{dtype}");
        }
    }
}
