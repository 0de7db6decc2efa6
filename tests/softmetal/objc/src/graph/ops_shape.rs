//! Ops that move elements or change the type.

use super::infer::axis_of;
use super::ir::Op;
use super::tensor::{GRAPH, answer, push, refuse, shape_of};
use crate::foundation::array;
use crate::mps::dtype::DType;
use crate::runtime::abort::abort;
use crate::runtime::class::methods;
use crate::runtime::{Id, Ref};

/// A list of numbers that must be there.
fn list(id: Id) -> Vec<i64> {
    array::read_shape(id).unwrap_or_else(|| abort!("a list of numbers must not be nil"))
}

fn ids(tensors: &[Ref]) -> Vec<Id> {
    tensors.iter().map(Ref::id).collect()
}

/// Rank and axis from the front.
fn place(tensor: Id, axis: i64) -> (usize, usize) {
    let rank =
        shape_of(tensor).unwrap_or_else(|| abort!("the rank of a tensor is not known")).len();
    (rank, axis_of(axis, rank).unwrap_or_else(|text| refuse(&text)))
}

/// `length` places from `start` along one axis.
fn part(this: Id, tensor: Id, axis: i64, start: i64, length: i64) -> Id {
    let (rank, axis) = place(tensor, axis);
    let (mut starts, mut ends) = (vec![0; rank], vec![i64::MAX; rank]);
    starts[axis] = start;
    // A negative start counts from the end, and so does what follows it.
    ends[axis] = if start < 0 && start + length == 0 { i64::MAX } else { start + length };
    answer(this, Op::Slice { starts, ends, strides: vec![1; rank] }, &[tensor])
}

fn split(this: Id, tensor: Id, sizes: &[i64], axis: i64) -> Id {
    let mut start = 0;
    let parts = sizes.iter().map(|size| {
        let one = part(this, tensor, axis, start, *size).required("a part");
        start += size;
        one
    });
    array::make(parts.collect()).autorelease()
}

