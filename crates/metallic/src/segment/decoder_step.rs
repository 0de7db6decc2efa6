//! A whole step of a decoder as one op: the embedding's rows, both halves of every block, the last norm
//! and the logits. Its arguments are the calls it stands for, each chained to the one before.

use std::fmt;

use super::{
    AttentionBlock, AttentionBlockArgs, AttentionBlockSpec, FollowingSteps, MlpBlock, MlpBlockArgs,
    MlpBlockSpec, check_apart, part,
};
use crate::error::{Error, Result};
use crate::op::{
    Embedding, EmbeddingArgs, EmbeddingSpec, Linear, LinearArgs, LinearSpec, Op, OpArgs, OpSpec,
    RmsNorm, RmsNormArgs, RmsNormSpec,
};
use crate::tensor::Tensor;

/// The op.
#[derive(Debug)]
pub struct DecoderStep;

/// One call of [`DecoderStep`]. The caller guarantees that the caches of its layers lie apart. What is
/// in the stream and the tensors between two calls afterwards is unspecified.
#[derive(Clone, Debug)]
pub struct DecoderStepArgs {
    /// Tokens to the stream.
    pub embedding: EmbeddingArgs,
    /// The blocks, in order; at least one.
    pub layers: Vec<DecoderLayer>,
    /// The last sum of the stream and its norm.
    pub norm: RmsNormArgs,
    /// The logits; of the last step where the call makes several.
    pub output: LinearArgs,
    /// The steps that may follow the first.
    pub following: Option<FollowingSteps>,
}

/// Both halves of a block.
#[derive(Clone, Debug)]
pub struct DecoderLayer {
    /// The first, over the stream and what the block before left pending.
    pub attention: AttentionBlockArgs,
    /// The second, over the stream and what the first left pending.
    pub mlp: MlpBlockArgs,
}

/// What an executable of [`DecoderStep`] depends on: the specs of its calls.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DecoderStepSpec {
    /// Tokens to the stream.
    pub embedding: EmbeddingSpec,
    /// Both halves of every block.
    pub layers: Vec<(AttentionBlockSpec, MlpBlockSpec)>,
    /// The last norm.
    pub norm: RmsNormSpec,
    /// The logits.
    pub output: LinearSpec,
    /// The most steps of a call, where it may make several.
    pub following: Option<usize>,
}

impl OpSpec for DecoderStepSpec {
    fn without_lengths(&self) -> Self {
        let layers = self.layers.iter();
        Self {
            layers: layers.map(|(a, b)| (a.without_lengths(), b.without_lengths())).collect(),
            output: self.output.without_lengths(),
            ..self.clone()
        }
    }
}

impl fmt::Display for DecoderStepSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { embedding, layers, output, following, .. } = self;
        write!(f, "embedding({embedding}) layers={}", layers.len())?;
        if let Some((attention, mlp)) = layers.first() {
            write!(f, " first({attention}; {mlp})")?;
        }
        write!(f, " output({output})")?;
        match following {
            Some(most) => write!(f, " steps<={most}"),
            None => Ok(()),
        }
    }
}

impl Op for DecoderStep {
    const ID: &'static str = "decoder_step";
    type Spec = DecoderStepSpec;
    type Args = DecoderStepArgs;

    fn check(args: &DecoderStepArgs) -> Result<DecoderStepSpec> {
        let op = Self::ID;
        let DecoderStepArgs { embedding, layers, norm, output, following } = args;
        let chained = |what, got, expected| super::chained(op, what, got, expected);
        let stream = &embedding.out;
        let mut pending: Option<&Tensor> = None;
        let mut specs = Vec::with_capacity(layers.len());
        for DecoderLayer { attention, mlp } in layers {
            chained("attention x", &attention.x, stream)?;
            chained("mlp x", &mlp.x, stream)?;
            match (&attention.pending, pending) {
                (Some(got), Some(expected)) => chained("attention pending", got, expected)?,
                (None, None) => {}
                (got, _) => {
                    return Err(Error::Shape {
                        op,
                        what: "attention pending".to_owned(),
                        expected: "one in every layer but the first".to_owned(),
                        got: if got.is_some() { "one in the first" } else { "none" }.to_owned(),
                    });
                }
            }
            chained("mlp pending", mlp.pending.as_ref().unwrap_or(stream), &attention.out)?;
            pending = Some(&mlp.out);
            let attention = part(op, "attention half", AttentionBlock::check(attention))?;
            let mlp = part(op, "feed-forward half", MlpBlock::check(mlp))?;
            specs.push((attention, mlp));
        }
        let Some(last) = pending else {
            return Err(Error::Shape {
                op,
                what: "layers".to_owned(),
                expected: "at least one".to_owned(),
                got: "none".to_owned(),
            });
        };
        chained("norm x", &norm.x, stream)?;
        chained("norm residual", norm.residual.as_ref().unwrap_or(stream), last)?;
        chained("output x", &output.x, &norm.out)?;
        let following = following.as_ref().map(|steps| -> Result<usize> {
            check_apart(op, args, &["chosen", "ids"])?;
            part(op, "steps", steps.check(op, &layers[0].attention.rotation))
        });
        Ok(DecoderStepSpec {
            embedding: part(op, "embedding", Embedding::check(embedding))?,
            layers: specs,
            norm: part(op, "last norm", RmsNorm::check(norm))?,
            output: part(op, "output projection", Linear::check(output))?,
            following: following.transpose()?,
        })
    }
}

impl OpArgs for DecoderStepArgs {
    fn each_tensor<'a>(&'a self, visit: &mut dyn FnMut(&'static str, &'a Tensor)) {
        self.embedding.each_tensor(visit);
        for DecoderLayer { attention, mlp } in &self.layers {
            attention.each_tensor(visit);
            mlp.each_tensor(visit);
        }
        self.norm.each_tensor(visit);
        self.output.each_tensor(visit);
        if let Some(following) = &self.following {
            following.each_tensor(visit);
        }
    }
}
