//! The gate of a feed-forward layer. MPSGraph has no such op: `silu(x) = x · sigmoid(x)`.

use metallic::Result;
use metallic::graph::SwiGluNode;

use super::Lowering;
use crate::metal::graph::emit::{Binary, Unary};
use crate::metal::graph::value::Value;

/// `gate · sigmoid(gate) · up`.
pub(super) fn lower(lowering: &Lowering<'_>, node: &SwiGluNode) -> Result<Value> {
    let (gate, up) = (lowering.value(node.gate)?, lowering.value(node.up)?);
    let emitter = &lowering.emitter;
    let open = emitter.unary(Unary::Sigmoid, &gate)?;
    let silu = emitter.binary(Binary::Multiply, &gate, &open)?;
    emitter.binary(Binary::Multiply, &silu, &up)
}
