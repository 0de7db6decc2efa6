//! `MlpBlock` as its component kernels, one after another, as if each had been called.

use metallic::Result;
use metallic::dispatch::{ExecCx, KernelInvocable, Support};
use metallic::segment::{MlpBlock, MlpBlockArgs, MlpBlockSpec};

use super::{Cpu, LegacyLinear, LegacyRmsNorm, LegacySwiGlu, empty};

pub(crate) struct LegacyMlpBlock {
    norm: LegacyRmsNorm,
    linear: LegacyLinear,
    swiglu: LegacySwiGlu,
}

impl LegacyMlpBlock {
    pub(crate) fn new(cpu: &Cpu) -> Self {
        let cpu = || cpu.clone();
        Self {
            norm: LegacyRmsNorm(cpu()),
            linear: LegacyLinear(cpu()),
            swiglu: LegacySwiGlu(cpu()),
        }
    }
}

impl KernelInvocable<MlpBlock> for LegacyMlpBlock {
    fn supports(&self, _: &MlpBlockSpec) -> Support {
        Support::Yes
    }

    fn run(&self, cx: &ExecCx<'_>, spec: &MlpBlockSpec, args: &MlpBlockArgs) -> Result<()> {
        let calls = args.calls(&|shape| empty(cx, shape))?;
        self.norm.run(cx, &spec.norm, &calls.norm)?;
        self.linear.run(cx, &spec.gate, &calls.gate)?;
        self.linear.run(cx, &spec.up, &calls.up)?;
        self.swiglu.run(cx, &spec.swiglu, &calls.swiglu)?;
        self.linear.run(cx, &spec.down, &calls.down)
    }
}
