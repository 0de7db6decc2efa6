//! A sum.

use metallic::Result;
use metallic::graph::AddNode;

use super::Lowering;
use crate::metal::graph::emit::Binary;
use crate::metal::graph::value::Value;

/// `a + b`.
pub(super) fn lower(lowering: &Lowering<'_>, node: &AddNode) -> Result<Value> {
    let (a, b) = (lowering.value(node.a)?, lowering.value(node.b)?);
    lowering.emitter.binary(Binary::Add, &a, &b)
}
