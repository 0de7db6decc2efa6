//! The attention half of a block: projections, rotation, cache, attention, output projection.

use metallic::Context;
use metallic::op::{
    KvAppend, KvAppendArgs, Mask, RmsNorm, RmsNormArgs, Rope, RopeArgs, Sdpa, SdpaArgs,
};
use metallic::tensor::{DType, Tensor};

use super::model::Model;
use super::step::Step;
use super::weights::BlockWeights;
use crate::error::Result;
use crate::kv_cache::LayerCache;

impl Model {
    /// `x: [rows, hidden]`, normalised; gives `[rows, hidden]`.
    pub(super) fn attention(
        &self,
        ctx: &Context,
        weights: &BlockWeights,
        cache: &LayerCache,
        step: &Step,
        x: &Tensor,
    ) -> Result<Tensor> {
        let config = &self.config;
        let (n_heads, n_kv_heads, head_dim) = (config.n_heads, config.n_kv_heads, config.head_dim);
        let q = self.project(ctx, &weights.q, x)?;
        let k = self.project(ctx, &weights.k, x)?;
        let v = self.project(ctx, &weights.v, x)?;
        if let Some((q_norm, k_norm)) = &weights.qk_norm {
            self.norm_heads(ctx, &q, q_norm)?;
            self.norm_heads(ctx, &k, k_norm)?;
        }
        for (x, heads) in [(&q, n_heads), (&k, n_kv_heads)] {
            ctx.run::<Rope>(&RopeArgs {
                x: x.reshape([step.rows(), heads, head_dim])?,
                cos: step.cos.clone(),
                sin: step.sin.clone(),
                pairing: config.rope.pairing,
            })?;
        }
        // [sequences * len, heads * head_dim] seen as [sequences, heads, len, head_dim].
        let heads_first = |x: &Tensor, heads: usize| {
            x.reshape([step.sequences, step.len, heads, head_dim])?.permute(&[0, 2, 1, 3])
        };
        for (new, cache) in [(&k, &cache.k), (&v, &cache.v)] {
            ctx.run::<KvAppend>(&KvAppendArgs {
                new: heads_first(new, n_kv_heads)?,
                starts: step.starts.clone(),
                cache: cache.clone(),
            })?;
        }
        let out = ctx.empty(DType::F32, [step.rows(), n_heads * head_dim])?;
        ctx.run::<Sdpa>(&SdpaArgs {
            q: heads_first(&q, n_heads)?,
            k: cache.k.narrow(2, 0, step.kv_len)?,
            v: cache.v.narrow(2, 0, step.kv_len)?,
            mask: config.sliding_window.map_or_else(Mask::causal, Mask::sliding_window),
            kv_lens: Some(step.kv_lens.clone()),
            scale: None,
            softcap: None,
            out: heads_first(&out, n_heads)?,
        })?;
        self.project(ctx, &weights.o, &out)
    }

    /// Normalises every head of `x: [rows, heads * head_dim]` in place.
    fn norm_heads(&self, ctx: &Context, x: &Tensor, weight: &Tensor) -> Result<()> {
        let head_dim = self.config.head_dim;
        let heads = x.reshape([x.shape().elements() / head_dim, head_dim])?;
        ctx.run::<RmsNorm>(&RmsNormArgs {
            x: heads.clone(),
            residual: None,
            weight: weight.clone(),
            eps: self.config.rms_eps,
            out: heads,
        })?;
        Ok(())
    }
}
