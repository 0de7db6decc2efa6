//! `Embedding`: rows of the table, decoded.

use metallic::dispatch::{ExecCx, KernelInvocable, Support};
use metallic::op::{Embedding, EmbeddingArgs, EmbeddingSpec};
use metallic::{Error, Result};

use super::Cpu;
use crate::cpu::buffer::{CPU, dense, dense_bytes, dense_mut};
use crate::cpu::kernels::embedding::{EmbeddingTable, embedding};

pub(crate) struct LegacyEmbedding(pub(crate) Cpu);

impl KernelInvocable<Embedding> for LegacyEmbedding {
    fn supports(&self, _: &EmbeddingSpec) -> Support {
        Support::Yes
    }

    fn run(&self, _: &ExecCx<'_>, spec: &EmbeddingSpec, args: &EmbeddingArgs) -> Result<()> {
        let rows = args.table.shape()[0];
        let ids: &[i32] = dense(&args.ids);
        if let Some(id) = ids.iter().find(|&&id| !usize::try_from(id).is_ok_and(|id| id < rows)) {
            let reason = format!("token id {id} in a table of {rows} rows");
            return Err(Error::Device { device: CPU, what: "embedding", reason });
        }
        let ids: Vec<u32> = ids.iter().map(|&id| id as u32).collect();
        let bytes = dense_bytes(&args.table);
        let table = EmbeddingTable { dtype: spec.table, rows, width: spec.width, bytes };
        // SAFETY: `out` is this op's only output; `check` saw that it lies apart from the inputs.
        embedding(self.0.level, table, &ids, unsafe { dense_mut(&args.out) });
        Ok(())
    }
}
