//! `Add`, in place.

use metallic::Result;
use metallic::dispatch::{ExecCx, KernelInvocable, Support};
use metallic::op::{Add, AddArgs, AddSpec, Op};

use super::{THREADS, elements};
use crate::metal::encoder::{Arg, Dispatch, Grid};
use crate::metal::layout::shader_struct;
use crate::metal::library::{Source, kernel_source};
use crate::metal::pipeline::Kernel;
use crate::metal::stream::Metal;

const SOURCE: Source = kernel_source!("add");

shader_struct! {
    [SOURCE]
    pub(super) struct AddParams {
        elements: u32,
    }
}

pub(crate) struct LegacyAdd(pub(crate) Metal);

impl KernelInvocable<Add> for LegacyAdd {
    fn supports(&self, _: &AddSpec) -> Support {
        Support::Yes
    }

    fn run(&self, _: &ExecCx<'_>, _: &AddSpec, args: &AddArgs) -> Result<()> {
        let params = AddParams { elements: elements(Add::ID, &args.x)? };
        self.0.encode(Add::ID, |encoder| {
            encoder.dispatch(&Dispatch {
                kernel: Kernel { source: SOURCE, function: "add_f32", constants: &[] },
                args: &[Arg::Out(&args.x), Arg::In(&args.y)],
                params: bytemuck::bytes_of(&params),
                threadgroup: &[],
                grid: Grid::Threads([params.elements as usize, 1, 1]),
                threads: [THREADS, 1, 1],
            })
        })
    }
}
