//! What every executor asks of a graph first: is it one attention node over fed values, and which
//! feed is which operand?

use metallic::graph::{Feed, Graph, Input, Node, NodeId, SdpaNode};
use metallic::tensor::Tensor;

/// Places of the operands among the feeds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SdpaFeeds {
    /// Queries.
    pub q: usize,
    /// Keys.
    pub k: usize,
    /// Values.
    pub v: usize,
    /// Mask tensor.
    pub mask: Option<usize>,
    /// Live lengths.
    pub kv_lens: Option<usize>,
    /// The diagonal's offset.
    pub offset: Option<usize>,
}

/// The one attention node of a graph whose other nodes are its inputs, with its operands' places.
pub(crate) fn only_sdpa(graph: &Graph) -> Option<(&SdpaNode, SdpaFeeds)> {
    let Node::Sdpa(node) = graph.node(graph.output()) else { return None };
    let others = graph.nodes().iter().filter(|node| !matches!(node, Node::Input(_))).count();
    let feeds = feeds(graph, node)?;
    (others == 1).then_some((node, feeds))
}

fn feeds(graph: &Graph, node: &SdpaNode) -> Option<SdpaFeeds> {
    let place = |id: NodeId| graph.inputs().position(|(input, _): (_, &Input)| input == id);
    // An absent operand is fine, one that is no input is not.
    let optional = |id: Option<NodeId>| id.map_or(Some(None), |id| place(id).map(Some));
    Some(SdpaFeeds {
        q: place(node.q)?,
        k: place(node.k)?,
        v: place(node.v)?,
        mask: optional(node.mask)?,
        kv_lens: optional(node.kv_lens)?,
        offset: optional(node.offset)?,
    })
}

/// The tensor at `place`, or what is there instead, in words.
pub(crate) fn tensor(feeds: &[Feed], place: usize) -> Result<&Tensor, String> {
    match feeds.get(place) {
        Some(Feed::Tensor(tensor)) => Ok(tensor),
        other => Err(format!("feed {place} is {other:?}, not a tensor")),
    }
}

/// The number at `place`, or what is there instead, in words.
pub(crate) fn scalar(feeds: &[Feed], place: usize) -> Result<i64, String> {
    match feeds.get(place) {
        Some(Feed::Scalar(scalar)) => Ok(*scalar),
        other => Err(format!("feed {place} is {other:?}, not a number")),
    }
}
