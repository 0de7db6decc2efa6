//! The feed-forward half for many rows.

use std::sync::Arc;

use bytemuck::{Pod, Zeroable};
use metallic::Result;
use metallic::dispatch::{ExecCx, KernelInvocable, Support};
use metallic::op::{LinearSpec, Op};
use metallic::segment::{MlpBlock, MlpBlockArgs, MlpBlockSpec, MlpCalls};
use metallic::tensor::{DType, Shape};

use super::{Numbers, aligned, all, norm, supports_products, supports_rows};
use crate::composed::empty;
use crate::cuda::buffer::{CudaBuffer, device_ptr};
use crate::cuda::gpu::{Gpu, Kernel};
use crate::cuda::legacy::{multiply, product_type};
use crate::cuda::view::dtype_code;

/// [`MlpBlock`] for many rows.
pub(crate) struct ManyRowsMlp(pub(crate) Arc<Gpu>);

/// `struct Gated` of `many_rows.cu`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(super) struct Gated {
    gate: u64,
    up: u64,
    out: u64,
    numbers: u64,
    pub(super) fours: u64,
    to: u32,
    pub(super) again: u32,
}

impl KernelInvocable<MlpBlock> for ManyRowsMlp {
    fn supports(&self, spec: &MlpBlockSpec) -> Support {
        let MlpBlockSpec { norm, gate, up, down, .. } = spec;
        all([
            supports_rows(&self.0, spec.rows_bucket(), norm),
            supports_products(&[gate, up]),
            supports_products(&[down]),
        ])
    }

    fn run(&self, cx: &ExecCx<'_>, spec: &MlpBlockSpec, args: &MlpBlockArgs) -> Result<()> {
        let gpu = &*self.0;
        let pending = args.pending.iter();
        aligned(MlpBlock::ID, &pending.chain([&args.x, &args.norm.weight]).collect::<Vec<_>>())?;
        let calls = args.calls(&|shape: Shape| empty(cx, shape))?;
        let numbers = Numbers::new(gpu)?;
        let to = product_type(&spec.gate);
        let x = norm(gpu, &spec.norm, &calls.norm, to, numbers.of(0))?;
        for (spec, call) in [(&spec.gate, &calls.gate), (&spec.up, &calls.up)] {
            // SAFETY: the norm wrote rows of this width in the product's type, and the factor.
            unsafe { multiply(gpu, spec, call, x.start(), numbers.of(0)) }?;
        }
        drop(x);
        let gated = gated(gpu, &spec.down, &calls, numbers.of(1))?;
        // SAFETY: as above.
        unsafe { multiply(gpu, &spec.down, &calls.down, gated.start(), numbers.of(1)) }
    }
}

/// The gated rows in two bytes each, as `down` takes them.
fn gated(gpu: &Gpu, down: &LinearSpec, calls: &MlpCalls, numbers: u64) -> Result<CudaBuffer> {
    let elements = calls.gate.out.shape().elements();
    let out = gpu.workspace(elements * 2)?;
    let to = product_type(down);
    let params = Gated {
        gate: device_ptr(&calls.gate.out),
        up: device_ptr(&calls.up.out),
        out: out.start(),
        numbers,
        fours: (elements / 4) as u64,
        to: dtype_code(to),
        again: 0,
    };
    let shape = gpu.strided(elements / 4, 256);
    let kernel = Kernel::plain("many_rows", "swiglu_halves");
    // SAFETY: dense f32 tensors of whole fours, and room for as many numbers of two bytes.
    unsafe { gpu.launch(kernel, shape, &params) }?;
    if to == DType::F16 {
        // SAFETY: as above.
        unsafe { gpu.launch(kernel, shape, &Gated { again: 1, ..params }) }?;
    }
    Ok(out)
}
