//! Attention: what both forms share.
//!
//! The query heads that share a key head are folded into rows, `[b, kv_heads, group · q, d]`.
//! Keys and values are so read as they lie, heads are equal on both sides, and no op is asked to
//! broadcast them, which MPSGraph is not known to do.

use metallic::Result;
use metallic::graph::SdpaNode;
use objc2_metal_performance_shaders::MPSDataType;

use super::super::emit::{Binary, Emitter};
use super::super::form::Form;
use super::super::value::{ANY, Value, bad};
use super::sdpa_mask::{self, Visible};
use super::{Lowering, sdpa_decomposed, sdpa_native};

/// The operands of one attention node, folded.
pub(super) struct Operands {
    /// `[b, kv_heads, group · q, head_dim]`.
    pub(super) q: Value,
    /// `[b, kv_heads, kv, head_dim]`.
    pub(super) k: Value,
    /// `[b, kv_heads, kv, v_dim]`.
    pub(super) v: Value,
    /// Which keys each row sees.
    pub(super) visible: Visible,
}

/// The value of `node`: `[b, q_heads, q, v_dim]` in q's type; with lengths that are not baked in
/// `[b, kv_heads, group · q, v_dim]`, which is how q is fed then.
pub(super) fn lower(lowering: &mut Lowering<'_>, index: usize, node: &SdpaNode) -> Result<Value> {
    let (q, k, v) = (lowering.value(node.q)?, lowering.value(node.k)?, lowering.value(node.v)?);
    for (name, operand) in [("q", &q), ("k", &k), ("v", &v)] {
        if operand.dims.len() != 4 {
            return Err(bad("sdpa", format!("{name} has shape {:?}", operand.dims)));
        }
    }
    let folded = fold(&lowering.emitter, node, &q)?;
    let visible = sdpa_mask::visible(lowering, index, node, &folded, &k)?;
    let operands = Operands { q: folded, k, v, visible };
    let out = match lowering.target.form {
        Form::Native => sdpa_native::lower(lowering, node, &operands)?,
        Form::Decomposed => sdpa_decomposed::lower(lowering, node, &operands)?,
    };
    let emitter = &lowering.emitter;
    let out = zero_hidden_rows(emitter, &operands.visible, &out)?;
    let out = emitter.cast(&out, q.dtype)?;
    if q.dim(2) == ANY {
        return Ok(out);
    }
    let heads = node.q_heads as isize;
    emitter.reshape(&out, &[q.dim(0), heads, q.dim(2), node.v_dim as isize])
}

/// The rows of the query heads of a key head one after another: the same memory.
fn fold(emitter: &Emitter, node: &SdpaNode, q: &Value) -> Result<Value> {
    let (kv_heads, dim) = (node.kv_heads as isize, node.head_dim as isize);
    if q.dim(2) == ANY {
        return Ok(q.clone());
    }
    let rows = (node.q_heads / node.kv_heads) as isize * q.dim(2);
    emitter.reshape(q, &[q.dim(0), kv_heads, rows, dim])
}

/// Zeros for rows that see no key. MPSGraph's softmax of nothing but −∞ is NaN (pytorch#156707).
fn zero_hidden_rows(emitter: &Emitter, visible: &Visible, out: &Value) -> Result<Value> {
    let zero = emitter.scalar(0.0, out.dtype)?;
    let seen = emitter.cast(&visible.allowed, MPSDataType::Float32)?;
    let most = emitter.reduce_max(&seen, 3)?;
    let none = emitter.scalar(0.0, MPSDataType::Float32)?;
    let sees = emitter.binary(Binary::Greater, &most, &none)?;
    emitter.select(&sees, out, &zero)
}
