//! `TopK`: the best of every chunk of a row, then the best of those.

use metallic::Result;
use metallic::dispatch::{ExecCx, KernelInvocable, Support};
use metallic::op::{Op, TopK, TopKArgs, TopKSpec};

use super::{THREADS, count};
use crate::metal::encoder::{Arg, Dispatch, Grid};
use crate::metal::layout::shader_struct;
use crate::metal::library::{Source, kernel_source};
use crate::metal::pipeline::Kernel;
use crate::metal::stream::Metal;

const SOURCE: Source = kernel_source!("top_k");
/// Elements that one threadgroup looks through; `CHUNK` in `top_k.metal`.
const CHUNK: usize = 2048;

shader_struct! {
    [SOURCE]
    pub(super) struct TopKParams {
        row_stride: u64,
        width: u32,
        k: u32,
        run_log2: u32,
        chunks: u32,
    }
}

pub(crate) struct LegacyTopK(pub(crate) Metal);

impl KernelInvocable<TopK> for LegacyTopK {
    fn supports(&self, _: &TopKSpec) -> Support {
        Support::Yes
    }

    fn run(&self, _: &ExecCx<'_>, spec: &TopKSpec, args: &TopKArgs) -> Result<()> {
        let TopKSpec { width, k } = *spec;
        let (op, rows, chunks) = (TopK::ID, args.x.shape()[0], width.div_ceil(CHUNK));
        let params = TopKParams {
            row_stride: args.x.layout().strides()[0] as u64,
            width: count(op, width)?,
            k: count(op, k)?,
            run_log2: k.next_power_of_two().ilog2(),
            chunks: count(op, chunks)?,
        };
        let params = bytemuck::bytes_of(&params);
        let kernel = |function| Kernel { source: SOURCE, function, constants: &[] };
        let threads = [THREADS, 1, 1];
        self.0.encode(op, |encoder| {
            let best = encoder.scratch(rows * chunks * k * size_of::<u64>())?;
            let counts = encoder.scratch(rows * chunks * size_of::<u32>())?;
            let (best, counts) = (Arg::Scratch(&best, 0), Arg::Scratch(&counts, 0));
            encoder.dispatch(&Dispatch {
                kernel: kernel("top_k_chunks"),
                args: &[Arg::In(&args.x), best, counts],
                params,
                threadgroup: &[],
                grid: Grid::Groups([chunks, rows, 1]),
                threads,
            })?;
            let TopKArgs { values, ids, not_finite, .. } = args;
            encoder.dispatch(&Dispatch {
                kernel: kernel("top_k_merge"),
                args: &[best, counts, Arg::Out(values), Arg::Out(ids), Arg::Out(not_finite)],
                params,
                threadgroup: &[],
                grid: Grid::Groups([rows, 1, 1]),
                threads,
            })
        })
    }
}
