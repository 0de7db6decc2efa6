//! Runs a graph: every node that the targets need, in order.

use std::collections::HashMap;

use super::ir::{Node, Op, needed};
use super::value::{Data, Value, as_float, as_integer};
use super::{eval_linear, eval_math, eval_quantized, eval_shape};
use crate::mps::dtype::{self, Scalar};
use crate::runtime::abort::abort;

/// How a run behaves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mode {
    /// f16 elementwise results lose NaN, as measured with the default optimisation level.
    pub(crate) careless_f16: bool,
    /// f16 and bf16 softmax rounds after every addition.
    pub(crate) narrow_softmax: bool,
}

/// The targets' values for the feeds' values.
pub(crate) fn run(
    nodes: &[Node],
    feeds: &HashMap<usize, Value>,
    targets: &[usize],
    mode: Mode,
) -> Vec<Value> {
    let marks = needed(nodes, targets);
    let mut values: Vec<Option<Value>> = vec![None; nodes.len()];
    for (index, node) in nodes.iter().enumerate().filter(|(index, _)| marks[*index]) {
        let inputs: Vec<&Value> = node
            .inputs
            .iter()
            .map(|input| {
                values[*input].as_ref().unwrap_or_else(|| abort!("node {input} has no value"))
            })
            .collect();
        let mut value = match feeds.get(&index) {
            Some(value) => value.clone(),
            None => evaluate(node, &inputs, mode),
        };
        if mode.careless_f16 && matches!(node.op, Op::Unary(_) | Op::Binary(_)) {
            forget_nan(&mut value);
        }
        values[index] = Some(value);
    }
    targets
        .iter()
        .map(|target| values[*target].clone().unwrap_or_else(|| abort!("a target has no value")))
        .collect()
}

fn forget_nan(value: &mut Value) {
    if value.dtype == dtype::DType::F16
        && let Data::Float(list) = &mut value.data
    {
        for x in list.iter_mut().filter(|x| x.is_nan()) {
            *x = 0.0;
        }
    }
}

/// Extents of a leaf.
fn leaf_shape(node: &Node) -> Vec<usize> {
    let dims = node.shape.as_deref().unwrap_or_default();
    dims.iter()
        .map(|n| usize::try_from(*n).unwrap_or_else(|_| abort!("a constant of shape {dims:?}")))
        .collect()
}

fn constant(node: &Node, bytes: &[u8]) -> Value {
    let shape = leaf_shape(node);
    let count = shape.iter().product();
    // SAFETY: `constantWithData…` checked the number of bytes.
    let list: Vec<Scalar> =
        (0..count).map(|i| unsafe { dtype::load(node.dtype, bytes.as_ptr(), i) }).collect();
    Value::from_scalars(node.dtype, shape, &list)
}

fn fill(node: &Node, x: f64) -> Value {
    let shape = leaf_shape(node);
    let count = shape.iter().product();
    if node.dtype.is_float() {
        Value::floats(node.dtype, shape, vec![x as f32; count])
    } else {
        Value::integers(node.dtype, shape, vec![x as i64; count])
    }
}

fn cast(node: &Node, x: &Value) -> Value {
    let count = x.len();
    let shape = x.shape.clone();
    if node.dtype.is_float() {
        Value::floats(node.dtype, shape, (0..count).map(|i| as_float(x.get(i))).collect())
    } else {
        Value::integers(node.dtype, shape, (0..count).map(|i| as_integer(x.get(i))).collect())
    }
}

fn evaluate(node: &Node, inputs: &[&Value], mode: Mode) -> Value {
    match &node.op {
        Op::Placeholder => abort!("a placeholder that the graph needs was not fed"),
        Op::Constant(bytes) => constant(node, bytes),
        Op::Fill(x) => fill(node, *x),
        Op::Cast => cast(node, inputs[0]),
        Op::Unary(op) => eval_math::unary(*op, inputs[0]),
        Op::Binary(op) => eval_math::binary(*op, node.dtype, inputs[0], inputs[1]),
        Op::Select => eval_math::select(inputs[0], inputs[1], inputs[2]),
        Op::Reduce { kind, axes } => eval_math::reduce(*kind, axes.as_deref(), inputs[0]),
        Op::MatMul => eval_linear::matmul(inputs[0], inputs[1]),
        Op::Sdpa { scale } => eval_linear::sdpa(inputs, *scale),
        Op::Softmax { axis } => eval_linear::softmax(inputs[0], *axis, mode.narrow_softmax),
        Op::Band { lower, upper } => eval_linear::band(inputs[0], *lower, *upper),
        Op::Quantize { axis } => eval_quantized::quantize(node.dtype, inputs, *axis),
        Op::Dequantize { axis } => eval_quantized::dequantize(node.dtype, inputs, *axis),
        Op::DequantizeGroups => eval_quantized::groups(node.dtype, inputs),
        Op::Lookup => eval_quantized::lookup(inputs[0], inputs[1]),
        other => eval_shape::run(other, node, inputs),
    }
}
