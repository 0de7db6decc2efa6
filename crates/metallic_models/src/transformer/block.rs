//! One block: attention and feed-forward, each behind a norm that takes the residual in.

use metallic::Context;
use metallic::segment::Norm;
use metallic::tensor::Tensor;

use super::model::Model;
use super::step::Step;
use super::weights::BlockWeights;
use crate::error::Result;
use crate::kv_cache::LayerCache;

impl Model {
    /// Runs one block. `x: [rows, hidden]` is the residual stream without `pending`, the output
    /// of the block before; gives this block's own pending output. Each half runs as one op or as
    /// its component ops, as the step says.
    pub(super) fn block(
        &self,
        ctx: &Context,
        weights: &BlockWeights,
        cache: &LayerCache,
        step: &Step,
        (x, pending): (&Tensor, Option<Tensor>),
    ) -> Result<Tensor> {
        let attended = self.attention(ctx, weights, cache, step, (x, pending))?;
        self.mlp(ctx, weights, step, (x, attended))
    }

    pub(super) fn norm_of(&self, weight: &Tensor) -> Norm {
        Norm { weight: weight.clone(), eps: self.config.rms_eps }
    }
}
