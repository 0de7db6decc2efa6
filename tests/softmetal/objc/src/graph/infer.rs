//! Types and shapes of results, with the refusals that end the process on macOS.

use super::ir::{Dims, Node, Op, type_text};
use crate::mps::dtype::DType;

/// The extent that two broadcast extents give, or none where they do not fit.
fn joined(a: i64, b: i64) -> Option<i64> {
    match (a, b) {
        (a, b) if a == b => Some(a),
        (1, n) | (n, 1) => Some(n),
        (-1, n) | (n, -1) => Some(n),
        _ => None,
    }
}

/// The shape of two broadcast shapes, aligned at the end.
fn broadcast(a: &[i64], b: &[i64]) -> Option<Vec<i64>> {
    let rank = a.len().max(b.len());
    let at =
        |dims: &[i64], place: usize| (place + dims.len()).checked_sub(rank).map_or(1, |i| dims[i]);
    (0..rank).map(|place| joined(at(a, place), at(b, place))).collect()
}

fn not_broadcast(a: &Node, b: &Node) -> String {
    let (a, b) = (type_text(a.dtype, &a.shape), type_text(b.dtype, &b.shape));
    format!("input types '{a}' and '{b}' are not broadcast compatible")
}

fn joint(a: &Node, b: &Node) -> Result<Dims, String> {
    match (&a.shape, &b.shape) {
        (Some(x), Some(y)) => broadcast(x, y).map(Some).ok_or_else(|| not_broadcast(a, b)),
        _ => Ok(None),
    }
}

fn same_type(a: &Node, b: &Node) -> Result<(), String> {
    if a.dtype == b.dtype { Ok(()) } else { Err(not_broadcast(a, b)) }
}

/// An axis counted from the front.
pub(crate) fn axis_of(axis: i64, rank: usize) -> Result<usize, String> {
    let counted = if axis < 0 { axis + rank as i64 } else { axis };
    usize::try_from(counted)
        .ok()
        .filter(|a| *a < rank)
        .ok_or_else(|| format!("axis {axis} is out of range for rank {rank}"))
}

/// Start, end and step inside an extent, as slices count: negative from the end, beyond it cut off.
pub(crate) fn slice_of(extent: i64, start: i64, end: i64, step: i64) -> Result<(i64, i64), String> {
    if step <= 0 {
        return Err(format!("a slice with stride {step} is not modelled"));
    }
    let place = |at: i64| if at < 0 { at + extent } else { at.min(extent) };
    let (start, end) = (place(start), place(end));
    if start < 0 || end < start {
        return Err(format!("a slice from {start} to {end} of {extent}"));
    }
    Ok((start, (end - start + step - 1) / step))
}

fn sliced(dims: &[i64], starts: &[i64], ends: &[i64], strides: &[i64]) -> Result<Vec<i64>, String> {
    if [starts.len(), ends.len(), strides.len()].iter().any(|n| *n != dims.len()) {
        return Err(format!("a slice of rank {} with {} starts", dims.len(), starts.len()));
    }
    (0..dims.len())
        .map(|i| match dims[i] {
            -1 if starts[i] >= 0 && ends[i] >= 0 && ends[i] != i64::MAX => {
                Ok((ends[i] - starts[i] + strides[i] - 1) / strides[i])
            }
            -1 => Ok(-1),
            extent if ends[i] != i64::MAX && ends[i] > extent => {
                Err(format!("a slice up to {} of {extent}", ends[i]))
            }
            extent => slice_of(extent, starts[i], ends[i], strides[i]).map(|(_, count)| count),
        })
        .collect()
}

