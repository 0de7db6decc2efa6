//! A step of one token as one op, where that is asked for: the calls of all parts, chained; and the
//! steps that may follow it in the same call.

use metallic::Context;
use metallic::op::{EmbeddingArgs, LinearArgs, RmsNormArgs};
use metallic::segment::{DecoderLayer, DecoderStep, DecoderStepArgs};
use metallic::tensor::{DType, Tensor};

use super::model::Model;
use super::step::{Step, StepFeeds};
use crate::error::Result;
use crate::kv_cache::KvCache;

impl Model {
    /// Runs all of `step`, and those that follow, into the logits of `feeds`; false, with nothing
    /// written, where no kernel takes it and none was demanded.
    pub(super) fn whole_step(
        &self,
        ctx: &Context,
        cache: &KvCache,
        step: &Step,
        feeds: &StepFeeds,
    ) -> Result<bool> {
        let make = || ctx.empty(DType::F32, [step.rows(), self.config.hidden]);
        // What a part leaves pending is read by the next one alone.
        let (x, attended, fed, normed) = (make()?, make()?, make()?, make()?);
        let mut layers = Vec::with_capacity(self.weights.blocks.len());
        for (weights, layer) in self.weights.blocks.iter().zip(cache.layers()) {
            let pending = (!layers.is_empty()).then_some(&fed);
            layers.push(DecoderLayer {
                attention: self.attention_args(weights, layer, step, (&x, pending, &attended))?,
                mlp: self.mlp_args(weights, (&x, &attended, &fed)),
            });
        }
        let args = DecoderStepArgs {
            embedding: self.embedding_args(step, &x),
            layers,
            norm: self.last_norm(&x, Some(&fed), &normed),
            output: self.output(&normed, &feeds.logits),
            following: feeds.following.clone(),
        };
        Ok(ctx.run_segment::<DecoderStep>(&args)?.is_some())
    }

    pub(super) fn embedding_args(&self, step: &Step, x: &Tensor) -> EmbeddingArgs {
        let (ids, table) = (step.ids.clone(), self.weights.token_embd.clone());
        EmbeddingArgs { ids, table, out: x.clone() }
    }

    pub(super) fn last_norm(
        &self,
        x: &Tensor,
        pending: Option<&Tensor>,
        out: &Tensor,
    ) -> RmsNormArgs {
        RmsNormArgs {
            x: x.clone(),
            residual: pending.cloned(),
            weight: self.weights.output_norm.clone(),
            eps: self.config.rms_eps,
            out: out.clone(),
        }
    }

    pub(super) fn output(&self, x: &Tensor, out: &Tensor) -> LinearArgs {
        LinearArgs {
            x: x.clone(),
            weight: self.weights.output.clone(),
            bias: None,
            precision: self.options.precision,
            out: out.clone(),
        }
    }
}
