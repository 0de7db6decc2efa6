//! The data of a graph: inputs, nodes in order, one output, and inputs that are updated in place.
//!
//! Values between nodes are f32 unless a node says otherwise. The axes a node means are counted
//! from the last, so that a node takes any outer axes.

use crate::op::{MaskKind, Precision, RopePairing};
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

/// `a + b`, of one shape.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AddNode {
    /// One summand.
    pub a: NodeId,
    /// The other.
    pub b: NodeId,
}

/// `x / sqrt(mean(x²) + eps) · weight` along the last axis.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RmsNormNode {
    /// `[.., width]`.
    pub x: NodeId,
    /// `[width]`.
    pub weight: NodeId,
    /// Added to the mean square.
    pub eps: f32,
    /// Length of the last axis.
    pub width: usize,
}

/// `x Wᵀ + bias` along the last axis.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinearNode {
    /// `[.., in_features]`.
    pub x: NodeId,
    /// `[out_features, in_features]`, of any float or quantised type.
    pub weight: NodeId,
    /// `[out_features]`.
    pub bias: Option<NodeId>,
    /// Length of x's last axis.
    pub in_features: usize,
    /// Length of the result's last axis.
    pub out_features: usize,
    /// How activations meet quantised weights.
    pub precision: Precision,
}

/// `[batch, len, heads · dim]` as `[batch, heads, len, dim]`: a reshape and a transpose.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SplitHeadsNode {
    /// `[batch, len, heads · dim]`.
    pub x: NodeId,
    /// Heads.
    pub heads: usize,
    /// Width of a head.
    pub dim: usize,
}

/// `[batch, heads, len, dim]` as `[batch, len, heads · dim]`: a transpose and a reshape.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MergeHeadsNode {
    /// `[batch, heads, len, dim]`.
    pub x: NodeId,
    /// Heads.
    pub heads: usize,
    /// Width of a head.
    pub dim: usize,
}

/// Rotary embedding: pair `p` of a head becomes `(a·cos − b·sin, a·sin + b·cos)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RopeNode {
    /// `[batch, heads, len, dim]`; what lies past the pairs stays as it is.
    pub x: NodeId,
    /// `[batch, len, pairs]`.
    pub cos: NodeId,
    /// `[batch, len, pairs]`.
    pub sin: NodeId,
    /// Which elements make a pair.
    pub pairing: RopePairing,
    /// Width of a head.
    pub dim: usize,
    /// Turned pairs per head.
    pub pairs: usize,
}

/// The cache with `cache[b, h, starts[b] + i] = new[b, h, i]`, converted to the cache's type.
/// Rows of `new` that only fill up a length class are not written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KvAppendNode {
    /// `[batch, kv_heads, kv_len, dim]`; the value has its type.
    pub cache: NodeId,
    /// `[batch, kv_heads, len, dim]`.
    pub new: NodeId,
    /// i32 `[batch]`.
    pub starts: NodeId,
}

/// `gate / (1 + exp(−gate)) · up`, of one shape.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SwiGluNode {
    /// Goes through SiLU.
    pub gate: NodeId,
    /// Multiplied with it.
    pub up: NodeId,
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
    /// A sum.
    Add(AddNode),
    /// A norm.
    RmsNorm(RmsNormNode),
    /// A projection.
    Linear(LinearNode),
    /// Heads as an axis of their own.
    SplitHeads(SplitHeadsNode),
    /// Heads side by side.
    MergeHeads(MergeHeadsNode),
    /// A rotation.
    Rope(RopeNode),
    /// New keys or values in their cache.
    KvAppend(KvAppendNode),
    /// Attention.
    Sdpa(SdpaNode),
    /// The gate of a feed-forward layer.
    SwiGlu(SwiGluNode),
}

/// A second result: after a run the tensor fed to `input` holds `value`, which has its type and
/// shape. A kernel that writes only what differs does the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Update {
    /// The input whose feed is written in place.
    pub input: NodeId,
    /// What it holds afterwards.
    pub value: NodeId,
}

/// Nodes in order, the output, and the inputs that a run updates.
#[derive(Clone, Debug, PartialEq)]
pub struct Graph {
    pub(super) nodes: Vec<Node>,
    pub(super) updates: Vec<Update>,
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

    /// The inputs that a run writes in place; those of most graphs are none.
    pub fn updates(&self) -> &[Update] {
        &self.updates
    }

    /// The node with number `id`.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.index()]
    }

    /// The fed values, in feed order.
    pub fn inputs(&self) -> impl Iterator<Item = (NodeId, &Input)> {
        self.nodes.iter().enumerate().filter_map(|(index, node)| match node {
            Node::Input(input) => Some((NodeId(index as u32), input)),
            _ => None,
        })
    }
}
