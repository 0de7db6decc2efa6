//! `RmsNorm`, alone or after the residual sum: one threadgroup a row.

use metallic::Result;
use metallic::dispatch::{ExecCx, KernelInvocable, Support};
use metallic::op::{Op, RmsNorm, RmsNormArgs, RmsNormSpec};

use super::{SIMD_WIDTH, THREADS, count};
use crate::metal::encoder::{Arg, Dispatch, Grid};
use crate::metal::layout::shader_struct;
use crate::metal::library::{Source, kernel_source};
use crate::metal::pipeline::{Constant, Kernel};
use crate::metal::stream::Metal;

const SOURCE: Source = kernel_source!("rms_norm");
/// The index of `has_residual`.
const HAS_RESIDUAL: u32 = 0;

shader_struct! {
    [SOURCE]
    pub(super) struct RmsNormParams {
        width: u32,
        eps: f32,
    }
}

pub(crate) struct LegacyRmsNorm(pub(crate) Metal);

impl KernelInvocable<RmsNorm> for LegacyRmsNorm {
    fn supports(&self, _: &RmsNormSpec) -> Support {
        Support::Yes
    }

    fn run(&self, _: &ExecCx<'_>, spec: &RmsNormSpec, args: &RmsNormArgs) -> Result<()> {
        let RmsNormArgs { x, residual, weight, out, .. } = args;
        let params = RmsNormParams { width: count(RmsNorm::ID, spec.width)?, eps: spec.eps() };
        let constants = [Constant::bool(HAS_RESIDUAL, spec.residual)];
        let kernel = Kernel { source: SOURCE, function: "rms_norm_f32", constants: &constants };
        // Without a residual, nothing reads the second buffer and nothing writes the first.
        let (x, residual) = match residual {
            Some(residual) => (Arg::Out(x), Arg::In(residual)),
            None => (Arg::In(x), Arg::In(x)),
        };
        let threads = spec.width.next_multiple_of(SIMD_WIDTH).clamp(SIMD_WIDTH, THREADS);
        self.0.encode(RmsNorm::ID, |encoder| {
            encoder.dispatch(&Dispatch {
                kernel,
                args: &[x, residual, Arg::In(weight), Arg::Out(out)],
                params: bytemuck::bytes_of(&params),
                threadgroup: &[],
                grid: Grid::Groups([if spec.width == 0 { 0 } else { out.shape()[0] }, 1, 1]),
                threads: [threads, 1, 1],
            })
        })
    }
}
