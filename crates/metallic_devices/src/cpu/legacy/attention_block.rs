//! `AttentionBlock` as its component kernels, one after another, as if each had been called.

use metallic::Result;
use metallic::dispatch::{ExecCx, KernelInvocable, Support};
use metallic::segment::{AttentionBlock, AttentionBlockArgs, AttentionBlockSpec};

use super::{Cpu, LegacyKvAppend, LegacyLinear, LegacyRmsNorm, LegacyRope, LegacySdpa, empty};

pub(crate) struct LegacyAttentionBlock {
    norm: LegacyRmsNorm,
    linear: LegacyLinear,
    rope: LegacyRope,
    append: LegacyKvAppend,
    sdpa: LegacySdpa,
}

impl LegacyAttentionBlock {
    pub(crate) fn new(cpu: &Cpu) -> Self {
        let cpu = || cpu.clone();
        Self {
            norm: LegacyRmsNorm(cpu()),
            linear: LegacyLinear(cpu()),
            rope: LegacyRope(cpu()),
            append: LegacyKvAppend(cpu()),
            sdpa: LegacySdpa(cpu()),
        }
    }
}

impl KernelInvocable<AttentionBlock> for LegacyAttentionBlock {
    fn supports(&self, _: &AttentionBlockSpec) -> Support {
        Support::Yes
    }

    fn run(
        &self,
        cx: &ExecCx<'_>,
        spec: &AttentionBlockSpec,
        args: &AttentionBlockArgs,
    ) -> Result<()> {
        let calls = args.calls(&|shape| empty(cx, shape))?;
        self.norm.run(cx, &spec.norm, &calls.norm)?;
        for (spec, call) in spec.qkv.iter().zip(&calls.qkv) {
            self.linear.run(cx, spec, call)?;
        }
        let norms = spec.qk_norm.iter().flatten().zip(calls.qk_norm.iter().flatten());
        for (spec, call) in norms {
            self.norm.run(cx, spec, call)?;
        }
        for (spec, call) in spec.rope.iter().zip(&calls.rope) {
            self.rope.run(cx, spec, call)?;
        }
        for (spec, call) in spec.append.iter().zip(&calls.append) {
            self.append.run(cx, spec, call)?;
        }
        self.sdpa.run(cx, &spec.sdpa, &calls.sdpa)?;
        self.linear.run(cx, &spec.o, &calls.o)
    }
}
