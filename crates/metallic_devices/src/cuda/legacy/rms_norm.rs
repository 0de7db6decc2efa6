//! `RmsNorm`, alone or after the residual sum: a warp a row where rows are short, else a block.

use std::sync::Arc;

use bytemuck::{Pod, Zeroable};
use metallic::Result;
use metallic::dispatch::{ExecCx, KernelInvocable, Support};
use metallic::op::{RmsNorm, RmsNormArgs, RmsNormSpec};

use crate::cuda::buffer::device_ptr;
use crate::cuda::gpu::{Gpu, Kernel};
use crate::cuda::module::LaunchShape;

/// Rows up to this wide, those of heads, take a warp each.
const WARP_WIDTH: usize = 256;
/// Warps of a block, a row each.
const WARPS: usize = 4;

pub(crate) struct LegacyRmsNorm(pub(crate) Arc<Gpu>);

/// `struct RmsNorm` of `rms_norm.cu`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    x: u64,
    residual: u64,
    weight: u64,
    out: u64,
    rows: u64,
    width: u32,
    eps: f32,
}

impl KernelInvocable<RmsNorm> for LegacyRmsNorm {
    fn supports(&self, _: &RmsNormSpec) -> Support {
        Support::Yes
    }

    fn run(&self, _: &ExecCx<'_>, spec: &RmsNormSpec, args: &RmsNormArgs) -> Result<()> {
        let rows = args.x.shape()[0];
        let params = Params {
            x: device_ptr(&args.x),
            residual: args.residual.as_ref().map_or(0, device_ptr),
            weight: device_ptr(&args.weight),
            out: device_ptr(&args.out),
            rows: rows as u64,
            width: spec.width as u32,
            eps: spec.eps(),
        };
        let (name, shape) = if spec.width <= WARP_WIDTH {
            ("rms_norm_warps", LaunchShape::linear(rows.div_ceil(WARPS), 32 * WARPS as u32))
        } else {
            let threads = (spec.width / 4).next_power_of_two().clamp(64, 512);
            ("rms_norm_blocks", LaunchShape::linear(rows, threads as u32))
        };
        // SAFETY: dense f32 tensors of these shapes; `out` is `x` or lies apart from all.
        unsafe { self.0.launch(Kernel::plain("rms_norm", name), shape, &params) }
    }
}