methods! { install_methods for GRAPH;
    - "reshapeTensor:withShape:name:" (this, tensor: Id, shape: Id, _name: Id) -> Id {
        answer(this, Op::Reshape { shape: list(shape) }, &[tensor])
    }
    - "reshapeTensor:withShapeTensor:name:" (this, tensor: Id, shape: Id, _name: Id) -> Id {
        answer(this, Op::ReshapeTo, &[tensor, shape])
    }
    - "transposeTensor:dimension:withDimension:name:" (this, tensor: Id, a: usize, b: usize, _name: Id) -> Id {
        let (rank, a) = place(tensor, a as i64);
        let (_, b) = place(tensor, b as i64);
        let mut order: Vec<usize> = (0..rank).collect();
        order.swap(a, b);
        answer(this, Op::Transpose { order }, &[tensor])
    }
    - "transposeTensor:permutation:name:" (this, tensor: Id, order: Id, _name: Id) -> Id {
        let order = list(order).into_iter().map(|n| place(tensor, n).1).collect();
        answer(this, Op::Transpose { order }, &[tensor])
    }
    - "sliceTensor:dimension:start:length:name:" (
        this, tensor: Id, axis: usize, start: isize, length: isize, _name: Id,
    ) -> Id {
        part(this, tensor, axis as i64, start as i64, length as i64)
    }
    - "sliceTensor:starts:ends:strides:name:" (this, tensor: Id, starts: Id, ends: Id, strides: Id, _name: Id) -> Id {
        answer(this, Op::Slice { starts: list(starts), ends: list(ends), strides: list(strides) }, &[tensor])
    }
    - "sliceUpdateDataTensor:updateTensor:starts:ends:strides:name:" (
        this, data: Id, update: Id, starts: Id, ends: Id, strides: Id, _name: Id,
    ) -> Id {
        answer(this, Op::SliceUpdate { starts: list(starts), ends: list(ends), strides: list(strides) }, &[data, update])
    }
    - "sliceUpdateDataTensor:updateTensor:startsTensor:endsTensor:stridesTensor:name:" (
        this, data: Id, update: Id, starts: Id, ends: Id, strides: Id, _name: Id,
    ) -> Id {
        answer(this, Op::SliceUpdateAt, &[data, update, starts, ends, strides])
    }
    - "concatTensor:withTensor:dimension:name:" (this, a: Id, b: Id, axis: isize, _name: Id) -> Id {
        answer(this, Op::Concat { axis: axis as i64 }, &[a, b])
    }
    - "concatTensors:dimension:name:" (this, tensors: Id, axis: isize, _name: Id) -> Id {
        let tensors = array::items(tensors, "the tensors");
        answer(this, Op::Concat { axis: axis as i64 }, &ids(&tensors))
    }
    - "stackTensors:axis:name:" (this, tensors: Id, axis: isize, _name: Id) -> Id {
        let tensors = array::items(tensors, "the tensors");
        let axis = axis as i64;
        let wide: Vec<Id> =
            tensors.iter().map(|t| answer(this, Op::ExpandDims { axes: vec![axis] }, &[t.id()])).collect();
        answer(this, Op::Concat { axis }, &wide)
    }
    - "splitTensor:numSplits:axis:name:" (this, tensor: Id, count: usize, axis: isize, _name: Id) -> Id {
        let (_, at) = place(tensor, axis as i64);
        let extent = shape_of(tensor).map_or(-1, |dims| dims[at]);
        if extent < 0 || count == 0 || extent % count as i64 != 0 {
            refuse(&format!("split of {extent} into {count}"));
        }
        split(this, tensor, &vec![extent / count as i64; count], axis as i64)
    }
    - "splitTensor:splitSizes:axis:name:" (this, tensor: Id, sizes: Id, axis: isize, _name: Id) -> Id {
        split(this, tensor, &list(sizes), axis as i64)
    }
    - "broadcastTensor:toShape:name:" (this, tensor: Id, shape: Id, _name: Id) -> Id {
        answer(this, Op::Broadcast { shape: list(shape) }, &[tensor])
    }
    - "broadcastTensor:toShapeTensor:name:" (this, tensor: Id, shape: Id, _name: Id) -> Id {
        answer(this, Op::BroadcastTo, &[tensor, shape])
    }
    - "shapeOfTensor:name:" (this, tensor: Id, _name: Id) -> Id { answer(this, Op::ShapeOf, &[tensor]) }
    - "castTensor:toType:name:" (this, tensor: Id, dtype: u32, _name: Id) -> Id {
        push(this, Op::Cast, &[tensor], Some(DType::from_code(dtype))).autorelease()
    }
    - "expandDimsOfTensor:axis:name:" (this, tensor: Id, axis: isize, _name: Id) -> Id {
        answer(this, Op::ExpandDims { axes: vec![axis as i64] }, &[tensor])
    }
    - "expandDimsOfTensor:axes:name:" (this, tensor: Id, axes: Id, _name: Id) -> Id {
        answer(this, Op::ExpandDims { axes: list(axes) }, &[tensor])
    }
    - "squeezeTensor:name:" (this, tensor: Id, _name: Id) -> Id { answer(this, Op::Squeeze { axes: None }, &[tensor]) }
    - "squeezeTensor:axis:name:" (this, tensor: Id, axis: isize, _name: Id) -> Id {
        answer(this, Op::Squeeze { axes: Some(vec![axis as i64]) }, &[tensor])
    }
    - "squeezeTensor:axes:name:" (this, tensor: Id, axes: Id, _name: Id) -> Id {
        answer(this, Op::Squeeze { axes: array::read_shape(axes) }, &[tensor])
    }
    - "flatten2DTensor:axis:name:" (this, tensor: Id, axis: isize, _name: Id) -> Id {
        if axis < 0 {
            abort!("flatten2DTensor:axis:name:: axis {axis}");
        }
        answer(this, Op::Flatten { axis: axis as i64 }, &[tensor])
    }
    - "coordinateAlongAxis:withShape:name:" (this, axis: isize, shape: Id, _name: Id) -> Id {
        let shape = list(shape);
        push(this, Op::Coordinate { axis: axis as i64, shape }, &[], Some(DType::I32)).autorelease()
    }
}

pub(super) fn install() {
    install_methods();
}
