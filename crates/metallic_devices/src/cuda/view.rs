//! A tensor as kernels see it: an address, four axes, strides in bytes. A plain value that travels
//! among a kernel's parameters.

use bytemuck::{Pod, Zeroable};
use metallic::tensor::{DType, Tensor};

use super::buffer::device_ptr;

/// A strided view of up to four axes, missing ones in front with length 1. In `numbers.cuh`:
/// `struct View`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub(crate) struct View {
    /// The first element, or its block.
    pub start: u64,
    /// Bytes from one index of each axis to the next; 0 along the last axis of quantised types.
    pub strides: [i64; 4],
    /// Axis lengths, outermost first.
    pub shape: [i32; 4],
    /// The element type, as [`dtype_code`].
    pub dtype: u32,
    /// Nothing; fills the struct.
    pub unused: u32,
}

impl View {
    /// A view of no tensor, for operands that are left out.
    pub(crate) const NONE: View =
        View { start: 0, strides: [0; 4], shape: [0; 4], dtype: 0, unused: 0 };

    /// The elements of `tensor`.
    pub(crate) fn new(tensor: &Tensor) -> Self {
        let (dtype, layout) = (tensor.dtype(), tensor.layout());
        let lead = 4 - layout.shape().len();
        let (mut shape, mut strides) = ([1; 4], [0; 4]);
        for (axis, dim) in shape[lead..].iter_mut().zip(layout.shape().iter()) {
            *axis = i32::try_from(*dim).unwrap_or(i32::MAX);
        }
        for (bytes, stride) in strides[lead..].iter_mut().zip(layout.strides()) {
            // Neighbours in a quantised row share a block: their stride counts as 0.
            *bytes = (stride / dtype.block_len() * dtype.block_bytes()) as i64;
        }
        Self { start: device_ptr(tensor), strides, shape, dtype: dtype_code(dtype), unused: 0 }
    }
}

/// The number of an element type in kernels (`DTYPE_…` in `numbers.cuh`, block types in
/// `blocks.cuh`).
pub(crate) const fn dtype_code(dtype: DType) -> u32 {
    match dtype {
        DType::F32 => 0,
        DType::F16 => 1,
        DType::Bf16 => 2,
        DType::I32 => 3,
        DType::Bool => 4,
        DType::Q8_0 => 5,
        DType::Q4_0 => 6,
        DType::Q4_1 => 7,
        DType::Q5_0 => 8,
        DType::Q5_1 => 9,
        DType::Q2K => 10,
        DType::Q3K => 11,
        DType::Q4K => 12,
        DType::Q5K => 13,
        DType::Q6K => 14,
        DType::Iq4Nl => 15,
        DType::Iq4Xs => 16,
        DType::I64 => 17,
    }
}
