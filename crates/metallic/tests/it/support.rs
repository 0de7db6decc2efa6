//! Calls and policies that several tests make.

use metallic::Context;
use metallic::dispatch::{Policies, Policy, PolicyChoice, PolicySource};
use metallic::op::{Mask, SdpaArgs};
use metallic::tensor::DType;

/// Shapes and types of a call of zeros.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shapes {
    pub(crate) batch: usize,
    pub(crate) q_heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) q_len: usize,
    pub(crate) kv_len: usize,
    pub(crate) head_dim: usize,
    pub(crate) v_dim: usize,
    pub(crate) q_dtype: DType,
    pub(crate) kv_dtype: DType,
}

pub(crate) const SMALL: Shapes = Shapes {
    batch: 2,
    q_heads: 4,
    kv_heads: 2,
    q_len: 3,
    kv_len: 5,
    head_dim: 8,
    v_dim: 8,
    q_dtype: DType::F32,
    kv_dtype: DType::F32,
};

impl Shapes {
    /// A causal call on tensors of zeros.
    pub(crate) fn call(self, ctx: &Context) -> SdpaArgs {
        let Self { batch, q_heads, kv_heads, q_len, kv_len, head_dim, v_dim, .. } = self;
        let zeros = |dtype, shape: [usize; 4]| ctx.zeros(dtype, shape).unwrap();
        SdpaArgs {
            q: zeros(self.q_dtype, [batch, q_heads, q_len, head_dim]),
            k: zeros(self.kv_dtype, [batch, kv_heads, kv_len, head_dim]),
            v: zeros(self.kv_dtype, [batch, kv_heads, kv_len, v_dim]),
            mask: Mask::causal(),
            kv_lens: None,
            scale: None,
            softcap: None,
            out: zeros(self.q_dtype, [batch, q_heads, q_len, v_dim]),
        }
    }
}

/// `policy` for attention, by `--sdpa-backend`.
pub(crate) fn sdpa_policy(policy: Policy) -> Policies {
    let choice = PolicyChoice { policy, source: PolicySource::Flag("--sdpa-backend") };
    Policies { ops: [("sdpa", choice)].into(), ..Policies::default() }
}

/// `policy` for all ops, by `--backend`.
pub(crate) fn policy_for_all(policy: Policy) -> Policies {
    let all = PolicyChoice { policy, source: PolicySource::Flag("--backend") };
    Policies { all, ..Policies::default() }
}
