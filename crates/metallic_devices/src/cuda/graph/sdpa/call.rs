//! The parameters of one attention call, as every kernel takes them (`SdpaCall` of
//! `sdpa_common.cuh`).

use bytemuck::{Pod, Zeroable};
use metallic::Result;
use metallic::graph::SdpaNode;
use metallic::tensor::Tensor;

use crate::cuda::buffer::device_ptr;

/// Further than any key or position lies from any other.
const FAR: i64 = 1 << 40;
/// What the copy engines align addresses and strides to, in bytes.
const ALIGNMENT: u64 = 16;

/// The operands of one run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Feeds<'a> {
    /// `[batch, q_heads, q_len, head_dim]`.
    pub q: &'a Tensor,
    /// `[batch, kv_heads, kv_len, head_dim]`.
    pub k: &'a Tensor,
    /// `[batch, kv_heads, kv_len, v_dim]`.
    pub v: &'a Tensor,
    /// `[batch, q_heads, q_len, v_dim]`.
    pub out: &'a Tensor,
    /// Broadcasts to `[batch, q_heads, q_len, kv_len]`.
    pub mask: Option<&'a Tensor>,
    /// i32 `[batch]`.
    pub kv_lens: Option<&'a Tensor>,
    /// The diagonal's offset.
    pub offset: Option<i64>,
}

/// See `sdpa_common.cuh`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub(in crate::cuda::graph) struct SdpaCall {
    pub q: u64,
    pub k: u64,
    pub v: u64,
    pub out: u64,
    pub mask: u64,
    pub kv_lens: u64,
    pub partials: u64,
    pub counters: u64,
    pub q_stride: [i64; 3],
    pub k_stride: [i64; 3],
    pub v_stride: [i64; 3],
    pub o_stride: [i64; 3],
    pub mask_stride: [i64; 4],
    pub left: i64,
    pub right: i64,
    pub offset: i64,
    pub fixed_offset: i32,
    pub batch: i32,
    pub q_heads: i32,
    pub kv_heads: i32,
    pub q_len: i32,
    pub kv_len: i32,
    pub splits: i32,
    pub heads_per_wave: i32,
    pub scale: f32,
    pub softcap: f32,
}

impl SdpaCall {
    /// The call of `node` on `feeds`, with no splits and no scratch yet.
    ///
    /// # Errors
    /// When the mask does not broadcast to the scores, which the op has checked.
    pub(in crate::cuda::graph) fn new(node: &SdpaNode, feeds: &Feeds<'_>) -> Result<Self> {
        let Feeds { q, k, v, out, mask, kv_lens, offset } = *feeds;
        let (shape, kv_len) = (q.shape(), k.shape()[2]);
        let mask =
            mask.map(|mask| mask.broadcast([shape[0], shape[1], shape[2], kv_len])).transpose()?;
        let bound = |keys: Option<usize>| {
            keys.and_then(|keys| i64::try_from(keys).ok()).map_or(FAR, |keys| keys.min(FAR))
        };
        Ok(Self {
            q: device_ptr(q),
            k: device_ptr(k),
            v: device_ptr(v),
            out: device_ptr(out),
            mask: mask.as_ref().map_or(0, device_ptr),
            kv_lens: kv_lens.map_or(0, device_ptr),
            partials: 0,
            counters: 0,
            q_stride: outer_strides(q),
            k_stride: outer_strides(k),
            v_stride: outer_strides(v),
            o_stride: outer_strides(out),
            mask_stride: mask.map_or([0; 4], |mask| {
                let strides = mask.layout().strides();
                std::array::from_fn(|axis| strides[axis] as i64)
            }),
            left: bound(node.mask_kind.left),
            right: bound(node.mask_kind.right),
            offset: offset.unwrap_or(0).clamp(-FAR, FAR),
            fixed_offset: i32::from(offset.is_some()),
            batch: shape[0] as i32,
            q_heads: shape[1] as i32,
            kv_heads: k.shape()[1] as i32,
            q_len: shape[2] as i32,
            kv_len: kv_len as i32,
            splits: 1,
            heads_per_wave: 1,
            scale: node.scale,
            softcap: node.softcap.unwrap_or(0.0),
        })
    }
}

/// Strides of batch, head and row, in elements; of an axis of length 1 that of its rows together,
/// since nobody steps along it.
pub(in crate::cuda::graph) fn outer_strides(tensor: &Tensor) -> [i64; 3] {
    let (shape, strides) = (tensor.shape(), tensor.layout().strides());
    std::array::from_fn(|axis| {
        let stride = if shape[axis] == 1 { shape[3].next_multiple_of(8) } else { strides[axis] };
        stride as i64
    })
}

/// Whether every row of `tensor` starts where the copy engines can read it.
pub(in crate::cuda::graph) fn is_aligned(tensor: &Tensor) -> bool {
    let strides = outer_strides(tensor);
    let element = tensor.dtype().block_bytes() as u64;
    let aligned = |bytes: u64| bytes.is_multiple_of(ALIGNMENT);
    aligned(device_ptr(tensor)) && strides.iter().all(|stride| aligned(*stride as u64 * element))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_is_that_of_the_kernels() {
        // 8 addresses, 19 strides and bounds, 8 counts, 2 factors.
        assert_eq!(size_of::<SdpaCall>(), 8 * 8 + 19 * 8 + 8 * 4 + 2 * 4);
        assert_eq!(std::mem::offset_of!(SdpaCall, left), 64 + 16 * 8);
        assert_eq!(std::mem::offset_of!(SdpaCall, scale), 64 + 19 * 8 + 8 * 4);
    }
}
