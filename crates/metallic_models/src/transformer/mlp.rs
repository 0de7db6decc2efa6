//! The feed-forward half of a block: gate and up, SwiGLU, down.

use metallic::Context;
use metallic::segment::{MlpBlock, MlpBlockArgs};
use metallic::tensor::{DType, Tensor};

use super::model::Model;
use super::step::Step;
use super::weights::BlockWeights;
use crate::error::Result;

impl Model {
    /// As [`Model::attention`].
    pub(super) fn mlp(
        &self,
        ctx: &Context,
        weights: &BlockWeights,
        step: &Step,
        (x, pending): (&Tensor, Tensor),
    ) -> Result<Tensor> {
        let out = ctx.empty(DType::F32, x.shape())?;
        let args = MlpBlockArgs {
            x: x.clone(),
            pending: Some(pending),
            norm: self.norm_of(&weights.ffn_norm),
            gate: weights.gate.clone(),
            up: weights.up.clone(),
            down: weights.down.clone(),
            precision: self.options.precision,
            out: out.clone(),
        };
        if step.segments && ctx.run_segment::<MlpBlock>(&args)?.is_some() {
            return Ok(out);
        }
        args.calls(&|shape| ctx.empty(DType::F32, shape))?.run(ctx)?;
        Ok(out)
    }
}
