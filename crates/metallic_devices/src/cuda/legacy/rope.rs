//! `Rope`, in place, a pair a thread.

use std::sync::Arc;

use bytemuck::{Pod, Zeroable};
use metallic::Result;
use metallic::dispatch::{ExecCx, KernelInvocable, Support};
use metallic::op::{Rope, RopeArgs, RopePairing, RopeSpec};

use crate::cuda::buffer::device_ptr;
use crate::cuda::gpu::{Gpu, Kernel};
use crate::cuda::module::LaunchShape;

pub(crate) struct LegacyRope(pub(crate) Arc<Gpu>);

/// `struct Rope` of `rope.cu`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    x: u64,
    cos: u64,
    sin: u64,
    row_stride: i64,
    head_stride: i64,
    work: u64,
    heads: u32,
    pairs: u32,
    interleaved: u32,
    unused: u32,
}

impl KernelInvocable<Rope> for LegacyRope {
    fn supports(&self, _: &RopeSpec) -> Support {
        Support::Yes
    }

    fn run(&self, _: &ExecCx<'_>, spec: &RopeSpec, args: &RopeArgs) -> Result<()> {
        let strides = args.x.layout().strides();
        let work = args.x.shape()[0] * spec.heads * spec.pairs;
        let params = Params {
            x: device_ptr(&args.x),
            cos: device_ptr(&args.cos),
            sin: device_ptr(&args.sin),
            row_stride: strides[0] as i64,
            head_stride: strides[1] as i64,
            work: work as u64,
            heads: spec.heads as u32,
            pairs: spec.pairs as u32,
            interleaved: u32::from(spec.pairing == RopePairing::Interleaved),
            unused: 0,
        };
        let shape = LaunchShape::linear(work.div_ceil(256), 256);
        // SAFETY: f32 tensors of these shapes and strides; pairs of `x` share no element.
        unsafe { self.0.launch(Kernel::plain("rope", "rope"), shape, &params) }
    }
}
