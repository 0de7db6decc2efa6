//! `SwiGlu`: one thread an element.

use metallic::Result;
use metallic::dispatch::{ExecCx, KernelInvocable, Support};
use metallic::op::{Op, SwiGlu, SwiGluArgs, SwiGluSpec};

use super::{THREADS, elements};
use crate::metal::encoder::{Arg, Dispatch, Grid};
use crate::metal::layout::shader_struct;
use crate::metal::library::{Source, kernel_source};
use crate::metal::pipeline::Kernel;
use crate::metal::stream::Metal;

const SOURCE: Source = kernel_source!("swiglu");

shader_struct! {
    [SOURCE]
    pub(super) struct SwiGluParams {
        elements: u32,
    }
}

pub(crate) struct LegacySwiGlu(pub(crate) Metal);

impl KernelInvocable<SwiGlu> for LegacySwiGlu {
    fn supports(&self, _: &SwiGluSpec) -> Support {
        Support::Yes
    }

    fn run(&self, _: &ExecCx<'_>, _: &SwiGluSpec, args: &SwiGluArgs) -> Result<()> {
        let params = SwiGluParams { elements: elements(SwiGlu::ID, &args.out)? };
        self.0.encode(SwiGlu::ID, |encoder| {
            encoder.dispatch(&Dispatch {
                kernel: Kernel { source: SOURCE, function: "swiglu_f32", constants: &[] },
                args: &[Arg::In(&args.gate), Arg::In(&args.up), Arg::Out(&args.out)],
                params: bytemuck::bytes_of(&params),
                threadgroup: &[],
                grid: Grid::Threads([params.elements as usize, 1, 1]),
                threads: [THREADS, 1, 1],
            })
        })
    }
}
