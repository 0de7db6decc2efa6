//! `Linear` through the products of `cpu::linear`.

use metallic::Result;
use metallic::dispatch::{ExecCx, KernelInvocable, Support};
use metallic::op::{Linear, LinearArgs, LinearSpec};

use super::Cpu;
use crate::cpu::buffer::{dense, dense_bytes, dense_mut};
use crate::cpu::linear as products;

pub(crate) struct LegacyLinear(pub(crate) Cpu);

impl KernelInvocable<Linear> for LegacyLinear {
    fn supports(&self, _: &LinearSpec) -> Support {
        Support::Yes
    }

    fn run(&self, _: &ExecCx<'_>, spec: &LinearSpec, args: &LinearArgs) -> Result<()> {
        let weight = products::LinearWeight {
            dtype: spec.weight,
            rows: spec.out_features,
            cols: spec.in_features,
            bytes: dense_bytes(&args.weight),
        };
        let product = products::Linear {
            x: dense(&args.x),
            m: args.x.shape()[0],
            weight,
            bias: args.bias.as_ref().map(dense),
            precision: spec.precision,
            level: self.0.level,
        };
        // SAFETY: `out` is this op's only output; `check` saw that it lies apart from the inputs.
        products::linear(&self.0.pool, &product, unsafe { dense_mut(&args.out) });
        Ok(())
    }
}
