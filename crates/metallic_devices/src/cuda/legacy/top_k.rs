//! `TopK`: the best of every chunk of a row, then the best of those.

use std::sync::Arc;

use bytemuck::{Pod, Zeroable};
use metallic::Result;
use metallic::dispatch::{ExecCx, KernelInvocable, Support};
use metallic::op::{TopK, TopKArgs, TopKSpec};

use crate::cuda::buffer::device_ptr;
use crate::cuda::gpu::{Gpu, Kernel};
use crate::cuda::module::LaunchShape;

/// Elements that one block looks through; `CHUNK` in `top_k.cu`.
const CHUNK: usize = 2048;
/// Threads of a block.
const THREADS: u32 = 256;

pub(crate) struct LegacyTopK(pub(crate) Arc<Gpu>);

/// `struct TopK` of `top_k.cu`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    x: u64,
    best: u64,
    counts: u64,
    values: u64,
    ids: u64,
    not_finite: u64,
    row_stride: u64,
    width: u32,
    k: u32,
    run_log2: u32,
    chunks: u32,
}

impl KernelInvocable<TopK> for LegacyTopK {
    fn supports(&self, _: &TopKSpec) -> Support {
        Support::Yes
    }

    fn run(&self, _: &ExecCx<'_>, spec: &TopKSpec, args: &TopKArgs) -> Result<()> {
        let TopKSpec { width, k } = *spec;
        let (gpu, rows, chunks) = (&self.0, args.x.shape()[0], width.div_ceil(CHUNK));
        let best = gpu.workspace(rows * chunks * k * size_of::<u64>())?;
        let counts = gpu.workspace(rows * chunks * size_of::<u32>())?;
        let params = Params {
            x: device_ptr(&args.x),
            best: best.start(),
            counts: counts.start(),
            values: device_ptr(&args.values),
            ids: device_ptr(&args.ids),
            not_finite: device_ptr(&args.not_finite),
            row_stride: args.x.layout().strides()[0] as u64,
            width: width as u32,
            k: k as u32,
            run_log2: k.next_power_of_two().ilog2(),
            chunks: chunks as u32,
        };
        let kernel = |name| Kernel::plain("top_k", name);
        let row_groups = LaunchShape::linear(rows, THREADS);
        let groups = LaunchShape { grid: [rows as u32, chunks as u32, 1], ..row_groups };
        // SAFETY: f32 rows of this width and stride, dense outputs of these shapes, all apart; the
        // workspace holds k keys and a count a chunk.
        unsafe { gpu.launch(kernel("top_k_chunks"), groups, &params) }?;
        // SAFETY: as above.
        unsafe { gpu.launch(kernel("top_k_merge"), row_groups, &params) }
    }
}
