//! Builds a graph node by node.

use super::node::{
    AddNode, Graph, Input, KvAppendNode, LinearNode, MergeHeadsNode, Node, NodeId, RmsNormNode,
    RopeNode, SdpaNode, SplitHeadsNode, SwiGluNode, Update,
};
use crate::tensor::DType;

/// Collects nodes; [`GraphBuilder::finish`] names the output.
#[derive(Debug, Default)]
pub struct GraphBuilder {
    nodes: Vec<Node>,
    updates: Vec<Update>,
}

impl GraphBuilder {
    /// An empty graph.
    pub fn new() -> Self {
        Self::default()
    }

    /// A fed value. Feeds are given in the order of these calls.
    pub fn input(&mut self, input: Input) -> NodeId {
        self.push(Node::Input(input))
    }

    /// `a + b`.
    pub fn add(&mut self, a: NodeId, b: NodeId) -> NodeId {
        self.push(Node::Add(AddNode { a, b }))
    }

    /// A norm along the last axis.
    pub fn rms_norm(&mut self, node: RmsNormNode) -> NodeId {
        self.push(Node::RmsNorm(node))
    }

    /// A projection along the last axis.
    pub fn linear(&mut self, node: LinearNode) -> NodeId {
        self.push(Node::Linear(node))
    }

    /// `[batch, len, heads · dim]` as `[batch, heads, len, dim]`.
    pub fn split_heads(&mut self, x: NodeId, heads: usize, dim: usize) -> NodeId {
        self.push(Node::SplitHeads(SplitHeadsNode { x, heads, dim }))
    }

    /// `[batch, heads, len, dim]` as `[batch, len, heads · dim]`.
    pub fn merge_heads(&mut self, x: NodeId, heads: usize, dim: usize) -> NodeId {
        self.push(Node::MergeHeads(MergeHeadsNode { x, heads, dim }))
    }

    /// A rotation.
    pub fn rope(&mut self, node: RopeNode) -> NodeId {
        self.push(Node::Rope(node))
    }

    /// `cache` with `new` written at `starts`; its feed is updated in place.
    pub fn kv_append(&mut self, node: KvAppendNode) -> NodeId {
        let value = self.push(Node::KvAppend(node));
        self.update(node.cache, value);
        value
    }

    /// `gate / (1 + exp(−gate)) · up`.
    pub fn swiglu(&mut self, gate: NodeId, up: NodeId) -> NodeId {
        self.push(Node::SwiGlu(SwiGluNode { gate, up }))
    }

    /// Declares that the feed of `input` holds `value` after a run.
    pub fn update(&mut self, input: NodeId, value: NodeId) {
        self.updates.push(Update { input, value });
    }

    /// Attention over earlier nodes.
    pub fn sdpa(&mut self, node: SdpaNode) -> NodeId {
        self.push(Node::Sdpa(node))
    }

    /// The graph with `output` of type `output_dtype` as its result.
    pub fn finish(self, output: NodeId, output_dtype: DType) -> Graph {
        Graph { nodes: self.nodes, updates: self.updates, output, output_dtype }
    }

    fn push(&mut self, node: Node) -> NodeId {
        self.nodes.push(node);
        NodeId(self.nodes.len() as u32 - 1)
    }
}
