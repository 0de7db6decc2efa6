//! Types and shapes of a graph's values, and everything that cannot be right about them.
//!
//! MPSGraph ends the process where a shape or type does not fit. So a graph goes through here
//! first, and what is wrong with it is an error with the node in it.

use metallic::graph::{Dim, Graph, Input, Node, NodeId, SdpaNode};
use metallic::op::MaskTensorKind;
use metallic::tensor::DType;
use metallic::{Error, Result};

/// What is known of a value before it exists.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Type {
    /// Element type.
    pub(crate) dtype: DType,
    /// Axis lengths, outermost first; none for a number.
    pub(crate) dims: Vec<Dim>,
}

/// The types of all nodes of `graph`, in order.
///
/// # Errors
/// [`Error::Compile`] with the node and the axis that does not fit.
pub(crate) fn infer(graph: &Graph) -> Result<Vec<Type>> {
    let mut types = Vec::with_capacity(graph.nodes().len());
    for (index, node) in graph.nodes().iter().enumerate() {
        let so_far = Types { types: &types, place: index };
        let inferred = match node {
            Node::Input(input) => input_type(&so_far, input),
            Node::Sdpa(node) => sdpa_type(&so_far, node),
            _ => Err(so_far.bad("this executor has no such node")),
        }?;
        types.push(inferred);
    }
    if graph.output().index() >= types.len() {
        return Err(Types { types: &types, place: types.len() }.bad("there is no output"));
    }
    Ok(types)
}

/// The nodes before one.
struct Types<'a> {
    types: &'a [Type],
    place: usize,
}

impl Types<'_> {
    fn bad(&self, reason: impl Into<String>) -> Error {
        Error::Compile { key: format!("graph node %{}", self.place), reason: reason.into() }
    }

    /// The type of an operand.
    fn of(&self, name: &str, id: NodeId) -> Result<&Type> {
        self.types
            .get(id.index())
            .ok_or_else(|| self.bad(format!("{name} is {id}, which is no earlier node")))
    }

    /// The type of an operand with `rank` axes.
    fn ranked(&self, name: &str, id: NodeId, rank: usize) -> Result<&Type> {
        let found = self.of(name, id)?;
        if found.dims.len() != rank {
            let got = found.dims.len();
            return Err(self.bad(format!("{name} has {got} axes, expected {rank}")));
        }
        Ok(found)
    }

    /// That two lengths of one axis can be the same.
    fn same(&self, what: &str, got: Dim, expected: Dim) -> Result<()> {
        match (got, expected) {
            (Dim::Fixed(got), Dim::Fixed(expected)) if got != expected => {
                Err(self.bad(format!("{what} is {got}, expected {expected}")))
            }
            _ => Ok(()),
        }
    }
}

fn input_type(types: &Types<'_>, input: &Input) -> Result<Type> {
    let Input { name, dtype, axes, dims } = input;
    if axes.len() != dims.len() {
        let (axes, dims) = (axes.len(), dims.len());
        return Err(types.bad(format!("input {name} has {axes} axes and {dims} lengths")));
    }
    if dims.contains(&Dim::Fixed(0)) {
        return Err(types.bad(format!("input {name} has an axis of length 0")));
    }
    Ok(Type { dtype: *dtype, dims: dims.clone() })
}

const FLOATS: [DType; 3] = [DType::F32, DType::F16, DType::Bf16];

fn sdpa_type(types: &Types<'_>, node: &SdpaNode) -> Result<Type> {
    let q = types.ranked("q", node.q, 4)?;
    let k = types.ranked("k", node.k, 4)?;
    let v = types.ranked("v", node.v, 4)?;
    for (name, operand) in [("q", q), ("k", k), ("v", v)] {
        if !FLOATS.contains(&operand.dtype) {
            return Err(types.bad(format!("{name} is {}, expected a float", operand.dtype)));
        }
    }
    let (heads, kv_heads) = (node.q_heads, node.kv_heads);
    if kv_heads == 0 || heads == 0 || !heads.is_multiple_of(kv_heads) {
        return Err(types.bad(format!("{heads} query heads over {kv_heads} key heads")));
    }
    for (what, got, expected) in [
        ("q axis 1", q.dims[1], Dim::Fixed(heads)),
        ("q axis 3", q.dims[3], Dim::Fixed(node.head_dim)),
        ("k axis 0", k.dims[0], q.dims[0]),
        ("k axis 1", k.dims[1], Dim::Fixed(kv_heads)),
        ("k axis 3", k.dims[3], Dim::Fixed(node.head_dim)),
        ("v axis 0", v.dims[0], q.dims[0]),
        ("v axis 1", v.dims[1], Dim::Fixed(kv_heads)),
        ("v axis 2", v.dims[2], k.dims[2]),
        ("v axis 3", v.dims[3], Dim::Fixed(node.v_dim)),
    ] {
        types.same(what, got, expected)?;
    }
    if let Some(mask) = node.mask {
        let mask = types.ranked("mask", mask, 4)?;
        let kind = match mask.dtype {
            DType::Bool => MaskTensorKind::Bool,
            dtype => MaskTensorKind::Additive(dtype),
        };
        if kind != node.mask_kind.tensor {
            let (got, kind) = (mask.dtype, node.mask_kind.tensor);
            return Err(types.bad(format!("the mask is {got}, the node says {kind:?}")));
        }
        types.same("mask axis 2", mask.dims[2], q.dims[2])?;
        types.same("mask axis 3", mask.dims[3], k.dims[2])?;
        for (axis, whole) in [(0, q.dims[0]), (1, Dim::Fixed(heads))] {
            if mask.dims[axis] != Dim::Fixed(1) {
                types.same(&format!("mask axis {axis}"), mask.dims[axis], whole)?;
            }
        }
    } else if node.mask_kind.tensor != MaskTensorKind::None {
        return Err(types.bad("the node says there is a mask, and has none"));
    }
    if let Some(lens) = node.kv_lens {
        let lens = types.ranked("kv_lens", lens, 1)?;
        types.same("kv_lens axis 0", lens.dims[0], q.dims[0])?;
        if lens.dtype != DType::I32 {
            return Err(types.bad(format!("kv_lens is {}, expected i32", lens.dtype)));
        }
    }
    if node.offset.is_some() != node.mask_kind.fixed_offset {
        return Err(types.bad("the offset's feed and the mask's kind disagree"));
    }
    let dims = vec![q.dims[0], q.dims[1], q.dims[2], v.dims[3]];
    Ok(Type { dtype: q.dtype, dims })
}
