//! A tensor as kernels see it: a pointer, four axes, strides in bytes.
//!
//! Shapes of fewer axes are padded with axes of length 1 in front. Not: ownership or bounds; the
//! tensor a view was taken of checked its bounds, and must outlive the view.

use metallic::tensor::{DType, Tensor};

use super::buffer::{data_ptr, output_ptr};

/// A strided view of up to four axes whose last axis is contiguous, or broadcast with stride 0.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View {
    ptr: *mut u8,
    /// Element type.
    pub dtype: DType,
    /// Axis lengths, outermost first.
    pub shape: [usize; 4],
    strides: [usize; 4],
}

// SAFETY: a view is an address with a shape; who reads or writes through it says why that is sound.
unsafe impl Send for View {}
// SAFETY: as above.
unsafe impl Sync for View {}

impl View {
    /// The elements of `tensor`, for reading.
    pub(crate) fn input(tensor: &Tensor) -> Self {
        Self::at(data_ptr(tensor), tensor)
    }

    /// The elements of `tensor`, for writing.
    pub(crate) fn output(tensor: &Tensor) -> Self {
        Self::at(output_ptr(tensor), tensor)
    }

    /// Dense f32 `[batch, len, heads · dim]` seen as `[batch, heads, len, dim]`.
    pub(crate) fn heads(ptr: *mut f32, [batch, len]: [usize; 2], [heads, dim]: [usize; 2]) -> Self {
        let strides = [len * heads * dim, dim, heads * dim, 1].map(|floats| floats * 4);
        Self { ptr: ptr.cast(), dtype: DType::F32, shape: [batch, heads, len, dim], strides }
    }

    fn at(ptr: *mut u8, tensor: &Tensor) -> Self {
        let (dtype, layout) = (tensor.dtype(), tensor.layout());
        let lead = 4 - layout.shape().len();
        let (mut shape, mut strides) = ([1; 4], [0; 4]);
        shape[lead..].copy_from_slice(&layout.shape());
        for (bytes, stride) in strides[lead..].iter_mut().zip(layout.strides()) {
            // Neighbours in a quantised row share a block: their stride counts as 0.
            *bytes = stride / dtype.block_len() * dtype.block_bytes();
        }
        Self { ptr, dtype, shape, strides }
    }

    /// The address of the first element of row `[a, b, c]`.
    #[inline(always)]
    pub(crate) fn row(&self, [a, b, c]: [usize; 3]) -> *mut u8 {
        debug_assert!(a < self.shape[0] && b < self.shape[1] && c < self.shape[2]);
        let bytes = a * self.strides[0] + b * self.strides[1] + c * self.strides[2];
        self.ptr.wrapping_add(bytes)
    }

    /// Bytes from one row to the next along axis 2.
    pub(crate) fn row_stride(&self) -> usize {
        self.strides[2]
    }

    /// Bytes from one element of the last axis to the next; 0 where it is broadcast.
    #[inline(always)]
    pub(crate) fn element_stride(&self) -> usize {
        self.strides[3]
    }
}
