//! `KvAppend`: converts new rows and writes them at each sequence's position.

use metallic::dispatch::{ExecCx, KernelInvocable, Support};
use metallic::op::{KvAppend, KvAppendArgs, KvAppendSpec};
use metallic::{Error, Result};

use super::Cpu;
use crate::cpu::buffer::{CPU, Rows, dense};
use crate::cpu::kernels::convert::encode_row;

pub(crate) struct LegacyKvAppend(pub(crate) Cpu);

impl KernelInvocable<KvAppend> for LegacyKvAppend {
    fn supports(&self, _: &KvAppendSpec) -> Support {
        Support::Yes
    }

    fn run(&self, _: &ExecCx<'_>, spec: &KvAppendSpec, args: &KvAppendArgs) -> Result<()> {
        let KvAppendArgs { new, starts, cache } = args;
        let starts: &[i32] = dense(starts);
        let shape = new.shape();
        let [batch, heads, new_len, dim] = [shape[0], shape[1], shape[2], shape[3]];
        let capacity = cache.shape()[2];
        let fits =
            |start: &i32| usize::try_from(*start).is_ok_and(|start| start + new_len <= capacity);
        if let Some(start) = starts.iter().find(|start| !fits(start)) {
            let reason = format!("{new_len} rows at position {start} of {capacity}");
            return Err(Error::Device { device: CPU, what: "kv_append", reason });
        }
        let (from, to) = (new.layout().strides(), cache.layout().strides());
        let row_bytes = spec.cache.row_bytes(dim).expect("whole blocks");
        let from_rows = Rows::<f32>::input(new);
        let to_rows = Rows::<u8>::output(cache);
        self.0.for_rows(batch * heads, new_len * dim, &|first, rows| {
            for item in first..first + rows {
                let (b, head) = (item / heads, item % heads);
                for row in 0..new_len {
                    let from_at = b * from[0] + head * from[1] + row * from[2];
                    let position = starts[b] as usize + row;
                    let to_at = b * to[0] + head * to[1] + position * to[2];
                    let to_byte = to_at / spec.cache.block_len() * spec.cache.block_bytes();
                    // SAFETY: rows of checked views; positions were compared with the capacity,
                    // and each (sequence, head) of the cache belongs to one task.
                    let (x, out) = unsafe {
                        (from_rows.read(from_at, dim), to_rows.slice(to_byte, row_bytes))
                    };
                    encode_row(self.0.level, spec.cache, x, out);
                }
            }
        });
        Ok(())
    }
}
