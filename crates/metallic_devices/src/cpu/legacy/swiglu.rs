//! `SwiGlu`, row by row.

use metallic::Result;
use metallic::dispatch::{ExecCx, KernelInvocable, Support};
use metallic::op::{SwiGlu, SwiGluArgs, SwiGluSpec};

use super::Cpu;
use crate::cpu::buffer::{Rows, data_ptr, dense, dense_mut};
use crate::cpu::kernels::swiglu::{swiglu, swiglu_in_place};

pub(crate) struct LegacySwiGlu(pub(crate) Cpu);

impl KernelInvocable<SwiGlu> for LegacySwiGlu {
    fn supports(&self, _: &SwiGluSpec) -> Support {
        Support::Yes
    }

    fn run(&self, _: &ExecCx<'_>, spec: &SwiGluSpec, args: &SwiGluArgs) -> Result<()> {
        let SwiGluArgs { gate, up, out } = args;
        let (gate_at, up_at, out_at) = (data_ptr(gate), data_ptr(up), data_ptr(out));
        // `gate` in place is the form models use; for `up` in place, `up` is copied first.
        let level = self.0.level;
        if out_at == up_at {
            let saved: Vec<f32> = dense::<f32>(up).to_vec();
            // SAFETY: `up` was copied, and `check` saw that `gate` lies apart or is `out` itself,
            // in which case it is not read beside it.
            let out = unsafe { dense_mut::<f32>(out) };
            if gate_at == out_at {
                swiglu_in_place(level, out, &saved);
            } else {
                swiglu(level, dense(gate), &saved, out);
            }
            return Ok(());
        }
        let (in_place, out_rows) = (gate_at == out_at, Rows::<f32>::output(out));
        self.0.for_rows(gate.shape()[0], spec.width, &|first, rows| {
            let range = first * spec.width..(first + rows) * spec.width;
            // SAFETY: tasks have disjoint rows of `out`, which `check` saw lie apart from `up`, and
            // from `gate` unless that is `out` itself and not read beside it.
            let out = unsafe { out_rows.slice(range.start, range.len()) };
            let up = &dense::<f32>(up)[range.clone()];
            if in_place {
                swiglu_in_place(level, out, up);
            } else {
                swiglu(level, &dense::<f32>(gate)[range], up, out);
            }
        });
        Ok(())
    }
}
