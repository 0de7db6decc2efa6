//! `KvAppend`: converts new rows and writes them at each sequence's position. A position outside
//! the cache is reported when the work is done.

use metallic::Result;
use metallic::dispatch::{ExecCx, KernelInvocable, Support};
use metallic::op::{KvAppend, KvAppendArgs, KvAppendSpec, Op};
use metallic::tensor::Tensor;

use super::{SIMD_WIDTH, count};
use crate::metal::encoder::{Arg, Dispatch, Grid};
use crate::metal::fault::FaultKind;
use crate::metal::layout::shader_struct;
use crate::metal::library::{Source, kernel_source};
use crate::metal::pipeline::Kernel;
use crate::metal::stream::Metal;

const SOURCE: Source = kernel_source!("kv_append");
/// New rows of one threadgroup.
const ROWS: usize = 4;

shader_struct! {
    [SOURCE]
    pub(super) struct KvAppendParams {
        from_strides: [u64; 3],
        to_strides: [u64; 3],
        sequences: u32,
        heads: u32,
        new_len: u32,
        capacity: u32,
        dim: u32,
        padding: u32,
    }
}

pub(crate) struct LegacyKvAppend(pub(crate) Metal);

impl KernelInvocable<KvAppend> for LegacyKvAppend {
    fn supports(&self, _: &KvAppendSpec) -> Support {
        Support::Yes
    }

    fn run(&self, _: &ExecCx<'_>, spec: &KvAppendSpec, args: &KvAppendArgs) -> Result<()> {
        let KvAppendArgs { new, starts, cache } = args;
        let (op, shape) = (KvAppend::ID, new.shape());
        let [sequences, heads, new_len, dim] = [shape[0], shape[1], shape[2], shape[3]];
        let params = KvAppendParams {
            from_strides: outer_strides(new),
            to_strides: outer_strides(cache),
            sequences: count(op, sequences)?,
            heads: count(op, heads)?,
            new_len: count(op, new_len)?,
            capacity: count(op, cache.shape()[2])?,
            dim: count(op, dim)?,
            padding: 0,
        };
        let function = format!("kv_append_{}", spec.cache);
        let buffers =
            [Arg::In(new), Arg::In(starts), Arg::Out(cache), Arg::Fault(FaultKind::Position)];
        self.0.encode(op, |encoder| {
            encoder.dispatch(&Dispatch {
                kernel: Kernel { source: SOURCE, function: &function, constants: &[] },
                args: &buffers,
                params: bytemuck::bytes_of(&params),
                threadgroup: &[],
                grid: Grid::Threads([dim / spec.cache.block_len(), new_len, sequences * heads]),
                threads: [SIMD_WIDTH, ROWS, 1],
            })
        })
    }
}

/// Elements from sequence to sequence, head to head, row to row.
fn outer_strides(tensor: &Tensor) -> [u64; 3] {
    let strides = tensor.layout().strides();
    [strides[0] as u64, strides[1] as u64, strides[2] as u64]
}