/// The shape `shape` with its one -1 filled in from the number of elements.
pub(crate) fn reshaped(dims: &[i64], shape: &[i64]) -> Result<Vec<i64>, String> {
    if dims.contains(&-1) {
        return Ok(shape.to_vec());
    }
    let have: i64 = dims.iter().product();
    let known: i64 = shape.iter().filter(|n| **n != -1).product();
    let open = shape.iter().filter(|n| **n == -1).count();
    let fits = match open {
        0 => known == have,
        1 => known != 0 && have % known == 0,
        // Two unknown extents stay unknown, and running the graph ends the process.
        _ => return Ok(shape.to_vec()),
    };
    if !fits {
        return Err(format!("cannot reshape {dims:?} to {shape:?}"));
    }
    Ok(shape.iter().map(|n| if *n == -1 { have / known } else { *n }).collect())
}

fn matmul(a: &Node, b: &Node) -> Result<Dims, String> {
    same_type(a, b)?;
    if !a.dtype.is_float() {
        return Err(format!("matmul of {}", a.dtype.name()));
    }
    let (Some(x), Some(y)) = (&a.shape, &b.shape) else { return Ok(None) };
    if x.len() < 2 || y.len() < 2 {
        return Err(format!(
            "matmul of {} and {}",
            type_text(a.dtype, &a.shape),
            type_text(b.dtype, &b.shape)
        ));
    }
    let (xr, yr) = (x.len() - 2, y.len() - 2);
    let inner =
        joined(x[xr + 1], y[yr]).filter(|_| x[xr + 1] == y[yr] || x[xr + 1] < 0 || y[yr] < 0);
    let batch = broadcast(&x[..xr], &y[..yr]);
    match (inner, batch) {
        (Some(_), Some(mut shape)) => {
            shape.extend([x[xr], y[yr + 1]]);
            Ok(Some(shape))
        }
        _ => Err(format!(
            "'mps.matmul' op contracting dimensions differ or batches do not broadcast: {} and {}",
            type_text(a.dtype, &a.shape),
            type_text(b.dtype, &b.shape)
        )),
    }
}

fn equal_or_open(a: i64, b: i64) -> bool {
    a == b || a == -1 || b == -1
}

/// Heads of keys and values equal the query's, or are 1 and broadcast.
fn sdpa(inputs: &[&Node]) -> Result<Dims, String> {
    let (q, k, v) = (inputs[0], inputs[1], inputs[2]);
    let text =
        || inputs.iter().map(|n| type_text(n.dtype, &n.shape)).collect::<Vec<_>>().join(", ");
    if inputs.iter().any(|n| n.dtype != q.dtype) || !q.dtype.is_float() {
        return Err(format!("scaledDotProductAttention wants one float type: {}", text()));
    }
    let (Some(qs), Some(ks), Some(vs)) = (&q.shape, &k.shape, &v.shape) else { return Ok(None) };
    if qs.len() != 4 || ks.len() != 4 || vs.len() != 4 {
        return Err(format!("scaledDotProductAttention wants rank 4: {}", text()));
    }
    let heads = |n: i64| equal_or_open(n, qs[1]) || n == 1;
    let fits = equal_or_open(qs[0], ks[0])
        && equal_or_open(ks[0], vs[0])
        && heads(ks[1])
        && heads(vs[1])
        && equal_or_open(qs[3], ks[3])
        && equal_or_open(ks[2], vs[2])
        && equal_or_open(vs[3], qs[3]);
    if !fits {
        return Err(format!("scaledDotProductAttention: shapes do not fit: {}", text()));
    }
    if let Some(mask) = inputs.get(3)
        && let Some(ms) = &mask.shape
    {
        let scores = [qs[0], qs[1], qs[2], ks[2]];
        let fits = ms.len() <= 4
            && ms
                .iter()
                .rev()
                .zip(scores.iter().rev())
                .all(|(m, s)| *m == 1 || equal_or_open(*m, *s));
        if !fits {
            return Err(format!(
                "scaledDotProductAttention: the mask does not broadcast to {scores:?}: {}",
                text()
            ));
        }
    }
    Ok(Some(vec![qs[0], qs[1], qs[2], vs[3]]))
}

