//! `TopK`: one thread a row.

use metallic::Result;
use metallic::dispatch::{ExecCx, KernelInvocable, Support};
use metallic::op::{TopK, TopKArgs, TopKSpec};

use super::Cpu;
use crate::cpu::buffer::Rows;
use crate::cpu::kernels::top_k::top_k;

pub(crate) struct LegacyTopK(pub(crate) Cpu);

impl KernelInvocable<TopK> for LegacyTopK {
    fn supports(&self, _: &TopKSpec) -> Support {
        Support::Yes
    }

    fn run(&self, _: &ExecCx<'_>, spec: &TopKSpec, args: &TopKArgs) -> Result<()> {
        let TopKSpec { width, k } = *spec;
        let x = Rows::<f32>::input(&args.x);
        let stride = args.x.layout().strides()[0];
        let values = Rows::<f32>::output(&args.values);
        let ids = Rows::<i32>::output(&args.ids);
        let not_finite = Rows::<i32>::output(&args.not_finite);
        self.0.for_rows(args.x.shape()[0], width, &|first, rows| {
            for row in first..first + rows {
                // SAFETY: a row of x, which nothing writes.
                let x = unsafe { x.read(row * stride, width) };
                // SAFETY: tasks have disjoint rows; `check` compared the shapes, and saw that the
                // outputs lie apart from x and each other.
                let (values, ids, odd) = unsafe {
                    (values.slice(row * k, k), ids.slice(row * k, k), not_finite.slice(row, 1))
                };
                // `check` saw that i32 counts the columns.
                odd[0] = top_k(x, values, ids) as i32;
            }
        });
        Ok(())
    }
}
