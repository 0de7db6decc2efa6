//! MPSNDArrayDescriptor: element type, extents (fastest first in its indexed calls), slices, order.

use std::sync::Mutex;

use super::dtype::DType;
use crate::foundation::array;
use crate::runtime::abort::abort;
use crate::runtime::class::{class, methods};
use crate::runtime::encode::Encoded;
use crate::runtime::{Id, Ref};

class!(pub(super) DESCRIPTOR, "MPSNDArrayDescriptor");

/// `MPSDimensionSlice`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Slice {
    pub(super) start: usize,
    pub(super) length: usize,
}

impl Encoded for Slice {
    const ENCODING: &'static str = "{?=QQ}";
}

/// What a descriptor says.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    pub(super) dtype: DType,
    /// Slowest first.
    pub(super) shape: Vec<usize>,
    /// Parts of the extents that a view takes, slowest first.
    pub(super) slices: Vec<Slice>,
    /// Which extent comes at each place, slowest first.
    pub(super) order: Vec<usize>,
    pub(super) packed_rows: bool,
}

/// The value of a descriptor object.
pub(super) struct Descriptor(pub(super) Mutex<Layout>);

/// The most dimensions an array has.
const MAX_RANK: usize = 16;

impl Layout {
    pub(super) fn new(dtype: DType, shape: Vec<usize>) -> Layout {
        if shape.len() > MAX_RANK {
            abort!("MPSNDArrayDescriptor: {} dimensions, at most {MAX_RANK}", shape.len());
        }
        if shape.iter().any(|n| *n > i32::MAX as usize) {
            abort!("NDArray dimension length > INT_MAX");
        }
        if shape.iter().product::<usize>() >= 1 << 31 {
            abort!("MPSNDArrayDescriptor: the product of the dimensions {shape:?} must be < 2^31");
        }
        let slices = shape.iter().map(|length| Slice { start: 0, length: *length }).collect();
        let order = (0..shape.len()).collect();
        Layout { dtype, shape, slices, order, packed_rows: false }
    }

    fn from_shape(dtype: DType, shape: Id) -> Layout {
        let dims = array::read_shape(shape)
            .unwrap_or_else(|| abort!("MPSNDArrayDescriptor: the shape is nil"));
        Layout::new(dtype, sizes(&dims))
    }

    /// A place counted from the fastest dimension.
    fn place(&self, index: usize) -> usize {
        match self.shape.len().checked_sub(index + 1) {
            Some(place) => place,
            None => abort!("MPSNDArrayDescriptor: dimension {index} of {}", self.shape.len()),
        }
    }
}

/// Extents that must be known.
pub(crate) fn sizes(dims: &[i64]) -> Vec<usize> {
    dims.iter()
        .map(|n| {
            usize::try_from(*n)
                .unwrap_or_else(|_| abort!("NDArray dimension length > INT_MAX ({dims:?})"))
        })
        .collect()
}

fn copied(from: *const usize, count: usize) -> Vec<usize> {
    // SAFETY: the caller passes `count` numbers, fastest dimension first.
    let mut list = unsafe { std::slice::from_raw_parts(from, count) }.to_vec();
    list.reverse();
    list
}

fn with<R>(this: Id, change: impl FnOnce(&mut Layout) -> R) -> R {
    change(&mut this.value::<Descriptor>().0.lock().unwrap())
}

fn make(layout: Layout) -> Id {
    Ref::new(&DESCRIPTOR, Descriptor(Mutex::new(layout))).autorelease()
}

methods! { install for DESCRIPTOR;
    + "descriptorWithDataType:shape:" (_class, dtype: u32, shape: Id) -> Id {
        make(Layout::from_shape(DType::from_code(dtype), shape))
    }
    + "descriptorWithDataType:dimensionCount:dimensionSizes:" (_class, dtype: u32, count: usize, from: *mut usize) -> Id {
        make(Layout::new(DType::from_code(dtype), copied(from, count)))
    }
    - "dataType" (this) -> u32 { with(this, |layout| layout.dtype.code()) }
    - "setDataType:" (this, dtype: u32) { with(this, |layout| layout.dtype = DType::from_code(dtype)) }
    - "numberOfDimensions" (this) -> usize { with(this, |layout| layout.shape.len()) }
    - "preferPackedRows" (this) -> u8 { with(this, |layout| u8::from(layout.packed_rows)) }
    - "setPreferPackedRows:" (this, on: u8) { with(this, |layout| layout.packed_rows = on != 0) }
    - "lengthOfDimension:" (this, index: usize) -> usize { with(this, |layout| layout.shape[layout.place(index)]) }
    - "sliceRangeForDimension:" (this, index: usize) -> Slice { with(this, |layout| layout.slices[layout.place(index)]) }
    - "sliceDimension:withSubrange:" (this, index: usize, range: Slice) {
        with(this, |layout| {
            let place = layout.place(index);
            if range.start + range.length > layout.shape[place] {
                abort!("sliceDimension:withSubrange:: {range:?} leaves {}", layout.shape[place]);
            }
            layout.slices[place] = range;
        });
    }
    - "transposeDimension:withDimension:" (this, a: usize, b: usize) {
        with(this, |layout| {
            let (a, b) = (layout.place(a), layout.place(b));
            layout.order.swap(a, b);
        });
    }
    - "getShape" (this) -> Id {
        let dims: Vec<i64> = with(this, |layout| layout.shape.iter().map(|n| *n as i64).collect());
        array::make_shape(&dims).autorelease()
    }
    - "reshapeWithShape:" (this, shape: Id) {
        with(this, |layout| {
            let packed_rows = layout.packed_rows;
            *layout = Layout { packed_rows, ..Layout::from_shape(layout.dtype, shape) };
        });
    }
}
