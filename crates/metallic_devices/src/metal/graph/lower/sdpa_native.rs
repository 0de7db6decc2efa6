//! Attention by MPSGraph's own op (macOS 15): `softmax(scale · q kᵀ + mask) v` over equal heads.
//!
//! Its mask is a tensor of q's type that is added, with −∞ for hidden keys. What is hidden is
//! multiplied by a weight of 0, so it must be finite: `form::supports` sees to that.

use metallic::Result;
use metallic::graph::SdpaNode;

use super::Lowering;
use super::sdpa::Operands;
use crate::metal::graph::value::{Value, bad};

/// `[b, kv_heads, rows, v_dim]`; rows that see no key are whatever the op makes of them.
pub(super) fn lower(
    lowering: &Lowering<'_>,
    node: &SdpaNode,
    operands: &Operands,
) -> Result<Value> {
    let emitter = &lowering.emitter;
    let Operands { q, k, v, visible } = operands;
    if node.softcap.is_some() {
        return Err(bad("sdpa", "the native op has no bound of the scores"));
    }
    let dtype = k.dtype;
    let q = emitter.cast(q, dtype)?;
    let bias = match &visible.bias {
        Some(bias) => emitter.cast(bias, dtype)?,
        None => emitter.scalar(0.0, dtype)?,
    };
    let hidden = emitter.scalar(f64::NEG_INFINITY, dtype)?;
    let mask = emitter.select(&visible.allowed, &bias, &hidden)?;
    emitter.sdpa([&q, k, v], &mask, node.scale)
}
