//! Quantisation: value = (stored - zero point) · scale.

use super::infer::axis_of;
use super::value::{Value, as_integer, broadcast_strides, places};
use crate::mps::dtype::DType;
use crate::runtime::abort::abort;

/// Scale or zero point for every element: a scalar, or one number for each place along an axis.
fn spread(x: &Value, parameter: &Value, axis: Option<i64>) -> Vec<f32> {
    let list = parameter.to_floats();
    if list.len() == 1 {
        return vec![list[0]; x.len()];
    }
    let rank = x.shape.len();
    let axis = axis_of(axis.unwrap_or(-1), rank).unwrap_or_else(|text| abort!("{text}"));
    if list.len() != x.shape[axis] {
        abort!("{} scales along an axis of {}", list.len(), x.shape[axis]);
    }
    let step: usize = x.shape[axis + 1..].iter().product();
    (0..x.len()).map(|i| list[i / step % x.shape[axis]]).collect()
}

pub(super) fn quantize(dtype: DType, inputs: &[&Value], axis: Option<i64>) -> Value {
    let (scale, zero) = (spread(inputs[0], inputs[1], axis), spread(inputs[0], inputs[2], axis));
    let (least, most) = if matches!(dtype, DType::U8) { (0.0, 255.0) } else { (-128.0, 127.0) };
    let list = inputs[0].to_floats();
    let list = list
        .iter()
        .enumerate()
        .map(|(i, x)| (x / scale[i] + zero[i]).round_ties_even().clamp(least, most) as i64);
    Value::integers(dtype, inputs[0].shape.clone(), list.collect())
}

pub(super) fn dequantize(dtype: DType, inputs: &[&Value], axis: Option<i64>) -> Value {
    let (scale, zero) = (spread(inputs[0], inputs[1], axis), spread(inputs[0], inputs[2], axis));
    let list = inputs[0].to_floats();
    let list = list.iter().enumerate().map(|(i, x)| (x - zero[i]) * scale[i]).collect();
    Value::floats(dtype, inputs[0].shape.clone(), list)
}

/// A parameter whose extents divide the data's, one number for each block.
fn blocks(x: &Value, parameter: &Value) -> Vec<f32> {
    let list = parameter.to_floats();
    let own = super::value::strides(&parameter.shape);
    let shape = super::value::strides(&x.shape);
    (0..x.len())
        .map(|i| {
            let at = (0..x.shape.len()).map(|place| {
                let group = x.shape[place] / parameter.shape[place];
                (i / shape[place] % x.shape[place]) / group * own[place]
            });
            list[at.sum::<usize>()]
        })
        .collect()
}

pub(super) fn groups(dtype: DType, inputs: &[&Value]) -> Value {
    let scale = blocks(inputs[0], inputs[1]);
    let zero =
        inputs.get(2).map_or_else(|| vec![0.0; inputs[0].len()], |zero| blocks(inputs[0], zero));
    let list = inputs[0].to_floats();
    let list = list.iter().enumerate().map(|(i, x)| (x - zero[i]) * scale[i]).collect();
    Value::floats(dtype, inputs[0].shape.clone(), list)
}

/// Looks indices up in a table [.., entries]; leading extents of the table broadcast over the data.
pub(super) fn lookup(x: &Value, table: &Value) -> Value {
    let entries = table.shape.last().copied().unwrap_or(0);
    let expected = if x.dtype == DType::U4 { 16 } else { 256 };
    if entries != expected {
        abort!("dequantize with a table of {entries}, {} wants {expected}", x.dtype.name());
    }
    let mut rows = table.shape[..table.shape.len() - 1].to_vec();
    if rows.iter().product::<usize>() == 1 {
        rows = vec![1; x.shape.len()];
    }
    let starts = places(&x.shape, &broadcast_strides(&rows, &x.shape), 0);
    let list = table.to_floats();
    let picked = starts
        .iter()
        .enumerate()
        .map(|(i, row)| list[row * entries + as_integer(x.get(i)) as usize]);
    Value::floats(table.dtype, x.shape.clone(), picked.collect())
}
