//! `KvAppend`: converts new rows and writes them at each sequence's position, 32 elements a warp.

use std::sync::Arc;

use bytemuck::{Pod, Zeroable};
use metallic::Result;
use metallic::dispatch::{ExecCx, KernelInvocable, Support};
use metallic::op::{KvAppend, KvAppendArgs, KvAppendSpec};

use crate::cuda::buffer::device_ptr;
use crate::cuda::gpu::{Gpu, Kernel};
use crate::cuda::module::LaunchShape;
use crate::cuda::view::View;

/// Warps of a block.
const WARPS: usize = 4;

pub(crate) struct LegacyKvAppend(pub(crate) Arc<Gpu>);

/// `struct KvAppend` of `kv_append.cu`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    fresh: View,
    cache: View,
    starts: u64,
    fault: u64,
    runs: u64,
}

impl KernelInvocable<KvAppend> for LegacyKvAppend {
    fn supports(&self, _: &KvAppendSpec) -> Support {
        Support::Yes
    }

    fn run(&self, _: &ExecCx<'_>, spec: &KvAppendSpec, args: &KvAppendArgs) -> Result<()> {
        let rows: usize = args.new.shape()[..3].iter().product();
        let runs = rows * spec.dim.div_ceil(32);
        let params = Params {
            fresh: View::new(&args.new),
            cache: View::new(&args.cache),
            starts: device_ptr(&args.starts),
            fault: self.0.fault(),
            runs: runs as u64,
        };
        let shape = LaunchShape::linear(runs.div_ceil(WARPS), 32 * WARPS as u32);
        // SAFETY: tensors of these shapes; the kernel writes no row outside the cache.
        unsafe { self.0.launch(Kernel::plain("kv_append", "kv_append"), shape, &params) }
    }
}
