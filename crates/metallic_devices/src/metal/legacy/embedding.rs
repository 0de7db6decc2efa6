//! `Embedding`: rows of the table, decoded. A token id outside the table is reported when the
//! work is done.

use metallic::Result;
use metallic::dispatch::{ExecCx, KernelInvocable, Support};
use metallic::op::{Embedding, EmbeddingArgs, EmbeddingSpec, Op};
use metallic::tensor::DType;

use super::count;
use crate::metal::encoder::{Arg, Dispatch, Grid};
use crate::metal::fault::FaultKind;
use crate::metal::layout::shader_struct;
use crate::metal::library::{Source, kernel_source};
use crate::metal::pipeline::Kernel;
use crate::metal::stream::Metal;

const SOURCE: Source = kernel_source!("embedding");
/// Elements that one thread decodes of a quantised row.
const RUN: usize = 16;
/// Threads of a threadgroup, along a row.
const THREADS: usize = 64;

shader_struct! {
    [SOURCE]
    pub(super) struct EmbeddingParams {
        rows: u32,
        vocab: u32,
        width: u32,
    }
}

pub(crate) struct LegacyEmbedding(pub(crate) Metal);

impl KernelInvocable<Embedding> for LegacyEmbedding {
    fn supports(&self, _: &EmbeddingSpec) -> Support {
        Support::Yes
    }

    fn run(&self, _: &ExecCx<'_>, spec: &EmbeddingSpec, args: &EmbeddingArgs) -> Result<()> {
        let (op, rows) = (Embedding::ID, args.ids.shape()[0]);
        let params = EmbeddingParams {
            rows: count(op, rows)?,
            vocab: count(op, args.table.shape()[0])?,
            width: count(op, spec.width)?,
        };
        let function = function(spec.table);
        let per_row = if spec.table.is_quantized() { spec.width / RUN } else { spec.width };
        let buffers = [
            Arg::In(&args.ids),
            Arg::In(&args.table),
            Arg::Out(&args.out),
            Arg::Fault(FaultKind::TokenId),
        ];
        self.0.encode(op, |encoder| {
            encoder.dispatch(&Dispatch {
                kernel: Kernel { source: SOURCE, function: &function, constants: &[] },
                args: &buffers,
                params: bytemuck::bytes_of(&params),
                threadgroup: &[],
                grid: Grid::Threads([per_row, rows, 1]),
                threads: [THREADS, 1, 1],
            })
        })
    }
}

/// The function for a table of this type: every float and quantised type has one.
fn function(table: DType) -> String {
    format!("embedding_{table}")
}
