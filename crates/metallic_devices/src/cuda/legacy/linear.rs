//! `Linear` for a few rows: W is read once at the memory's rate. x stays f32, or is rounded to 8 bits
//! per 32 elements where W is quantised and the call allows it. Not: many rows, which go to the matrix
//! units (`gemm`).

use std::sync::Arc;

use bytemuck::{Pod, Zeroable};
use metallic::Result;
use metallic::dispatch::{ExecCx, KernelInvocable, Reason, Support};
use metallic::op::{Linear, LinearArgs, LinearSpec, Precision};
use metallic::tensor::DType;

use crate::cuda::buffer::device_ptr;
use crate::cuda::gpu::{Gpu, Kernel};
use crate::cuda::module::{LaunchShape, Param};

/// Rows of x that one pass over W serves.
const MAX_ROWS: usize = 8;
/// The same with 8-bit activations.
const MAX_ROWS_I8: usize = 4;
/// Warps of a block with f32 activations.
const WARPS: usize = 4;
/// Warps of a block with 8-bit activations.
const WARPS_I8: usize = 8;
/// Warps of a multiprocessor that its registers allow with 8-bit activations.
const RESIDENT_I8: usize = 24;
/// Most shared memory for 8-bit activations, in bytes: beside the weights' pieces, every chip since
/// sm_80 has it.
const SHARED_I8: usize = 60 << 10;

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

/// How warps share the rows of W: (warps a row, whether a warp takes two rows).
fn sharing(n: usize, row_bytes: usize, wanted: usize) -> (usize, bool) {
    let split = match n {
        _ if n >= wanted || row_bytes < 2048 => 1,
        _ if 2 * n >= wanted || row_bytes < 4096 => 2,
        _ => 4,
    };
    (split, n >= 2 * wanted)
}

/// Shared memory for the pieces of one row that a warp has at once: `STAGES * STAGE_BYTES` of
/// `gemv_i8.cu`, and of `segment_i8.cu`.
pub(crate) fn stage_bytes(weight: DType) -> usize {
    let piece = 1024 / weight.block_len() * weight.block_bytes();
    let stages = if piece > 768 { 3 } else { 4 };
    stages * (piece.next_multiple_of(16) + 16)
}

impl LegacyGemv {
    /// Rows `first .. first + m` of x.
    fn few(&self, spec: &LinearSpec, args: &LinearArgs, first: usize, m: usize) -> Result<()> {
        let (n, k) = (spec.out_features, spec.in_features);
        if n == 0 {
            return Ok(());
        }
        let row_bytes = spec.weight.row_bytes(k).expect("whole blocks");
        let mut params = Params {
            x: device_ptr(&args.x) + (first * k * size_of::<f32>()) as u64,
            weight: device_ptr(&args.weight),
            bias: args.bias.as_ref().map_or(0, device_ptr),
            out: device_ptr(&args.out) + (first * n * size_of::<f32>()) as u64,
            row_bytes: row_bytes as u64,
            n: n as u32,
            k: k as u32,
            m: m as u32,
            split: 1,
        };
        // Codes and three numbers for each 32 elements.
        let codes = m.next_power_of_two() * k / 32 * 48;
        let rounded = spec.precision == Precision::Quantized
            && spec.weight.is_quantized()
            && m <= MAX_ROWS_I8
            && codes <= SHARED_I8
            && params.x.is_multiple_of(16);
        let multiprocessors = self.0.stream.properties().multiprocessors as usize;
        let variant = variant(spec.weight);
        if rounded {
            let (split, two) = sharing(n, row_bytes, multiprocessors * RESIDENT_I8);
            let (name, rows) = match m {
                1 if two => ("gemv_i8_1x2", 2),
                1 => ("gemv_i8_1x1", 1),
                2 => ("gemv_i8_2x1", 1),
                _ => ("gemv_i8_4x1", 1),
            };
            params.split = split as u32;
            let shared = codes + WARPS_I8 * rows * stage_bytes(spec.weight);
            let at_once = self.0.stream.properties().shared_bytes as usize / shared;
            let resident = multiprocessors * at_once.clamp(1, RESIDENT_I8 / WARPS_I8);
            // As many blocks as make every one walk over equally many rows.
            let blocks = n.div_ceil(WARPS_I8 / split * rows);
            let blocks = blocks.div_ceil(blocks.div_ceil(resident));
            let shape = LaunchShape {
                shared_bytes: shared as u32,
                ..LaunchShape::linear(blocks, 32 * WARPS_I8 as u32)
            };
            let function = self.0.function(Kernel { source: "gemv_i8", variant, name })?;
            function.allow_shared(shared as u32)?;
            // SAFETY: as below; the block has the shared memory its codes need.
            return unsafe { function.launch(shape, &[Param::new(&params)]) };
        }
        let (split, two) = sharing(n, row_bytes, multiprocessors * 16);
        let (name, rows) = match m {
            1 if two => ("gemv_1x2", 2),
            1 => ("gemv_1x1", 1),
            2 => ("gemv_2x1", 1),
            3 | 4 => ("gemv_4x1", 1),
            _ => ("gemv_8x1", 1),
        };
        params.split = split as u32;
        let shape = LaunchShape::linear(n.div_ceil(WARPS / split * rows), 32 * WARPS as u32);
        let kernel = Kernel { source: "gemv", variant, name };
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
            let rounded = Source::named("gemv_i8").variants().any(|line| line == variant(dtype));
            assert_eq!(rounded, dtype.is_quantized(), "{dtype}");
        }
    }
}
