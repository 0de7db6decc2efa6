//! Runs of ops that a device may take as one: the two halves of a transformer block, and a whole step of a
//! decoder.
//!
//! A segment is an op like any other. What it computes is written once, as the calls of its
//! component ops (`calls`): [`crate::op::Op::check`] has each component check its call, a composed
//! kernel runs them in turn, a graph kernel says the same in nodes. Nothing is validated twice
//! here but what those calls' views need.

mod attention_block;
mod blank;
mod decoder_step;
mod following_steps;
mod mlp_block;

pub use attention_block::{
    AttentionBlock, AttentionBlockArgs, AttentionBlockSpec, AttentionCalls, QkNorm, QkNormSpec,
    Rotation,
};
pub use decoder_step::{DecoderLayer, DecoderStep, DecoderStepArgs, DecoderStepSpec};
pub use following_steps::FollowingSteps;
pub use mlp_block::{MlpBlock, MlpBlockArgs, MlpBlockSpec, MlpCalls};

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::op::{LinearArgs, OpArgs, Precision, RmsNormArgs, check};
use crate::tensor::{Shape, Tensor};

/// Makes the intermediate tensors of a segment's calls: dense f32 of the given shape, contents
/// unspecified.
pub type MakeTensor<'a> = &'a dyn Fn(Shape) -> Result<Tensor>;

/// A projection's tensors.
#[derive(Clone, Debug)]
pub struct Projection {
    /// `[out_features, in_features]`, dense, any float or quantised type.
    pub weight: Tensor,
    /// f32 `[out_features]`.
    pub bias: Option<Tensor>,
}

impl Projection {
    /// `out = x Wᵀ + bias`.
    fn call(&self, x: &Tensor, precision: Precision, out: &Tensor) -> LinearArgs {
        let Self { weight, bias } = self.clone();
        LinearArgs { x: x.clone(), weight, bias, precision, out: out.clone() }
    }

    /// `[rows, out_features]` for `x: [rows, in_features]`.
    fn out_shape(&self, op: &'static str, name: &str, rows: usize) -> Result<Shape> {
        check::rank(op, name, &self.weight, "out_features, in_features")?;
        Ok(Shape::new(&[rows, self.weight.shape()[0]]))
    }

    fn each_tensor<'a>(
        &'a self,
        [weight, bias]: [&'static str; 2],
        visit: &mut dyn FnMut(&'static str, &'a Tensor),
    ) {
        visit(weight, &self.weight);
        if let Some(tensor) = &self.bias {
            visit(bias, tensor);
        }
    }
}

/// The norm that opens a segment: `x ← x + pending` (when given), then the norm of `x`.
#[derive(Clone, Debug)]
pub struct Norm {
    /// f32 `[hidden]`.
    pub weight: Tensor,
    /// Added to the mean square.
    pub eps: f32,
}

impl Norm {
    fn call(&self, x: &Tensor, pending: Option<&Tensor>, out: &Tensor) -> RmsNormArgs {
        let (residual, eps) = (pending.cloned(), self.eps);
        let weight = self.weight.clone();
        RmsNormArgs { x: x.clone(), residual, weight, eps, out: out.clone() }
    }
}

/// What a component's own check said, with the part it plays.
fn part<T>(op: &'static str, part: &'static str, result: Result<T>) -> Result<T> {
    result.map_err(|error| Error::Part { op, part, error: Box::new(error) })
}

/// Fails unless `got` is the tensor `expected` of another part.
fn chained(op: &'static str, what: &str, got: &Tensor, expected: &Tensor) -> Result<()> {
    let same = Arc::ptr_eq(got.buffer(), expected.buffer())
        && got.layout().offset() == expected.layout().offset()
        && got.shape().elements() == expected.shape().elements();
    if same {
        return Ok(());
    }
    Err(Error::Shape {
        op,
        what: what.to_owned(),
        expected: "the tensor of the part before it".to_owned(),
        got: "another".to_owned(),
    })
}

/// Fails when a tensor that a segment writes shares memory with any other tensor of the call: a
/// fused kernel reads and writes in an order of its own.
fn check_apart(op: &'static str, args: &dyn OpArgs, written: &[&'static str]) -> Result<()> {
    let mut result = Ok(());
    args.each_tensor(&mut |target_name, target| {
        if !written.contains(&target_name) {
            return;
        }
        args.each_tensor(&mut |name, tensor| {
            if name != target_name && result.is_ok() {
                result = check::apart(op, (target_name, target), (name, tensor));
            }
        });
    });
    result
}
