//! `Add`, in place.

use metallic::Result;
use metallic::dispatch::{ExecCx, KernelInvocable, Support};
use metallic::op::{Add, AddArgs, AddSpec};

use super::Cpu;
use crate::cpu::buffer::{dense, dense_mut};
use crate::cpu::kernels::add::add_in_place;

pub(crate) struct LegacyAdd(pub(crate) Cpu);

impl KernelInvocable<Add> for LegacyAdd {
    fn supports(&self, _: &AddSpec) -> Support {
        Support::Yes
    }

    fn run(&self, _: &ExecCx<'_>, _: &AddSpec, args: &AddArgs) -> Result<()> {
        // SAFETY: `x` is this op's only output; `check` saw that `y` lies apart.
        add_in_place(self.0.level, unsafe { dense_mut(&args.x) }, dense(&args.y));
        Ok(())
    }
}
