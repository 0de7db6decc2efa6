//! Ops that move elements.

use super::infer::{axis_of, reshaped, slice_of};
use super::ir::{Node, Op};
use super::value::{Data, Value, broadcast_strides, places, strides};
use crate::mps::dtype::DType;
use crate::runtime::abort::abort;

fn must<T>(result: Result<T, String>) -> T {
    result.unwrap_or_else(|text| abort!("{text}"))
}

fn extents(dims: &[i64]) -> Vec<usize> {
    let wrong =
        |n: i64| -> usize { abort!("NDArray dimension length > INT_MAX ({n} in {dims:?})") };
    dims.iter().map(|n| usize::try_from(*n).unwrap_or_else(|_| wrong(*n))).collect()
}

fn transpose(x: &Value, order: &[usize]) -> Value {
    let own = strides(&x.shape);
    let shape: Vec<usize> = order.iter().map(|place| x.shape[*place]).collect();
    let steps: Vec<usize> = order.iter().map(|place| own[*place]).collect();
    let list = places(&shape, &steps, 0);
    x.pick(shape, &list)
}

fn concat(inputs: &[&Value], axis: i64) -> Value {
    let axis = must(axis_of(axis, inputs[0].shape.len()));
    let mut shape = inputs[0].shape.clone();
    shape[axis] = inputs.iter().map(|x| x.shape[axis]).sum();
    let outer: usize = shape[..axis].iter().product();
    let inner: usize = shape[axis + 1..].iter().product();
    let mut floats = Vec::new();
    let mut integers = Vec::new();
    for block in 0..outer {
        for x in inputs {
            let size = x.shape[axis] * inner;
            let range = block * size..(block + 1) * size;
            match &x.data {
                Data::Float(list) => floats.extend_from_slice(&list[range]),
                Data::Integer(list) => integers.extend_from_slice(&list[range]),
            }
        }
    }
    let data =
        if inputs[0].dtype.is_float() { Data::Float(floats) } else { Data::Integer(integers) };
    Value::new(inputs[0].dtype, shape, data)
}

/// Shape and places of a slice inside a tensor of `shape`.
fn window(
    shape: &[usize],
    starts: &[i64],
    ends: &[i64],
    steps: &[i64],
) -> (Vec<usize>, Vec<usize>) {
    let own = strides(shape);
    let mut first = 0;
    let (mut counts, mut strides) = (Vec::new(), Vec::new());
    for i in 0..shape.len() {
        let (start, count) = must(slice_of(shape[i] as i64, starts[i], ends[i], steps[i]));
        first += start as usize * own[i];
        counts.push(count as usize);
        strides.push(steps[i] as usize * own[i]);
    }
    let list = places(&counts, &strides, first);
    (counts, list)
}

fn slice_update(data: &Value, update: &Value, bounds: [&[i64]; 3]) -> Value {
    let (shape, list) = window(&data.shape, bounds[0], bounds[1], bounds[2]);
    if shape != update.shape {
        abort!("sliceUpdate: an update {:?} for {shape:?}", update.shape);
    }
    let mut result = data.clone();
    match (&mut result.data, &update.data) {
        (Data::Float(to), Data::Float(from)) => {
            list.iter().zip(from).for_each(|(at, x)| to[*at] = *x)
        }
        (Data::Integer(to), Data::Integer(from)) => {
            list.iter().zip(from).for_each(|(at, x)| to[*at] = *x)
        }
        _ => abort!("sliceUpdate of {} with {}", data.dtype.name(), update.dtype.name()),
    }
    result
}

fn gather(data: &Value, indices: &Value, axis: usize, batch: usize) -> Value {
    let inner: usize = data.shape[axis + 1..].iter().product();
    let middle: usize = data.shape[batch..axis].iter().product();
    let outer: usize = data.shape[..batch].iter().product();
    let extent = data.shape[axis];
    let list = indices.to_integers();
    let each: usize = indices.shape[batch..].iter().product();
    let mut picked = Vec::new();
    for b in 0..outer {
        for m in 0..middle {
            for index in &list[b * each..][..each] {
                // Out of range gives a neighbour on a GPU; nobody should rely on it.
                let Some(index) = usize::try_from(*index).ok().filter(|i| *i < extent) else {
                    abort!("gather: index {index} of {extent}")
                };
                let start = ((b * middle + m) * extent + index) * inner;
                picked.extend(start..start + inner);
            }
        }
    }
    let shape = [&data.shape[..axis], &indices.shape[batch..], &data.shape[axis + 1..]].concat();
    data.pick(shape, &picked)
}

fn broadcast(x: &Value, shape: Vec<usize>) -> Value {
    let list = places(&shape, &broadcast_strides(&x.shape, &shape), 0);
    x.pick(shape, &list)
}

fn coordinate(axis: i64, shape: &[i64], dtype: DType) -> Value {
    let shape = extents(shape);
    let axis = must(axis_of(axis, shape.len()));
    let step = strides(&shape)[axis];
    let count = shape.iter().product::<usize>();
    let list = (0..count).map(|i| (i / step % shape[axis]) as i64);
    if dtype.is_float() {
        Value::floats(dtype, shape.clone(), list.map(|i| i as f32).collect())
    } else {
        Value::integers(dtype, shape.clone(), list.collect())
    }
}

/// Runs one op of this family.
pub(super) fn run(op: &Op, node: &Node, inputs: &[&Value]) -> Value {
    let x = inputs.first().copied();
    let first = || x.unwrap_or_else(|| abort!("{op:?} without input"));
    match op {
        Op::Transpose { order } => transpose(first(), order),
        Op::Reshape { shape } => {
            first().clone().with_shape(extents(&must(reshaped(&first().dims(), shape))))
        }
        Op::ReshapeTo => {
            let shape = must(reshaped(&first().dims(), &inputs[1].to_integers()));
            first().clone().with_shape(extents(&shape))
        }
        Op::Concat { axis } => concat(inputs, *axis),
        Op::Slice { starts, ends, strides } => {
            let (shape, list) = window(&first().shape, starts, ends, strides);
            first().pick(shape, &list)
        }
        Op::SliceUpdate { starts, ends, strides } => {
            slice_update(first(), inputs[1], [starts, ends, strides])
        }
        Op::SliceUpdateAt => {
            let bounds: Vec<Vec<i64>> =
                inputs[2..5].iter().map(|value| value.to_integers()).collect();
            slice_update(first(), inputs[1], [&bounds[0], &bounds[1], &bounds[2]])
        }
        Op::Broadcast { shape } => broadcast(first(), extents(shape)),
        Op::BroadcastTo => broadcast(first(), extents(&inputs[1].to_integers())),
        Op::ShapeOf => Value::integers(DType::I32, vec![first().shape.len()], first().dims()),
        Op::ExpandDims { .. } | Op::Squeeze { .. } | Op::Flatten { .. } => {
            let input = Node { shape: Some(first().dims()), ..node.clone() };
            let dims = must(super::infer::shape(op, &[&input])).unwrap_or_default();
            first().clone().with_shape(extents(&dims))
        }
        Op::Gather { axis, batch } => gather(first(), inputs[1], *axis, *batch),
        Op::Coordinate { axis, shape } => coordinate(*axis, shape, node.dtype),
        other => abort!("{other:?} is not evaluated"),
    }
}
