//! Heads as an axis of their own, and side by side again.

use metallic::Result;
use metallic::graph::{MergeHeadsNode, SplitHeadsNode};

use super::Lowering;
use crate::metal::graph::value::Value;

/// `[batch, len, heads · dim]` to `[batch, heads, len, dim]`.
pub(super) fn split(lowering: &Lowering<'_>, node: &SplitHeadsNode) -> Result<Value> {
    let x = lowering.value(node.x)?;
    let emitter = &lowering.emitter;
    let (heads, dim) = (node.heads as isize, node.dim as isize);
    let apart = emitter.reshape(&x, &[x.dim(0), x.dim(1), heads, dim])?;
    emitter.transpose(&apart, &[0, 2, 1, 3])
}

/// `[batch, heads, len, dim]` to `[batch, len, heads · dim]`.
pub(super) fn merge(lowering: &Lowering<'_>, node: &MergeHeadsNode) -> Result<Value> {
    let x = lowering.value(node.x)?;
    let emitter = &lowering.emitter;
    let width = (node.heads * node.dim) as isize;
    let rows = emitter.transpose(&x, &[0, 2, 1, 3])?;
    emitter.reshape(&rows, &[x.dim(0), x.dim(2), width])
}
