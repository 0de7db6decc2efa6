//! Bytes behind a lock, and tensors read from them and written to them value by value.

use std::any::Any;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use metallic::device::DeviceId;
use metallic::tensor::{Buffer, Layout, Tensor};

use super::device::NULL;
use crate::storage::{decode, encode};

/// A buffer of a [`super::NullDevice`].
#[derive(Debug)]
pub struct NullBuffer {
    bytes: Mutex<Vec<u8>>,
    len: usize,
    pub(super) read_only: bool,
    in_use: Arc<AtomicUsize>,
}

impl NullBuffer {
    pub(super) fn new(bytes: Vec<u8>, read_only: bool, in_use: Arc<AtomicUsize>) -> Self {
        let len = bytes.len();
        Self { bytes: Mutex::new(bytes), len, read_only, in_use }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The null buffer behind `buffer`.
    ///
    /// # Panics
    /// For a buffer of another device: a context never lets one through.
    pub(super) fn of(buffer: &dyn Buffer) -> &NullBuffer {
        buffer.as_any().downcast_ref().expect("a tensor on the null device has a null buffer")
    }
}

impl Drop for NullBuffer {
    fn drop(&mut self) {
        self.in_use.fetch_sub(self.len, Ordering::SeqCst);
    }
}

impl Buffer for NullBuffer {
    fn device(&self) -> DeviceId {
        NULL
    }

    fn bytes(&self) -> usize {
        self.len
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// The values of a tensor, row-major, whatever its layout.
pub(super) fn read(tensor: &Tensor) -> Vec<f64> {
    let dtype = tensor.dtype();
    let bytes = NullBuffer::of(&**tensor.buffer()).lock();
    let (step, size) = (dtype.block_len(), dtype.block_bytes());
    blocks(tensor.layout(), step)
        .flat_map(|element| decode(dtype, &bytes[element / step * size..][..size]))
        .collect()
}

/// Writes row-major `values` into a tensor of plain type.
pub(super) fn write(tensor: &Tensor, values: &[f64]) {
    let dtype = tensor.dtype();
    let size = dtype.block_bytes();
    let mut bytes = NullBuffer::of(&**tensor.buffer()).lock();
    for (element, value) in blocks(tensor.layout(), 1).zip(values) {
        bytes[element * size..][..size].copy_from_slice(&encode(dtype, &[*value]));
    }
}

/// The first element of each run of `step` elements along the last axis, in row-major order.
fn blocks(layout: &Layout, step: usize) -> impl Iterator<Item = usize> {
    let (shape, layout) = (layout.shape(), *layout);
    let count = shape.iter().product::<usize>() / step;
    (0..count).map(move |block| {
        let (mut rest, mut element) = (block * step, layout.offset());
        for axis in (0..shape.len()).rev() {
            element += rest % shape[axis] * layout.strides()[axis];
            rest /= shape[axis];
        }
        element
    })
}
