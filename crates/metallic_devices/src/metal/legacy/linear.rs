//! `Linear`: a GEMV for few rows, a tiled GEMM for many, over every weight type.
//!
//! Activations stay f32 in both precisions; `kernels/gemm.h` and `kernels/linear.h` say why.

use metallic::Result;
use metallic::dispatch::{ExecCx, KernelInvocable, Support};
use metallic::op::{Linear, LinearArgs, LinearSpec, Op};
use metallic::tensor::Tensor;

use super::{SIMD_WIDTH, count};
use crate::metal::buffer::Bound;
use crate::metal::encoder::{Arg, Dispatch, Grid};
use crate::metal::failure;
use crate::metal::layout::shader_struct;
use crate::metal::library::{Source, kernel_source};
use crate::metal::pipeline::Kernel;
use crate::metal::stream::Metal;

const GEMV: Source = kernel_source!("linear_gemv");
const GEMM: Source = kernel_source!("linear_gemm");
/// Simdgroups of a threadgroup of both kernels.
const SIMDGROUPS: usize = 4;
/// Up to this many rows are few: beyond, a GEMV would read W more than once.
const FEW_ROWS: usize = 8;
/// Rows of a tile that the GEMM exists for, and its columns.
const TILE_ROWS: [usize; 2] = [32, 64];
const TILE_COLUMNS: usize = 32;

shader_struct! {
    [GEMV]
    pub(super) struct LinearParams {
        rows: u32,
        in_features: u32,
        out_features: u32,
        has_bias: u32,
        row_bytes: u64,
    }
}

pub(crate) struct LegacyLinear(pub(crate) Metal);

impl KernelInvocable<Linear> for LegacyLinear {
    fn supports(&self, _: &LinearSpec) -> Support {
        Support::Yes
    }

    fn run(&self, _: &ExecCx<'_>, spec: &LinearSpec, args: &LinearArgs) -> Result<()> {
        let LinearArgs { x, weight, bias, out, .. } = args;
        let (op, rows) = (Linear::ID, x.shape()[0]);
        let LinearSpec { in_features, out_features, .. } = *spec;
        check_alignment(weight)?;
        // A dense tensor of whole blocks has rows of whole blocks.
        let row_bytes = spec.weight.row_bytes(in_features).unwrap_or(0);
        let params = LinearParams {
            rows: count(op, rows)?,
            in_features: count(op, in_features)?,
            out_features: count(op, out_features)?,
            has_bias: u32::from(bias.is_some()),
            row_bytes: row_bytes as u64,
        };
        let Shape { source, function, groups } = Shape::of(spec, rows);
        // Without a bias, nothing reads that buffer.
        let bias = bias.as_ref().unwrap_or(x);
        self.0.encode(op, |encoder| {
            encoder.dispatch(&Dispatch {
                kernel: Kernel { source, function: &function, constants: &[] },
                args: &[Arg::In(x), Arg::In(weight), Arg::In(bias), Arg::Out(out)],
                params: bytemuck::bytes_of(&params),
                threadgroup: &[],
                grid: Grid::Groups(groups),
                threads: [SIMDGROUPS * SIMD_WIDTH, 1, 1],
            })
        })
    }
}

/// The kernel for a number of rows.
struct Shape {
    source: Source,
    function: String,
    groups: [usize; 3],
}

impl Shape {
    fn of(spec: &LinearSpec, rows: usize) -> Self {
        let (weight, columns) = (spec.weight, spec.out_features);
        if rows > FEW_ROWS {
            let tile = if rows <= TILE_ROWS[0] { TILE_ROWS[0] } else { TILE_ROWS[1] };
            let function = format!("linear_gemm_{weight}_r{tile}");
            let groups = [columns.div_ceil(TILE_COLUMNS), rows.div_ceil(tile), 1];
            return Self { source: GEMM, function, groups };
        }
        // Rows of x and columns of a simdgroup, as linear_gemv.metal has them.
        let (at_once, outputs) = match rows {
            0 | 1 => (1, 4),
            2..=4 => (4, 2),
            _ => (8, 2),
        };
        let function = format!("linear_gemv_{weight}_m{at_once}");
        let groups = [columns.div_ceil(SIMDGROUPS * outputs), rows.div_ceil(at_once), 1];
        Self { source: GEMV, function, groups }
    }
}

/// A file may place a tensor at any byte; kernels read weights by units of up to 4 bytes.
fn check_alignment(weight: &Tensor) -> Result<()> {
    let dtype = weight.dtype();
    let unit = if dtype.is_quantized() { 2 } else { dtype.block_bytes() };
    let offset = Bound::of(weight)?.offset;
    if offset.is_multiple_of(unit) {
        return Ok(());
    }
    let reason = format!("a weight of {dtype} at byte {offset}, which is no multiple of {unit}");
    Err(failure(Linear::ID, reason))
}
