//! From a call to the geometry of its plan, and what a plan can be asked for at all.

use metallic::dispatch::{Reason, Support};
use metallic::graph::SdpaNode;
use metallic::op::MaskTensorKind;
use metallic::tensor::{DType, Tensor};

use super::attention::{Bias, Geometry};
use super::graph::Element;
use crate::cuda::graph::sdpa::{Feeds, Types, is_aligned, outer_strides};

/// Widest head of the library's kernels.
const MAX_WIDTH: usize = 256;
/// Keys of the smallest length class; the others are powers of two.
const SMALLEST_CLASS: usize = 128;

/// Whether calls of the class have plans.
pub(super) fn supports(node: &SdpaNode, Types { q, kv }: Types, v: DType) -> Support {
    let missing = |feature| Support::No(Reason::Missing { feature });
    if !matches!(q, DType::F16 | DType::Bf16) {
        return Support::No(Reason::DType { binding: "q", got: q, supported: "f16 and bf16" });
    }
    for (binding, got) in [("k", kv), ("v", v)] {
        if got != q {
            return Support::No(Reason::DType { binding, got, supported: "q's type" });
        }
    }
    for (what, got) in [("head_dim", node.head_dim), ("v_dim", node.v_dim)] {
        if got > MAX_WIDTH {
            return Support::No(Reason::Range { what, got, max: MAX_WIDTH });
        }
        if !got.is_multiple_of(8) {
            return missing("head_dim or v_dim other than multiples of 8");
        }
    }
    let kind = &node.mask_kind;
    let banded = kind.left.is_some() || kind.right.is_some();
    match kind.tensor {
        MaskTensorKind::Bool => return missing("bool mask tensors"),
        MaskTensorKind::Additive(_) if banded => {
            return missing("a mask tensor together with a band");
        }
        MaskTensorKind::Additive(_) | MaskTensorKind::None => {}
    }
    if node.softcap.is_some() {
        return missing("softcap");
    }
    if kind.fixed_offset {
        return missing("a diagonal that is placed by hand");
    }
    if banded && kind.right != Some(0) {
        return missing("windows that see keys after the diagonal, or are open there");
    }
    if kind.left.is_some_and(|left| i32::try_from(left).is_err()) {
        return missing("windows of more than 2^31 keys");
    }
    Support::Yes
}

fn element(dtype: DType) -> Element {
    match dtype {
        DType::F32 => Element::F32,
        DType::Bf16 => Element::Bf16,
        _ => Element::F16,
    }
}

/// The geometry of a call with keys, or why it has none.
///
/// # Errors
/// In words.
pub(super) fn geometry(node: &SdpaNode, feeds: &Feeds<'_>) -> Result<Geometry, String> {
    let Feeds { q, k, v, out, mask, kv_lens, .. } = *feeds;
    if ![q, k, v, out].into_iter().all(is_aligned) {
        return Err("rows that do not start at multiples of 16 bytes".to_owned());
    }
    let (q_shape, live_room) = (q.shape(), k.shape()[2]);
    let [batch, q_heads, q_len] = [q_shape[0], q_shape[1], q_shape[2]];
    let left = node.mask_kind.left;
    // The one query of a step lies on the last key.
    let causal = node.mask_kind.right.is_some() && (q_len > 1 || left.is_some());
    // Without lengths the library takes no more queries than keys under a band.
    let lengths = kv_lens.is_some() || causal && q_len > live_room;
    let bias = mask.map(|mask| bias(mask, [batch, q_heads, q_len, live_room])).transpose()?;
    // Where lengths are data, keys that are not there cost nothing, and a plan serves a class.
    let kv_len = match lengths && bias.is_none() {
        true => class(live_room).min(room(k)).min(room(v)).max(live_room),
        false => live_room,
    };
    if [q_len, kv_len].into_iter().any(|length| i32::try_from(length).is_err()) {
        return Err(format!("{q_len} queries over {kv_len} keys"));
    }
    Ok(Geometry {
        element: element(q.dtype()),
        batch,
        q_heads,
        kv_heads: k.shape()[1],
        q_len,
        kv_len,
        head_dim: node.head_dim,
        v_dim: node.v_dim,
        q: outer_strides(q),
        k: outer_strides(k),
        v: outer_strides(v),
        out: outer_strides(out),
        causal,
        left,
        lengths,
        bias,
    })
}

/// The length class of `keys`.
fn class(keys: usize) -> usize {
    keys.checked_next_power_of_two().unwrap_or(keys).max(SMALLEST_CLASS)
}

/// Rows of `[batch, heads, rows, width]` from the first on that lie in the tensor's buffer, in every
/// head before the next head's begin.
fn room(tensor: &Tensor) -> usize {
    let (shape, layout, dtype) = (tensor.shape(), tensor.layout(), tensor.dtype());
    let strides = layout.strides();
    let row = strides[2];
    if row == 0 || shape[2] < 2 {
        return shape[2];
    }
    let outer = [0, 1].into_iter().filter(|axis| shape[*axis] > 1);
    let apart = outer.clone().map(|axis| strides[axis] / row).min().unwrap_or(usize::MAX);
    let elements = tensor.buffer().bytes() / dtype.block_bytes() * dtype.block_len();
    let last: usize = outer.map(|axis| (shape[axis] - 1) * strides[axis]).sum();
    let left = elements.saturating_sub(layout.offset() + last + shape[3]);
    apart.min(left / row + 1)
}

/// A mask tensor over scores of `shape`.
fn bias(mask: &Tensor, shape: [usize; 4]) -> Result<Bias, String> {
    let wide = mask.broadcast(shape).map_err(|error| error.to_string())?;
    let strides = wide.layout().strides();
    let repeats = |axis: usize| shape[axis] == 1 || strides[axis] == 0;
    if repeats(2) && shape[2] > 1 || repeats(3) && shape[3] > 1 {
        return Err("mask tensors that repeat along queries or keys".to_owned());
    }
    if strides[3] != 1 && shape[3] > 1 || !is_aligned(&wide) {
        return Err("mask tensors whose rows are not dense from multiples of 16 bytes".to_owned());
    }
    let shape: [usize; 4] =
        std::array::from_fn(|axis| if axis < 2 && repeats(axis) { 1 } else { shape[axis] });
    let inner = [shape[3] as i64 * shape[2] as i64, shape[3] as i64];
    // Nobody steps along an axis of length 1, but the library wants a stride.
    let strides = std::array::from_fn(|axis| match axis {
        3 => 1,
        _ if shape[axis] == 1 => inner[usize::from(axis == 2)],
        _ => strides[axis] as i64,
    });
    let shape = shape.map(|axis| axis as i64);
    Ok(Bias { element: element(mask.dtype()), shape, strides })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_powers_of_two() {
        assert_eq!([1, 128, 129, 768, 1024].map(class), [128, 128, 256, 1024, 1024]);
        assert_eq!(class(usize::MAX), usize::MAX);
    }
}
