//! Two kernels of one op, for few rows and for many, as one.

use metallic::Result;
use metallic::dispatch::{ExecCx, KernelInvocable, Reason, Support};
use metallic::op::Op;

/// Takes what either takes, with `few` where both do.
pub(crate) struct ByRows<F, M> {
    pub(crate) few: F,
    pub(crate) many: M,
}

impl<O: Op, F: KernelInvocable<O>, M: KernelInvocable<O>> KernelInvocable<O> for ByRows<F, M> {
    fn supports(&self, spec: &O::Spec) -> Support {
        match self.few.supports(spec) {
            // Too many for the one, so the other's answer counts.
            Support::No(Reason::Range { what: "rows", .. }) => self.many.supports(spec),
            Support::No(few) => match self.many.supports(spec) {
                Support::Yes => Support::Yes,
                Support::No(_) => Support::No(few),
            },
            Support::Yes => Support::Yes,
        }
    }

    fn run(&self, cx: &ExecCx<'_>, spec: &O::Spec, args: &O::Args) -> Result<()> {
        match self.few.supports(spec) {
            Support::Yes => self.few.run(cx, spec, args),
            Support::No(_) => self.many.run(cx, spec, args),
        }
    }
}
