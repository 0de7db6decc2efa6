//! The attention half of a block: projections, rotation, cache, attention, output projection.

use metallic::Context;
use metallic::op::Mask;
use metallic::segment::{AttentionBlock, AttentionBlockArgs, QkNorm, Rotation};
use metallic::tensor::{DType, Tensor};

use super::model::Model;
use super::step::Step;
use super::weights::BlockWeights;
use crate::error::Result;
use crate::kv_cache::LayerCache;

impl Model {
    /// `x: [rows, hidden]` is the residual stream without `pending`, the output of the block
    /// before; gives this half's own pending output, `[rows, hidden]`.
    pub(super) fn attention(
        &self,
        ctx: &Context,
        weights: &BlockWeights,
        cache: &LayerCache,
        step: &Step,
        (x, pending): (&Tensor, Option<Tensor>),
    ) -> Result<Tensor> {
        let config = &self.config;
        let by_sequence = |x: &Tensor| x.reshape([step.sequences, step.len, config.hidden]);
        let out = ctx.empty(DType::F32, x.shape())?;
        let qk_norm = weights.qk_norm.as_ref().map(|(q, k)| QkNorm {
            q: q.clone(),
            k: k.clone(),
            eps: config.rms_eps,
        });
        let args = AttentionBlockArgs {
            x: by_sequence(x)?,
            pending: pending.as_ref().map(by_sequence).transpose()?,
            norm: self.norm_of(&weights.attn_norm),
            q: weights.q.clone(),
            k: weights.k.clone(),
            v: weights.v.clone(),
            qk_norm,
            rotation: Rotation {
                cos: step.cos.clone(),
                sin: step.sin.clone(),
                pairing: config.rope.pairing,
            },
            k_cache: cache.k.narrow(2, 0, step.kv_len)?,
            v_cache: cache.v.narrow(2, 0, step.kv_len)?,
            starts: step.starts.clone(),
            kv_lens: step.kv_lens.clone(),
            band: config.sliding_window.map_or_else(Mask::causal, Mask::sliding_window).band,
            scale: None,
            o: weights.o.clone(),
            precision: self.options.precision,
            out: by_sequence(&out)?,
        };
        if step.segments && ctx.run_segment::<AttentionBlock>(&args)?.is_some() {
            return Ok(out);
        }
        args.calls(&|shape| ctx.empty(DType::F32, shape))?.run(ctx)?;
        Ok(out)
    }
}
