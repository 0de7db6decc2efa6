//! The norm by the root of the mean square.

use metallic::Result;
use metallic::graph::RmsNormNode;

use super::Lowering;
use crate::metal::graph::emit::{Binary, Unary};
use crate::metal::graph::value::Value;

/// `x / sqrt(mean(x²) + eps) · weight` along the last axis.
pub(super) fn lower(lowering: &Lowering<'_>, node: &RmsNormNode) -> Result<Value> {
    let (x, weight) = (lowering.value(node.x)?, lowering.value(node.weight)?);
    let emitter = &lowering.emitter;
    let squares = emitter.unary(Unary::Square, &x)?;
    let mean = emitter.mean(&squares, x.dims.len() - 1)?;
    let eps = emitter.scalar(node.eps.into(), x.dtype)?;
    let shifted = emitter.binary(Binary::Add, &mean, &eps)?;
    let factor = emitter.unary(Unary::ReciprocalSquareRoot, &shifted)?;
    let normed = emitter.binary(Binary::Multiply, &x, &factor)?;
    emitter.binary(Binary::Multiply, &normed, &weight)
}
