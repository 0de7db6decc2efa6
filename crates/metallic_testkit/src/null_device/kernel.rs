//! The legacy kernel of the null device, and how both of its kernels ask the oracle.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use metallic::Result;
use metallic::dispatch::{ExecCx, KernelInvocable, Reason, Support};
use metallic::op::{Band, MaskTensor, Sdpa, SdpaArgs, SdpaSpec};
use metallic::tensor::{DType, Tensor};

use super::buffer::{read, write};
use super::{Compute, NullControls};
use crate::oracle::{SdpaProblem, TensorMask, TensorMaskValues, sdpa};

/// Attention by the oracle.
#[derive(Debug)]
pub struct NullSdpa {
    pub(super) refuses: Option<Reason>,
    pub(super) compute: Compute,
    pub(super) controls: Arc<NullControls>,
}

impl KernelInvocable<Sdpa> for NullSdpa {
    fn supports(&self, _: &SdpaSpec) -> Support {
        self.refuses.clone().map_or(Support::Yes, Support::No)
    }

    fn run(&self, _: &ExecCx<'_>, spec: &SdpaSpec, args: &SdpaArgs) -> Result<()> {
        self.controls.legacy_runs.fetch_add(1, Ordering::SeqCst);
        let SdpaArgs { q, k, v, mask, kv_lens, out, .. } = args;
        let call = Call {
            q,
            k,
            v,
            mask: mask.tensor.as_ref().map(|mask| match mask {
                MaskTensor::Additive(tensor) | MaskTensor::Bool(tensor) => tensor,
            }),
            kv_lens: kv_lens.as_ref(),
            band: mask.band,
            scale: spec.scale(),
            softcap: spec.softcap(),
        };
        call.run(self.compute, out);
        Ok(())
    }
}

/// Tensors and numbers of one call, from wherever a kernel got them.
pub(super) struct Call<'a> {
    pub(super) q: &'a Tensor,
    pub(super) k: &'a Tensor,
    pub(super) v: &'a Tensor,
    pub(super) mask: Option<&'a Tensor>,
    pub(super) kv_lens: Option<&'a Tensor>,
    pub(super) band: Band,
    pub(super) scale: f32,
    pub(super) softcap: Option<f32>,
}

impl Call<'_> {
    pub(super) fn run(&self, compute: Compute, out: &Tensor) {
        let result = match compute {
            Compute::Zeros => vec![0.0; out.shape().elements()],
            Compute::Reference => sdpa(&self.problem()).out,
        };
        write(out, &result);
    }

    fn problem(&self) -> SdpaProblem {
        let (q, k, v) = (self.q.shape(), self.k.shape(), self.v.shape());
        SdpaProblem {
            batch: q[0],
            q_heads: q[1],
            kv_heads: k[1],
            q_len: q[2],
            kv_len: k[2],
            head_dim: q[3],
            v_dim: v[3],
            q: read(self.q),
            k: read(self.k),
            v: read(self.v),
            band: self.band,
            mask: self.mask.map(mask_values),
            kv_lens: self
                .kv_lens
                .map(|lens| read(lens).into_iter().map(|len| len as i64).collect()),
            scale: f64::from(self.scale),
            softcap: self.softcap.map(f64::from),
        }
    }
}

fn mask_values(tensor: &Tensor) -> TensorMask {
    let mut shape = [1; 4];
    let rank = tensor.shape().len();
    shape[4 - rank..].copy_from_slice(&tensor.shape());
    let values = read(tensor);
    let values = match tensor.dtype() {
        DType::Bool => TensorMaskValues::Bool(values.iter().map(|value| *value != 0.0).collect()),
        _ => TensorMaskValues::Additive(values),
    };
    TensorMask { shape, values }
}
