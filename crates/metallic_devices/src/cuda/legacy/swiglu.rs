//! `SwiGlu`, element by element.

use std::sync::Arc;

use bytemuck::{Pod, Zeroable};
use metallic::Result;
use metallic::dispatch::{ExecCx, KernelInvocable, Support};
use metallic::op::{SwiGlu, SwiGluArgs, SwiGluSpec};

use crate::cuda::buffer::device_ptr;
use crate::cuda::gpu::{Gpu, Kernel};

pub(crate) struct LegacySwiGlu(pub(crate) Arc<Gpu>);

/// `struct SwiGlu` of `swiglu.cu`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    gate: u64,
    up: u64,
    out: u64,
    elements: u64,
}

impl KernelInvocable<SwiGlu> for LegacySwiGlu {
    fn supports(&self, _: &SwiGluSpec) -> Support {
        Support::Yes
    }

    fn run(&self, _: &ExecCx<'_>, _: &SwiGluSpec, args: &SwiGluArgs) -> Result<()> {
        let elements = args.gate.shape().elements();
        let params = Params {
            gate: device_ptr(&args.gate),
            up: device_ptr(&args.up),
            out: device_ptr(&args.out),
            elements: elements as u64,
        };
        let shape = self.0.strided(elements, 256);
        // SAFETY: dense f32 tensors with this many elements; `out` is an operand or lies apart.
        unsafe { self.0.launch(Kernel::plain("swiglu", "swiglu"), shape, &params) }
    }
}
