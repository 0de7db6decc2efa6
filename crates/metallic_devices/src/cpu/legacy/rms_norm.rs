//! `RmsNorm`, alone or after the residual sum.

use metallic::Result;
use metallic::dispatch::{ExecCx, KernelInvocable, Support};
use metallic::op::{RmsNorm, RmsNormArgs, RmsNormSpec};

use super::Cpu;
use crate::cpu::buffer::{Rows, data_ptr, dense};
use crate::cpu::kernels::rms_norm::{AddRmsNorm, add_rms_norm, rms_norm, rms_norm_in_place};

pub(crate) struct LegacyRmsNorm(pub(crate) Cpu);

impl KernelInvocable<RmsNorm> for LegacyRmsNorm {
    fn supports(&self, _: &RmsNormSpec) -> Support {
        Support::Yes
    }

    fn run(&self, _: &ExecCx<'_>, spec: &RmsNormSpec, args: &RmsNormArgs) -> Result<()> {
        let (level, width) = (self.0.level, spec.width);
        let weight: &[f32] = dense(&args.weight);
        let in_place = data_ptr(&args.x) == data_ptr(&args.out);
        let out_rows = Rows::<f32>::output(&args.out);
        let x_rows = match args.residual {
            Some(_) => Rows::<f32>::output(&args.x),
            None => Rows::<f32>::input(&args.x),
        };
        self.0.for_rows(args.x.shape()[0], width, &|first, rows| {
            let (start, len) = (first * width, rows * width);
            // SAFETY: tasks have disjoint rows, and `check` compared the shapes of x and out.
            let y = unsafe { out_rows.slice(start, len) };
            match &args.residual {
                // `check` refuses a residual when `out` is `x`.
                None if in_place => rms_norm_in_place(level, y, weight, spec.eps()),
                None => {
                    // SAFETY: as above; `out` lies apart from `x` here, and nothing writes `x`.
                    let x = unsafe { x_rows.read(start, len) };
                    rms_norm(level, x, weight, spec.eps(), y);
                }
                Some(residual) => {
                    // SAFETY: as above; `check` saw that x, out and the residual lie apart.
                    let x = unsafe { x_rows.slice(start, len) };
                    let r = &dense::<f32>(residual)[start..start + len];
                    let eps = spec.eps();
                    add_rms_norm(level, AddRmsNorm { x, r, weight, eps, y });
                }
            }
        });
        Ok(())
    }
}