fn concat(inputs: &[&Node], axis: i64) -> Result<Dims, String> {
    let first = inputs[0];
    let Some(mut dims) = first.shape.clone() else { return Ok(None) };
    let axis = axis_of(axis, dims.len())?;
    for other in &inputs[1..] {
        same_type(first, other)?;
        let Some(more) = &other.shape else { return Ok(None) };
        let fits = more.len() == dims.len()
            && (0..dims.len()).all(|i| i == axis || equal_or_open(dims[i], more[i]));
        if !fits {
            return Err(format!(
                "concat: {} and {}",
                type_text(first.dtype, &first.shape),
                type_text(other.dtype, &other.shape)
            ));
        }
        dims[axis] = if dims[axis] < 0 || more[axis] < 0 { -1 } else { dims[axis] + more[axis] };
    }
    Ok(Some(dims))
}

fn map_dims(
    node: &Node,
    f: impl FnOnce(&[i64]) -> Result<Vec<i64>, String>,
) -> Result<Dims, String> {
    node.shape.as_deref().map(f).transpose()
}

fn gather(data: &Node, indices: &Node, axis: usize, batch: usize) -> Result<Dims, String> {
    if indices.dtype.is_float() {
        return Err(format!("gather with indices of {}", indices.dtype.name()));
    }
    let (Some(d), Some(i)) = (&data.shape, &indices.shape) else { return Ok(None) };
    if axis >= d.len() || batch > axis || batch > i.len() {
        return Err(format!("gather along axis {axis} of {d:?} with {batch} batch dimensions"));
    }
    Ok(Some([&d[..axis], &i[batch..], &d[axis + 1..]].concat()))
}

fn dequantize_groups(inputs: &[&Node]) -> Result<Dims, String> {
    let (data, scale) = (inputs[0], inputs[1]);
    let (Some(d), Some(s)) = (&data.shape, &scale.shape) else { return Ok(data.shape.clone()) };
    let fits = d.len() == s.len()
        && d.iter().zip(s).all(|(d, s)| *d < 0 || *s < 0 || (*s > 0 && d % s == 0));
    if fits {
        Ok(data.shape.clone())
    } else {
        Err(format!("dequantize: the scale {s:?} does not divide the data {d:?}"))
    }
}

