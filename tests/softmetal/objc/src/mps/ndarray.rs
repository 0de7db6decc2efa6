//! MPSNDArray: a strided window into a Metal buffer.

use std::ffi::c_void;

use super::dtype::{self, DType, Scalar};
use super::ndarray_descriptor::{Descriptor, Layout, sizes};
use crate::foundation::array;
use crate::metal::buffer::{self, Buffer};
use crate::metal::{Label, device};
use crate::runtime::abort::abort;
use crate::runtime::class::{class, methods};
use crate::runtime::{Id, Ref};

class!(pub(crate) NDARRAY, "MPSNDArray");

/// Rows of arrays that are not packed begin at multiples of this many bytes.
const ROW_ALIGN: usize = 16;

/// Where the elements of an array lie.
#[derive(Clone)]
pub(crate) struct Window {
    pub(crate) buffer: Ref,
    /// Bytes.
    pub(crate) offset: usize,
    pub(crate) dtype: DType,
    /// Slowest first.
    pub(crate) shape: Vec<usize>,
    /// Elements, slowest first.
    pub(crate) strides: Vec<usize>,
}

/// The value of an array object.
struct Array {
    window: Window,
    parent: Option<Ref>,
    label: Label,
}

fn row_stride(dtype: DType, shape: &[usize], packed: bool) -> usize {
    let row = shape.last().copied().unwrap_or(1);
    if packed || dtype.bits() < 8 {
        return row;
    }
    dtype.bytes(row).next_multiple_of(ROW_ALIGN) / (dtype.bits() / 8)
}

fn strides(shape: &[usize], row: usize) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    let mut step = row;
    for place in (0..shape.len().saturating_sub(1)).rev() {
        strides[place] = step;
        step *= shape[place];
    }
    strides
}

impl Window {
    /// Rows of `row` elements at `offset` of a buffer. `needed` are the bytes the check asks for.
    fn checked(
        buffer: Ref,
        offset: usize,
        dtype: DType,
        shape: Vec<usize>,
        row: usize,
        needed: usize,
    ) -> Window {
        let have = buffer.value::<Buffer>().len();
        if shape.contains(&0) {
            abort!("an NDArray with a dimension of length 0: {shape:?}");
        }
        if dtype.bits() >= 8 && !offset.is_multiple_of(dtype.bits() / 8) {
            abort!(
                "[MPSNDArray initWithBuffer:offset:descriptor:] offset {offset} is not aligned to {}",
                dtype.name()
            );
        }
        if offset + needed > have {
            abort!(
                "[MPSNDArray, initWithBuffer:offset:descriptor:] Error: buffer is not large enough. Must be {} bytes (it has {have})",
                offset + needed
            );
        }
        let strides = strides(&shape, row);
        Window { buffer, offset, dtype, shape, strides }
    }

    /// What `initWithMTLBuffer:shape:dataType:` makes: packed rows at offset 0. Its check counts rows as
    /// if they were padded.
    pub(crate) fn packed(buffer: Ref, dtype: DType, shape: Vec<usize>) -> Window {
        let padded = row_stride(dtype, &shape, false);
        let rows: usize = shape.iter().rev().skip(1).product();
        let row = shape.last().copied().unwrap_or(1);
        let needed = dtype.bytes(padded * rows).next_multiple_of(if dtype.bits() < 8 {
            1
        } else {
            ROW_ALIGN
        });
        Window::checked(buffer, 0, dtype, shape, row, needed)
    }

    /// Rows of `row_bytes` at offset 0.
    pub(crate) fn with_row_bytes(
        buffer: Ref,
        dtype: DType,
        shape: Vec<usize>,
        row_bytes: usize,
    ) -> Window {
        let size = dtype.bits() / 8;
        let row = shape.last().copied().unwrap_or(1);
        if size == 0 || !row_bytes.is_multiple_of(size) || row_bytes < row * size {
            abort!(
                "rowBytes {row_bytes} must be a multiple of the element size and hold {row} elements of {}",
                dtype.name()
            );
        }
        let rows: usize = shape.iter().rev().skip(1).product();
        Window::checked(buffer, 0, dtype, shape, row_bytes / size, row_bytes * rows)
    }

