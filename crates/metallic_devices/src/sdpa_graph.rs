//! What executors ask of a graph first: which feed is which operand, and is it one attention node
//! over fed values?

use metallic::graph::{Feed, Graph, Node, NodeId, SdpaNode};
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
    Some(SdpaFeeds {
        q: place(graph, node.q)?,
        k: place(graph, node.k)?,
        v: place(graph, node.v)?,
        mask: optional_place(graph, node.mask)?,
        kv_lens: optional_place(graph, node.kv_lens)?,
        offset: optional_place(graph, node.offset)?,
    })
}

/// The place of an input among the feeds; `None` when the node is no input.
pub(crate) fn place(graph: &Graph, id: NodeId) -> Option<usize> {
    graph.inputs().position(|(input, _)| input == id)
}

/// The same for an operand that may be absent: an absent one is fine, one that is no input is not.
pub(crate) fn optional_place(graph: &Graph, id: Option<NodeId>) -> Option<Option<usize>> {
    id.map_or(Some(None), |id| place(graph, id).map(Some))
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
