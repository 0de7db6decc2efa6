//! Which keys each row sees, computed in the graph from a handful of numbers.
//!
//! Live lengths lie on the GPU and change with every step, so a mask in memory would have to be
//! built anew for each step by a kernel, and every layer would wait for it. Comparing positions
//! inside the graph needs no memory that outlives the call and no order between layers, costs
//! `1 / (heads · head_dim)` of the attention itself, and is exact for any length and offset.

use metallic::Result;
use metallic::graph::SdpaNode;
use metallic::op::MaskTensorKind;
use objc2_metal_performance_shaders::MPSDataType;

use super::super::emit::{Binary, Emitter};
use super::super::value::{ANY, Value, bad};
use super::{Lowering, Slot};

/// What a mask says of each row and key.
pub(super) struct Visible {
    /// Bool, broadcasting to `[b, kv_heads, rows, kv]`; the last two axes are whole.
    pub(super) allowed: Value,
    /// Added to the scores, f32, of the same kind of shape.
    pub(super) bias: Option<Value>,
}

/// The mask of `node` over folded rows `q: [b, kv_heads, rows, d]` and `k: [b, kv_heads, kv, d]`.
pub(super) fn visible(
    lowering: &mut Lowering<'_>,
    index: usize,
    node: &SdpaNode,
    q: &Value,
    k: &Value,
) -> Result<Visible> {
    let rows = row_positions(lowering, index, node, q)?;
    let keys = key_positions(lowering, k)?;
    let numbers = lowering.feed(Slot::Lengths(index), "lengths", &[4], MPSDataType::Int32)?;
    let kv_lens = node.kv_lens.map(|id| lowering.value(id)).transpose()?;
    let emitter = &lowering.emitter;
    let number = |place: isize| {
        let number = emitter.slice(&numbers, 0, place, 1)?;
        emitter.reshape(&number, &[1, 1, 1, 1])
    };
    let (kv_len, low, high) = (number(0)?, number(1)?, number(2)?);
    let live = match &kv_lens {
        None => kv_len,
        Some(lens) => live_lengths(emitter, lens, &kv_len)?,
    };
    let mut allowed = emitter.binary(Binary::Less, &keys, &live)?;
    let kind = &node.mask_kind;
    // The key a row is compared with: keys are moved, not rows, so that no table of rows by keys
    // is made of constants alone, which a compiler would keep.
    let moved = |by: &Value| {
        let by =
            if kind.fixed_offset { by.clone() } else { emitter.binary(Binary::Add, by, &live)? };
        emitter.binary(Binary::Subtract, &keys, &by)
    };
    for (bounded, by, side) in [
        (kind.left.is_some(), &low, Binary::GreaterOrEqual),
        (kind.right.is_some(), &high, Binary::LessOrEqual),
    ] {
        if bounded {
            let inside = emitter.binary(side, &moved(by)?, &rows)?;
            allowed = emitter.binary(Binary::And, &allowed, &inside)?;
        }
    }
    let mut bias = None;
    if let Some(mask) = node.mask {
        let mask = fold_mask(emitter, node, &lowering.value(mask)?)?;
        let (permits, added) = tensor_mask(emitter, kind.tensor, &mask)?;
        allowed = emitter.binary(Binary::And, &allowed, &permits)?;
        bias = added;
    }
    // All rows are told apart even where the mask is the same for all, so that what reads it
    // needs to know no special case.
    let [rows, keys] = [q.dim(2), k.dim(2)];
    if rows != ANY && keys != ANY {
        let dims = [allowed.dim(0), allowed.dim(1), rows, keys];
        allowed = emitter.broadcast_to(&allowed, &dims)?;
    }
    Ok(Visible { allowed, bias })
}

/// The position of each row's query, i32 `[1, 1, rows, 1]`: rows of one head after another.
fn row_positions(
    lowering: &mut Lowering<'_>,
    index: usize,
    node: &SdpaNode,
    q: &Value,
) -> Result<Value> {
    let rows = q.dim(2);
    if rows == ANY {
        let fed = lowering.feed(Slot::Rows(index), "rows", &[ANY], MPSDataType::Int32)?;
        return lowering.emitter.reshape(&fed, &[1, 1, ANY, 1]);
    }
    let group = (node.q_heads / node.kv_heads) as i32;
    let positions: Vec<i32> = (0..group).flat_map(|_| 0..rows as i32 / group).collect();
    lowering.emitter.integers(&positions, &[1, 1, rows, 1])
}

/// The position of each key, i32 `[1, 1, 1, kv]`.
fn key_positions(lowering: &mut Lowering<'_>, k: &Value) -> Result<Value> {
    let keys = k.dim(2);
    if keys == ANY {
        let fed = lowering.feed(Slot::Keys, "keys", &[ANY], MPSDataType::Int32)?;
        return lowering.emitter.reshape(&fed, &[1, 1, 1, ANY]);
    }
    let positions: Vec<i32> = (0..keys as i32).collect();
    lowering.emitter.integers(&positions, &[1, 1, 1, keys])
}

/// The live length of each sequence, `[b, 1, 1, 1]`, clamped to `0 ..= kv_len`.
fn live_lengths(emitter: &Emitter, lens: &Value, kv_len: &Value) -> Result<Value> {
    let lens = emitter.reshape(lens, &[lens.dim(0), 1, 1, 1])?;
    let capped = emitter.binary(Binary::Minimum, &lens, kv_len)?;
    let zero = emitter.integers(&[0], &[1])?;
    emitter.binary(Binary::Maximum, &capped, &zero)
}

/// `mask: [b|1, q_heads|1, q, kv]` over folded rows: `[b|1, kv_heads|1, rows, kv]`.
fn fold_mask(emitter: &Emitter, node: &SdpaNode, mask: &Value) -> Result<Value> {
    if mask.dims.len() != 4 || mask.dims.contains(&ANY) {
        return Err(bad("sdpa", format!("a mask of shape {:?}", mask.dims)));
    }
    let [batch, heads, q, kv] = [mask.dim(0), mask.dim(1), mask.dim(2), mask.dim(3)];
    let (kv_heads, group) = (node.kv_heads as isize, (node.q_heads / node.kv_heads) as isize);
    if heads == node.q_heads as isize {
        return emitter.reshape(mask, &[batch, kv_heads, group * q, kv]);
    }
    let apart = emitter.reshape(mask, &[batch, 1, 1, q, kv])?;
    let repeated = emitter.broadcast_to(&apart, &[batch, 1, group, q, kv])?;
    emitter.reshape(&repeated, &[batch, 1, group * q, kv])
}

/// What a mask tensor permits, and what it adds.
fn tensor_mask(
    emitter: &Emitter,
    kind: MaskTensorKind,
    mask: &Value,
) -> Result<(Value, Option<Value>)> {
    if kind == MaskTensorKind::Bool {
        let zero = emitter.scalar(0.0, mask.dtype)?;
        return Ok((emitter.binary(Binary::NotEqual, mask, &zero)?, None));
    }
    let added = emitter.cast(mask, MPSDataType::Float32)?;
    let hidden = emitter.scalar(f64::NEG_INFINITY, MPSDataType::Float32)?;
    Ok((emitter.binary(Binary::NotEqual, &added, &hidden)?, Some(added)))
}
