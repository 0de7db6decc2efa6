//! `Embedding`: rows of the table, decoded, eight elements a thread.

use std::sync::Arc;

use bytemuck::{Pod, Zeroable};
use metallic::Result;
use metallic::dispatch::{ExecCx, KernelInvocable, Support};
use metallic::op::{Embedding, EmbeddingArgs, EmbeddingSpec};

use crate::cuda::buffer::device_ptr;
use crate::cuda::gpu::{Gpu, Kernel};
use crate::cuda::module::LaunchShape;
use crate::cuda::view::dtype_code;

/// Elements of a block of threads.
const BLOCK: usize = 8 * 128;

pub(crate) struct LegacyEmbedding(pub(crate) Arc<Gpu>);

/// `struct Embedding` of `embedding.cu`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    ids: u64,
    table: u64,
    out: u64,
    fault: u64,
    width: u64,
    row_bytes: u64,
    vocab: i32,
    dtype: u32,
}

impl KernelInvocable<Embedding> for LegacyEmbedding {
    fn supports(&self, _: &EmbeddingSpec) -> Support {
        Support::Yes
    }

    fn run(&self, _: &ExecCx<'_>, spec: &EmbeddingSpec, args: &EmbeddingArgs) -> Result<()> {
        let rows = args.ids.shape()[0];
        let params = Params {
            ids: device_ptr(&args.ids),
            table: device_ptr(&args.table),
            out: device_ptr(&args.out),
            fault: self.0.fault(),
            width: spec.width as u64,
            row_bytes: spec.table.row_bytes(spec.width).expect("whole blocks") as u64,
            vocab: i32::try_from(args.table.shape()[0]).unwrap_or(i32::MAX),
            dtype: dtype_code(spec.table),
        };
        let shape = LaunchShape {
            grid: [rows as u32, spec.width.div_ceil(BLOCK) as u32, 1],
            ..LaunchShape::linear(rows, 128)
        };
        // SAFETY: dense tensors of these shapes; the kernel reads no row outside the table.
        unsafe { self.0.launch(Kernel::plain("embedding", "embedding"), shape, &params) }
    }
}
