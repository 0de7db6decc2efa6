//! What a tensor is: an element type, a layout, and a buffer on some device.

mod buffer;
mod dtype;
mod host_bytes;
mod layout;
mod shape;

pub use buffer::Buffer;
pub use dtype::{DType, UnknownDType};
pub use host_bytes::HostBytes;
pub use layout::Layout;
pub use shape::{MAX_RANK, Shape};

use std::sync::Arc;

use crate::device::DeviceId;
use crate::error::{Error, Result};

/// A typed, strided view of a device buffer. Cloning shares the buffer.
///
/// Writing goes through kernels and [`crate::context::Context`]; there is no element access
/// here. Quantised tensors have whole blocks along the last axis.
#[derive(Clone, Debug)]
pub struct Tensor {
    buffer: Arc<dyn Buffer>,
    dtype: DType,
    layout: Layout,
}

impl Tensor {
    /// A view of `buffer`.
    ///
    /// # Errors
    /// [`Error::Layout`] when the view reaches past the buffer, or splits a block of a quantised
    /// type: rows are whole blocks of neighbours and start at whole blocks.
    pub fn new(buffer: Arc<dyn Buffer>, dtype: DType, layout: Layout) -> Result<Self> {
        let fits = layout
            .end()
            .and_then(|end| dtype.row_bytes(end.next_multiple_of(dtype.block_len())))
            .is_some_and(|bytes| bytes <= buffer.bytes());
        let whole_blocks = !dtype.is_quantized() || blocks_are_whole(dtype, &layout);
        if !fits || !whole_blocks {
            return Err(Error::Layout { dtype, layout, bytes: buffer.bytes() });
        }
        Ok(Self { buffer, dtype, layout })
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Axis lengths, outermost first.
    pub fn shape(&self) -> Shape {
        self.layout.shape()
    }

    /// Shape, strides and offset, in elements.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The storage.
    pub fn buffer(&self) -> &Arc<dyn Buffer> {
        &self.buffer
    }

    /// The device the storage lies on.
    pub fn device(&self) -> DeviceId {
        self.buffer.device()
    }

    /// Whether this view and `other` lie in one buffer and the bytes from the first to the last
    /// element of each have a byte in common. Views that interleave without sharing count too.
    pub fn overlaps(&self, other: &Self) -> bool {
        if !std::ptr::addr_eq(Arc::as_ptr(&self.buffer), Arc::as_ptr(&other.buffer)) {
            return false;
        }
        let (a, b) = (self.byte_range(), other.byte_range());
        a.start.max(b.start) < a.end.min(b.end)
    }

    /// From the first byte of the first element (or block) to the last byte of the last one.
    fn byte_range(&self) -> std::ops::Range<usize> {
        let (len, bytes) = (self.dtype.block_len(), self.dtype.block_bytes());
        // `new` found an end, so there is one.
        let end = self.layout.end().unwrap_or_default();
        self.layout.offset() / len * bytes..end.div_ceil(len) * bytes
    }

    /// The view with `axis` cut to `start .. start + len`.
    ///
    /// # Errors
    /// [`Error::View`] when that lies outside.
    pub fn narrow(&self, axis: usize, start: usize, len: usize) -> Result<Self> {
        self.view("narrow", self.layout.narrow(axis, start, len))
    }

    /// The view with its axes in the order `axes`.
    ///
    /// # Errors
    /// [`Error::View`] when `axes` is no permutation.
    pub fn permute(&self, axes: &[usize]) -> Result<Self> {
        self.view("permute", self.layout.permute(axes))
    }

    /// The same elements under another shape.
    ///
    /// # Errors
    /// [`Error::View`] unless dense with an equal element count.
    pub fn reshape(&self, shape: impl Into<Shape>) -> Result<Self> {
        self.view("reshape", self.layout.reshape(shape.into()))
    }

    /// The view broadcast to `shape` as NumPy does.
    ///
    /// # Errors
    /// [`Error::View`] when an axis does not fit.
    pub fn broadcast(&self, shape: impl Into<Shape>) -> Result<Self> {
        self.view("broadcast", self.layout.broadcast(shape.into()))
    }

    fn view(&self, what: &'static str, layout: Option<Layout>) -> Result<Self> {
        let layout = layout.ok_or(Error::View { what, layout: self.layout })?;
        Self::new(Arc::clone(&self.buffer), self.dtype, layout)
    }
}

fn blocks_are_whole(dtype: DType, layout: &Layout) -> bool {
    let whole = |elements: &usize| elements.is_multiple_of(dtype.block_len());
    let Some((row, outer)) = layout.strides().split_last() else { return false };
    let rows = *row == 1 && layout.shape().last().is_some_and(whole);
    rows && whole(&layout.offset())
        && outer.iter().zip(layout.shape().iter()).all(|(stride, dim)| *dim <= 1 || whole(stride))
}