    fn from_layout(buffer: Ref, offset: usize, layout: &Layout) -> Window {
        let row = row_stride(layout.dtype, &layout.shape, layout.packed_rows);
        let rows: usize = layout.shape.iter().rev().skip(1).product();
        let needed = layout.dtype.bytes(row * rows);
        Window::checked(buffer, offset, layout.dtype, layout.shape.clone(), row, needed)
    }

    /// A window of a new buffer of its own.
    pub(crate) fn allocate(dtype: DType, shape: Vec<usize>) -> Window {
        let bytes = dtype.bytes(shape.iter().product());
        // Slack for the check of padded rows.
        let rows: usize = shape.iter().rev().skip(1).product();
        let Some(made) = buffer::new((bytes + rows * ROW_ALIGN).max(ROW_ALIGN), 0) else {
            abort!(
                "[MPSNDArray initWithDevice:descriptor:] Error: failed to allocate {bytes} bytes"
            )
        };
        Window::packed(made, dtype, shape)
    }

    pub(crate) fn len(&self) -> usize {
        self.shape.iter().product()
    }

    fn is_contiguous(&self) -> bool {
        let row = self.shape.last().copied().unwrap_or(1);
        self.strides == strides(&self.shape, row)
    }

    /// Calls `each` with the place in memory of every element, in row-major order.
    pub(crate) fn for_each(&self, mut each: impl FnMut(usize, *mut u8, usize)) {
        let start = self.buffer.value::<Buffer>().range(self.offset, 0, "an array");
        let mut index = vec![0; self.shape.len()];
        for n in 0..self.len() {
            let at: usize = index.iter().zip(&self.strides).map(|(i, s)| i * s).sum();
            each(n, start, at);
            for place in (0..index.len()).rev() {
                index[place] += 1;
                if index[place] < self.shape[place] {
                    break;
                }
                index[place] = 0;
            }
        }
    }

    /// All elements in row-major order.
    pub(crate) fn read(&self) -> Vec<Scalar> {
        let mut list = Vec::with_capacity(self.len());
        // SAFETY: the window was checked against its buffer when it was made.
        self.for_each(|_, start, at| list.push(unsafe { dtype::load(self.dtype, start, at) }));
        list
    }

    /// Writes all elements.
    pub(crate) fn write(&self, value: impl Fn(usize) -> Scalar) {
        // SAFETY: as in `read`.
        self.for_each(|n, start, at| unsafe { dtype::store(self.dtype, start, at, value(n)) });
    }

    /// A strided view: strides in elements, slowest first, falling, the last one 1, of a packed array.
    fn view(&self, shape: Vec<usize>, strides: Vec<usize>) -> Option<Window> {
        let falling = strides.windows(2).all(|pair| pair[0] >= pair[1]);
        if !self.is_contiguous()
            || shape.len() != strides.len()
            || !falling
            || strides.last() != Some(&1)
        {
            return None;
        }
        let last: usize = shape.iter().zip(&strides).map(|(n, s)| n.saturating_sub(1) * s).sum();
        if last >= self.len() {
            abort!(
                "[MPSNDArray arrayViewWithShape:strides:] shape {shape:?} and strides {strides:?} leave {} elements",
                self.len()
            );
        }
        Some(Window { shape, strides, ..self.clone() })
    }

    /// The part and order that a descriptor asks for.
    fn part(&self, layout: &Layout) -> Option<Window> {
        if layout.shape != self.shape || layout.dtype != self.dtype {
            return None;
        }
        let skipped: usize = layout
            .slices
            .iter()
            .zip(&self.strides)
            .map(|(slice, stride)| slice.start * stride)
            .sum();
        Some(Window {
            buffer: self.buffer.clone(),
            offset: self.offset + self.dtype.bytes(skipped),
            dtype: self.dtype,
            shape: layout.order.iter().map(|place| layout.slices[*place].length).collect(),
            strides: layout.order.iter().map(|place| self.strides[*place]).collect(),
        })
    }
}

/// A new array object.
pub(crate) fn make(window: Window) -> Ref {
    Ref::new(&NDARRAY, Array { window, parent: None, label: Label::default() })
}

/// The window of an array object.
pub(crate) fn window(id: Id) -> Window {
    id.value::<Array>().window.clone()
}

