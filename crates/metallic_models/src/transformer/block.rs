//! One block: attention and feed-forward, each behind a norm that takes the residual in.

use metallic::Context;
use metallic::op::{Linear, LinearArgs, RmsNorm, RmsNormArgs};
use metallic::tensor::{DType, Tensor};

use super::model::Model;
use super::step::Step;
use super::weights::{BlockWeights, Projection};
use crate::error::Result;
use crate::kv_cache::LayerCache;

impl Model {
    /// Runs one block. `x: [rows, hidden]` is the residual stream without `pending`, the output
    /// of the block before; gives this block's own pending output.
    pub(super) fn block(
        &self,
        ctx: &Context,
        weights: &BlockWeights,
        cache: &LayerCache,
        step: &Step,
        (x, pending): (&Tensor, Option<Tensor>),
    ) -> Result<Tensor> {
        let normed = self.norm(ctx, x, pending, &weights.attn_norm)?;
        let attended = self.attention(ctx, weights, cache, step, &normed)?;
        let normed = self.norm(ctx, x, Some(attended), &weights.ffn_norm)?;
        self.mlp(ctx, weights, &normed)
    }

    /// `x ← x + residual`, then the norm of `x`.
    pub(super) fn norm(
        &self,
        ctx: &Context,
        x: &Tensor,
        residual: Option<Tensor>,
        weight: &Tensor,
    ) -> Result<Tensor> {
        let out = ctx.empty(DType::F32, x.shape())?;
        ctx.run::<RmsNorm>(&RmsNormArgs {
            x: x.clone(),
            residual,
            weight: weight.clone(),
            eps: self.config.rms_eps,
            out: out.clone(),
        })?;
        Ok(out)
    }

    /// `x Wᵀ + bias`.
    pub(super) fn project(
        &self,
        ctx: &Context,
        projection: &Projection,
        x: &Tensor,
    ) -> Result<Tensor> {
        let out = ctx.empty(DType::F32, [x.shape()[0], projection.weight.shape()[0]])?;
        ctx.run::<Linear>(&LinearArgs {
            x: x.clone(),
            weight: projection.weight.clone(),
            bias: projection.bias.clone(),
            precision: self.options.precision,
            out: out.clone(),
        })?;
        Ok(out)
    }
}
