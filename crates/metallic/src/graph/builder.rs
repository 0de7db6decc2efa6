//! Builds a graph node by node.

use super::node::{Graph, Input, Node, NodeId, SdpaNode};
use crate::tensor::DType;

/// Collects nodes; [`GraphBuilder::finish`] names the output.
#[derive(Debug, Default)]
pub struct GraphBuilder {
    nodes: Vec<Node>,
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

    /// Attention over earlier nodes.
    pub fn sdpa(&mut self, node: SdpaNode) -> NodeId {
        self.push(Node::Sdpa(node))
    }

    /// The graph with `output` of type `output_dtype` as its result.
    pub fn finish(self, output: NodeId, output_dtype: DType) -> Graph {
        Graph { nodes: self.nodes, output, output_dtype }
    }

    fn push(&mut self, node: Node) -> NodeId {
        self.nodes.push(node);
        NodeId(self.nodes.len() as u32 - 1)
    }
}
