//! `Add`, four elements a thread.

use std::sync::Arc;

use bytemuck::{Pod, Zeroable};
use metallic::Result;
use metallic::dispatch::{ExecCx, KernelInvocable, Support};
use metallic::op::{Add, AddArgs, AddSpec};

use crate::cuda::buffer::device_ptr;
use crate::cuda::gpu::{Gpu, Kernel};
use crate::cuda::module::LaunchShape;

pub(crate) struct LegacyAdd(pub(crate) Arc<Gpu>);

/// `struct Add` of `add.cu`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    x: u64,
    y: u64,
    elements: u64,
}

impl KernelInvocable<Add> for LegacyAdd {
    fn supports(&self, _: &AddSpec) -> Support {
        Support::Yes
    }

    fn run(&self, _: &ExecCx<'_>, _: &AddSpec, args: &AddArgs) -> Result<()> {
        let elements = args.x.shape().elements();
        let params =
            Params { x: device_ptr(&args.x), y: device_ptr(&args.y), elements: elements as u64 };
        let shape = LaunchShape::linear(elements.div_ceil(4 * 256), 256);
        // SAFETY: both tensors are dense f32 with this many elements.
        unsafe { self.0.launch(Kernel::plain("add", "add"), shape, &params) }
    }
}
