//! The feed-forward half of a block: gate and up, SwiGLU, down.

use metallic::Context;
use metallic::op::{SwiGlu, SwiGluArgs};
use metallic::tensor::Tensor;

use super::model::Model;
use super::weights::BlockWeights;
use crate::error::Result;

impl Model {
    /// `x: [rows, hidden]`, normalised; gives `[rows, hidden]`.
    pub(super) fn mlp(&self, ctx: &Context, weights: &BlockWeights, x: &Tensor) -> Result<Tensor> {
        let gate = self.project(ctx, &weights.gate, x)?;
        let up = self.project(ctx, &weights.up, x)?;
        ctx.run::<SwiGlu>(&SwiGluArgs { gate: gate.clone(), up, out: gate.clone() })?;
        self.project(ctx, &weights.down, &gate)
    }
}
