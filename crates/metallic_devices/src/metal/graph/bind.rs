//! A tensor as MPSGraph's tensor data, without moving a byte.
//!
//! What lies dense from the first byte of its buffer is bound as it is. Offsets and strides go
//! through array views (macOS 15). What neither can say is told to the caller, who copies.

use metallic::tensor::Layout;
use objc2::rc::{Allocated, Retained};
use objc2::runtime::ProtocolObject;
use objc2::{AnyThread, msg_send};
use objc2_metal::MTLBuffer;
use objc2_metal_performance_shaders::{MPSDataType, MPSNDArray, MPSNDArrayDescriptor, MPSShape};
use objc2_metal_performance_shaders_graph::MPSGraphTensorData;

use super::value::{element_bytes, shape};

/// MPSGraph compares buffers with shapes whose rows are rounded up to this (measured by a third
/// party), and ends the process when the buffer is too small.
const ROW_BYTES: usize = 16;

/// Elements in a Metal buffer.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    /// The buffer.
    pub(super) buffer: &'a ProtocolObject<dyn MTLBuffer>,
    /// Bytes before the first element.
    pub(super) offset: usize,
    /// Element type.
    pub(super) dtype: MPSDataType,
    /// Axis lengths, outermost first.
    pub(super) dims: &'a [usize],
    /// Elements from one index of each axis to the next.
    pub(super) strides: &'a [usize],
}

/// Why a tensor has to be copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Copied {
    /// It is shorter than its length class.
    Shorter,
    /// Its axes lie in another order, or repeat.
    Order,
    /// The system has no views inside a buffer.
    NoViews,
    /// The buffer ends less than 16 bytes behind it.
    NoSlack,
    /// MPSGraph refused the view.
    Refused,
    /// It is a feed and a result of the same run.
    InPlace,
}

impl Copied {
    /// The reason in words.
    pub(super) fn reason(self) -> &'static str {
        match self {
            Copied::Shorter => "it is shorter than its length class",
            Copied::Order => "its axes lie in another order than the graph has them",
            Copied::NoViews => "before macOS 15 an array begins with its buffer and has no gaps",
            Copied::NoSlack => "its buffer ends within 16 bytes behind it",
            Copied::Refused => "MPSGraph refused a view of it",
            Copied::InPlace => "it is read and written by the same run",
        }
    }
}

/// The elements of `place` as tensor data; `views` says whether the system has array views.
pub(super) fn bind(place: &Place<'_>, views: bool) -> Result<Retained<MPSGraphTensorData>, Copied> {
    let dense = Layout::contiguous(place.dims.into());
    let strides = without_gaps_of_one(place, &dense);
    let is_dense = strides == dense.strides();
    if !(views || is_dense && place.offset == 0) {
        return Err(Copied::NoViews);
    }
    let sorted = strides.is_sorted_by(|outer, inner| outer >= inner);
    let plain = strides.last().is_none_or(|stride| *stride == 1) && !strides.contains(&0);
    if !sorted || !plain {
        return Err(Copied::Order);
    }
    let span: usize =
        1 + place.dims.iter().zip(&strides).map(|(dim, stride)| (dim - 1) * stride).sum::<usize>();
    // Without a descriptor that asks for packed rows, each row counts as rounded up.
    let row = place.dims.last().map_or(0, |dim| dim * element_bytes(place.dtype));
    let plain_buffer = is_dense && place.offset == 0 && (row.is_multiple_of(ROW_BYTES) || !views);
    let needed = if plain_buffer {
        room(place.dims, place.dtype)
    } else {
        (span * element_bytes(place.dtype)).next_multiple_of(ROW_BYTES)
    };
    if place.offset + needed > place.buffer.length() {
        return Err(Copied::NoSlack);
    }
    let dims = signed(place.dims);
    if plain_buffer {
        return whole_buffer(place, &shape(&dims)).ok_or(Copied::Refused);
    }
    let array = if is_dense {
        inside(place, &shape(&dims))
    } else {
        let flat = inside(place, &shape(&[span as isize]));
        // SAFETY: the strides do not increase, the last one is 1, and the last element lies in
        // the flat array.
        flat.and_then(|flat| unsafe {
            flat.arrayViewWithShape_strides(Some(&shape(&dims)), &shape(&signed(&strides)))
        })
    };
    array.and_then(|array| of_array(&array)).ok_or(Copied::Refused)
}

/// Bytes of a buffer that holds a dense array of `dims` in a way that every system binds: as if each
/// row were rounded up, although none is.
pub(super) fn room(dims: &[usize], dtype: MPSDataType) -> usize {
    let row = dims.last().map_or(1, |dim| *dim) * element_bytes(dtype);
    let rows: usize = dims.iter().rev().skip(1).product();
    rows * row.next_multiple_of(ROW_BYTES)
}

/// The strides of `place`, those of axes of length 1 replaced by what they would be in a dense
/// array: they are never used, and may be anything.
fn without_gaps_of_one(place: &Place<'_>, dense: &Layout) -> Vec<usize> {
    let mut strides = place.strides.to_vec();
    let mut inner = 1;
    for axis in (0..strides.len()).rev() {
        if place.dims[axis] == 1 {
            strides[axis] = inner;
        }
        inner = strides[axis].max(1) * place.dims[axis];
    }
    let same = |axis: usize| place.dims[axis] == 1 || strides[axis] == dense.strides()[axis];
    if (0..strides.len()).all(same) { dense.strides().to_vec() } else { strides }
}

fn signed(lengths: &[usize]) -> Vec<isize> {
    lengths.iter().map(|length| *length as isize).collect()
}

/// The bindings call these initialisers non-null; what Apple's may return is not documented, so
/// nil is looked at here.
fn whole_buffer(place: &Place<'_>, shape: &MPSShape) -> Option<Retained<MPSGraphTensorData>> {
    let data: Allocated<MPSGraphTensorData> = MPSGraphTensorData::alloc();
    // SAFETY: the selector and the types are those of the bindings; the buffer is long enough.
    unsafe { msg_send![data, initWithMTLBuffer: place.buffer, shape: shape, dataType: place.dtype] }
}

fn inside(place: &Place<'_>, shape: &MPSShape) -> Option<Retained<MPSNDArray>> {
    // SAFETY: the shape has the elements that lie in the buffer; packed rows, so that no gap is
    // assumed between them.
    unsafe {
        let descriptor = MPSNDArrayDescriptor::descriptorWithDataType_shape(place.dtype, shape);
        descriptor.setPreferPackedRows(true);
        let array: Allocated<MPSNDArray> = MPSNDArray::alloc();
        msg_send![
            array,
            initWithBuffer: place.buffer,
            offset: place.offset,
            descriptor: &*descriptor
        ]
    }
}

fn of_array(array: &MPSNDArray) -> Option<Retained<MPSGraphTensorData>> {
    let data: Allocated<MPSGraphTensorData> = MPSGraphTensorData::alloc();
    // SAFETY: the selector and the types are those of the bindings.
    unsafe { msg_send![data, initWithMPSNDArray: array] }
}
