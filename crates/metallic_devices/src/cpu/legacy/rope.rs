//! `Rope`, in place, row by row.

use metallic::Result;
use metallic::dispatch::{ExecCx, KernelInvocable, Support};
use metallic::op::{Rope, RopeArgs, RopeSpec};

use super::Cpu;
use crate::cpu::buffer::{Rows, dense};
use crate::cpu::kernels::rope as kernel;

pub(crate) struct LegacyRope(pub(crate) Cpu);

impl KernelInvocable<Rope> for LegacyRope {
    fn supports(&self, _: &RopeSpec) -> Support {
        Support::Yes
    }

    fn run(&self, _: &ExecCx<'_>, spec: &RopeSpec, args: &RopeArgs) -> Result<()> {
        let RopeSpec { heads, head_dim, pairs, pairing } = *spec;
        let (cos, sin): (&[f32], &[f32]) = (dense(&args.cos), dense(&args.sin));
        let strides = args.x.layout().strides();
        let (row_stride, head_stride) = (strides[0], strides[1]);
        let x_rows = Rows::<f32>::output(&args.x);
        self.0.for_rows(args.x.shape()[0], heads * head_dim, &|first, rows| {
            for row in first..first + rows {
                let angles = row * pairs..(row + 1) * pairs;
                for head in 0..heads {
                    let start = row * row_stride + head * head_stride;
                    // SAFETY: a head of this view; rows belong to one task each.
                    let x = unsafe { x_rows.slice(start, head_dim) };
                    let angles = (&cos[angles.clone()], &sin[angles.clone()]);
                    kernel::rope(self.0.level, pairing, x, head_dim, angles);
                }
            }
        });
        Ok(())
    }
}