/// The shape of the result of `op`.
pub(crate) fn shape(op: &Op, inputs: &[&Node]) -> Result<Dims, String> {
    match op {
        Op::Placeholder | Op::Constant(_) | Op::Fill(_) => {
            Err("a leaf has no inputs to infer from".to_owned())
        }
        Op::Unary(_) | Op::Band { .. } | Op::Cast | Op::Quantize { .. } | Op::Dequantize { .. } => {
            Ok(inputs[0].shape.clone())
        }
        Op::Binary(_) => same_type(inputs[0], inputs[1]).and_then(|()| joint(inputs[0], inputs[1])),
        Op::Select => {
            same_type(inputs[1], inputs[2])?;
            if inputs[0].dtype != DType::Bool {
                return Err(format!("select with a predicate of {}", inputs[0].dtype.name()));
            }
            let values = joint(inputs[1], inputs[2])?;
            joint(inputs[0], &Node { shape: values, ..inputs[1].clone() })
        }
        Op::MatMul => matmul(inputs[0], inputs[1]),
        Op::Sdpa { .. } => sdpa(inputs),
        Op::Softmax { axis } => {
            map_dims(inputs[0], |dims| axis_of(*axis, dims.len()).map(|_| dims.to_vec()))
        }
        Op::Reduce { axes, .. } => map_dims(inputs[0], |dims| {
            let mut result = dims.to_vec();
            match axes {
                None => result.fill(1),
                Some(axes) => {
                    for axis in axes {
                        result[axis_of(*axis, dims.len())?] = 1;
                    }
                }
            }
            Ok(result)
        }),
        Op::Transpose { order } => map_dims(inputs[0], |dims| {
            let mut sorted = order.clone();
            sorted.sort_unstable();
            if !sorted.iter().copied().eq(0..dims.len()) {
                return Err(format!("transpose by {order:?} of rank {}", dims.len()));
            }
            Ok(order.iter().map(|place| dims[*place]).collect())
        }),
        Op::Reshape { shape } => match &inputs[0].shape {
            Some(dims) => reshaped(dims, shape).map(Some),
            None => Ok(Some(shape.clone())),
        },
        Op::ReshapeTo | Op::BroadcastTo => {
            let rank = inputs[1].shape.as_ref().filter(|dims| dims.len() == 1).map(|dims| dims[0]);
            Ok(rank.filter(|n| *n >= 0).map(|n| vec![-1; n as usize]))
        }
        Op::Concat { axis } => concat(inputs, *axis),
        Op::Slice { starts, ends, strides } => {
            map_dims(inputs[0], |dims| sliced(dims, starts, ends, strides))
        }
        Op::SliceUpdate { starts, ends, strides } => {
            same_type(inputs[0], inputs[1])?;
            if let (Some(dims), Some(update)) = (&inputs[0].shape, &inputs[1].shape) {
                let hole = sliced(dims, starts, ends, strides)?;
                if hole.len() != update.len()
                    || !hole.iter().zip(update).all(|(a, b)| equal_or_open(*a, *b))
                {
                    return Err(format!("sliceUpdate: an update {update:?} for {hole:?}"));
                }
            }
            Ok(inputs[0].shape.clone())
        }
        Op::SliceUpdateAt => same_type(inputs[0], inputs[1]).map(|()| inputs[0].shape.clone()),
        Op::Broadcast { shape } => match &inputs[0].shape {
            Some(dims) => match broadcast(dims, shape) {
                Some(joined) if joined.len() == shape.len() => Ok(Some(joined)),
                _ => Err(format!("cannot broadcast {dims:?} to {shape:?}")),
            },
            None => Ok(Some(shape.clone())),
        },
        Op::ShapeOf => {
            Ok(Some(vec![inputs[0].shape.as_ref().map_or(-1, |dims| dims.len() as i64)]))
        }
        Op::ExpandDims { axes } => map_dims(inputs[0], |dims| {
            let rank = dims.len() + axes.len();
            let places: Result<Vec<usize>, _> =
                axes.iter().map(|axis| axis_of(*axis, rank)).collect();
            let places = places?;
            let mut rest = dims.iter();
            Ok((0..rank)
                .map(|i| if places.contains(&i) { 1 } else { *rest.next().unwrap_or(&1) })
                .collect())
        }),
        Op::Squeeze { axes } => map_dims(inputs[0], |dims| {
            let gone: Vec<usize> = match axes {
                Some(axes) => {
                    axes.iter().map(|axis| axis_of(*axis, dims.len())).collect::<Result<_, _>>()?
                }
                None => (0..dims.len()).filter(|i| dims[*i] == 1).collect(),
            };
            if gone.iter().any(|i| dims[*i] != 1) {
                return Err(format!("squeeze of {dims:?} along {gone:?}"));
            }
            Ok((0..dims.len()).filter(|i| !gone.contains(i)).map(|i| dims[i]).collect())
        }),
        Op::Flatten { axis } => map_dims(inputs[0], |dims| {
            let axis = axis_of(*axis, dims.len())?;
            let part = |part: &[i64]| if part.contains(&-1) { -1 } else { part.iter().product() };
            Ok(vec![part(&dims[..axis]), part(&dims[axis..])])
        }),
        Op::Gather { axis, batch } => gather(inputs[0], inputs[1], *axis, *batch),
        Op::DequantizeGroups => dequantize_groups(inputs),
        Op::Lookup => Ok(inputs[0].shape.clone()),
        Op::Coordinate { shape, .. } => Ok(Some(shape.clone())),
    }
}
