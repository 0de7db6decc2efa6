//! What the kernel of a decode step reads: plain values of the layout of `persistent.cuh`.

use bytemuck::{Pod, Zeroable};
use metallic::op::LinearArgs;
use metallic::segment::{DecoderLayer, Projection};
use metallic::tensor::Tensor;

use super::layout::piece_bytes;
use crate::cuda::buffer::device_ptr;
use crate::cuda::view::dtype_code;

/// A weight.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub(super) struct Matrix {
    pub start: u64,
    pub bias: u64,
    pub row_bytes: u32,
    pub piece_bytes: u32,
    pub dtype: u32,
    pub rows: u32,
}

impl Matrix {
    pub(super) fn new(weight: &Tensor, bias: Option<&Tensor>) -> Self {
        let (dtype, [rows, width]) = (weight.dtype(), [weight.shape()[0], weight.shape()[1]]);
        Self {
            start: device_ptr(weight),
            bias: bias.map_or(0, device_ptr),
            row_bytes: (width / dtype.block_len() * dtype.block_bytes()) as u32,
            piece_bytes: piece_bytes(dtype) as u32,
            dtype: dtype_code(dtype),
            rows: rows as u32,
        }
    }

    fn of(projection: &Projection) -> Self {
        Self::new(&projection.weight, projection.bias.as_ref())
    }
}

/// The keys or values of one layer.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub(super) struct Cache {
    start: u64,
    head_stride: u64,
    row_stride: u64,
}

impl Cache {
    /// Of a view `[1, kv_heads, positions, head_dim]`.
    fn new(cache: &Tensor) -> Self {
        let (strides, size) = (cache.layout().strides(), cache.dtype().block_bytes());
        let bytes = |axis: usize| (strides[axis] * size) as u64;
        Self { start: device_ptr(cache), head_stride: bytes(1), row_stride: bytes(2) }
    }
}

/// One layer.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub(super) struct Layer {
    /// q, k, v, o, gate, up, down.
    pub matrices: [Matrix; 7],
    /// Keys and values.
    pub caches: [Cache; 2],
    /// Those of attention and of the feed-forward half.
    pub norms: [u64; 2],
}

impl Layer {
    pub(super) fn new(layer: &DecoderLayer) -> Self {
        let DecoderLayer { attention, mlp } = layer;
        let weights =
            [&attention.q, &attention.k, &attention.v, &attention.o, &mlp.gate, &mlp.up, &mlp.down];
        Self {
            matrices: weights.map(Matrix::of),
            caches: [Cache::new(&attention.k_cache), Cache::new(&attention.v_cache)],
            norms: [&attention.norm.weight, &mlp.norm.weight].map(device_ptr),
        }
    }

    /// The entry of the output matrix, and of the norm before it.
    pub(super) fn output(output: &LinearArgs, norm: &Tensor) -> Self {
        let mut entry = Self::zeroed();
        entry.matrices[0] = Matrix::new(&output.weight, output.bias.as_ref());
        entry.norms[0] = device_ptr(norm);
        entry
    }
}

/// The kernel's parameter.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub(super) struct Step {
    pub layers: u64,
    pub table: Matrix,
    pub ids: u64,
    pub starts: u64,
    pub kv_lens: u64,
    pub cos: u64,
    pub sin: u64,
    pub logits: u64,
    pub published: u64,
    pub epoch: u64,
    pub count: u64,
    pub draw: u64,
    pub chosen: u64,
    pub picks: u64,
    pub lists: u64,
    pub fault: u64,
    pub layer_count: u32,
    pub layer_words: u32,
    pub hidden: u32,
    pub ffn: u32,
    pub q_heads: u32,
    pub kv_heads: u32,
    pub kv_len: u32,
    pub splits: u32,
    pub interleaved: u32,
    pub eps: f32,
    pub scale: f32,
    pub vocab: u32,
    pub stream_at: u32,
    pub input_at: u32,
    pub sums_at: u32,
    pub ring_at: u32,
    pub slots: u32,
    pub slot_bytes: u32,
    pub most: u32,
    pub unused: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_the_kernel() {
        assert_eq!(size_of::<Matrix>(), 32);
        assert_eq!(size_of::<Layer>(), 7 * 32 + 2 * 24 + 16);
        // The table is copied in pieces of 16 bytes.
        assert!(size_of::<Layer>().is_multiple_of(16));
        assert_eq!(size_of::<Step>(), 8 + 32 + 14 * 8 + 20 * 4);
    }
}
