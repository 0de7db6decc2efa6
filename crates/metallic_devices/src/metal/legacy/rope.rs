//! `Rope`, in place: one thread a pair.

use metallic::Result;
use metallic::dispatch::{ExecCx, KernelInvocable, Support};
use metallic::op::{Op, Rope, RopeArgs, RopePairing, RopeSpec};

use super::{SIMD_WIDTH, count};
use crate::metal::encoder::{Arg, Dispatch, Grid};
use crate::metal::layout::shader_struct;
use crate::metal::library::{Source, kernel_source};
use crate::metal::pipeline::{Constant, Kernel};
use crate::metal::stream::Metal;

const SOURCE: Source = kernel_source!("rope");
/// The index of `interleaved`.
const INTERLEAVED: u32 = 0;
/// Heads of one threadgroup.
const HEADS: usize = 4;

shader_struct! {
    [SOURCE]
    pub(super) struct RopeParams {
        row_stride: u64,
        head_stride: u64,
        pairs: u32,
        heads: u32,
        rows: u32,
        padding: u32,
    }
}

pub(crate) struct LegacyRope(pub(crate) Metal);

impl KernelInvocable<Rope> for LegacyRope {
    fn supports(&self, _: &RopeSpec) -> Support {
        Support::Yes
    }

    fn run(&self, _: &ExecCx<'_>, spec: &RopeSpec, args: &RopeArgs) -> Result<()> {
        let RopeSpec { heads, pairs, pairing, .. } = *spec;
        let (rows, strides) = (args.x.shape()[0], args.x.layout().strides());
        let params = RopeParams {
            row_stride: strides[0] as u64,
            head_stride: strides[1] as u64,
            pairs: count(Rope::ID, pairs)?,
            heads: count(Rope::ID, heads)?,
            rows: count(Rope::ID, rows)?,
            padding: 0,
        };
        let constants = [Constant::bool(INTERLEAVED, pairing == RopePairing::Interleaved)];
        self.0.encode(Rope::ID, |encoder| {
            encoder.dispatch(&Dispatch {
                kernel: Kernel { source: SOURCE, function: "rope_f32", constants: &constants },
                args: &[Arg::Out(&args.x), Arg::In(&args.cos), Arg::In(&args.sin)],
                params: bytemuck::bytes_of(&params),
                threadgroup: &[],
                grid: Grid::Threads([pairs, heads, rows]),
                threads: [SIMD_WIDTH, HEADS, 1],
            })
        })
    }
}
