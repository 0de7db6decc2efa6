//! The data of a graph: inputs, nodes in order, the one output.

use crate::op::MaskKind;
use crate::tensor::DType;

use super::Axis;

/// A node's number; nodes refer only to earlier ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub(super) u32);

impl NodeId {
    /// The place in [`Graph::nodes`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// What a graph knows of the length of one axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dim {
    /// Always this long, or at most this long where the axis is a length class: the executor pads
    /// or bounds a feed that is shorter.
    Fixed(usize),
    /// Given by the feed of each run.
    Any,
}

impl Dim {
    /// [`Dim::Any`] for the 0 of a spec without lengths.
    pub fn of_class(length: usize) -> Self {
        if length == 0 { Dim::Any } else { Dim::Fixed(length) }
    }
}

/// A value fed at every run.
#[derive(Clone, Debug, PartialEq)]
pub struct Input {
    /// Its binding's name, as `q`.
    pub name: &'static str,
    /// Element type.
    pub dtype: DType,
    /// What each axis means, outermost first.
    pub axes: &'static [Axis],
    /// How long each axis is; as many as `axes`.
    pub dims: Vec<Dim>,
}

/// Attention over earlier nodes.
#[derive(Clone, Debug, PartialEq)]
pub struct SdpaNode {
    /// Queries.
    pub q: NodeId,
    /// Keys.
    pub k: NodeId,
    /// Values.
    pub v: NodeId,
    /// Mask tensor.
    pub mask: Option<NodeId>,
    /// Live lengths.
    pub kv_lens: Option<NodeId>,
    /// The diagonal's offset.
    pub offset: Option<NodeId>,
    /// Band and tensor kind.
    pub mask_kind: MaskKind,
    /// Factor of the scores.
    pub scale: f32,
    /// Bound of the scores.
    pub softcap: Option<f32>,
    /// Query heads.
    pub q_heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of a query and a key.
    pub head_dim: usize,
    /// Width of a value.
    pub v_dim: usize,
    /// Type of the scores, the softmax and the sum over values.
    pub accumulator: DType,
}

/// One step of a graph.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Node {
    /// A fed value.
    Input(Input),
    /// Attention.
    Sdpa(SdpaNode),
}

/// Nodes in order; the last value asked for is the output.
#[derive(Clone, Debug, PartialEq)]
pub struct Graph {
    pub(super) nodes: Vec<Node>,
    pub(super) output: NodeId,
    pub(super) output_dtype: DType,
}

impl Graph {
    /// All nodes; each refers only to earlier ones.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The node whose value is the result.
    pub fn output(&self) -> NodeId {
        self.output
    }

    /// Element type of the result.
    pub fn output_dtype(&self) -> DType {
        self.output_dtype
    }

    /// The node with number `id`.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.index()]
    }

    /// The fed values, in feed order.
    pub fn inputs(&self) -> impl Iterator<Item = (NodeId, &Input)> {
        self.nodes.iter().enumerate().filter_map(|(index, node)| match node {
            Node::Input(input) => Some((NodeId(index as u32), input)),
            Node::Sdpa(_) => None,
        })
    }
}
