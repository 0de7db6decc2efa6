//! The graph as data: nodes in the order in which they were built.

use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};

use crate::mps::dtype::DType;

/// Extents, slowest first; -1 is not known before the graph runs. None is of unknown rank.
pub(crate) type Dims = Option<Vec<i64>>;

/// Arithmetic on one tensor, element by element.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Unary {
    Identity,
    Sigmoid,
    Square,
    SquareRoot,
    ReciprocalSquareRoot,
    Reciprocal,
    Negative,
    Absolute,
    Exponent,
    Logarithm,
    Tanh,
    Sin,
    Cos,
    Erf,
    Relu,
    Floor,
    Round,
    IsNan,
    IsInfinite,
    IsFinite,
    Not,
}

/// Arithmetic on two tensors with broadcasting.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Binary {
    Add,
    Subtract,
    Multiply,
    Divide,
    Maximum,
    Minimum,
    Power,
    Modulo,
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    And,
    Or,
}

/// Reductions along axes; the reduced extents stay as 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Reduction {
    Sum,
    Maximum,
    Minimum,
    Product,
    Mean,
}

/// What a node computes from its inputs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Op {
    Placeholder,
    /// Bytes as they lie in memory.
    Constant(Vec<u8>),
    /// One number in every place.
    Fill(#[serde(with = "bits")] f64),
    Unary(Unary),
    Binary(Binary),
    /// Predicate, value where true, value where false.
    Select,
    MatMul,
    /// Query, key, value and maybe an additive mask.
    Sdpa {
        scale: f32,
    },
    Softmax {
        axis: i64,
    },
    Reduce {
        kind: Reduction,
        axes: Option<Vec<i64>>,
    },
    Transpose {
        order: Vec<usize>,
    },
    Reshape {
        shape: Vec<i64>,
    },
    /// The second input holds the shape.
    ReshapeTo,
    Concat {
        axis: i64,
    },
    Slice {
        starts: Vec<i64>,
        ends: Vec<i64>,
        strides: Vec<i64>,
    },
    /// Data, update; where it goes is fixed.
    SliceUpdate {
        starts: Vec<i64>,
        ends: Vec<i64>,
        strides: Vec<i64>,
    },
    /// Data, update, starts, ends, strides.
    SliceUpdateAt,
    Cast,
    Broadcast {
        shape: Vec<i64>,
    },
    /// The second input holds the shape.
    BroadcastTo,
    ShapeOf,
    ExpandDims {
        axes: Vec<i64>,
    },
    Squeeze {
        axes: Option<Vec<i64>>,
    },
    Flatten {
        axis: i64,
    },
    Gather {
        axis: usize,
        batch: usize,
    },
    Band {
        lower: i64,
        upper: i64,
    },
    Quantize {
        axis: Option<i64>,
    },
    /// Data, scale, zero point.
    Dequantize {
        axis: Option<i64>,
    },
    /// Data, scale and maybe a zero point, in groups: each extent of the scale divides the data's.
    DequantizeGroups,
    /// Data and a table whose last extent is 16 or 256.
    Lookup,
    /// 0, 1, 2, … along an axis.
    Coordinate {
        axis: i64,
        shape: Vec<i64>,
    },
}

/// One node; inputs come before it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Node {
    pub(crate) op: Op,
    pub(crate) inputs: Vec<usize>,
    pub(crate) dtype: DType,
    pub(crate) shape: Dims,
}

/// A graph under construction; its tensors share it.
pub(crate) type Shared = Arc<Mutex<Vec<Node>>>;

/// A tensor's type as the graph compiler prints it.
pub(crate) fn type_text(dtype: DType, shape: &Dims) -> String {
    let dims = match shape {
        None => "*x".to_owned(),
        Some(dims) => {
            dims.iter().map(|n| if *n < 0 { "?x".to_owned() } else { format!("{n}x") }).collect()
        }
    };
    format!("tensor<{dims}{}>", dtype.name())
}

/// Marks the nodes that `targets` depend on.
pub(crate) fn needed(nodes: &[Node], targets: &[usize]) -> Vec<bool> {
    let mut marks = vec![false; nodes.len()];
    let mut open = targets.to_vec();
    while let Some(node) = open.pop() {
        if !std::mem::replace(&mut marks[node], true) {
            open.extend(&nodes[node].inputs);
        }
    }
    marks
}

/// A number by its bits: JSON has no infinity and no NaN.
mod bits {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &f64, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(value.to_bits())
    }

    pub(super) fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<f64, D::Error> {
        u64::deserialize(from).map(f64::from_bits)
    }
}
