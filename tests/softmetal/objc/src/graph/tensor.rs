//! MPSGraph and MPSGraphTensor: adding nodes. A shape or type that does not fit ends the process, as the
//! graph compiler on macOS does.

use std::sync::{Arc, Mutex};

use super::infer;
use super::ir::{Binary, Dims, Node, Op, Shared, Unary};
use crate::foundation::array;
use crate::mps::dtype::DType;
use crate::runtime::abort::abort;
use crate::runtime::class::{class, methods};
use crate::runtime::{Id, Ref};

class!(GRAPH_OBJECT, "MPSGraphObject");
class!(pub(super) GRAPH, "MPSGraph", GRAPH_OBJECT);
class!(TENSOR, "MPSGraphTensor", GRAPH_OBJECT);
class!(OPERATION, "MPSGraphOperation", GRAPH_OBJECT);

/// The value of a graph object.
pub(super) struct Graph {
    pub(super) nodes: Shared,
    options: Mutex<u64>,
}

/// The value of a tensor object.
pub(super) struct Tensor {
    pub(super) nodes: Shared,
    pub(super) node: usize,
}

/// `MPSGraphOptionsSynchronizeResults`, the default.
const SYNCHRONIZE: u64 = 1;
const MAX_RANK: usize = 16;

/// Ends the process with the words of the graph compiler.
pub(super) fn refuse(text: &str) -> ! {
    abort!("error: {text}\nLLVM ERROR: Failed to infer result type(s).")
}

/// The node of a tensor object of the graph `nodes`.
pub(super) fn node_of(nodes: &Shared, tensor: Id) -> usize {
    let value = tensor.value::<Tensor>();
    if !Arc::ptr_eq(&value.nodes, nodes) {
        abort!("a tensor of one MPSGraph was used in another");
    }
    value.node
}

/// A tensor object of a node.
pub(super) fn make(nodes: &Shared, node: usize) -> Ref {
    Ref::new(&TENSOR, Tensor { nodes: Arc::clone(nodes), node })
}

fn check_shape(shape: &Dims) {
    let Some(dims) = shape else { return };
    if dims.len() > MAX_RANK {
        abort!("a tensor of rank {}, at most {MAX_RANK}", dims.len());
    }
    if dims.iter().any(|n| *n < -1 || *n > i64::from(i32::MAX)) {
        abort!("NDArray dimension length > INT_MAX: {dims:?}");
    }
}

/// Adds a node whose shape is given.
pub(super) fn leaf(this: Id, op: Op, dtype: DType, shape: Dims) -> Ref {
    check_shape(&shape);
    let nodes = &this.value::<Graph>().nodes;
    let mut list = nodes.lock().unwrap();
    list.push(Node { op, inputs: Vec::new(), dtype, shape });
    make(nodes, list.len() - 1)
}

/// The type of what an op gives when it is not said.
fn result_type(op: &Op, inputs: &[&Node]) -> DType {
    match op {
        Op::Binary(
            Binary::Equal
            | Binary::NotEqual
            | Binary::Less
            | Binary::LessOrEqual
            | Binary::Greater
            | Binary::GreaterOrEqual,
        )
        | Op::Unary(Unary::IsNan | Unary::IsInfinite | Unary::IsFinite | Unary::Not) => DType::Bool,
        Op::ShapeOf => DType::I32,
        Op::Select | Op::Lookup => inputs[1].dtype,
        _ => inputs[0].dtype,
    }
}

/// Adds a node; `dtype` where the method names it.
pub(super) fn push(this: Id, op: Op, inputs: &[Id], dtype: Option<DType>) -> Ref {
    let nodes = &this.value::<Graph>().nodes;
    let inputs: Vec<usize> = inputs.iter().map(|tensor| node_of(nodes, *tensor)).collect();
    let mut list = nodes.lock().unwrap();
    let operands: Vec<&Node> = inputs.iter().map(|input| &list[*input]).collect();
    let shape = infer::shape(&op, &operands).unwrap_or_else(|text| refuse(&text));
    let dtype = dtype.unwrap_or_else(|| result_type(&op, &operands));
    check_shape(&shape);
    list.push(Node { op, inputs, dtype, shape });
    make(nodes, list.len() - 1)
}

/// [`push`] of a method that returns a tensor.
pub(super) fn answer(this: Id, op: Op, inputs: &[Id]) -> Id {
    push(this, op, inputs, None).autorelease()
}

/// The extents of a tensor, when its rank is known.
pub(super) fn shape_of(tensor: Id) -> Dims {
    let value = tensor.value::<Tensor>();
    let list = value.nodes.lock().unwrap();
    list[value.node].shape.clone()
}

/// The element type of a tensor.
pub(super) fn dtype_of(tensor: Id) -> DType {
    let value = tensor.value::<Tensor>();
    let list = value.nodes.lock().unwrap();
    list[value.node].dtype
}

methods! { install_graph for GRAPH;
    - "init" (this) -> Id { this.init(Graph { nodes: Shared::default(), options: Mutex::new(SYNCHRONIZE) }) }
    - "options" (this) -> u64 { *this.value::<Graph>().options.lock().unwrap() }
    - "setOptions:" (this, options: u64) { *this.value::<Graph>().options.lock().unwrap() = options }
    - "placeholderTensors" (this) -> Id {
        let nodes = &this.value::<Graph>().nodes;
        let list = nodes.lock().unwrap();
        let found = (0..list.len()).filter(|i| list[*i].op == Op::Placeholder);
        array::make(found.map(|i| make(nodes, i)).collect()).autorelease()
    }
}

methods! { install_tensor for TENSOR;
    - "shape" (this) -> Id { shape_of(this).map_or(Id::NIL, |dims| array::make_shape(&dims).autorelease()) }
    - "dataType" (this) -> u32 { dtype_of(this).code() }
}

methods! { install_object for GRAPH_OBJECT; }
methods! { install_operation for OPERATION; }

pub(super) fn install() {
    install_object();
    install_graph();
    install_tensor();
    install_operation();
}