fn child(parent: Id, window: Option<Window>) -> Id {
    match window {
        Some(window) => {
            Ref::new(&NDARRAY, Array { window, parent: parent.retained(), label: Label::default() })
                .autorelease()
        }
        None => Id::NIL,
    }
}

/// Strides in bytes that the caller gave, fastest first, as a window of raw memory would have them.
fn transfer(this: Id, memory: *mut c_void, strides: *mut isize, into_array: bool) {
    let window = window(this);
    let size = window.dtype.bits() / 8;
    if size == 0 {
        abort!("readBytes:strideBytes: of {} is not modelled", window.dtype.name());
    }
    let packed: Vec<usize> =
        self::strides(&window.shape, window.shape.last().copied().unwrap_or(1));
    let bytes: Vec<usize> = (0..window.shape.len())
        .map(|place| match strides.is_null() {
            true => packed[place] * size,
            // SAFETY: the caller passes a stride for each dimension, fastest first.
            false => unsafe { *strides.add(window.shape.len() - 1 - place) as usize },
        })
        .collect();
    let mut index = vec![0; window.shape.len()];
    window.for_each(|_, start, at| {
        let offset: usize = index.iter().zip(&bytes).map(|(i, step)| i * step).sum();
        // SAFETY: the caller's memory holds the array at these strides; the window was checked.
        unsafe {
            let (inside, outside) = (start.add(at * size), memory.cast::<u8>().add(offset));
            let (from, to) = if into_array { (outside, inside) } else { (inside, outside) };
            std::ptr::copy_nonoverlapping(from, to, size);
        }
        for place in (0..index.len()).rev() {
            index[place] += 1;
            if index[place] < window.shape[place] {
                break;
            }
            index[place] = 0;
        }
    });
}

methods! { install for NDARRAY;
    - "initWithBuffer:offset:descriptor:" (this, buffer: Id, offset: usize, descriptor: Id) -> Id {
        let layout = descriptor.value::<Descriptor>().0.lock().unwrap().clone();
        let window = Window::from_layout(buffer.required("the buffer"), offset, &layout);
        this.init(Array { window, parent: None, label: Label::default() })
    }
    - "initWithDevice:descriptor:" (this, _device: Id, descriptor: Id) -> Id {
        let layout = descriptor.value::<Descriptor>().0.lock().unwrap().clone();
        let window = Window::allocate(layout.dtype, layout.shape);
        this.init(Array { window, parent: None, label: Label::default() })
    }
    - "arrayViewWithShape:strides:" (this, shape: Id, strides: Id) -> Id {
        let window = window(this);
        let shape = array::read_shape(shape).map_or_else(|| window.shape.clone(), |dims| sizes(&dims));
        let strides = sizes(&array::read_shape(strides).unwrap_or_else(|| abort!("the strides must not be nil")));
        child(this, window.view(shape, strides))
    }
    - "arrayViewWithDescriptor:" (this, descriptor: Id) -> Id {
        let layout = descriptor.value::<Descriptor>().0.lock().unwrap().clone();
        child(this, window(this).part(&layout))
    }
    - "parent" (this) -> Id { this.value::<Array>().parent.clone().map_or(Id::NIL, Ref::autorelease) }
    - "userBuffer" (this) -> Id { window(this).buffer.autorelease() }
    - "dataType" (this) -> u32 { window(this).dtype.code() }
    - "dataTypeSize" (this) -> usize { window(this).dtype.bits() / 8 }
    - "numberOfDimensions" (this) -> usize { window(this).shape.len() }
    - "lengthOfDimension:" (this, index: usize) -> usize {
        let shape = window(this).shape;
        shape.len().checked_sub(index + 1).map_or(1, |place| shape[place])
    }
    - "resourceSize" (this) -> usize { window(this).buffer.value::<Buffer>().len() }
    - "readBytes:strideBytes:" (this, memory: *mut c_void, strides: *mut isize) { transfer(this, memory, strides, false) }
    - "writeBytes:strideBytes:" (this, memory: *mut c_void, strides: *mut isize) { transfer(this, memory, strides, true) }
    - "synchronizeOnCommandBuffer:" (_this, _commands: Id) {}
    - "device" (_this) -> Id { device::shared().autorelease() }
    - "label" (this) -> Id { this.value::<Array>().label.object() }
    - "setLabel:" (this, text: Id) { this.value::<Array>().label.set(text) }
}
