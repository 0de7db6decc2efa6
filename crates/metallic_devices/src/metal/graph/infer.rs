//! Types and shapes of a graph's values, and everything that cannot be right about them.
//!
//! MPSGraph ends the process where a shape or type does not fit. So a graph goes through here
//! first, and what is wrong with it is an error with the node in it.

use metallic::graph::{
    Dim, Graph, Input, KvAppendNode, LinearNode, MergeHeadsNode, Node, NodeId, RmsNormNode,
    RopeNode, SdpaNode, SplitHeadsNode,
};
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
            Node::Add(node) => alike(&so_far, node.a, node.b),
            Node::SwiGlu(node) => alike(&so_far, node.gate, node.up),
            Node::RmsNorm(node) => rms_norm_type(&so_far, node),
            Node::Linear(node) => linear_type(&so_far, node),
            Node::SplitHeads(node) => split_heads_type(&so_far, node),
            Node::MergeHeads(node) => merge_heads_type(&so_far, node),
            Node::Rope(node) => rope_type(&so_far, node),
            Node::KvAppend(node) => kv_append_type(&so_far, node),
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

    /// That a value is f32, as all values between nodes are.
    fn float(&self, name: &str, value: &Type) -> Result<()> {
        if value.dtype == DType::F32 {
            return Ok(());
        }
        Err(self.bad(format!("{name} is {}, expected f32", value.dtype)))
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

/// Two f32 operands of one shape.
fn alike(types: &Types<'_>, a: NodeId, b: NodeId) -> Result<Type> {
    let (first, second) = (types.of("a", a)?, types.of("b", b)?);
    types.float("a", first)?;
    types.float("b", second)?;
    types.ranked("b", b, first.dims.len())?;
    for (axis, (got, expected)) in second.dims.iter().zip(&first.dims).enumerate() {
        types.same(&format!("b axis {axis}"), *got, *expected)?;
    }
    Ok(first.clone())
}

/// The last axis of an f32 operand.
fn last(types: &Types<'_>, name: &str, id: NodeId, expected: usize) -> Result<Type> {
    let value = types.of(name, id)?;
    types.float(name, value)?;
    let Some(got) = value.dims.last() else {
        return Err(types.bad(format!("{name} is a number, expected a tensor")));
    };
    types.same(&format!("{name}'s last axis"), *got, Dim::Fixed(expected))?;
    Ok(value.clone())
}

fn rms_norm_type(types: &Types<'_>, node: &RmsNormNode) -> Result<Type> {
    types.ranked("weight", node.weight, 1)?;
    last(types, "weight", node.weight, node.width)?;
    last(types, "x", node.x, node.width)
}

fn linear_type(types: &Types<'_>, node: &LinearNode) -> Result<Type> {
    let LinearNode { x, weight, bias, in_features, out_features, .. } = node;
    let weight = types.ranked("weight", *weight, 2)?;
    types.same("weight axis 0", weight.dims[0], Dim::Fixed(*out_features))?;
    types.same("weight axis 1", weight.dims[1], Dim::Fixed(*in_features))?;
    if let Some(bias) = bias {
        types.ranked("bias", *bias, 1)?;
        last(types, "bias", *bias, *out_features)?;
    }
    let mut made = last(types, "x", *x, *in_features)?;
    if let Some(width) = made.dims.last_mut() {
        *width = Dim::Fixed(*out_features);
    }
    Ok(made)
}

fn split_heads_type(types: &Types<'_>, node: &SplitHeadsNode) -> Result<Type> {
    let SplitHeadsNode { x, heads, dim } = node;
    types.ranked("x", *x, 3)?;
    let x = last(types, "x", *x, heads * dim)?;
    let dims = vec![x.dims[0], Dim::Fixed(*heads), x.dims[1], Dim::Fixed(*dim)];
    Ok(Type { dtype: DType::F32, dims })
}

fn merge_heads_type(types: &Types<'_>, node: &MergeHeadsNode) -> Result<Type> {
    let MergeHeadsNode { x, heads, dim } = node;
    types.ranked("x", *x, 4)?;
    let x = last(types, "x", *x, *dim)?;
    types.same("x axis 1", x.dims[1], Dim::Fixed(*heads))?;
    Ok(Type { dtype: DType::F32, dims: vec![x.dims[0], x.dims[2], Dim::Fixed(heads * dim)] })
}

fn rope_type(types: &Types<'_>, node: &RopeNode) -> Result<Type> {
    let RopeNode { x, cos, sin, dim, pairs, .. } = node;
    types.ranked("x", *x, 4)?;
    let x = last(types, "x", *x, *dim)?;
    if 2 * pairs > *dim || *pairs == 0 {
        return Err(types.bad(format!("{pairs} pairs in a head of {dim}")));
    }
    for (name, angles) in [("cos", cos), ("sin", sin)] {
        types.ranked(name, *angles, 3)?;
        let angles = last(types, name, *angles, *pairs)?;
        types.same(&format!("{name} axis 0"), angles.dims[0], x.dims[0])?;
        types.same(&format!("{name} axis 1"), angles.dims[1], x.dims[2])?;
    }
    Ok(x)
}

fn kv_append_type(types: &Types<'_>, node: &KvAppendNode) -> Result<Type> {
    let cache = types.ranked("cache", node.cache, 4)?;
    let new = types.ranked("new", node.new, 4)?;
    let starts = types.ranked("starts", node.starts, 1)?;
    types.float("new", new)?;
    if !FLOATS.contains(&cache.dtype) {
        return Err(types.bad(format!("the cache is {}, expected a float", cache.dtype)));
    }
    if starts.dtype != DType::I32 {
        return Err(types.bad(format!("starts is {}, expected i32", starts.dtype)));
    }
    types.same("starts axis 0", starts.dims[0], cache.dims[0])?;
    for axis in [0, 1, 3] {
        types.same(&format!("new axis {axis}"), new.dims[axis], cache.dims[axis])?;
    }
    Ok(cache.clone())
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

#[cfg(test)]
mod tests;
